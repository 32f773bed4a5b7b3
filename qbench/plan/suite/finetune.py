"""The part `finetune` of a suite: which data, which methods in which precisions, which seeds.

Every arm sees the same data in the same order. A list as the value of an option sweeps, as does a
list of precisions: one arm for each combination.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.core.options import shown_options
from qbench.core.spec import Cell, Deployment, Frozen, ModelRef, PrecisionRef, TuningRef, slugify
from qbench.finetune import methods
from qbench.finetune.serve.deployment import served_precision
from qbench.measures.generation.evaluate_metrics import known_score
from qbench.plan.suite.file import DEFAULT_DEPLOY
from qbench.plan.suite.parts import at_most, make_precisions, unique
from qbench.precisions import EXAMPLE, is_quantized
from qbench.precisions.floating import DEFAULT_BASE
from qbench.precisions.integer.options import FOR_QAT
from qbench.sources.data.tuning import TuningDataOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qbench.plan.suite.file import FineTuneEntry, MethodEntry
    from qbench.plan.suite.problems import Problems

_BESIDE_QAT: tuple[Deployment, ...] = ("quantized", "fake-quantized")
"""Deployments that need no asking: QAT is scored before and after conversion, and beside PTQ."""


class FineTuning(Frozen):
    """What a suite tunes, and what it makes of it."""

    data: TuningDataOptions = TuningDataOptions()
    tunings: tuple[TuningRef, ...]
    """Every arm with every seed."""
    deploy: tuple[Deployment, ...] = DEFAULT_DEPLOY
    """How to serve each tuned model, as far as its method has them."""
    quantize: tuple[PrecisionRef, ...] = ()
    """What weights that were tuned without fake quantization are rounded to afterwards (PTQ)."""

    def deployments(self, tuning: TuningRef) -> tuple[Deployment, ...]:
        """The deployments of one tuned model; the merged one first: others are compared with it."""
        possible = methods()[tuning.method].deployments(tuning.precision)
        chosen = tuple(one for one in self.deploy if one in possible) or possible[:1]
        chosen += tuple(one for one in _BESIDE_QAT if one in possible)
        served = (one for one in dict.fromkeys(chosen) if self.served_in(tuning, one))
        return tuple(sorted(served, key=lambda one: one != "merged"))

    def served_in(self, tuning: TuningRef, deployment: Deployment) -> tuple[PrecisionRef, ...]:
        """What a tuned model is held in, in a deployment; each is a cell of its own."""
        if deployment == "quantized" and not is_quantized(tuning.precision):
            return self.quantize
        return (served_precision(tuning, deployment),)

    @property
    def count(self) -> int:
        """Cells of each model: the trainings, and what is served of them."""
        return sum(
            1 + sum(len(self.served_in(tuning, one)) for one in self.deployments(tuning))
            for tuning in self.tunings
        )

    def cells(self, model: ModelRef) -> list[Cell]:
        """The trainings of a model, each followed by what is served of it."""
        made = []
        for tuning in self.tunings:
            made.append(Cell(model=model, precision=tuning.precision, tuning=tuning))
            made += [
                Cell(model=model, precision=precision, tuning=tuning, deploy=deployment)
                for deployment in self.deployments(tuning)
                for precision in self.served_in(tuning, deployment)
            ]
        return made


def make_finetune(problems: Problems, entry: FineTuneEntry) -> FineTuning | None:
    """What the part `finetune` means; None with problems noted, or without an arm."""
    before = len(problems)
    _check_scores(problems, entry.data)
    every = (
        (arm.label, arm, ("finetune", "methods", index))
        for index, method in enumerate(entry.methods)
        for arm in _arms(problems, method, index)
    )
    arms = at_most(problems, ("finetune", "methods"), every, "arms")
    seeds = tuple(dict.fromkeys(entry.seeds))
    remedy = "give one another name: {name: …, method: …}"
    seeded = (
        arm.model_copy(
            update={"seed": seed, "label": f"{arm.arm}-s{seed}" if len(seeds) > 1 else arm.arm}
        )
        for arm in unique(problems, arms, "method", remedy)
        for seed in seeds
    )
    swept = "seeds" if len(seeds) > 1 else "methods"
    tunings = at_most(problems, ("finetune", swept), seeded, "trainings")
    deploy = tuple(dict.fromkeys(entry.deploy))
    quantize = _quantized_to(problems, entry, tunings)
    if "quantized" in deploy and not quantize:
        remedy = f"add `quantize: [{FOR_QAT}, {EXAMPLE}]` under finetune"
        expected = "the precisions to round to beside it"
        problems.add(("finetune", "deploy"), expected, found="quantized alone", remedy=remedy)
    if len(problems) > before or not tunings:
        return None
    return FineTuning(data=entry.data, tunings=tuple(tunings), deploy=deploy, quantize=quantize)


def _check_scores(problems: Problems, data: TuningDataOptions) -> None:
    """Notes scores of the suite's own recipe that do not exist."""
    for name in getattr(data.recipe, "scores", ()):
        try:
            known_score(name)
        except ValueError as error:
            found = f"the unknown score '{name}'"
            problems.add(("finetune", "data", "recipe"), str(error), found=found)


def _arms(problems: Problems, entry: MethodEntry, index: int) -> Iterator[TuningRef]:
    """The arms of one entry, one a precision and combination of swept options."""
    held: tuple[PrecisionRef, ...] = (DEFAULT_BASE,)
    if entry.precision:
        at = ("finetune", "methods", index, "precision")
        held = make_precisions(problems, entry.precision, *at)
    for choice in entry.choices:
        for precision in held:
            name = entry.name or entry.method
            if entry.name is None and entry.method == "lora" and is_quantized(precision):
                name = "qlora"
            parts = [name, *([] if precision.label in name.split("-") else [precision.label])]
            label = slugify("-".join([*parts, *shown_options(choice.swept)]))
            yield TuningRef(
                label=label,
                arm=label,
                method=entry.method,
                precision=precision,
                options=choice.options.model_dump(mode="json"),
            )


def _quantized_to(
    problems: Problems, entry: FineTuneEntry, tunings: list[TuningRef]
) -> tuple[PrecisionRef, ...]:
    """What is quantized to after full tuning: unless given, what QAT trains for."""
    if not entry.quantize:
        trained_for = (tuning.precision for tuning in tunings if tuning.method == "qat")
        return tuple({precision.label: precision for precision in trained_for}.values())
    at = ("finetune", "quantize")
    chosen = make_precisions(problems, entry.quantize, *at)
    for precision in chosen:
        if not is_quantized(precision):
            remedy = "leave it out: `deploy: [merged]` serves the tuned weights in 16 bits"
            expected = f"precisions that hold codes, such as {EXAMPLE}"
            problems.add(at, expected, found=precision.label, remedy=remedy)
    return chosen
