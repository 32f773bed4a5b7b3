"""What each calibrated precision was calibrated on, and what came of it."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

from qbench.report.figures import Column, Figure, Row, Table

if TYPE_CHECKING:
    from collections.abc import Mapping

_COLUMNS = ("text", "windows", "tokens a window", "seed", "method", "over all layers")


def calibration_table(loaded: Mapping[str, Mapping[str, Any]]) -> Table:
    """One row a calibrated cell; `loaded` is what was found in each model, by the cell's label.

    The constants of every layer stand in the record, under `details.loaded.calibration.layers`.
    """
    columns = tuple(Column(name, name, "text") for name in _COLUMNS)
    rows = []
    for label, found in loaded.items():
        about = found.get("calibration")
        if isinstance(about, dict):
            words = (
                str(about["text"]),
                str(about["windows"]),
                str(about["window_tokens"]),
                str(about["seed"]),
                _method(found, about),
                _findings(list(about["layers"].values())),
            )
            rows.append(
                Row(label, reference=False, figures=tuple(Figure(word=word) for word in words))
            )
    return Table("Calibration", "precision", columns, tuple(rows))


def _method(found: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """How the text decided: the range of static activations, or the choice of codes."""
    if about["method"] is None:
        return str(found.get("weights"))
    share = about.get("percentile")
    return f"{about['method']} {share:g}" if share is not None else str(about["method"])


def _findings(layers: list[dict[str, float]]) -> str:
    """The middle layer's figures in words."""

    def middle(name: str) -> float:
        return median(layer[name] for layer in layers)

    if not layers:
        return ""
    if "output_error" in layers[0]:
        return (
            f"median error of the outputs {middle('output_error'):.3g},"
            f" of nearest levels {middle('output_error_nearest'):.3g}"
        )
    if "factor_min" in layers[0]:
        return f"factors {middle('factor_min'):.3g} to {middle('factor_max'):.3g} (medians)"
    return (
        f"inputs {min(layer['min'] for layer in layers):.3g} to"
        f" {max(layer['max'] for layer in layers):.3g}; median limit {middle('limit'):.3g},"
        f" {100 * middle('clipped_share'):.3g} % clipped"
    )
