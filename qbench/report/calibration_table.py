"""What each calibrated precision was calibrated on, and what came of it."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

from qbench.core.page import Column, Figure, Row, Table
from qbench.core.unchecked import as_mapping, as_number
from qbench.report.figures import NOT_MEASURED

if TYPE_CHECKING:
    from collections.abc import Mapping

_COLUMNS = ("text", "windows", "tokens a window", "seed", "method", "by", "over all layers")


def calibration_table(loaded: Mapping[str, Mapping[str, Any]]) -> Table:
    """One row a calibrated cell; `loaded` is what was found in each model, by the cell's label.

    The constants of every layer stand in the record, under `details.loaded.calibration.layers`.
    """
    columns = tuple(Column(name, name, "text") for name in _COLUMNS)
    rows = []
    for label, found in loaded.items():
        about = as_mapping(found.get("calibration"))
        if about:
            asked = ("text", "windows", "window_tokens", "seed")
            words = (
                *(str(about.get(name)) for name in asked),
                _method(found, about),
                str(about.get("implementation") or NOT_MEASURED),
                _findings(
                    [as_mapping(layer) for layer in as_mapping(about.get("layers")).values()]
                ),
            )
            rows.append(
                Row(label, reference=False, figures=tuple(Figure(word=word) for word in words))
            )
    return Table("Calibration", "precision", columns, tuple(rows))


def _method(found: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """How the text decided: the range of static activations, or the choice of codes."""
    method = about.get("method")
    if method is None:
        return str(found.get("weights"))
    share = as_number(about.get("percentile"))
    return f"{method} {share:g}" if share is not None else str(method)


def _findings(layers: list[dict[str, Any]]) -> str:
    """The middle layer's figures in words."""

    def figures(name: str) -> list[float]:
        return [value for layer in layers if (value := as_number(layer.get(name))) is not None]

    def middle(name: str, factor: float = 1.0) -> str:
        found = figures(name)
        return f"{factor * median(found):.3g}" if found else NOT_MEASURED

    if not layers:
        return ""
    if "output_error" in layers[0]:
        return (
            f"median error of the outputs {middle('output_error')},"
            f" of nearest levels {middle('output_error_nearest')}"
        )
    if "block_error" in layers[0]:
        return (
            f"median error of the blocks' outputs {middle('block_error')},"
            f" of nearest levels {middle('block_error_nearest')}"
        )
    if "factor_min" in layers[0]:
        return f"factors {middle('factor_min')} to {middle('factor_max')} (medians)"
    lowest, highest = min(figures("min"), default=None), max(figures("max"), default=None)
    if lowest is None or highest is None:
        return NOT_MEASURED
    return (
        f"inputs {lowest:.3g} to {highest:.3g}; median limit {middle('limit')},"
        f" {middle('clipped_share', 100)} % clipped"
    )
