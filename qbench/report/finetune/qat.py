"""What QAT wins back: a low-bit model that was trained for its rounding, beside one that was not.

The PTQ side is a model tuned for as many steps on the same data without fake quantization, then
rounded to the same precision: by `full`, for an arm of adapters by LoRA where that was rounded too.
QLoRA trains against the codes of its frozen base, and stands in the same table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbench.compare.tuned.arms import is_quantized
from qbench.compare.tuned.changes import LOSS_MARGIN, loss_change
from qbench.core.page import Column, Figure, Row, Table
from qbench.core.unchecked import shared_count
from qbench.report.figures import NO_VALUE, NOT_MEASURED, over_seeds
from qbench.report.finetune.changes import judge_all

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.selection import CellRecords
    from qbench.compare.tuned.arms import Arm
    from qbench.compare.tuned.changes import Claim
    from qbench.core.spec import TuningRef
    from qbench.report.finetune.changes import Judged
    from qbench.report.finetune.results import Results

TITLE = "Trained for the rounding (QAT) or rounded afterwards (PTQ)"
_MERGED, _BEFORE = "merged", "fake-quantized"
_MARGIN = f"equivalent: within ±{LOSS_MARGIN.amount:g}"
_COLUMNS = (
    Column("method", "method", "text"),
    Column(
        "floating",
        "tuned, 16 bits",
        "number",
        definition="test loss, nat a token, of the model tuned without rounding: by `full`, for"
        " adapters by LoRA where it was rounded too; its adapter merged",
        decimals=4,
    ),
    Column(
        "ptq",
        "PTQ",
        "number",
        definition="of the same model, its weights rounded to the precision after the training",
        decimals=4,
    ),
    Column(
        "damage",
        "PTQ's damage",
        "estimate",
        definition=f"change of the test loss by that rounding; {_MARGIN}",
    ),
    Column(
        "before",
        "before conversion",
        "number",
        definition="test loss of the arm, its weights in floating point, rounded as they are used",
        decimals=4,
    ),
    Column(
        "after",
        "trained for it",
        "number",
        definition="test loss of the arm as it is served: after QAT converted to codes, QLoRA's"
        " adapter attached to the codes that it was trained on",
        decimals=4,
    ),
    Column(
        "conversion",
        "by conversion",
        "estimate",
        definition=f"change of the test loss by the conversion; {_MARGIN}",
    ),
    Column(
        "against",
        "from PTQ",
        "estimate",
        definition="change of the test loss from the rounded model, paired over the items and"
        f" seeds; {_MARGIN}",
    ),
    Column("interval", "95 % interval", "text", definition="of the change from PTQ, nat a token"),
    Column(
        "rest",
        "from 16 bits",
        "estimate",
        definition=f"change of the test loss from the tuned model in 16 bits; {_MARGIN}",
    ),
    Column(
        "won_back",
        "won back",
        "percent",
        definition="of PTQ's damage: less than 0 where training for the rounding did harm, more"
        " than 100 % where it ends better than 16 bits",
        decimals=0,
    ),
)


@dataclass(frozen=True)
class WonBack:
    """An arm that trained against codes, and the model that was rounded to them afterwards."""

    arm: Arm
    plain: Arm
    """Tuned in floating point: by `full`, or by LoRA."""
    ptq: tuple[CellRecords, ...]
    """Its cells rounded to the arm's precision, by seed."""
    unlike: str | None
    """What the two do not share, so that they are not on equal footing; None if they are."""
    damage: Judged
    conversion: Judged | None
    """None where the arm was not served before conversion."""
    against: Judged
    """The arm's change from PTQ."""
    rest: Judged
    """The arm's change from 16 bits."""

    @property
    def share(self) -> Figure:
        """Of PTQ's damage that the arm does not have."""
        if self.unlike is not None:
            return Figure(word=NO_VALUE, reason=self.unlike)
        if self.damage.value is None or self.against.value is None:
            return Figure(word=NOT_MEASURED, reason="not measured")
        if self.damage.verdict != "worse":
            return Figure(word=NO_VALUE, reason="PTQ is not shown to do any damage")
        return Figure(-self.against.value / self.damage.value)


def won_back(results: Results) -> tuple[WonBack, ...]:
    """Every arm that trained against codes to which another's model was rounded as well."""
    arms = [one.arm for one in results.arms]
    found = [
        (arm, plain, ptq)
        for arm in arms
        if is_quantized(arm.tuning) and arm.shown
        for plain, ptq in [_counterpart(arms, arm)]
        if plain is not None and ptq
    ]
    claims: dict[tuple[str, str], Claim] = {}
    for arm, plain, ptq in found:
        sixteen = floating(plain)
        before = arm.of_deployment(_BEFORE)
        claims[arm.name, "damage"] = loss_change(ptq, sixteen, results.test_slug)
        claims[arm.name, "against"] = loss_change(arm.shown, ptq, results.test_slug)
        claims[arm.name, "rest"] = loss_change(arm.shown, sixteen, results.test_slug)
        if before:
            claims[arm.name, "conversion"] = loss_change(arm.shown, before, results.test_slug)
    judged = judge_all(claims)
    return tuple(
        WonBack(
            arm,
            plain,
            ptq,
            _unlike(arm, plain),
            damage=judged[arm.name, "damage"],
            conversion=judged.get((arm.name, "conversion")),
            against=judged[arm.name, "against"],
            rest=judged[arm.name, "rest"],
        )
        for arm, plain, ptq in found
    )


