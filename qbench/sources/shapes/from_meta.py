"""Shapes that transformers tells of models without data: asked for together, and kept.

It needs torch, which planning must not load, and seconds: so one process is asked for all models,
`qbench.sources.shapes.meta`, and its answers are kept by what they follow from.
"""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any

from qbench.core.cache import read_cached, write_cached
from qbench.core.processes import python_command, python_environment
from qbench.core.record import content_key
from qbench.core.spec import ModelShape
from qbench.sources.fingerprint import files_sha256

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_FORM = 5
"""Counted up when `qbench.sources.shapes.meta` describes models differently: answers expire."""

CANNOT_BUILD = "transformers cannot build the model: "
"""Begins a reason; what failed follows."""
_OF_CONFIGURATION = re.compile(rf"{CANNOT_BUILD}(?:ValueError|TypeError|KeyError|AttributeError): ")
"""Reasons that lie in the configuration, and are kept too: not a package or memory that lacks."""

Answer = tuple[ModelShape | None, str | None]
"""The tensors of a model, or None and the reason why they are not known."""
Tensors = list[dict[str, Any]]
"""The fields of each `TensorShape`, as they are kept."""


@dataclass(frozen=True)
class Unbuilt:
    """A model that transformers is to build without data."""

    folder: Path
    """Holds config.json, and the model's own code if it has some."""
    trust_remote_code: bool = False


def shapes_from_meta(models: Sequence[Unbuilt]) -> list[Answer]:
    """The tensors of each model as transformers builds it from its config.json, in their order.

    Takes seconds the first time, in a process for all of them (in a second one those whose own code
    may run). What fails with one is the reason of that one alone.
    """
    found: dict[Unbuilt, Tensors | str] = {}
    to_ask: dict[str, tuple[dict[str, Any], list[Unbuilt]]] = {}
    """What the answer follows from, and the models, by its key: equal models are built once."""
    for model in dict.fromkeys(models):
        identity = _identity(model)
        if isinstance(identity, str):
            found[model] = identity
        elif (tensors := read_cached("shapes", identity)) is not None:
            found[model] = tensors
        else:
            to_ask.setdefault(content_key(identity), (identity, []))[1].append(model)
    for trusted in (False, True):
        asked = {
            str(equal[0].folder): key
            for key, (_, equal) in to_ask.items()
            if equal[0].trust_remote_code == trusted
        }
        for folder, answer in _ask(list(asked), trust_remote_code=trusted):
            identity, equal = to_ask[asked[folder]]
            found |= dict.fromkeys(equal, answer)
            lasts = not isinstance(answer, str) or _OF_CONFIGURATION.match(answer)
            if lasts and "folder" not in identity:
                write_cached("shapes", identity, answer)
    return [_answer(found[model]) for model in models]


def _identity(model: Unbuilt) -> dict[str, Any] | str:
    """What the shape follows from, or why it cannot be asked for.

    Names the folder where not all that it follows from lies there: that shape is not kept.
    """
    path = model.folder / "config.json"
    try:
        config_text = path.read_text(encoding="utf-8")
        code = sorted(model.folder.rglob("*.py")) if model.trust_remote_code else []
        hashed = {"code": files_sha256(code)} if code else {}
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else None
        return f"{path} cannot be read: {reason or error}"
    try:
        versions = _versions()
    except PackageNotFoundError as error:
        return f"{error.name} is not installed, which the shapes of this architecture need"
    identity: dict[str, Any] = {"config": config_text, **versions, **hashed, "form": _FORM}
    if model.trust_remote_code:
        identity["trusted"] = True
        if "--" in config_text:  # how auto_map names code of another repository
            identity["folder"] = str(model.folder)
    return identity


@cache
def _versions() -> dict[str, str]:
    return {name: version(name) for name in ("torch", "transformers")}


def _ask(folders: Sequence[str], *, trust_remote_code: bool) -> Iterator[tuple[str, Tensors | str]]:
    """What the process says of each folder: the tensors, or why there are none."""
    if not folders:
        return
    environment = python_environment(gpu=False)
    command = python_command("qbench.sources.shapes.meta", *folders)
    if trust_remote_code:
        command.append("--trust-remote-code")
    else:
        environment["HF_HUB_OFFLINE"] = "1"
    unanswered = dict.fromkeys(folders)
    with (
        TemporaryFile("w+", encoding="utf-8", errors="replace") as errors,
        subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as process,
    ):
        for line in process.stdout or ():
            told = json.loads(line)
            del unanswered[told["folder"]]
            yield told["folder"], told["tensors"] if told["reason"] is None else told["reason"]
        errors.seek(0)
        last = errors.read().strip().splitlines()[-1:] or ["no message"]
    for folder in unanswered:
        yield folder, f"{CANNOT_BUILD}{last[0]}"


def _answer(found: Tensors | str) -> Answer:
    if isinstance(found, str):
        return None, found
    return ModelShape.model_validate({"tensors": found, "origin": "meta"}), None
