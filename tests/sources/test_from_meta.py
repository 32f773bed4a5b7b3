"""Shapes that transformers is asked for: of many models at once, and only once."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import pytest

from qbench.core.errors import ModelError
from qbench.core.spec import ModelShape, ResolvedModel, TensorShape
from qbench.sources.models.resolve import parse_model, resolve_models
from qbench.sources.shapes.from_meta import Unbuilt, shapes_from_meta
from qbench.sources.shapes.meta import describe

if TYPE_CHECKING:
    from pathlib import Path

_SIZES = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
_TYPES = ("gpt_neox", "phi", "bloom")
_OWN_CODE = """\
import os
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

class OwnConfig(GPTNeoXConfig):
    model_type = "own"

class Own(GPTNeoXForCausalLM):
    config_class = OwnConfig

    def __init__(self, config):
        {start}
        config.num_hidden_layers = {layers}
        super().__init__(config)
"""

_started: list[str] = []
"""Modules that this process has started Python for."""


def _note(event: str, given: Any) -> None:
    if event == "subprocess.Popen" and "-m" in (command := list(given[1])):
        _started.append(command[command.index("-m") + 1])


sys.addaudithook(_note)


@pytest.fixture
def started() -> list[str]:
    _started.clear()
    return _started


def _folder(parent: Path, name: str, **config: Any) -> Path:
    folder = parent / name
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": name, **_SIZES, **config}))
    return folder


def _own(parent: Path, name: str, *, start: str = "pass", layers: int = 2) -> Path:
    classes = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"}
    folder = _folder(parent, name, model_type="own", auto_map=classes)
    (folder / "own.py").write_text(_OWN_CODE.format(start=start, layers=layers))
    return folder


def test_one_process_tells_of_all_models_and_answers_are_kept(
    tmp_path: Path, started: list[str]
) -> None:
    folders = {name: _folder(tmp_path, name) for name in _TYPES}
    folders |= {
        "copy": _folder(tmp_path, "copy", model_type=_TYPES[0]),
        "no-such-architecture": _folder(tmp_path, "no-such-architecture"),
        "wrong": _folder(tmp_path, "wrong", model_type="gpt_neox", hidden_size="wide"),
        "nowhere": tmp_path / "nowhere",
    }
    refs = [parse_model(f"random:{folder}", base=tmp_path) for folder in folders.values()]
    found = dict(zip(folders, resolve_models(refs), strict=True))
    assert started == ["qbench.sources.shapes.meta"]
    assert isinstance(found.pop("nowhere"), ModelError)
    for name, word in (("no-such-architecture", "no-such-architecture"), ("wrong", "hidden_size")):
        model = found[name]
        assert isinstance(model, ResolvedModel)
        assert model.shape is None
        assert str(model.shape_unknown).startswith("transformers cannot build the model: ")
        assert word in str(model.shape_unknown)
    for name, model in found.items():
        assert isinstance(model, ResolvedModel)
        if name in ("no-such-architecture", "wrong"):
            continue
        assert model.shape is not None, model.shape_unknown
        told = [TensorShape.model_validate(one) for one in describe(str(folders[name]))]
        assert model.shape == ModelShape(tensors=tuple(told), origin="meta")

    started.clear()
    asked = (_TYPES[0], "copy", "no-such-architecture")
    again = resolve_models([refs[list(folders).index(name)] for name in asked])
    assert again == [found[name] for name in asked]
    assert started == []  # kept


def test_code_of_a_models_own_decides_and_takes_none_with_it(
    tmp_path: Path, started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    good, ends = _own(tmp_path, "good"), _own(tmp_path, "ends", start="os._exit(3)")
    plain = _folder(tmp_path, "gpt_neox")
    asked = [Unbuilt(folder, trust_remote_code=True) for folder in (ends, good, plain)]
    (none, reason), (shape, _), (other, _) = shapes_from_meta(asked)
    assert started == ["qbench.sources.shapes.meta"]
    assert none is None
    assert reason == "transformers cannot build the model: its process ended with exit code 3"
    assert shape is not None
    assert shape == other  # the same layers
    assert shapes_from_meta(asked[1:]) == [(shape, None), (other, None)]
    assert len(started) == 1  # kept

    (good / "own.py").write_text("")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert shapes_from_meta(asked[1:2]) == [
        (None, "transformers cannot build the model: no message")
    ]
    assert len(started) == 2
    # Whose code is not trusted is another question, and one that no code of the model's answers.
    assert shapes_from_meta([Unbuilt(plain)])[0][0] is None
    assert len(started) == 3


def test_a_configuration_that_cannot_be_read_asks_no_one(
    tmp_path: Path, started: list[str]
) -> None:
    ((shape, reason),) = shapes_from_meta([Unbuilt(tmp_path)])
    assert shape is None
    assert reason == f"{tmp_path / 'config.json'} cannot be read: No such file or directory"
    assert started == []
