"""The sum of single layers against all together, of records whose figures are known."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from qbench.compare.selection import select
from qbench.core.page import Bullets, Table
from qbench.core.spec import PrecisionRef
from qbench.report.details import detail_tables
from qbench.report.failures import valueless
from qbench.report.interactions import interaction_parts, sums
from tests.pages import REPORT_FORMATS, written_as
from tests.paired_records import divergence, footprint
from tests.record_factory import footprint_record, make_failure, make_metric, make_record
from tests.sensitivity_records import KL, TOKENS, UNITS, of_reference, sensitivity, spread

if TYPE_CHECKING:
    from qbench.core.record import Record

MIX = dict(zip(UNITS, ("int8", "nf4", "fp32", "int8"), strict=True))
PREDICTED = sum(KL[label][unit] for unit, label in MIX.items() if label != "fp32")


def joint(label: str, times: float, chosen: dict[str, str], **changes: Any) -> Record:
    """A cell whose windows are those of its units' sum, so many times, and a little noise."""
    rows = [spread(KL[of][unit], (of, unit)) for unit, of in chosen.items() if of != "fp32"]
    noise = spread(1.0, label)
    sums_of = [
        times * sum(parts) * (1 + (noisy / TOKENS - 1) / 10)
        for parts, noisy in zip(zip(*rows, strict=True), noise, strict=True)
    ]
    return in_fp32(sensitivity(label, sums_of, **changes), changes.get("name", label))


def in_fp32(record: Record, name: str) -> Record:
    """The cell with the rest in fp32, as the reference has it."""
    options = {} if name == "nf4" else {"dtype": "fp32"}
    options |= {"compute_dtype": "fp32"} if name == "nf4" else {}
    ref = PrecisionRef(label=record.cell.precision.label, name=name, options=options)
    return record.model_copy(update={"cell": record.cell.model_copy(update={"precision": ref})})


def mix(times: float, predicted: float = PREDICTED, **changes: Any) -> Record:
    told = {
        "budget": "5 bits",
        "by": "kl",
        "units": MIX,
        "predicted_kl": predicted,
        "interval": None,
    }
    details = {"loaded": {"mix": told}}
    return joint("mixed-budget=5-bits", times, MIX, name="mixed", details=details, **changes)


def alike(label: str) -> dict[str, str]:
    return dict.fromkeys(UNITS, label)


def reference() -> Record:
    """The record with the formats' options as a run gives them."""
    record = of_reference()
    table = record.details["sensitivities"]
    options = {"int8": {"dtype": "fp32", "threshold": 6.0}}
    options["nf4"] = {"dtype": "fp32", "compute_dtype": "fp32"}
    formats = {label: {**one, "options": options[label]} for label, one in table["formats"].items()}
    return record.model_copy(update={"details": {"sensitivities": {**table, "formats": formats}}})


def summed(*records: Record) -> Table:
    (found,) = sums(select([reference(), *records]).tables[0])
    return found.table


def lines(*records: Record) -> list[str]:
    parts = interaction_parts(select([reference(), *records]).tables[0])
    return [str(one.line) for part in parts if isinstance(part, Bullets) for one in part.items]


@pytest.mark.parametrize(
    ("times", "words"),
    [(1.4, "more than the sum"), (0.6, "less than the sum"), (1.0, "not told apart")],
)
def test_a_mix_is_predicted_by_its_units_and_measured_as_a_whole(times: float, words: str) -> None:
    table = summed(mix(times))
    (total,), (ratio,) = table.column("sensitivity.sum"), table.column("sensitivity.ratio")
    assert total.value == pytest.approx(PREDICTED)
    assert total.low is not None
    assert total.high is not None
    assert total.low < PREDICTED < total.high
    assert ratio.value == pytest.approx(times, rel=0.01)
    assert ratio.low is not None
    assert ratio.high is not None
    assert ratio.low < times < ratio.high
    # pairing takes what both have from the windows away
    assert ratio.high - ratio.low < (total.high - total.low) / PREDICTED
    (finding,) = table.column("sensitivity.finding")
    assert finding.word == words


def test_formats_that_hold_all_layers_alike_are_held_against_their_sum() -> None:
    table = summed(joint("nf4", 1.5, alike("nf4")), joint("int8", 1.0, alike("int8")))
    assert [row.label for row in table.rows] == ["int8", "nf4"]
    for figure, label in zip(table.column("sensitivity.sum"), ("int8", "nf4"), strict=True):
        assert figure.value == pytest.approx(sum(KL[label].values()))
    told = lines(joint("nf4", 1.5, alike("nf4")), joint("int8", 1.0, alike("int8")))
    assert told[0].startswith(
        "Together they cost more than the sum says (over-additive):"
        " nf4: the sum says 0.015, together 0.0225 nat (1.50 times, 1.4"
    )
    assert told[1] == "Sum and whole are not told apart by the windows: int8 (1.00 times)."


