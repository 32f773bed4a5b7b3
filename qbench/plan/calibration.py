"""Finds the texts that a suite's precisions are calibrated on, and keeps them from evaluation.

A precision's options then hold the text with the hash of its contents, which the keys of its cells
follow from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.core.errors import Problem, TextError
from qbench.measures.read_texts import text_of
from qbench.precisions.integer.text import resolve_calibration

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qbench.core.spec import Item, PrecisionRef
    from qbench.plan.suite.suite import Suite
    from qbench.sources.data.texts import ResolvedText
    from qbench.sources.data.tuning import ResolvedTuningData


def resolve_calibrations(
    suite: Suite, items: Mapping[str, Sequence[Item]], data: ResolvedTuningData | None = None
) -> tuple[Suite, list[Problem]]:
    """The suite with every calibration text found; with what is wrong with any of them.

    `items` are what is measured of each model: the texts among them must be others, as must be
    `data`, what is tuned on, whose test split is scored.
    """
    evaluated = _texts(items)
    problems: dict[str, Problem] = {}

    def found(precision: PrecisionRef, place: str) -> PrecisionRef:
        try:
            return resolve_calibration(
                precision, base=suite.base, evaluated=evaluated, tuned_on=data
            )
        except TextError as error:
            problem = suite.problem(place, f"{precision.label}: {error}")
            problems[str(problem)] = problem
            return precision

    precisions = tuple(found(one, "precisions") for one in suite.precisions)
    finetune = suite.finetune
    if finetune is not None:
        tunings = tuple(
            one.model_copy(update={"precision": found(one.precision, "finetune.methods")})
            for one in finetune.tunings
        )
        quantize = tuple(found(one, "finetune.quantize") for one in finetune.quantize)
        finetune = finetune.model_copy(update={"tunings": tunings, "quantize": quantize})
    resolved = suite.model_copy(update={"precisions": precisions, "finetune": finetune})
    return resolved, list(problems.values())


def _texts(items: Mapping[str, Sequence[Item]]) -> list[ResolvedText]:
    """Each text that something is measured on, once."""
    texts = (text_of(item) for of_model in items.values() for item in of_model)
    return list(dict.fromkeys(text for text in texts if text is not None))
