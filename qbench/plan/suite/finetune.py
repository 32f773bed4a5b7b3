"""The part `finetune` of a suite: which data, which methods in which precisions, which seeds.

Every arm sees the same data in the same order. A list as the value of an option sweeps, as does a
list of precisions: one arm for each combination.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from qbench.core.spec import Cell, Deployment, Frozen, ModelRef, PrecisionRef, TuningRef, slugify
from qbench.finetune import methods
from qbench.finetune.options import is_quantized
from qbench.finetune.serve.deploy import served_precision
from qbench.measures.generation.evaluate_metrics import known_score
from qbench.plan.suite.options import read_options, read_sweep
from qbench.plan.suite.parts import (
    at_most,
    entries_of,
    read_name,
    read_precisions,
    shown_options,
    unique,
)
from qbench.plan.suite.problems import amendment
from qbench.plan.suite.yaml_lines import Node
from qbench.precisions import precisions
from qbench.sources.data.tuning import TuningDataOptions

if TYPE_CHECKING:
    from qbench.plan.suite.problems import Findings

KEYS = ("data", "methods", "seeds", "deploy", "quantize")
"""The keys under `finetune`."""
METHOD_KEYS = ("name", "method", "precision")
"""The keys of a method's entry beside the method's own options."""
DEPLOYMENTS: tuple[Deployment, ...] = get_args(Deployment)
DEFAULT_DEPLOY: tuple[Deployment, ...] = ("attached", "merged")
DEFAULT_PRECISION = "bf16"
_BESIDE_QAT: tuple[Deployment, ...] = ("quantized", "fake-quantized")
"""Rungs that need no asking: QAT is scored before and after conversion, and beside PTQ."""


class FineTuning(Frozen):
    """What a suite tunes, and what it makes of it."""

    data: TuningDataOptions = TuningDataOptions()
    tunings: tuple[TuningRef, ...]
    """Every arm with every seed."""
    deploy: tuple[Deployment, ...] = DEFAULT_DEPLOY
    """Rungs to serve each tuned model on, as far as its method has them."""
    quantize: tuple[PrecisionRef, ...] = ()
    """What weights that were tuned without fake quantization are rounded to afterwards (PTQ)."""

    def deployments(self, tuning: TuningRef) -> tuple[Deployment, ...]:
        """The rungs of one tuned model; the merged one first, for others are held against it."""
        possible = methods()[tuning.method].deployments(tuning.precision)
        chosen = tuple(rung for rung in self.deploy if rung in possible) or possible[:1]
        chosen += tuple(rung for rung in _BESIDE_QAT if rung in possible)
        served = (rung for rung in dict.fromkeys(chosen) if self.served_in(tuning, rung))
        return tuple(sorted(served, key=lambda rung: rung != "merged"))

    def served_in(self, tuning: TuningRef, rung: Deployment) -> tuple[PrecisionRef, ...]:
        """What a tuned model is held in on a rung, each a cell of its own."""
        if rung == "quantized" and not is_quantized(tuning.precision):
            return self.quantize
        return (served_precision(tuning, rung),)

    @property
    def count(self) -> int:
        """Cells of each model: the trainings, and what is served of them."""
        return sum(
            1 + sum(len(self.served_in(tuning, rung)) for rung in self.deployments(tuning))
            for tuning in self.tunings
        )

    def cells(self, model: ModelRef) -> list[Cell]:
        """The trainings of a model, each followed by what is served of it."""
        made = []
        for tuning in self.tunings:
            made.append(Cell(model=model, precision=tuning.precision, tuning=tuning))
            made += [
                Cell(model=model, precision=precision, tuning=tuning, deploy=rung)
                for rung in self.deployments(tuning)
                for precision in self.served_in(tuning, rung)
            ]
        return made


@dataclass(frozen=True)
class _Data:
    """The data's options, as an entry that options are read for."""

    options: type[Frozen] = TuningDataOptions


def read_finetune(findings: Findings, node: Node | None) -> FineTuning | None:
    """The part `finetune`; None where there is none, and with its problems noted."""
    if node is None:
        return None
    if not isinstance(node.value, dict):
        findings.add(node, "a mapping such as {methods: [{method: lora, precision: nf4}]}")
        return None
    before = len(findings)
    for key, child in node.value.items():
        if key not in KEYS:
            findings.add_unknown(child, "key of finetune", key, KEYS)
    data: Frozen | None = TuningDataOptions()
    if (place := node.child("data")) is not None:
        data = read_options(findings, place, "data", {"data": _Data()})
        _check_scores(findings, place, data)
    seeds = _read_seeds(findings, node.child("seeds"))
    deploy = _read_deploy(findings, node.child("deploy"))
    listed = node.child("methods")
    if listed is None:
        remedy = "add `methods: [{method: lora, precision: [bf16, nf4]}]`, for one"
        findings.add(node, "the key `methods`", found="no methods", remedy=remedy)
        return None
    every = (
        (arm.label, arm, entry)
        for entry in entries_of(findings, listed, "one method")
        for arm in _read_method(findings, entry)
    )
    arms = at_most(findings, listed, every, "arms")
    remedy = "give one another name: {name: …, method: …}"
    seeded = (
        arm.model_copy(
            update={"seed": seed, "label": f"{arm.arm}-s{seed}" if len(seeds) > 1 else arm.arm}
        )
        for arm in unique(findings, arms, "method", remedy)
        for seed in seeds
    )
    tunings = at_most(findings, node.child("seeds") or listed, seeded, "trainings")
    quantize = _read_quantize(findings, node.child("quantize"), tunings)
    if "quantized" in deploy and not quantize and (place := node.child("deploy")) is not None:
        remedy = "add `quantize: [int4-g32, nf4]` under finetune, for one"
        expected = "the precisions to round to beside it"
        findings.add(place, expected, found="quantized alone", remedy=remedy)
    if len(findings) > before or not isinstance(data, TuningDataOptions) or not tunings:
        return None
    return FineTuning(data=data, tunings=tuple(tunings), deploy=deploy, quantize=quantize)


