"""How a precision holds numbers, and what that does to a real tensor: `qbench explain`.

A precision is explained by one function of `EXPLAINERS`: it takes a weight and the precision's
options, and returns what `render` shows. Nothing here builds a model.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from qbench.core.errors import UsageError
from qbench.core.names import did_you_mean
from qbench.precisions import precisions
from qbench.precisions.explain import bnb4bit, floating, int8, integer
from qbench.precisions.explain.weights import read_weight
from qbench.precisions.integer.integer import PRECISIONS as INTEGERS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from qbench.core.page import Page
    from qbench.precisions.explain.weights import Weight

EXPLAINERS: dict[str, Callable[[Weight, dict[str, Any]], Page]] = {
    "fp32": partial(floating.explain, "fp32"),
    "bf16": partial(floating.explain, "bf16"),
    "fp16": partial(floating.explain, "fp16"),
    "int8": int8.explain,
    "fp4": partial(bnb4bit.explain, "fp4"),
    "nf4": partial(bnb4bit.explain, "nf4"),
    "nf4-dq": partial(bnb4bit.explain, "nf4-dq"),
    **{each.name: partial(integer.explain, each.name) for each in INTEGERS},
}
"""What explains each precision, in the order of `qbench list`.

`stored` is none of them: it is whatever a checkpoint holds.
"""


def check_precision(precision: str) -> None:
    """Raises `UsageError` for a precision that has no explanation."""
    if precision in EXPLAINERS:
        return
    message = (
        f"PRECISION: found {precision!r}, which has no explanation; expected one of"
        f" {', '.join(EXPLAINERS)}"
    )
    near = did_you_mean(precision, EXPLAINERS)
    raise UsageError(f"{message}; {near}" if near else message)


def explain(
    precision: str,
    model: str,
    tensor: str | None,
    *,
    options: dict[str, Any] | None = None,
    base: Path,
) -> Page:
    """Explains a precision on one tensor of a model.

    `model` is written as in a suite, relative to `base`; `tensor` is a name in its weight files,
    the first weight of an MLP unless given; `options` are all options of the precision, its
    defaults unless given. Raises `UsageError` for an unknown precision or tensor, and `ModelError`
    for a model that cannot be read.
    """
    check_precision(precision)
    if options is None:
        options = precisions()[precision].options().model_dump()
    weight = read_weight(model, tensor, base=base, group=options.get("group"))
    made = EXPLAINERS[precision](weight, options)
    subject = {
        "precision": precision,
        "options": options,
        "model": weight.model,
        "tensor": weight.name,
        "shape": list(weight.values.shape),
        "stored": weight.stored,
        "linear": weight.linear,
    }
    return replace(made, data={**subject, **made.data})
