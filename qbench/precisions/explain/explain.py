"""How a precision holds numbers, and what that does to a real tensor: `qbench explain`.

Each precision explains itself: of a weight and its options it makes a page. Nothing here builds a
model.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from qbench.core.errors import UsageError
from qbench.core.packages import missing_packages
from qbench.precisions import precisions
from qbench.precisions.explain.sections import joined, section
from qbench.precisions.explain.weights import read_weight
from qbench.precisions.names import nearest_words, own_name

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from qbench.core.page import Page
    from qbench.core.spec import Frozen
    from qbench.precisions.explain.sections import Section


_DEVICES = {"cpu": "a CPU", "cuda": "CUDA"}
_AS_SERVED = "its times are those of the format, as far as is known"


def explained() -> list[str]:
    """The precisions that say something of themselves, in the order of `qbench list`."""
    return [name for name, precision in precisions().items() if precision.is_explained]


def check_precision(precision: str) -> str:
    """The own name of a precision; raises `UsageError` for one that has no explanation."""
    names = explained()
    known = own_name(precision)
    if known in names:
        return known
    message = (
        f"PRECISION: found {precision!r}, which has no explanation; expected another precision"
        " of `qbench list`"
    )
    near = None if known else nearest_words(precision, names)
    raise UsageError(f"{message}; {near}" if near else message)


def explain(
    precision: str,
    model: str,
    tensor: str | None,
    *,
    options: Frozen | None = None,
    base: Path,
) -> Page:
    """Explains a precision on one tensor of a model.

    `model` is written as in a suite, relative to `base`; `tensor` is a name in its weight files,
    the first weight of an MLP unless given; `options` are the precision's, its defaults
    unless given. Raises `UsageError` for an unknown precision or tensor, and for a precision
    whose packages are not installed, and `ModelError` for a model that cannot be read.
    """
    precision = check_precision(precision)
    held = precisions()[precision]
    missing = missing_packages(held.needs)
    if missing is not None:
        raise UsageError(f"PRECISION: {precision} {missing}")
    if options is None:
        options = held.options()
    weight = read_weight(model, tensor, base=base, group=held.row_multiple(options))
    made = held.explain(weight, options)
    if made is None:
        rows, width = weight.values.shape
        raise UsageError(
            f"--tensor: {weight.name} of {weight.model} has {rows} rows of {width} weights, which"
            f" do not fall into what shares a scale in {precision}: such a layer stays in the type"
            " of the rest; choose another tensor, or other options with --set"
        )
    subject = {
        "precision": precision,
        "options": options.model_dump(),
        "model": weight.model,
        "tensor": weight.name,
        "shape": list(weight.values.shape),
        "stored": weight.stored,
        "linear": weight.linear,
    }
    speed = {device: held.unlike_served(options, device) for device in _DEVICES}
    return replace(
        made,
        parts=joined(made.parts, _speed(speed)),
        data={**subject, **made.data, "unlike_served": speed},
    )


def _speed(unlike_served: Mapping[str, str | None]) -> Section:
    """On which devices its times are those of the format; nothing where they are on all."""
    if not any(unlike_served.values()):
        return ()
    by_words: dict[str, list[str]] = {}
    for device, reason in unlike_served.items():
        by_words.setdefault(reason or _AS_SERVED, []).append(_DEVICES[device])
    return section(
        "Where its speed is real",
        [f"On {' and '.join(devices)}: {words}" for words, devices in by_words.items()],
        notes=["Bytes and quality are real wherever it runs."],
    )
