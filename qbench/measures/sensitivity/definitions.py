"""What the measurement of sensitivities records."""

from __future__ import annotations

from qbench.core.record import MetricDefinition
from qbench.measures.quality.divergence import named_after

PREFIX = "sensitivity."
SUM = "sensitivity.sum."
"""Before the label of a format."""

_TOLD = ("kl.mean", "kl.median", "kl.p99", "kl.max", "kl.rounding", "top1_agreement")
"""What is told of a cell's divergence here: `quality` has all of it, on a text to judge by."""
EVERY = named_after(PREFIX, "on the text of the sensitivities")
"""All that one pass finds."""
OF_CELL = tuple(one for one in EVERY if one.name.removeprefix(PREFIX) in _TOLD)
OF_TABLE = (
    MetricDefinition(
        name="sensitivity.largest",
        unit="nat",
        better="neither",
        title="largest KL of one unit alone",
        formula="the largest mean KL(reference ‖ reference with one layer, block or kind of layer"
        " in a format) of all that were measured; details.largest names it; of the reference"
        " alone",
    ),
    MetricDefinition(
        name=f"{SUM}*",
        unit="nat",
        better="neither",
        title="sum of the KL of single units",
        formula="sum over the units of the mean KL of each alone in the format; the KL of all"
        " together differs from it by what they do to each other; of the reference alone",
    ),
)
METRICS = (*OF_CELL, *OF_TABLE)
