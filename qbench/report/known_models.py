"""The models that plan without a hub, as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qbench.core.page import Column, Figure, Page, Row, Table, Words
from qbench.predict.kv_cache import cache_elements
from qbench.predict.mixtures import looked_up, mixture_of
from qbench.predict.model_config import config_of
from qbench.sources.models.known_configs import known_configs
from qbench.sources.models.random_models import RANDOM_PREFIX
from qbench.sources.models.resolve import parse_model, resolve_model

MODELS = "models"
"""What `qbench list` is asked for them by."""
CACHE_TOKENS = 4096
"""Tokens whose cache is told of each."""
_HALF = 2


def known_models_page() -> Page:
    """Each known configuration: its architecture, sizes, and what a token reads, by arithmetic."""
    entries = [_entry(name) for name in known_configs()]
    columns = (
        Column("architecture", "architecture", "text"),
        Column("weights", "weights", "text", right=True),
        Column("weights_read", "a token reads", "text", right=True),
        Column("context_tokens", "context", "exact"),
        Column("cache_bytes", "cache", "bytes"),
    )
    rows = tuple(
        Row(
            entry["name"],
            reference=False,
            figures=(
                Figure(word=entry["architecture"]),
                _billions(entry["weights"]),
                _billions(entry["weights_read"]),
                _number(entry["context_tokens"]),
                _number(entry["cache_bytes"]),
            ),
        )
        for entry in entries
    )
    title = f"Models that plan without a hub, as {RANDOM_PREFIX}NAME"
    notes = Words(
        "a token reads: all weights but tables that are looked up; of a mixture's experts those"
        f" that it is sent to. cache: keys and values of {CACHE_TOKENS:,} tokens in 16 bits.",
        "quiet",
    )
    return Page(title, (Table(title, "name", columns, rows), notes), {"models": entries})


def _entry(name: str) -> dict[str, Any]:
    model = resolve_model(parse_model(f"{RANDOM_PREFIX}{name}", base=Path("/")))
    shape, mixture = model.shape, mixture_of(model)
    weights = None if shape is None else shape.weights
    if mixture is not None:
        read = mixture.read
    else:
        read = None if shape is None else shape.weights - looked_up(shape)
    config, _ = config_of(model)
    elements, _ = cache_elements(config or {}, CACHE_TOKENS)
    return {
        "name": name,
        "architecture": model.architecture,
        "weights": weights,
        "weights_read": read,
        "context_tokens": model.context_tokens,
        "cache_bytes": None if elements is None else _HALF * elements.total,
    }


def _number(value: int | None) -> Figure:
    return Figure(word="not known") if value is None else Figure(value)


def _billions(value: int | None) -> Figure:
    return Figure(word="not known" if value is None else f"{value / 1e9:.2f} B")
