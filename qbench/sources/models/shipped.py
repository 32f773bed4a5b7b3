"""The configurations of models that ship with qbench: their sizes are known without a hub."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.sources.bundled import PREFIX, bundled_models
from qbench.sources.models.config import read_config
from qbench.sources.models.known_configs import known_configs, known_name

if TYPE_CHECKING:
    from qbench.core.spec import ModelRef


def shipped_config(model: ModelRef) -> dict[str, Any] | None:
    """The model's configuration; None where it does not ship with qbench."""
    name = model.location.removeprefix(PREFIX)
    folder = bundled_models().get(name) if model.kind in ("bundled", "random") else None
    if folder is None and model.kind in ("hub", "random"):
        folder = known_configs().get(known_name(name) or "")
    return None if folder is None else read_config(folder)
