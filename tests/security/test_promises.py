"""What SECURITY.md promises, each by something wicked that is planted and must do nothing.

Records of strangers are in `tests/report/test_hostile_records.py`, Python of tasks and metrics in
`tests/measures/test_untrusted_code.py`, the page's policy in `tests/report/html`.
"""

from __future__ import annotations

import json
import pickle
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from qbench.core.checkpoint import Checkpoint
from qbench.sources.bundled import bundled_models
from qbench.sources.data.chat import ChatTemplateError, apply_chat_template
from tests.command import call
from tests.gguf_files import write_gguf

if TYPE_CHECKING:
    from pathlib import Path

    from tests.workplace import Workplace

ESCAPE = "{{{{ cycler.__init__.__globals__.os.system('touch {mark}') }}}}"
TOKEN = "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"


class Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        import pathlib

        return pathlib.Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """The file that whatever is planted makes once it runs."""
    return tmp_path / "mark"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder, to be made wicked."""
    return shutil.copytree(bundled_models()["tiny-mistral"], tmp_path / "model")


def test_a_bomb_goes_off_where_it_is_unpickled(mark: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(mark)))
    assert mark.exists()


def test_python_beside_a_model_does_not_run(folder: Path, mark: Path) -> None:
    from qbench.precisions.loading import load_pretrained, load_tokenizer

    (folder / "mine.py").write_text(f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n")
    for name, classes in (
        ("config.json", {"AutoConfig": "mine.Mine", "AutoModelForCausalLM": "mine.Mine"}),
        ("tokenizer_config.json", {"AutoTokenizer": ["mine.Mine", None]}),
    ):
        held = json.loads((folder / name).read_text(encoding="utf-8"))
        held["auto_map"] = classes
        (folder / name).write_text(json.dumps(held), encoding="utf-8")
    assert call(folder.parent, "plan", "./model", "--measure", "footprint").code == 0
    load_pretrained(Checkpoint(folder, "cpu"), dtype="fp32")
    load_tokenizer(Checkpoint(folder, "cpu"), bundled=False)
    assert not mark.exists()
    with pytest.raises(AttributeError, match="Mine"):  # it does, once it is asked for
        load_pretrained(Checkpoint(folder, "cpu", trust_remote_code=True), dtype="fp32")
    assert mark.exists()


def test_the_python_of_a_model_is_named_where_it_is_to_run(folder: Path) -> None:
    (folder / "mine.py").write_text("raise SystemExit\n")
    suite = "models: [{source: ./model, trust_remote_code: true}]\nmeasure: [footprint]\n"
    (folder.parent / "suite.yaml").write_text(suite, encoding="utf-8")
    finished = call(folder.parent, "plan", "suite.yaml")
    assert finished.code == 0, finished.errors
    said = " ".join(finished.output.split())
    assert "the model's own Python runs, as trust_remote_code says: mine.py" in said


@pytest.mark.parametrize("held", ["beside", "gguf"])
def test_a_chat_template_reaches_nothing_but_its_messages(
    folder: Path, mark: Path, held: str
) -> None:
    from qbench.precisions.loading import load_tokenizer
    from qbench.sources.models.resolve import fetch_model, parse_model, resolve_model

    template = ESCAPE.format(mark=mark)
    if held == "beside":
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    else:
        pytest.importorskip("gguf")
        from gguf import GGUFValueType

        settings = {"tokenizer.chat_template": (template, GGUFValueType.STRING)}
        file = write_gguf(folder, folder.parent / "model.gguf", {"": "F16"}, **settings)
        folder = fetch_model(resolve_model(parse_model(str(file), base=folder.parent)))
    tokenizer = load_tokenizer(Checkpoint(folder, "cpu"), bundled=False)
    assert tokenizer.chat_template == template
    with pytest.raises(ChatTemplateError, match="unsafe"):
        apply_chat_template(tokenizer, [{"role": "user", "content": "x"}], ask=True)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_weights_that_are_a_pickle_are_refused(folder: Path, mark: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Bomb(mark)))
    finished = call(folder.parent, "plan", "./model", "--measure", "footprint")
    assert finished.code == 2
    assert "safetensors" in finished.errors
    assert not mark.exists()


def test_the_state_of_a_training_is_read_without_unpickling(tmp_path: Path, mark: Path) -> None:
    import torch
    from safetensors.torch import save_file

    from qbench.finetune.train.checkpoint import load_checkpoint
    from qbench.sources.sealed import seal

    model = torch.nn.Linear(2, 2)
    path = tmp_path / "key" / "checkpoints" / "step-0001"
    path.mkdir(parents=True)
    save_file(dict(model.state_dict()), path / "weights.safetensors")
    torch.save({"optimizer": Bomb(mark)}, path / "state.pt")
    seal(path, "key")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    assert load_checkpoint(path.parent, model, optimizer, None) is None
    assert not path.exists()
    assert not mark.exists()


@pytest.mark.parametrize("tag", ["python/object/apply:pathlib.Path.touch", "python/name:os.system"])
def test_a_suite_is_data(tmp_path: Path, mark: Path, tag: str) -> None:
    text = f"models: [bundled:tiny-mistral]\nname: !!{tag} [{mark}]\n"
    (tmp_path / "suite.yaml").write_text(text, encoding="utf-8")
    finished = call(tmp_path, "plan", "suite.yaml")
    assert finished.code == 2
    assert "Traceback" not in finished.errors
    assert not mark.exists()


def test_a_script_of_a_data_set_does_not_run(tmp_path: Path, mark: Path) -> None:
    from qbench.sources.data.rows import load

    place = tmp_path / "data"
    place.mkdir()
    (place / "data.py").write_text(f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n")
    rows, _ = load("data", path=str(place))
    assert rows is None
    (place / "rows.pkl").write_bytes(pickle.dumps(Bomb(mark)))
    rows, _ = load("data", path="pandas", data_files=str(place / "rows.pkl"))
    assert rows is None
    assert not mark.exists()


@pytest.mark.slow
def test_a_token_is_written_nowhere(workplace: Workplace) -> None:
    workplace.write_suite("fp32")
    place = workplace.with_environment(HF_TOKEN=TOKEN, WANDB_API_KEY=TOKEN, OPENAI_API_KEY=TOKEN)
    ran = place.call("run", "suite.yaml")
    assert ran.code == 0, ran.errors
    doctor = place.call("doctor")
    assert TOKEN not in ran.output + ran.errors + doctor.output + doctor.errors
    files = [path for path in workplace.folder.rglob("*") if path.is_file()]
    assert any(path.name == "worker.log" for path in files)
    assert [path for path in files if TOKEN.encode() in path.read_bytes()] == []
