"""What records say of a claim: that it holds, that it does not, neither, or nothing and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from qbench.compare.claims.claim import Claim, LedgerFile
from qbench.compare.claims.verdicts import judge_claims
from qbench.compare.selection import select
from tests.paired_records import latency, losses, quality
from tests.record_factory import make_environment, make_metric, make_record
from tests.tuned_records import finetune_records, make_tuning, training_record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.claims.verdicts import Judged
    from qbench.core.record import Record

GPU = make_environment(device="NVIDIA H200", device_kind="nvidia-h200", device_type="cuda")
SOURCE = {"work": "Someone 2024, A paper", "arxiv": "2401.00001"}


def claim(*checks: dict[str, Any], name: str = "one", **more: Any) -> Claim:
    made = {"name": name, "claim": "A claim.", "source": SOURCE, "checks": list(checks), **more}
    return LedgerFile.model_validate({"claims": [made]}).claims[0]


def judge(records: Sequence[Record], *claims: Claim) -> list[Judged]:
    (table,) = select(records).tables
    return judge_claims(claims, table)


def verdict(records: Sequence[Record], *checks: dict[str, Any], **more: Any) -> Judged:
    (found,) = judge(records, claim(*checks, **more))
    return found


def perplexity(expect: dict[str, Any], of: Any = "nf4", against: Any = "fp4") -> dict[str, Any]:
    return {"metric": "perplexity", "of": of, "against": against, "expect": expect}


def texts(nf4: float, *, spread: float = 0.01, windows: int = 240) -> list[Record]:
    """NF4's loss a token above FP4's."""
    return [
        quality("fp32", losses(0.0, seed=1, windows=windows)),
        quality("fp4", losses(0.01, seed=2, spread=spread, windows=windows)),
        quality("nf4", losses(0.01 + nf4, seed=3, spread=spread, windows=windows)),
    ]


class TestAChange:
    def test_holds_where_the_whole_interval_lies_inside(self) -> None:
        found = verdict(texts(-0.02), perplexity({"below": 0}))
        assert found.verdict == "holds"
        assert found.deciding is not None
        figure = found.deciding.figure
        assert figure.plain == pytest.approx(-0.02, abs=0.003)
        low, high = figure.ends(0.025)
        assert low < figure.plain < high < 0
        assert found.deciding.cells == "nf4 against fp4"

    def test_does_not_hold_where_it_lies_outside(self) -> None:
        assert verdict(texts(0.02), perplexity({"below": 0})).verdict == "does not hold"
        assert verdict(texts(0.02), perplexity({"within": "0.5%"})).verdict == "does not hold"

    def test_is_undecided_where_it_straddles_and_says_what_would_decide(self) -> None:
        found = verdict(texts(-0.001, spread=0.02), perplexity({"below": 0}))
        assert found.verdict == "undecided"
        assert "windows would decide" in found.reason
        assert "240" in found.reason

    def test_that_nothing_is_found_is_no_proof_of_equality(self) -> None:
        wide = texts(0.0, spread=0.3)
        assert verdict(wide, perplexity({"within": "0.5%"})).verdict == "undecided"
        assert verdict(texts(0.0), perplexity({"within": "0.5%"})).verdict == "holds"

    def test_too_few_windows_decide_nothing(self) -> None:
        found = verdict(texts(-0.05, windows=10), perplexity({"below": 0}))
        assert found.verdict == "undecided"
        assert "too few windows" in found.reason

    @pytest.mark.parametrize(
        ("expect", "expected"),
        [
            ({"between": ["-3%", "-1%"]}, "holds"),
            ({"between": ["1%", "3%"]}, "does not hold"),
            ({"between": ["-1%", "1%"]}, "does not hold"),
            ({"above": "-3%"}, "holds"),
            ({"above": 0}, "does not hold"),
        ],
    )
    def test_each_kind_of_range(self, expect: dict[str, Any], expected: str) -> None:
        assert verdict(texts(-0.02), perplexity(expect)).verdict == expected


class TestExactFigures:
    def bits(self, nf4: float, dq: float) -> list[Record]:
        return [
            make_record(name, "footprint", {"bits_per_weight.linear": value, "weights": 7.2e9})
            for name, value in (("fp32", 32.0), ("nf4", nf4), ("nf4-dq", dq))
        ]

    def check(self, expect: dict[str, Any]) -> dict[str, Any]:
        return {
            "metric": "bits_per_weight.linear",
            "of": "nf4-dq",
            "against": "nf4",
            "expect": expect,
        }

    def test_have_an_interval_of_no_width(self) -> None:
        found = verdict(self.bits(4.5, 4.127), self.check({"between": [-0.378, -0.368]}))
        assert found.verdict == "holds"
        assert found.deciding is not None
        assert found.deciding.figure.ends(0.025) == pytest.approx((-0.373, -0.373))
        assert found.deciding.unit == "bit"

    def test_what_lies_on_the_end_is_not_below_it(self) -> None:
        same = self.bits(4.5, 4.5)
        assert verdict(same, self.check({"below": 0})).verdict == "does not hold"
        assert verdict(same, self.check({"above": 0})).verdict == "does not hold"
        assert verdict(same, self.check({"within": 0})).verdict == "holds"
        assert verdict(same, self.check({"between": [0, 1]})).verdict == "holds"

    def test_a_level_is_held_against_its_range(self) -> None:
        loaded = [make_record("bf16", "footprint", {"memory.static": 14.5e9, "weights": 7.2e9})]
        check = {"metric": "memory.static", "of": "bf16", "expect": {"between": [14e9, 16e9]}}
        assert verdict(loaded, check, weights=[7e9, 7.5e9]).verdict == "holds"
        check["expect"] = {"below": 10e9}
        assert verdict(loaded, check).verdict == "does not hold"


class TestNotTestable:
    def test_a_cell_that_is_not_there_is_named(self) -> None:
        found = verdict(texts(0.0), perplexity({"below": 0}, of="mxfp4"))
        assert (found.verdict, found.reason) == ("not testable", "no cell here is mxfp4")
        found = verdict(texts(0.0), perplexity({"below": 0}, against={"options": {"bits": 4}}))
        assert found.reason == "no cell here is a precision with bits 4"

    def test_a_claim_about_gpus_on_a_cpu(self) -> None:
        found = verdict(texts(-0.02), perplexity({"below": 0}), device="cuda")
        assert found.reason == "it is about a CUDA GPU, and this is a CPU"

    def test_a_model_that_is_too_small(self) -> None:
        records = [*texts(-0.02), make_record("fp4", "footprint", {"weights": 3e6})]
        found = verdict(records, perplexity({"below": 0}), weights=[6.5e9, 1e12])
        assert found.reason == (
            "the model is too small: it has 3 million, the claim is about 6.5 billion to 1 trillion"
            " weights"
        )

    def test_a_model_of_unknown_size(self) -> None:
        found = verdict(texts(-0.02), perplexity({"below": 0}), weights=[6.5e9, 1e12])
        assert "no footprint tells" in found.reason

    def test_a_metric_that_was_not_measured(self) -> None:
        check = perplexity({"below": 0}) | {"metric": "kl.mean"}
        assert verdict(texts(-0.02), check).reason == "no record of nf4 holds kl.mean"

    def test_what_failed_is_told_with_its_reason(self) -> None:
        records = texts(-0.02)
        failed = records[2].model_copy(
            update={"status": "oom", "reason": "no room", "metrics": (), "series": {}}
        )
        found = verdict([*records[:2], failed], perplexity({"below": 0}))
        assert found.verdict == "not testable"
        assert "oom (no room)" in found.reason

    def test_what_failed_elsewhere_is_no_reason(self) -> None:
        records = texts(-0.02)
        other = records[2].item.model_copy(update={"measurement": "completion"})
        failed = records[2].model_copy(
            update={"item": other, "status": "skipped", "reason": "no data", "metrics": ()}
        )
        check = perplexity({"below": 0}) | {"metric": "kl.mean"}
        (table,) = select([*records, failed]).tables
        (found,) = judge_claims([claim(check)], table, taken_by={"kl.mean": {"quality"}})
        assert found.reason == "no record of nf4 holds kl.mean"
        (found,) = judge_claims([claim(check)], table, taken_by={"kl.mean": {"completion"}})
        assert found.reason == "no record of nf4 holds kl.mean; completion is skipped (no data)"

    def test_a_speed_that_is_emulated(self) -> None:
        seconds = [0.010, 0.011, 0.010, 0.011, 0.0105]
        records = [*latency("bf16", seconds), *latency("mxfp4", seconds)]
        check = {
            "metric": "latency.decode",
            "of": "mxfp4",
            "against": "bf16",
            "expect": {"below": 0},
        }
        found = verdict(records, check)
        assert found.verdict == "not testable"
        assert "emulated" in found.reason

    def test_layers_that_do_not_compute_what_they_hold(self) -> None:
        records = texts(-0.02)
        loaded = {"loaded": {"faults": ["q_proj: differs"]}}
        faulty = records[2].model_copy(update={"details": records[2].details | loaded})
        found = verdict([*records[:2], faulty], perplexity({"below": 0}))
        assert found.reason == "layers of nf4 do not compute what they hold"


class TestSeveralFigures:
    def test_all_checks_of_a_claim_must_hold(self) -> None:
        below, far = perplexity({"below": 0}), perplexity({"below": "-10%"})
        assert verdict(texts(-0.02), below, perplexity({"above": "-9%"})).verdict == "holds"
        found = verdict(texts(-0.02), below, far)
        assert found.verdict == "does not hold"
        assert found.deciding is not None
        assert found.deciding.check.expect.below is not None
        assert found.deciding.check.expect.below.value == -0.1

    def test_one_that_is_lacking_leaves_it_untested_unless_another_refutes_it(self) -> None:
        lacking = perplexity({"below": 0}, of="mxfp4")
        found = verdict(texts(-0.02), perplexity({"below": 0}), lacking)
        assert (found.verdict, found.reason) == ("not testable", "no cell here is mxfp4")
        found = verdict(texts(0.02), perplexity({"below": 0}), lacking)
        assert found.verdict == "does not hold"

    def test_verdicts_are_adjusted_for_all_claims_of_a_table(self) -> None:
        records = texts(-0.0019, spread=0.01)
        alone = claim(perplexity({"below": 0}))
        (found,) = judge(records, alone)
        assert found.verdict == "holds"
        # Nineteen more that stand undecided, and each might have been taken for true by chance.
        others = [
            claim(perplexity({"below": f"-0.{19 + at}%"}), name=f"other-{at}") for at in range(19)
        ]
        first, *_ = judge(records, alone, *others)
        assert first.verdict == "undecided"
        assert "Holm" in first.reason


def lora(**more: Any) -> dict[str, Any]:
    return {"method": "lora", **more}


class TestTunedModels:
    def loss(self, expect: dict[str, Any], **sides: Any) -> dict[str, Any]:
        given = {"of": lora(base="nf4"), "against": lora(base="bf16")} | sides
        return {"metric": "completion.loss", "expect": expect, **given}

    def test_seeds_are_pooled_and_their_spread_counts(self) -> None:
        found = verdict(finetune_records((0, 1, 2)), self.loss({"within": 0.02}))
        assert found.verdict == "holds"
        assert found.deciding is not None
        assert "mean of 3 seeds" in found.deciding.figure.method
        assert found.deciding.cells == "qlora-nf4--attached against lora-bf16--attached"

    def test_two_methods_compare_where_as_much_was_trained(self) -> None:
        records = finetune_records((0, 1, 2))
        check = self.loss({"above": 0}, of=lora(base="bf16"), against={"method": "full"})
        assert verdict(records, check).verdict == "holds"

        def shortened(record: Record) -> Record:
            if record.item.measurement != "training" or record.cell.tuning is None:
                return record
            fewer = record.details | {"steps": 7} if record.cell.tuning.method == "full" else {}
            return record.model_copy(update={"details": fewer or record.details})

        found = verdict([shortened(one) for one in records], check)
        assert found.verdict == "not testable"
        assert "steps trained: 40 and 7" in found.reason

    def test_arms_that_differ_in_more_than_the_claim_do_not_compare(self) -> None:
        def slower(record: Record) -> Record:
            tuning = record.cell.tuning
            if tuning is None or tuning.arm != "lora-bf16":
                return record
            options = tuning.options | {"learning_rate": 1e-5}
            other = tuning.model_copy(update={"options": options})
            return record.model_copy(
                update={"cell": record.cell.model_copy(update={"tuning": other})}
            )

        records = [slower(one) for one in finetune_records((0, 1, 2))]
        found = verdict(records, self.loss({"within": 0.02}))
        assert found.verdict == "not testable"
        assert "differ in more than the claim: learning rate" in found.reason
        # Where the claim names it, it may differ.
        sides = {"against": lora(base="bf16", tuned={"learning_rate": 1e-5})}
        assert verdict(records, self.loss({"within": 0.02}, **sides)).verdict == "holds"

    def test_a_figure_for_each_of_another_metric(self) -> None:
        check = {
            "metric": "training.adapter_bytes",
            "per": "training.trainable_weights",
            "of": lora(base="nf4"),
            "expect": {"between": [0.4, 0.6]},
        }
        found = verdict(finetune_records((0, 1)), check)
        assert found.verdict == "does not hold"
        assert found.deciding is not None
        assert found.deciding.figure.plain == 4.0  # fp32

    def test_a_sum_of_metrics(self) -> None:
        check = {
            "metric": "training.memory.activations_predicted",
            "plus": ["training.memory.unexplained"],
            "of": lora(base="nf4"),
            "against": lora(base="bf16"),
            "expect": {"between": ["-51%", "-49%"]},
        }
        found = verdict(finetune_records(), check)
        assert found.verdict == "holds"  # 40 % of a peak of 12 and of 24 MiB
        assert found.deciding is not None
        assert found.deciding.figure.new == pytest.approx(0.4 * 12 * 2**20)


class TestOnAGpu:
    """Claims of speed and memory, by records as a GPU would leave them."""

    def steps(self, paged: float) -> list[Record]:
        records = []
        for name, seconds in (("adamw", 0.2), ("paged_adamw_32bit", paged)):
            for seed in range(5):
                tuning = make_tuning("lora-bf16", seed)
                options = tuning.options | {"optimizer": name}
                label = f"{name}-s{seed}"
                named = tuning.model_copy(update={"arm": name, "label": label, "options": options})
                record = training_record(tuning.model_copy(update={"options": options}))
                step = make_metric("training.step_time", seconds * (1 + 0.001 * seed))
                metrics = (step.model_copy(update={"unit": "s", "better": "lower"}),)
                cell = record.cell.model_copy(update={"tuning": named})
                records.append(
                    record.model_copy(update={"cell": cell, "environment": GPU, "metrics": metrics})
                )
        return records

    def paging(self, paged: float) -> Judged:
        check = {
            "metric": "training.step_time",
            "of": lora(tuned={"optimizer": "paged_adamw_32bit"}),
            "against": lora(tuned={"optimizer": "adamw"}),
            "expect": {"within": "5%"},
        }
        return verdict(self.steps(paged), check, device="cuda")

    def test_paging(self) -> None:
        assert self.paging(0.201).verdict == "holds"
        assert self.paging(0.3).verdict == "does not hold"

    def test_kernels_by_rows(self) -> None:
        ratio = make_metric("kernels.ratio", 0.8).model_copy(
            update={"varies_by": "process", "better": "lower"}
        )
        records = [
            make_record(
                "int8",
                "kernels",
                slug=f"rows{rows}",
                params={"rows": rows},
                repeat=repeat,
                environment=GPU,
                more_metrics=(
                    ratio.model_copy(update={"value": (0.8 if rows == 512 else 3.0) + repeat / 99}),
                ),
            )
            for rows in (1, 512)
            for repeat in range(5)
        ]
        records.append(make_record("int8", "footprint", {"weights": 13e9}, environment=GPU))
        check = {"metric": "kernels.ratio", "of": "int8", "at": {"rows": 512}}
        below = check | {"expect": {"below": 1}}
        found = verdict(records, below, device="cuda", weights=[1.2e10, 1e12])
        assert found.verdict == "holds"
        assert len(found.figures) == 1
        # At one row it is slower, so that of all rows it is not true.
        del below["at"]
        assert verdict(records, below).verdict == "does not hold"


def test_older_records_are_read() -> None:
    """Of a protocol, and without what was not kept then."""
    records = [one.model_copy(update={"protocol": "1"}) for one in texts(-0.02)]
    assert verdict(records, perplexity({"below": 0})).verdict == "holds"
    adapters = {
        "metric": "training.adapter_share",
        "of": lora(base="bf16"),
        "expect": {"below": 1},
    }
    older = [one.model_copy(update={"protocol": "1"}) for one in finetune_records((0, 1, 2))]
    assert all(metric.varies_by is None for one in older for metric in one.metrics)
    assert verdict(older, adapters).verdict == "holds"
