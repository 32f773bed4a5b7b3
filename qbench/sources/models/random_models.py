"""Models with random weights: the true shape of a model, of which only the configuration exists.

A suite writes `random:` before the name of a known configuration, a folder, a bundled model or a
hub id. A worker gets a folder like any other, in the cache, with a config.json and a mark in place
of the weights: whoever loads it makes the weights (`qbench.precisions.random_weights`).
"""

from __future__ import annotations

import hashlib
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from qbench.sources.models.known_configs import known_configs
from qbench.sources.models.stand_ins import standing_for

if TYPE_CHECKING:
    from qbench.core.spec import ModelRef, ResolvedModel

RANDOM_PREFIX = "random:"
SEED = 0
"""All random weights follow from it."""
TOKENIZER_MODEL = "tiny-mistral"
"""The bundled model whose tokenizer gives the token ids that random weights are trained on."""
_FORM = 1
"""Counted up when the weights of one seed become others."""
# It has no suffix: what copies the small files of a model leaves it behind.
_MARK = "random_weights"


def config_folder(ref: ModelRef) -> tuple[Path, str | None]:
    """The folder with the model's config.json, and its commit if it is on the hub.

    Raises `ModelError` for a configuration that cannot be fetched.
    """
    known = known_configs().get(ref.location)
    if known is not None:
        return known, None
    folder = Path(ref.location)
    if folder.is_absolute():
        return folder, None
    from qbench.sources.models import hub

    fetched = hub.fetch_config(ref.location, ref.revision)
    return fetched, fetched.name


def random_fingerprint(config: Path, *, with_code: bool) -> str:
    """What the weights follow from: the seed, the configuration and the model's own code."""
    total = hashlib.sha256(f"random weights, seed {SEED}, form {_FORM}\n".encode())
    for path in _copied(config, with_code=with_code):
        total.update(path.read_bytes())
    return total.hexdigest()


def make_folder(model: ResolvedModel) -> Path:
    """The folder that the model is loaded from, made in the cache if it is not there.

    Raises `ModelError` when the cache cannot be written.
    """
    copied = _copied(Path(model.folder or ""), with_code=model.ref.trust_remote_code)
    files = ((path.name, path.read_bytes()) for path in copied)
    mark = (_MARK, b"The weights of this model are made when it is loaded.\n")
    return standing_for("random", model.fingerprint[:16], chain(files, [mark]))


def is_random(folder: str | Path) -> bool:
    """Whether the weights of the model in this folder are made when it is loaded."""
    return (Path(folder) / _MARK).is_file()


def _copied(folder: Path, *, with_code: bool) -> list[Path]:
    code = sorted(folder.glob("*.py")) if with_code else []
    return [folder / "config.json", *code]
