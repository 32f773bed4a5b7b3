"""Any precision explained by what it makes of a weight: bits, one weight, the error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.core.page import Page, words_table
from qbench.core.picture import histogram_figures, picture_of
from qbench.precisions.explain.errors_made import error_figures, error_section
from qbench.precisions.explain.sections import joined, section
from qbench.precisions.explain.stored_bits import stored_bits

if TYPE_CHECKING:
    import torch

    from qbench.core.spec import Frozen
    from qbench.precisions.explain.weights import Weight
    from qbench.precisions.precision import Precision


def explain_rounding(
    precision: Precision, weight: Weight, held: torch.Tensor, options: Frozen
) -> Page:
    """Explains a precision by a weight and what it holds of it, both (out, in)."""
    held = held.float()
    error = error_figures(weight.values, held)
    stored = stored_bits(precision.name, weight, options)
    row, column = weight.typical()
    before, after = float(weight.values[row, column]), float(held[row, column])
    different = len(set(held[row].tolist()))
    limit = float(weight.values.abs().max()) or 1.0
    picture = picture_of(weight.values, -limit, limit)
    return Page(
        title=f"{precision.name}: {precision.summary}",
        parts=joined(
            section(
                "Bits a weight",
                (f"{stored:.4g} bits as they are stored, with all that belongs to them",),
            ),
            section(
                f"One weight: row {row}, column {column}",
                table=words_table(
                    ("what", "value"),
                    (
                        ("in the file", f"{before:.6g}"),
                        ("as it is held", f"{after:.6g}"),
                        ("error", f"{after - before:.3g}"),
                    ),
                    right=(1,),
                ),
            ),
            error_section(
                weight, error, levels=(f"{different}", f"different values in row {row}"), notes=()
            ),
            section("The weights", picture=picture),
        ),
        data={
            "bits_per_weight": {"stored": stored},
            "error": error.plain(),
            "histogram": histogram_figures(picture),
        },
    )
