"""A model's configuration, wherever it lies, and the sizes of its decoder, which it states."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qbench.core.errors import ModelError
from qbench.predict.stated_shapes import decoder_shape
from qbench.sources.models.known_configs import HUB_IDS, known_configs

if TYPE_CHECKING:
    from qbench.core.spec import ResolvedModel
    from qbench.predict.shapes import DecoderShape

_CONFIG = "config.json"


def decoder_of(model: ResolvedModel) -> tuple[DecoderShape | None, str | None]:
    """The sizes of the model's layers, or None and the reason why they are not known."""
    config, reason = config_of(model)
    return (None, reason) if config is None else decoder_shape(config)


def config_of(model: ResolvedModel) -> tuple[dict[str, Any] | None, str | None]:
    """The model's configuration, or None and the reason why it cannot be read."""
    folder = model.folder
    if folder is None and model.ref.kind == "hub":
        folder, reason = _hub_folder(model.ref.location, model.revision)
        if folder is None:
            return None, reason
    path = Path(folder or "") / _CONFIG
    try:
        return _read(path, path.stat().st_mtime_ns), None
    except (OSError, ValueError) as error:
        return None, f"its {_CONFIG} cannot be read ({error})"


@cache
def _hub_folder(location: str, revision: str | None) -> tuple[str | None, str | None]:
    """Where the configuration of a hub model lies that is not downloaded."""
    known = HUB_IDS.get(location)
    if known is not None:
        return str(known_configs()[known]), None
    from qbench.sources.models import hub

    try:
        return str(hub.fetch_config(location, revision)), None
    except ModelError as error:
        return None, str(error)


@cache
def _read(path: Path, changed_ns: int) -> dict[str, Any]:
    """The configuration as it was last changed then: a plan asks for it at every item."""
    del changed_ns
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return config
