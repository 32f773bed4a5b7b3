"""The tuned cells as arms: what the seeds of one tuning share, and what stands beside it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qbench.compare.items import describe_params
from qbench.compare.selection import DEPLOYMENT_ORDER, METHOD_ORDER
from qbench.core.number_types import FP32
from qbench.precisions import is_quantized as holds_codes
from qbench.precisions import precisions
from qbench.precisions.floating import DEFAULT_BASE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.selection import CellRecords, TableRecords
    from qbench.core.record import Record
    from qbench.core.spec import Deployment, PrecisionRef, TuningRef

_MOST_TOLD = 3
"""Options by which an arm is told from others; beyond that its name says more."""
_SHOWN_FIRST: tuple[Deployment, ...] = ("attached", "merged", "quantized")
"""What an arm is scored as: the first of these that was served."""
IN_WORDS: dict[Deployment, str] = {
    "attached": "attached",
    "attached-fp16": "attached, in fp16",
    "merged": "merged into the original weights",
    "merged-requantized": "merged, then quantized again",
    "merged-dequantized": "merged into the dequantized base",
    "merged-in-place": "merged in place, stays quantized",
    "adapter-int8": "attached, adapter stored in 8 bits",
    "adapter-nf4": "attached, adapter stored in 4 bits",
    "quantized": "converted",
    "fake-quantized": "before conversion, fake-quantized",
}
ALL_TUNED = "all weights tuned"
"""What full tuning leaves is merged by its nature."""
ALL_TUNED_THEN_PTQ = "all weights tuned, then quantized (PTQ)"
MERGED_THEN_PTQ = "merged into the original weights, then quantized (PTQ)"


@dataclass(frozen=True)
class Arm:
    """One tuning with all its seeds."""

    name: str
    trainings: tuple[CellRecords, ...]
    served: tuple[CellRecords, ...]
    """Of all seeds and deployments."""
    apart: str = ""
    """What differs from the other arms of the same method and precision; empty for the only one."""

    @property
    def tuning(self) -> TuningRef:
        """The tuning of one of the seeds: only label and seed differ between them."""
        found = next(cell.tuning for cell in (*self.trainings, *self.served))
        if found is None:
            raise ValueError(f"{self.name} has a cell that is not tuned")
        return found

    @property
    def seeds(self) -> tuple[int, ...]:
        """All seeds that left a record."""
        cells = (*self.trainings, *self.served)
        return tuple(sorted({cell.tuning.seed for cell in cells if cell.tuning is not None}))

    @property
    def words(self) -> str:
        """What it is called in the field, and what it differs by: `QLoRA on NF4 (rank 8)`."""
        method = describe_method(self.tuning)
        return f"{method} ({self.apart})" if self.apart else method

    @property
    def deployments(self) -> tuple[str, ...]:
        """The ways in which it was served, in the order of their table.

        Each is the deployment; with the precision (`quantized-nf4`) where there can be several.
        """
        found = {
            deployment_name(cell): DEPLOYMENT_ORDER.index(cell.deploy)
            for cell in self.served
            if cell.deploy is not None
        }
        return tuple(sorted(found, key=lambda deployment: found[deployment]))

    @property
    def shown_deployment(self) -> str | None:
        """The way in which the arm is scored; None where it was not served at all."""
        preferred = (deployment for deployment in _SHOWN_FIRST if deployment in self.deployments)
        return next(preferred, next(iter(self.deployments), None))

    def of_deployment(self, deployment: str | None) -> tuple[CellRecords, ...]:
        """Its cells that are served in one way, by seed."""
        return tuple(cell for cell in self.served if deployment_name(cell) == deployment)

    @property
    def shown(self) -> tuple[CellRecords, ...]:
        """The cells that the arm is scored as, by seed."""
        return self.of_deployment(self.shown_deployment)


def deployment_name(cell: CellRecords) -> str:
    """How a served cell is named beside others of its tuning."""
    label = "" if cell.tuning is None else cell.tuning.label
    return cell.records[0].cell.label.removeprefix(f"{label}--")


def arms_of(records: TableRecords) -> tuple[Arm, ...]:
    """The arms in the order of the tuned cells."""
    grouped: dict[str, list[CellRecords]] = {}
    for cell in records.tuned:
        if cell.tuning is not None:
            grouped.setdefault(cell.tuning.arm, []).append(cell)
    made = [
        Arm(
            name,
            tuple(cell for cell in cells if cell.is_training),
            tuple(cell for cell in cells if not cell.is_training),
        )
        for name, cells in grouped.items()
    ]
    return tuple(replace(arm, apart=_apart(arm, made)) for arm in made)


def _apart(arm: Arm, arms: Sequence[Arm]) -> str:
    """The options that tell an arm from others of its method; its name where they are many."""
    alike = [one for one in arms if describe_method(one.tuning) == describe_method(arm.tuning)]
    own = arm.tuning.options
    others = [one.tuning.options for one in alike if one is not arm]
    if not others:
        return ""
    keys = dict.fromkeys(key for options in (own, *others) for key in options)
    differing = [key for key in keys if any(one.get(key) != own.get(key) for one in others)]
    if own in others or len(differing) > _MOST_TOLD:
        return arm.name
    return ", ".join(
        f"{key.replace('_', ' ')} {describe_params({key: own.get(key)}).partition('=')[2]}"
        for key in differing
    )


def is_quantized(tuning: TuningRef) -> bool:
    """Whether the base is held in codes while it is tuned."""
    return holds_codes(tuning.precision)


def describe_method(tuning: TuningRef) -> str:
    """A tuning in the field's words: QLoRA is LoRA on a quantized base."""
    precision = tuning.precision
    if tuning.method == "full":
        master = tuning.options.get("master_weights")
        pure = master == precision.name != FP32
        return f"full tuning in {'pure ' if pure else ''}{precision.label}"
    if tuning.method == "qat":
        how = "QAT with LoRA" if tuning.options.get("rank") else "QAT"
        return f"{how} for {_title(precision)}"
    if tuning.method != "lora":
        return f"{tuning.method} on {precision.label}"
    name = "DoRA" if tuning.options.get("dora") else "LoRA"
    if not is_quantized(tuning):
        return f"{name} on {precision.label}"
    return f"Q{name} on {_title(precision)}"


