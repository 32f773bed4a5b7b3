"""What it costs to hold a few layers of a model in a format, and nothing else: measured, and kept.

A unit is what is held together: one linear layer, those of one block, or those of one kind. Every
unit is held in every format alone, all other layers being the reference's. The reference's record
makes the table; what is made of it later reads it from the cache:

    <cache>/sensitivities/<key of the reference's record>/sensitivities.json
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, ValidationError

from qbench.core.cache import cache_folder
from qbench.core.errors import MeasurementError
from qbench.core.spec import Frozen, PrecisionRef
from qbench.sources.sealed import broken_seal, sealed_folder

if TYPE_CHECKING:
    from pathlib import Path

_FILE = "sensitivities.json"


class Cost(Frozen):
    """What one unit costs in one format."""

    bytes: int
    """Codes and quantization state of the unit's weights, without biases."""
    kl: float | None
    """Mean KL(reference ‖ model with this unit alone in the format), in nats a token."""
    reason: str | None = None
    """Why there is no KL, such as that another format of as few bytes errs less."""
    output_error: float | None = None
    """Error of the layers' outputs on the calibration inputs, relative to their norm; the largest
    of the unit. None of layers that do not compute what they hold, as of other failures."""


class Unit(Frozen):
    """Layers that are held in one format together."""

    name: str
    """Of a single layer its own name; else the block's, or the kind's such as `down_proj`."""
    layers: tuple[str, ...]
    """Names of its linear layers in the model."""
    weights: int
    """Logical weights of the layers, without biases."""
    plain_bytes: int
    """Bytes of those weights in the reference's type."""
    costs: dict[str, Cost]
    """By the format's label."""


class Sensitivities(Frozen):
    """The table of one model."""

    rest: str
    """Type that the reference is held in, such as `bf16`."""
    formats: dict[str, PrecisionRef]
    """By label, with all options as they are within a mix."""
    units: tuple[Unit, ...]
    tokens: int
    """Scored tokens that each KL is the mean of."""
    window_tokens: tuple[int, ...] = ()
    """Of them those of each window."""
    window_kl_sums: dict[str, dict[str, tuple[float, ...]]] = Field(default_factory=dict)
    """Summed KL of each window, in nats, by unit and format; none where there is no KL."""


def keep_sensitivities(key: str, found: Sensitivities) -> None:
    """Keeps the table under the key of its record; raises `NotKeptError` where it cannot be."""
    with sealed_folder(sensitivities_folder(key), key) as waiting:
        (waiting / _FILE).write_text(found.model_dump_json(indent=1) + "\n")


def has_sensitivities(key: str) -> bool:
    """Whether the table is there, and is what was kept."""
    return not isinstance(_found(key), str)


def read_sensitivities(key: str) -> Sensitivities:
    """The table under the key of its record; raises `MeasurementError` where it is not whole."""
    found = _found(key)
    if isinstance(found, str):
        raise MeasurementError(
            f"{sensitivities_folder(key)}: no table of sensitivities ({found}): the reference's"
            " sensitivity was not measured, as its record says, or could not be kept; run the suite"
            " again"
        )
    return found


def _found(key: str) -> Sensitivities | str:
    """The table, or what is wrong with it."""
    folder = sensitivities_folder(key)
    damage = broken_seal(folder, key)
    if damage is not None:
        return damage
    try:
        return Sensitivities.model_validate_json((folder / _FILE).read_bytes())
    except ValidationError:
        return "another version of qbench wrote it"


def sensitivities_folder(key: str) -> Path:
    """Where the table of that key lies, or would lie."""
    return cache_folder() / "sensitivities" / key