def test_of_a_sum_of_nothing_there_is_no_ratio() -> None:
    """A budget that nothing exceeds leaves all units in the reference's type."""
    plain = dict.fromkeys(UNITS, "fp32")
    told = {"budget": "100 bits", "by": "kl", "units": plain, "predicted_kl": 0.0}
    record = sensitivity("mixed-budget=100-bits", [0.0] * len(spread(1.0, "any")))
    record = in_fp32(record, "mixed").model_copy(update={"details": {"loaded": {"mix": told}}})
    table = summed(record)
    (total,), (ratio,) = table.column("sensitivity.sum"), table.column("sensitivity.ratio")
    assert total.value == 0
    assert (ratio.value, ratio.reason) == (None, "the sum is not above 0")
    assert "times" not in " ".join(lines(record))


def test_what_rounding_may_have_added_is_not_called_an_interaction() -> None:
    record = joint("int8", 0.6, alike("int8"))
    rounding = make_metric("sensitivity.kl.rounding", 1e-4)
    record = record.model_copy(update={"metrics": (*record.metrics, rounding)})
    (finding,) = summed(record).column("sensitivity.finding")
    assert finding.word == "less, or rounding"  # 0.00032 of at most 4 × 0.0001
    assert lines(record)[0].startswith("Together they cost less than the sum says, by no more than")


def test_a_mix_by_hand_is_summed_by_its_map() -> None:
    held = [("*.q_proj", "int8"), ("*", "nf4")]
    record = joint(
        "by-hand", 1.0, {u: "int8" if u.endswith("q_proj") else "nf4" for u in UNITS}, name="mixed"
    )
    options = {
        "dtype": "fp32",
        "layers": [{"layers": pattern, "precision": name, "options": {}} for pattern, name in held],
    }
    ref = PrecisionRef(label="by-hand", name="mixed", options=options)
    record = record.model_copy(update={"cell": record.cell.model_copy(update={"precision": ref})})
    (total,) = summed(record).column("sensitivity.sum")
    wanted = sum(KL["int8" if unit.endswith("q_proj") else "nf4"][unit] for unit in UNITS)
    assert total.value == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (mix(1.0, predicted=1.0), "another measurement of the sensitivities"),
        (sensitivity("nf4", [1.0] * 30), "not in fp32"),
        (joint("fp8", 1.0, alike("nf4"), name="fp8"), "no single layer was held in it"),
        (sensitivity("gone", [1.0] * 30), "no single layer was held in it"),
        (in_fp32(sensitivity("nf4", [1.0] * 29), "nf4"), "not the same ones"),
    ],
)
def test_what_cannot_be_summed_says_why(record: Record, reason: str) -> None:
    assert any(reason in line for line in lines(record))
    (finding,) = summed(record).column("sensitivity.finding")
    assert finding.word == "-"


def test_cells_that_failed_and_tables_without_windows_break_nothing() -> None:
    failed = make_failure("nf4", "sensitivity", "oom", "no memory", slug=reference().item.slug)
    assert sums(select([reference(), failed]).tables[0]) == []
    bare = reference()
    table = {**bare.details["sensitivities"], "window_kl_sums": {}}
    bare = bare.model_copy(update={"details": {"sensitivities": table}})
    nonsense = {"units": 3, "predicted_kl": math.inf}
    odd = mix(1.0).model_copy(update={"details": {"loaded": {"mix": nonsense}}})
    for records in ([bare, mix(1.0)], [reference(), odd], [mix(1.0)], [failed]):
        for name in REPORT_FORMATS:
            written_as(name, [*records, footprint_record("nf4"), make_record("mixed")])


@pytest.mark.parametrize("name", REPORT_FORMATS)
def test_parts_of_a_run_and_a_rehearsal_make_pages(name: str) -> None:
    every = [
        reference(),
        mix(1.2),
        joint("nf4", 1.1, alike("nf4")),
        footprint("mixed-budget=5-bits", 1e6, name="mixed"),
        divergence("mixed-budget=5-bits", [0.01] * 60, name="mixed"),
        divergence("nf4", [0.02] * 60),
        footprint("nf4", 2e6),
    ]
    rehearsed = [
        one.model_copy(update={"rehearsal": ("a stand-in of the model",)}) for one in every
    ]
    without = [one for one in every if one.item.measurement != "sensitivity"]
    mixes = [one for one in every if one.cell.precision.name == "mixed"]
    for records in (every, rehearsed, every[1:], mixes, without, every[:1]):
        assert written_as(name, records)


def test_that_other_cells_have_no_table_is_no_gap() -> None:
    def with_none(record: Record) -> Record:
        lacking = make_metric("sensitivity.largest", None, reason="the table is the reference's")
        return record.model_copy(update={"metrics": (*record.metrics, lacking)})

    assert valueless(select([reference(), with_none(mix(1.0))])) == []
    assert len(valueless(select([with_none(reference())]))) == 1


def test_the_divergence_of_each_cell_stands_in_the_details() -> None:
    records = select([reference(), mix(1.0)]).tables[0]
    tables = {table.title: table for table in detail_tables(records)}
    assert "Other measurements" not in tables
    found = tables["Divergence on the text of the sensitivities: text"]
    assert [row.label for row in found.rows] == ["fp32", "mixed-budget=5-bits"]