def won_back_table(rows: Sequence[WonBack], test_slug: str) -> Table:
    """One row an arm."""

    def loss(cells: Sequence[CellRecords]) -> Figure:
        return over_seeds(cells, "completion", test_slug, "completion.loss")

    made = []
    for one in rows:
        nothing = Figure(word=NOT_MEASURED)
        figures = {
            "method": Figure(word=one.arm.words),
            "floating": loss(floating(one.plain)),
            "ptq": loss(one.ptq),
            "damage": one.damage.figure,
            "before": loss(before) if (before := one.arm.of_deployment(_BEFORE)) else nothing,
            "after": loss(one.arm.shown),
            "conversion": nothing if one.conversion is None else one.conversion.figure,
            "against": one.against.figure,
            "interval": Figure(word=one.against.interval or NOT_MEASURED),
            "rest": one.rest.figure,
            "won_back": one.share,
        }
        faulty = any(cell.faulty for cell in (*one.arm.shown, *one.ptq))
        row = tuple(figures[column.key] for column in _COLUMNS)
        made.append(Row(one.arm.name, reference=False, figures=row, faulty=faulty))
    return Table(TITLE, "arm", _COLUMNS, tuple(made))


def won_back_words(rows: Sequence[WonBack]) -> str:
    """A sentence or two for each arm of QAT, gain or loss; QLoRA's stand in the table."""
    texts = []
    for one in rows:
        if one.arm.tuning.method != "qat":
            continue
        label = one.arm.tuning.precision.label
        if one.damage.value is None or one.against.value is None:
            continue  # the table says why
        steps = _trained(one.arm, "steps")
        text = (
            f"Rounding the model of {one.plain.name} to {label} after the training changed its"
            f" test loss by {one.damage.words}. {one.arm.words}"
            f"{f' for as many steps ({steps:,})' if steps and one.unlike is None else ''} ended at"
            f" {one.against.words} from there, {_FINDINGS[one.against.verdict]}"
        )
        if one.rest.value is not None:
            text += f", and {one.rest.words} from 16 bits"
        text += _won(one)
        texts.append(f"{text}{f' ({one.unlike})' if one.unlike else ''}.")
        if one.conversion is not None and one.conversion.value is not None:
            texts.append(f"Its conversion to codes changed it by {one.conversion.words}.")
    return " ".join(texts)


_FINDINGS = {
    "better": "better",
    "worse": "worse",
    "equal": "equal",
    "equivalent": "equivalent within the margin",
    "undecided": "not shown to differ",
}


def _won(one: WonBack) -> str:
    """What is said of the share; nothing where there is none."""
    if one.share.value is None:
        return ""
    if one.against.verdict == "better":
        return f": {one.share.value:.0%} of the damage was won back"
    if one.against.verdict == "worse":
        return f": nothing was won back, the damage grew by {-one.share.value:.0%}"
    if one.against.mark.high is not None and one.against.mark.high < 0:
        return f": {one.share.value:.0%} of the damage was won back, by less than the margin"
    return ": nothing is shown to be won back"


def _counterpart(arms: Sequence[Arm], arm: Arm) -> tuple[Arm | None, tuple[CellRecords, ...]]:
    """The most alike of the arms that were rounded to the same precision after their training."""
    deployment = f"quantized-{arm.tuning.precision.label}"
    rounded = [
        one for one in arms if not is_quantized(one.tuning) and one.of_deployment(deployment)
    ]
    if not rounded:
        return None, ()
    best = max(rounded, key=lambda one: _alikeness(one.tuning, arm.tuning))
    return best, best.of_deployment(deployment)


def floating(plain: Arm) -> tuple[CellRecords, ...]:
    """The cells that serve what was rounded as it was before: merged, else with its adapter."""
    return plain.of_deployment(_MERGED) or plain.shown


def _has_adapters(tuning: TuningRef) -> bool:
    return bool(tuning.options.get("rank"))


def _alikeness(own: TuningRef, other: TuningRef) -> tuple[bool, int]:
    """Whether both train adapters, or neither; and how many options they share."""
    shared = own.options.keys() & other.options.keys()
    same = sum(own.options[key] == other.options[key] for key in shared)
    return _has_adapters(own) == _has_adapters(other), same


def _unlike(arm: Arm, plain: Arm) -> str | None:
    """What bars the comparison: other steps or tokens, or adapters on one side alone."""
    if _has_adapters(arm.tuning) != _has_adapters(plain.tuning):
        return (
            f"not on equal footing: of this arm and {plain.name}, one trained adapters alone, so"
            " that more than the rounding differs; add {method: lora}, which is rounded too"
        )
    for key, words in (("steps", "steps"), ("tokens", "trained tokens")):
        own, other = _trained(arm, key), _trained(plain, key)
        if own != other:
            return f"not on equal footing: {own} {words}, and {other} of {plain.name}"
    return None


def _trained(arm: Arm, key: str) -> int | None:
    """What all seeds of an arm share, such as their steps; None where no record says."""
    trainings = (record for cell in arm.trainings for record in cell.of("training"))
    return shared_count([one.details.get(key) for one in trainings if one.status == "ok"])
