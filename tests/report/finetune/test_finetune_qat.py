"""What QAT wins back over rounding afterwards: table and words, from records alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.compare.selection import select
from qbench.core.spec import Cell, PrecisionRef, TuningRef
from qbench.report.finetune.qat import WonBack, won_back, won_back_table, won_back_words
from qbench.report.finetune.results import results_of
from tests.pages import whole_report as render
from tests.tuned_records import (
    FULL,
    completion_fields,
    make_tuning,
    training_record,
    tuned,
    untuned_records,
)

if TYPE_CHECKING:
    from qbench.core.record import Record
    from qbench.core.spec import Deployment

BF16 = PrecisionRef(label="bf16", name="bf16")
INT4 = PrecisionRef(label="int4-g32", name="int4-g32")
NF4 = PrecisionRef(label="nf4", name="nf4")
PLAIN, DAMAGE = -0.6, 0.2
"""Changes of the test loss: by full tuning, and by rounding its weights."""


def served(
    tuning: TuningRef, deploy: Deployment, held: PrecisionRef, change: float, name: str
) -> Record:
    fields = completion_fields(change, f"{name}-{tuning.seed}")
    record = tuned(tuning, deploy, "completion", **fields)
    cell = Cell(model=record.cell.model, precision=held, tuning=tuning, deploy=deploy)
    return record.model_copy(update={"cell": cell})


def trained(tuning: TuningRef, like: str, **details: Any) -> Record:
    """The training's record, its figures those of an arm that the factory knows."""
    record = training_record(make_tuning(like, tuning.seed))
    cell = record.cell.model_copy(update={"tuning": tuning, "precision": tuning.precision})
    return record.model_copy(update={"cell": cell, "details": {**record.details, **details}})


def full_arm(seed: int, *targets: PrecisionRef, damage: float = DAMAGE) -> list[Record]:
    tuning = make_tuning("full-bf16", seed, precision=BF16)
    return [
        trained(tuning, "full-bf16"),
        served(tuning, "merged", BF16, PLAIN, "merged"),
        *(served(tuning, "quantized", one, PLAIN + damage, one.label) for one in targets),
    ]


def qat_arm(seed: int, extra: float, **details: Any) -> list[Record]:
    """`extra`: how far it ends above full tuning in 16 bits."""
    tuning = make_tuning("qat-int4-g32", seed, method="qat", precision=INT4, options=FULL)
    return [
        trained(tuning, "full-bf16", **details),
        served(tuning, "quantized", INT4, PLAIN + extra, "qat"),
        served(tuning, "fake-quantized", BF16, PLAIN + extra, "qat"),
    ]


def qlora_arm(seed: int, extra: float) -> list[Record]:
    tuning = make_tuning("qlora-nf4", seed, precision=NF4)
    return [
        trained(tuning, "qlora-nf4"),
        served(tuning, "attached", NF4, PLAIN + extra, "qlora"),
    ]


def compared(records: list[Record]) -> tuple[tuple[WonBack, ...], str]:
    base = [record for name in ("fp32", "bf16") for record in untuned_records(name)]
    (table,) = select([*base, *records]).tables
    results = results_of(table)
    return won_back(results), results.test_slug


def test_the_share_won_back_is_that_of_the_damage() -> None:
    rows, slug = compared([one for s in (0, 1, 2) for one in full_arm(s, INT4) + qat_arm(s, 0.05)])
    (row,) = rows
    assert row.damage.verdict == "worse"
    assert row.against.verdict == "better"
    assert abs((row.damage.value or 0) - DAMAGE) < 0.01
    assert abs((row.against.value or 0) - (0.05 - DAMAGE)) < 0.01
    assert abs((row.share.value or 0) - 0.75) < 0.03
    table = won_back_table(rows, slug)
    assert [one.label for one in table.rows] == ["qat-int4-g32"]
    (floating,), (ptq,) = table.column("floating"), table.column("ptq")
    assert abs((ptq.value or 0) - (floating.value or 0) - DAMAGE) < 0.01
    words = won_back_words(rows)
    assert f"{row.share.value or 0:.0%} of the damage was won back" in words
    assert "QAT for int4-g32 for as many steps (40) ended at -0.1" in words


def test_conversion_that_changes_nothing_is_equal() -> None:
    rows, slug = compared([one for s in (0, 1, 2) for one in full_arm(s, INT4) + qat_arm(s, 0.05)])
    assert rows[0].conversion is not None
    assert rows[0].conversion.verdict == "equal"
    (before,), (after,) = (won_back_table(rows, slug).column(key) for key in ("before", "after"))
    assert before.value == after.value


def test_what_is_won_back_within_the_margin_is_told_with_both() -> None:
    little = DAMAGE - 0.012
    rows, _ = compared([one for s in (0, 1, 2) for one in full_arm(s, INT4) + qat_arm(s, little)])
    assert rows[0].against.verdict == "equivalent"
    assert "of the damage was won back, by less than the margin" in won_back_words(rows)