def _check_scores(findings: Findings, place: Node, data: Frozen | None) -> None:
    """Notes scores of the suite's own recipe that do not exist."""
    recipe = getattr(data, "recipe", None)
    for name in getattr(recipe, "scores", ()):
        try:
            known_score(name)
        except ValueError as error:
            found = f"the unknown score '{name}'"
            findings.add(place.child("recipe") or place, str(error), found=found)


def _read_method(findings: Findings, entry: Node) -> list[TuningRef]:
    """The arms of one entry, one a precision and combination of swept options."""
    table = methods()
    if isinstance(entry.value, str):
        entry = Node({"method": entry}, entry.path, entry.line, entry.key_line)
    if not isinstance(entry.value, dict):
        findings.add(entry, "a method such as {method: lora, precision: nf4, rank: 16}")
        return []
    chosen = entry.value.get("method")
    if chosen is None:
        remedy = f"add `method: lora`; there are {', '.join(table)}"
        findings.add(entry, "an entry with its `method`", remedy=remedy)
        return []
    if not isinstance(chosen.value, str):
        remedy = "write an entry for each, its options beside it: {method: lora, rank: 8}"
        findings.add(chosen, f"one of {', '.join(table)}", remedy=remedy)
        return []
    method = chosen.value
    if method not in table:
        hint = None
        if method.lower() == "qlora":
            hint = "QLoRA is LoRA on a quantized base: {method: lora, precision: nf4}"
        findings.add_unknown(chosen, "method", method, table, hint)
        return []
    held = [PrecisionRef(label=DEFAULT_PRECISION, name=DEFAULT_PRECISION)]
    if (place := entry.value.get("precision")) is not None:
        held = list(read_precisions(findings, place, precisions()))
    named = entry.value.get("name")
    name = None if named is None else read_name(findings, named)
    own = {key: child for key, child in entry.value.items() if key not in METHOD_KEYS}
    options = Node(own, entry.path, entry.line, entry.key_line)
    return [
        _arm(name, method, precision, made, swept)
        for made, swept in read_sweep(findings, options, method, table)
        for precision in held
    ]


def _arm(
    name: str | None, method: str, precision: PrecisionRef, options: Frozen, swept: dict[str, Any]
) -> TuningRef:
    if name is None:
        name = "qlora" if method == "lora" and is_quantized(precision) else method
    parts = [name, *([] if precision.label in name.split("-") else [precision.label])]
    label = slugify("-".join([*parts, *shown_options(swept)]))
    return TuningRef(
        label=label,
        arm=label,
        method=method,
        precision=precision,
        options=options.model_dump(mode="json"),
    )


def _read_seeds(findings: Findings, node: Node | None) -> tuple[int, ...]:
    if node is None:
        return (0,)
    seeds = []
    for entry in entries_of(findings, node, "one seed", "seed 0"):
        value = entry.value
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31:
            seeds.append(value)
        else:
            remedy = amendment(entry, {"type": "integer"})
            findings.add(entry, "a whole number from 0", remedy=remedy)
    return tuple(dict.fromkeys(seeds)) or (0,)


def _read_quantize(
    findings: Findings, node: Node | None, tunings: list[TuningRef]
) -> tuple[PrecisionRef, ...]:
    """What is quantized to after full tuning: unless given, what QAT trains for."""
    if node is None:
        trained_for = (tuning.precision for tuning in tunings if tuning.method == "qat")
        return tuple({precision.label: precision for precision in trained_for}.values())
    chosen = read_precisions(findings, node, precisions())
    for precision in chosen:
        if not is_quantized(precision):
            remedy = "leave it out: `deploy: [merged]` serves the tuned weights in 16 bits"
            expected = "precisions that hold codes, such as nf4"
            findings.add(node, expected, found=precision.label, remedy=remedy)
    return chosen


def _read_deploy(findings: Findings, node: Node | None) -> tuple[Deployment, ...]:
    if node is None:
        return DEFAULT_DEPLOY
    chosen: list[Deployment] = []
    for entry in entries_of(findings, node, "one way to serve a tuned model", "attached, merged"):
        found = next((rung for rung in DEPLOYMENTS if rung == entry.value), None)
        if found is not None:
            chosen.append(found)
        elif isinstance(entry.value, str):
            findings.add_unknown(entry, "way to serve", entry.value, DEPLOYMENTS)
        else:
            findings.add(entry, f"one of {', '.join(DEPLOYMENTS)}")
    return tuple(dict.fromkeys(chosen)) or DEFAULT_DEPLOY