def _title(precision: PrecisionRef) -> str:
    """What the field calls a precision with its default options; its label with others."""
    held = precisions().get(precision.name)
    own = precision.label == precision.name
    return (held.title if held is not None and own else None) or precision.label


def untuned_base(records: TableRecords, cell: CellRecords) -> CellRecords | None:
    """The untuned model held in the same precision as a served cell; else the reference."""
    held = cell.records[0].cell.precision
    same = (
        one
        for one in records.cells
        if one.records[0].cell.precision == held and one.records[0].cell.kv_cache is None
    )
    return next(same, records.reference)


def counterpart(arms: Sequence[Arm], arm: Arm) -> Arm:
    """What an arm is compared with: LoRA on bf16 with the same options, if there is one.

    Else the first LoRA on bf16, else the first on any floating type, else the first arm.
    """
    lora = [one for one in arms if one.tuning.method == "lora" and not is_quantized(one.tuning)]
    usual = [one for one in lora if one.tuning.precision.name == DEFAULT_BASE.name] or lora
    alike = (one for one in usual if one.tuning.options == arm.tuning.options)
    return next(alike, next(iter(usual), arms[0]))


def deployment_words(arm: Arm, deployment: str) -> str:
    """A deployment in words."""
    deploy = next(cell.deploy for cell in arm.of_deployment(deployment))
    if arm.tuning.method == METHOD_ORDER[0]:
        return ALL_TUNED if deploy == "merged" else ALL_TUNED_THEN_PTQ
    if deploy == "quantized" and arm.tuning.method == "lora":
        return MERGED_THEN_PTQ
    return deployment if deploy is None else IN_WORDS[deploy]


def by_seed(cells: Sequence[CellRecords], measurement: str, slug: str) -> dict[int, list[Record]]:
    """The records of an item, by the seed of the tuning."""
    return {
        cell.tuning.seed: found
        for cell in cells
        if cell.tuning is not None and (found := cell.of(measurement, slug))
    }