def test_qat_that_does_harm_is_told() -> None:
    rows, _ = compared([one for s in (0, 1, 2) for one in full_arm(s, INT4) + qat_arm(s, 0.3)])
    assert rows[0].against.verdict == "worse"
    assert (rows[0].share.value or 0) < -0.4
    assert "nothing was won back, the damage grew by" in won_back_words(rows)


def test_a_change_from_16_bits_that_is_not_known_is_not_told() -> None:
    """Seed 1 was not served in 16 bits, and seed 0 not trained by QAT."""
    rounded = [one for one in full_arm(1, INT4) if one.cell.deploy != "merged"]
    (row,) = compared([*full_arm(0, INT4), *rounded, *qat_arm(1, 0.05)])[0]
    assert None not in (row.damage.value, row.against.value)
    assert row.rest.value is None
    words = won_back_words([row])
    assert "ended at -0.1" in words
    assert "from 16 bits" not in words


def test_without_damage_there_is_no_share() -> None:
    records = [one for s in (0, 1, 2) for one in full_arm(s, INT4, damage=0.0) + qat_arm(s, 0.0)]
    (row,) = compared(records)[0]
    assert row.share.value is None
    assert row.share.reason == "PTQ is not shown to do any damage"


def test_other_steps_are_no_equal_footing() -> None:
    rows, _ = compared(full_arm(0, INT4) + qat_arm(0, 0.05, steps=80))
    assert rows[0].share.value is None
    reason = rows[0].share.reason or ""
    assert reason == "not on equal footing: 80 steps, and 40 of full-bf16"
    assert "(not on equal footing" in won_back_words(rows)


def test_qlora_stands_beside_what_was_rounded_to_its_format() -> None:
    records = [
        one
        for s in (0, 1, 2)
        for one in full_arm(s, INT4, NF4) + qat_arm(s, 0.05) + qlora_arm(s, 0.1)
    ]
    rows, slug = compared(records)
    assert [row.arm.name for row in rows] == ["qat-int4-g32", "qlora-nf4"]
    assert rows[1].conversion is None
    assert abs((rows[1].against.value or 0) + 0.1) < 0.01
    # Adapters beside all weights: more than the rounding differs.
    assert rows[1].share.value is None
    assert "add {method: lora}" in str(rows[1].share.reason)
    assert won_back_table(rows, slug).column("conversion")[1].value is None


def test_adapters_are_held_against_adapters() -> None:
    """QLoRA against LoRA that was merged and rounded to the same codes, where there is one."""
    records = [one for s in (0, 1, 2) for one in full_arm(s, NF4) + qlora_arm(s, 0.1)]
    for seed in (0, 1, 2):
        lora = make_tuning("lora-bf16", seed, precision=BF16)
        records += [
            trained(lora, "lora-bf16"),
            served(lora, "merged", BF16, PLAIN, "lora merged"),
            served(lora, "quantized", NF4, PLAIN + 0.4, "lora rounded"),
        ]
    (row,) = compared(records)[0]
    assert row.plain.name == "lora-bf16"
    assert abs((row.damage.value or 0) - 0.4) < 0.01
    assert abs((row.share.value or 0) - 0.75) < 0.03


def test_an_arm_without_its_rounded_counterpart_has_no_row() -> None:
    assert compared(full_arm(0) + qat_arm(0, 0.05))[0] == ()
    assert compared(qat_arm(0, 0.05))[0] == ()


def test_what_would_give_a_counterpart_is_told() -> None:
    base = untuned_records("fp32")
    page = render([*base, *full_arm(0, INT4), *qat_arm(0, 0.05), *qlora_arm(0, 0.1)])
    assert "Not compared with PTQ: qlora-nf4, for no model" in page
    page = render([*base, *full_arm(0), *qat_arm(0, 0.05), *qlora_arm(0, 0.1)])
    assert "Not compared with PTQ: qat-int4-g32, qlora-nf4, for no model" in page
    assert "is rounded to int4-g32, nf4 afterwards; list them under finetune's" in page
    # Without QAT nobody asked for the comparison.
    assert "Not compared with PTQ" not in render([*base, *full_arm(0), *qlora_arm(0, 0.1)])


def test_the_page_has_table_words_and_each_deployment() -> None:
    base = [record for name in ("fp32", "bf16") for record in untuned_records(name)]
    arms = [one for s in (0, 1) for one in full_arm(s, INT4, NF4) + qat_arm(s, 0.05)]
    page = render([*base, *arms])
    assert "### Trained for the rounding (QAT) or rounded afterwards (PTQ)" in page
    assert "of the damage was won back" in page
    for deployment in ("merged", "quantized-int4-g32", "quantized-nf4"):
        assert f"full-bf16--{deployment}" in page
    assert "all weights tuned, then quantized (PTQ)" in page
    assert "qat-int4-g32--fake-quantized" in page
