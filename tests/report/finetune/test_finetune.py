"""The section on fine-tuning, against figures computed from the records directly."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import statistics
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from qbench.compare.selection import select
from qbench.compare.tuned.arms import arms_of, counterpart, describe_method
from qbench.core.page import Page
from qbench.core.spec import PrecisionRef
from qbench.report import markdown, terminal
from qbench.report.decision import decision_table
from qbench.report.details import detail_tables
from qbench.report.differences import difference_table
from qbench.report.failures import failures, warnings
from qbench.report.finetune.curves import curves_table
from qbench.report.finetune.deployments import deployments_table
from qbench.report.finetune.memory import adapters_table, memory_table
from qbench.report.finetune.results import results_of
from qbench.report.finetune.table import arms_table
from qbench.report.finetune.words import told
from qbench.report.overview import overview_page
from tests.pages import REPORT_FORMATS, written_as
from tests.pages import whole_report as render
from tests.record_factory import make_record, quickstart_records
from tests.tuned_records import (
    FULL,
    GAIN,
    LORA,
    PEAK_BYTES,
    STEP_S,
    completion_fields,
    finetune_records,
    make_tuning,
    step_losses,
    training_record,
    tuned,
    tuned_arm,
    untuned_records,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.selection import TableRecords
    from qbench.core.page import Figure, Table
    from qbench.core.record import Record
    from qbench.report.finetune.results import Results

SEEDS = (0, 1, 2)
NEUTRAL = "neutral-w256-default"


def table_of(records: Sequence[Record]) -> TableRecords:
    (table,) = select(records).tables
    return table


def by_row(table: Table, key: str) -> dict[str, Figure]:
    return dict(zip([row.label for row in table.rows], table.column(key), strict=True))


def arms(records: Sequence[Record], key: str) -> dict[str, Figure]:
    """One column of the table of the arms."""
    return by_row(arms_table(results_of(table_of(records))), key)


def deployment_column(records: Sequence[Record], key: str) -> dict[str, Figure]:
    table = table_of(records)
    return by_row(deployments_table(table, results_of(table)), key)


def one(records: Sequence[Record], label: str, measurement: str, slug: str = "") -> Record:
    (found,) = (
        record
        for record in records
        if record.cell.label == label
        and record.item.measurement == measurement
        and slug in ("", record.item.slug)
    )
    return found


def amount(figure: Figure) -> float:
    """The number of a change in words, `+1.5 % worse`."""
    words = str(figure.word).split()
    return float(words[0]) / (100 if "%" in words else 1)


def sentences(results: Results) -> str:
    """What the section says before its table, on one line."""
    page = markdown.render(Page("", tuple(told(results))))
    return " ".join(line.removeprefix("- ") for line in page.splitlines())


class TestSelection:
    def test_tuned_cells_stand_apart(self) -> None:
        table = table_of(finetune_records(SEEDS))
        assert [cell.label for cell in table.cells] == ["fp32", "bf16", "nf4"]
        assert len(table.tuned) == 3 * (2 + 3 + 3)
        assert len(table.every) == len(select(finetune_records(SEEDS)).cells)

    def test_the_order_does_not_depend_on_that_of_the_records(self) -> None:
        expected = [
            "full-bf16",
            "full-bf16--merged",
            "lora-bf16",
            "lora-bf16--attached",
            "lora-bf16--merged",
            "qlora-nf4",
            "qlora-nf4--attached",
            "qlora-nf4--merged",
        ]
        for records in (finetune_records(), finetune_records()[::-1]):
            assert [cell.label for cell in table_of(records).tuned] == expected

    def test_numbers_in_the_names_of_arms_count_as_numbers(self) -> None:
        names = [f"lora-bf16-rank={rank}" for rank in (8, 64, 1)]
        records = [
            tuned(make_tuning(name), None, "training", {"training.loss": 1.0}) for name in names
        ]
        shown = [arm.name for arm in arms_of(table_of(records))]
        assert shown == [f"lora-bf16-rank={rank}" for rank in (1, 8, 64)]

    def test_the_untuned_tables_are_as_without_tuned_cells(self) -> None:
        untuned = [record for name in ("fp32", "bf16", "nf4") for record in untuned_records(name)]
        with_tuned, without = table_of(finetune_records()), table_of(untuned)
        assert decision_table(with_tuned) == decision_table(without)
        assert difference_table(with_tuned) == difference_table(without)
        assert detail_tables(with_tuned) == detail_tables(without)

    def test_nothing_is_missing_where_cells_of_other_kinds_have_other_items(self) -> None:
        assert failures(select(finetune_records(SEEDS))) == []

    def test_what_another_seed_has_is_missing(self) -> None:
        records = finetune_records((0, 1))
        gone = one(records, "qlora-nf4-s1--attached", "completion")
        (failure,) = failures(select([record for record in records if record is not gone]))
        assert (failure.cell, failure.what) == ("qlora-nf4-s1--attached", "completion test")


class TestMethods:
    @pytest.mark.parametrize(
        ("arm", "options", "words"),
        [
            ("full-bf16", FULL, "full tuning in bf16"),
            ("full-bf16", FULL | {"master_weights": "bf16"}, "full tuning in pure bf16"),
            ("full-fp32", FULL, "full tuning in fp32"),
            ("lora-bf16", LORA, "LoRA on bf16"),
            ("lora-fp32", LORA | {"dora": True}, "DoRA on fp32"),
            ("qlora-nf4", LORA, "QLoRA on NF4"),
            ("qlora-fp4", LORA, "QLoRA on FP4 (bitsandbytes)"),
            ("qlora-int8", LORA, "QLoRA on int8 (LLM.int8)"),
            ("qlora-nf4", LORA | {"dora": True}, "QDoRA on NF4"),
        ],
    )
    def test_the_fields_words(self, arm: str, options: dict[str, object], words: str) -> None:
        assert describe_method(make_tuning(arm, options=options)) == words

    def test_double_quantization_is_named(self) -> None:
        precision = PrecisionRef(label="nf4-dq", name="nf4-dq")
        tuning = make_tuning("qlora-nf4-dq", precision=precision)
        assert describe_method(tuning) == "QLoRA on NF4 + double quant"

    def test_the_counterpart_has_the_same_options(self) -> None:
        records = [
            tuned(
                make_tuning(f"{name}-r{rank}", options=LORA | {"rank": rank}),
                None,
                "training",
                {"training.loss": 1.0},
            )
            for name in ("lora-bf16", "qlora-nf4")
            for rank in (8, 64)
        ]
        found = arms_of(table_of(records))
        others = {arm.name: counterpart(found, arm).name for arm in found}
        assert others == {
            "lora-bf16-r8": "lora-bf16-r8",
            "lora-bf16-r64": "lora-bf16-r64",
            "qlora-nf4-r8": "lora-bf16-r8",
            "qlora-nf4-r64": "lora-bf16-r64",
        }

    def test_without_lora_on_a_floating_base_the_first_arm_stands_in(self) -> None:
        records = [*tuned_arm("full-bf16"), *tuned_arm("qlora-nf4"), *untuned_records("fp32")]
        found = arms_of(table_of(records))
        assert {counterpart(found, arm).name for arm in found} == {"full-bf16"}


class TestArms:
    def test_costs_are_those_of_the_trainings(self) -> None:
        records = finetune_records()
        for arm in GAIN:
            assert arms(records, "training.memory.peak")[arm].value == PEAK_BYTES[arm]
            assert arms(records, "training.step_time")[arm].value == STEP_S[arm]
            loss = one(records, arm, "training").value("training.heldout_loss_after")
            assert arms(records, "training.heldout_loss_after")[arm].value == loss

    def test_seeds_are_pooled_with_their_spread(self) -> None:
        figure = arms(finetune_records(SEEDS), "training.step_time")["lora-bf16"]
        times = [STEP_S["lora-bf16"] * (1 + 0.1 * seed) for seed in SEEDS]
        assert figure.value == pytest.approx(statistics.fmean(times))
        assert figure.spread == pytest.approx(statistics.stdev(times))
        assert arms(finetune_records(), "training.step_time")["lora-bf16"].spread is None

    def test_the_gain_is_from_the_untuned_model_in_the_same_precision(self) -> None:
        records = finetune_records()
        gain = arms(records, "gain")["qlora-nf4"]
        own = one(records, "qlora-nf4--attached", "completion").value("completion.loss")
        base = one(records, "nf4", "completion").value("completion.loss")
        assert amount(gain) == pytest.approx((own or 0) - (base or 0), abs=1e-3)
        assert str(gain.word).endswith("better")

    def test_without_that_precision_the_gain_is_from_the_reference(self) -> None:
        records = [*untuned_records("fp32"), *tuned_arm("qlora-nf4")]
        own = one(records, "qlora-nf4--attached", "completion").value("completion.loss")
        base = one(records, "fp32", "completion").value("completion.loss")
        change = amount(arms(records, "gain")["qlora-nf4"])
        assert change == pytest.approx((own or 0) - (base or 0), abs=1e-3)

    def test_qlora_is_shown_to_be_equivalent_to_lora(self) -> None:
        for seeds in ((), SEEDS):
            against = arms(finetune_records(seeds), "against")
            assert against["lora-bf16"].word == "ref"
            assert str(against["qlora-nf4"].word).endswith("equivalent")
            assert str(against["full-bf16"].word).endswith("better")

    def test_a_larger_difference_is_not_called_equivalent(self) -> None:
        worse = [
            record
            for record in tuned_arm("qlora-nf4")
            if record.item.measurement != "completion" or record.cell.deploy != "attached"
        ]
        tuning = make_tuning("qlora-nf4")
        worse.append(tuned(tuning, "attached", "completion", **completion_fields(-0.2, "own")))
        base = [*untuned_records("fp32"), *untuned_records("nf4"), *tuned_arm("lora-bf16")]
        assert str(arms([*base, *worse], "against")["qlora-nf4"].word).endswith("worse")

    def test_forgetting_is_the_change_of_neutral_perplexity_from_the_same_base(self) -> None:
        records = finetune_records()
        forgetting = arms(records, f"forgetting:{NEUTRAL}")["qlora-nf4"]
        own = one(records, "qlora-nf4--attached", "quality", NEUTRAL).value("perplexity") or 0
        base = one(records, "nf4", "quality", NEUTRAL).value("perplexity") or 0
        assert amount(forgetting) == pytest.approx(own / base - 1, abs=1e-4)
        assert str(forgetting.word).endswith("worse")

    def test_untuned_models_stand_above_the_arms_with_their_scores(self) -> None:
        scores = arms(finetune_records(), "score")
        assert list(scores)[:3] == ["fp32", "bf16", "nf4"]
        assert [scores[name].value for name in ("fp32", "qlora-nf4")] == [0.1, 0.4]

    def test_full_tuning_is_scored_as_merged(self) -> None:
        records = finetune_records()
        merged = one(records, "full-bf16--merged", "completion").value("completion.loss")
        assert arms(records, "completion.loss")["full-bf16"].value == merged

    def test_a_failed_training_keeps_its_row_with_its_status(self) -> None:
        failed = training_record(make_tuning("qlora-nf4")).model_copy(
            update={
                "status": "oom",
                "reason": "step 3: lower batch",
                "metrics": (),
                "series": {},
                "details": {},
            }
        )
        records = [*untuned_records("fp32"), *tuned_arm("lora-bf16"), failed]
        assert arms(records, "training.memory.peak")["qlora-nf4"].word == "oom"
        assert arms(records, "gain")["qlora-nf4"].word == "-"
        (failure,) = failures(select(records))
        assert (failure.cell, failure.what, failure.status) == ("qlora-nf4", "training", "oom")
        text = sentences(results_of(table_of(records)))
        assert "QLoRA on NF4 left no record of its training (oom; reason below)." in text
        assert "step 3: lower batch" in render(records)

    def test_a_failed_seed_leaves_the_others_with_a_mark(self) -> None:
        records = [
            record.model_copy(update={"status": "nan", "reason": "step 7", "metrics": ()})
            if record.cell.label == "lora-bf16-s1"
            else record
            for record in finetune_records(SEEDS)
        ]
        figure = arms(records, "training.step_time")["lora-bf16"]
        assert figure.warned
        assert figure.value == pytest.approx(STEP_S["lora-bf16"] * 1.1)


class TestOtherTables:
    def test_kinds_of_memory_add_up_to_the_peak(self) -> None:
        table = memory_table(arms_of(table_of(finetune_records(SEEDS))))
        for row in table.rows:
            *kinds, peak, share = (figure.value or 0.0 for figure in row.figures)
            assert sum(kinds) == pytest.approx(peak)
            assert share == pytest.approx(0.05)

    def test_curves_share_their_ends(self) -> None:
        table = curves_table(arms_of(table_of(finetune_records())), "test")
        losses = {arm: step_losses(arm) for arm in GAIN}
        assert [row.label for row in table.rows] == list(GAIN)
        for arm, figure in by_row(table, "first").items():
            assert figure.value == losses[arm][0]
        curves = {arm: str(figure.word) for arm, figure in by_row(table, "curve").items()}
        assert {len(curve) for curve in curves.values()} == {32}
        assert all(curve[0] == "█" for curve in curves.values())
        # only the arm that ends lowest reaches the lowest level for long
        assert curves["full-bf16"].count("▁") > curves["lora-bf16"].count("▁") > 0
        assert by_row(table, "held_out")["lora-bf16"].word == "3.300 (0), 2.800 (40)"

    def test_many_held_out_losses_are_cut_in_the_middle(self) -> None:
        series = {"validation_loss": [float(n) for n in range(9)]}
        series |= {"validation_step": [10.0 * n for n in range(9)], "step_loss": [1.0, math.nan]}
        record = training_record(make_tuning("lora-bf16"), series=series)
        (row,) = curves_table(arms_of(table_of([record])), "test").rows
        words = str(row.figures[4].word).split(", ")
        assert words[0] == "0.000 (0)"
        assert words[-2:] == ["…", "8.000 (80)"]
        assert len(words) == 7
        assert row.figures[0].word == "▁·"

    def test_adapters(self) -> None:
        table = adapters_table(arms_of(table_of(finetune_records())))
        assert [row.label for row in table.rows] == ["lora-bf16", "qlora-nf4"]
        assert [figure.value for figure in table.column("adapters.bytes_each")] == [1e5, 1e5]
        static = one(finetune_records(), "lora-bf16--attached", "footprint").value("memory.static")
        assert table.column("adapters.share")[0].value == pytest.approx(1e5 / (static or 1))


class TestDeployments:
    def test_a_row_a_deployment_with_its_seeds_pooled(self) -> None:
        deployments = deployment_column(finetune_records(SEEDS), "deployment")
        assert list(deployments) == [
            "full-bf16--merged",
            "lora-bf16--attached",
            "lora-bf16--merged",
            "qlora-nf4--attached",
            "qlora-nf4--merged",
        ]
        assert deployments["qlora-nf4--merged"].word == "merged into the original weights"
        served = deployment_column(finetune_records(), "served")
        assert [
            served[f"qlora-nf4--{deployment}"].word for deployment in ("attached", "merged")
        ] == [
            "nf4",
            "bf16",
        ]

    def test_changes_are_from_the_attached_deployment(self) -> None:
        records = finetune_records()
        change = deployment_column(records, "change")
        assert change["qlora-nf4--attached"].word == "ref"
        assert change["full-bf16--merged"].word == "-"
        losses = [
            one(records, f"qlora-nf4--{deployment}", "completion").value("completion.loss") or 0
            for deployment in ("merged", "attached")
        ]
        shown = amount(change["qlora-nf4--merged"])
        assert shown == pytest.approx(losses[0] - losses[1], abs=1e-4)

    def test_neutral_text_is_compared_with_the_reference(self) -> None:
        records = finetune_records()
        own = one(records, "qlora-nf4--attached", "quality", NEUTRAL).value("perplexity") or 0
        base = one(records, "fp32", "quality", NEUTRAL).value("perplexity") or 0
        shown = amount(deployment_column(records, f"change:{NEUTRAL}")["qlora-nf4--attached"])
        assert shown == pytest.approx(own / base - 1, abs=1e-3)

    def test_drift_and_damage_are_told_apart(self) -> None:
        records = finetune_records()
        drift = deployment_column(records, f"kl:{NEUTRAL}")
        damage = deployment_column(records, f"kl:{NEUTRAL}-vs-merged")
        assert drift["qlora-nf4--attached"].value == 0.3
        assert damage["qlora-nf4--attached"].value == 0.03
        assert damage["qlora-nf4--merged"].word == "ref"


class TestPage:
    def test_the_section_follows_the_differences(self) -> None:
        headings = re.findall(r"^##+ (.*)$", render(finetune_records(SEEDS)), re.MULTILINE)
        start = headings.index("Fine-tuning")
        assert headings[start - 1].startswith("Differences from fp32")
        assert [heading.split(":")[0] for heading in headings[start + 1 : start + 6]] == [
            "Peak memory of a training step, by kind",
            "Loss curves",
            "How the tuned model is served",
            "Several adapters on one base",
            "Base and tuned, side by side",
        ]

    def test_without_tuned_cells_there_is_none(self) -> None:
        assert "Fine-tuning" not in render(quickstart_records())

    def test_all_rows_of_a_table_have_as_many_cells(self) -> None:
        for block in re.findall(r"(?:^\|.*\n)+", render(finetune_records(SEEDS)), re.MULTILINE):
            assert len({len(re.split(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1

    def test_base_and_tuned_stand_side_by_side(self) -> None:
        page = render(finetune_records(SEEDS))
        section = re.split(r"\n##+ ", page.split("### Base and tuned, side by side")[1])[0]
        assert section.count("<details>") == 3
        assert "1 more prompts are in the records." in section
        assert "qlora-nf4-s0--attached (token 0):\n\n```text\n⟂qlora-nf4 wrote 0" in section

    def test_only_tuned_cells(self) -> None:
        page = render(tuned_arm("qlora-nf4"))
        assert "There is no record of the untuned model." in page
        assert "there is nothing to compare it with" in page

    def test_only_trainings(self) -> None:
        page = render([training_record(make_tuning())])
        assert "its test loss was not measured" in page

    def test_several_models_are_named(self) -> None:
        records = finetune_records()
        other = records[0].cell.model.model_copy(update={"name": "other"})
        more = [
            record.model_copy(update={"cell": record.cell.model_copy(update={"model": other})})
            for record in records
        ]
        page = render([*records, *more])
        assert "## Fine-tuning: other on Intel Xeon (2 cores)" in page

    def test_how_arms_were_trained(self) -> None:
        page = render(finetune_records())
        assert "All arms: batch=8." in page
        assert "Data: stdlib-instruct (train=80)." in page
        row = next(line for line in page.splitlines() if "q_proj, v_proj" in line)
        assert "| all-linear |" in row
        assert "| 0.0002" in row

    def test_a_warning_of_a_tuned_cell_is_shown(self) -> None:
        records = finetune_records()
        records[-1] = records[-1].model_copy(update={"warnings": ("mind this",)})
        (warned,) = warnings(select(records))
        assert warned.cells == ("qlora-nf4--merged",)


class TestWords:
    def words(self, seeds: tuple[int, ...] = ()) -> str:
        return sentences(results_of(table_of(finetune_records(seeds))))

    def test_what_it_cost_and_gained(self) -> None:
        text = self.words()
        assert "3 arms tuned on stdlib-instruct (32,000 tokens over 40 steps each)" in text
        assert "Full tuning in bf16 trained all weights at a peak of 64.0 MiB" in text
        records = finetune_records()
        base, own = (
            one(records, label, "completion").value("completion.loss") or 0
            for label in ("bf16", "lora-bf16--attached")
        )
        assert f"from {base:.3f} (untuned bf16) to {own:.3f} nat a token" in text

    def test_equivalence_is_claimed_within_a_stated_margin(self) -> None:
        text = self.words(SEEDS)
        assert "Against LoRA on bf16, with a margin of ±0.02 nat a token" in text
        found = re.search(r"QLoRA on NF4 \S+ \(95 % interval (\S+) to (\S+)\), equivalent", text)
        assert found is not None
        assert -0.02 < float(found[1]) < float(found[2]) < 0.02

    def test_one_seed_claims_nothing_of_others(self) -> None:
        assert "how far another seed would stray is not known" in self.words()
        assert "with seed 0." in self.words()
        assert "The intervals take in the items scored and the seeds." in self.words(SEEDS)
        assert "with seeds 0, 1, 2." in self.words(SEEDS)

    @pytest.mark.parametrize(
        ("second", "apart"),
        [
            ({"rank": 64}, ("rank 16", "rank 64")),
            ({"target": "default"}, ("target all-linear", "target default")),
            (
                {"rank": 8, "learning_rate": 0.001},
                ("rank 16, learning rate 0.0002", "rank 8, learning rate 0.001"),
            ),
            ({}, ("one", "two")),  # nothing but their names
        ],
    )
    def test_arms_of_one_method_are_told_apart(
        self, second: dict[str, object], apart: tuple[str, str]
    ) -> None:
        records = [
            *untuned_records("fp32"),
            *untuned_records("bf16"),
            *renamed(tuned_arm("lora-bf16"), "one", LORA),
            *renamed(tuned_arm("lora-bf16"), "two", LORA | second),
            *tuned_arm("full-bf16"),
        ]
        results = results_of(table_of(records))
        text = sentences(results)
        names = [f"LoRA on bf16 ({one})" for one in apart]
        assert [text.count(f"{name} trained") for name in names] == [1, 1]
        assert f"Against {names[0]}, with a margin" in text
        assert "Full tuning in bf16 trained" in text
        shown = by_row(arms_table(results), "method")
        assert [shown[arm].word for arm in ("one", "two")] == names


def renamed(records: list[Record], arm: str, options: dict[str, object]) -> list[Record]:
    """The same records under the name of another arm."""
    made = []
    for record in records:
        assert record.cell.tuning is not None
        changed = {"label": arm, "arm": arm, "options": options}
        tuning = record.cell.tuning.model_copy(update=changed)
        cell = record.cell.model_copy(update={"tuning": tuning})
        made.append(record.model_copy(update={"cell": cell}))
    return made


class TestOtherFormats:
    @pytest.mark.parametrize("name", REPORT_FORMATS)
    @pytest.mark.parametrize(
        "records",
        [finetune_records(SEEDS), tuned_arm("qlora-nf4"), [training_record(make_tuning())]],
        ids=["all", "tuned", "training"],
    )
    def test_every_format_takes_tuned_records(self, name: str, records: list[Record]) -> None:
        assert written_as(name, records).endswith("\n")

    def test_csv_names_the_tuning(self) -> None:
        records = finetune_records(SEEDS)
        rows = list(csv.DictReader(io.StringIO(written_as("csv", records))))
        keys = ("tuning", "arm", "method", "training_precision", "seed", "deploy", "precision")
        found = {row["label"]: tuple(row[key] for key in keys) for row in rows}
        assert found["nf4"] == ("", "", "", "", "", "", "nf4")
        assert found["qlora-nf4-s2"] == (
            "qlora-nf4-s2", "qlora-nf4", "lora", "nf4", "2", "", "nf4",
        )  # fmt: skip
        assert found["qlora-nf4-s2--merged"][3:] == ("nf4", "2", "merged", "bf16")
        assert {row["tabled"] for row in rows} == {"true"}

    def test_json_holds_the_arms(self) -> None:
        document = json.loads(written_as("json", finetune_records()))
        (section,) = document["fine_tuning"]
        by_arm = {row["arm"]: row["figures"] for row in section["arms"]["rows"]}
        assert by_arm["qlora-nf4"]["training.memory.peak"]["value"] == PEAK_BYTES["qlora-nf4"]
        assert len(section["deployments"]["rows"]) == 5
        labels = [row["precision"] for row in document["decision_tables"][0]["rows"]]
        assert labels == ["fp32", "bf16", "nf4"]

    @pytest.mark.parametrize("width", [80, 100, 160])
    def test_terminal_shows_the_arms(self, width: int) -> None:
        written = io.StringIO()
        console = Console(file=written, width=width, force_terminal=False)
        console.print(terminal.render(overview_page(finetune_records(SEEDS))))
        text = written.getvalue()
        assert max(map(len, text.splitlines())) <= width
        assert "Fine-tuning" in text
        (row, *_) = (line for line in text.splitlines() if line.startswith("qlora-nf4 "))
        assert "12.0*" in row
        assert "equivalent" in text

    def test_terminal_of_a_record_of_an_unknown_kind(self) -> None:
        written = io.StringIO()
        records = [make_record("nf4", "invented", {"new": 1.0}), *tuned_arm("qlora-nf4")]
        Console(file=written, width=100).print(terminal.render(overview_page(records)))
        assert "Fine-tuning" in written.getvalue()
