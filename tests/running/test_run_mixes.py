"""Mixes that are found under a budget: what they are found from comes first, and decides them."""

from __future__ import annotations

import itertools
import math
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from qbench.measures.sensitivity.options import SENSITIVITY, params_of
from qbench.precisions.mixed.sensitivities import (
    Cost,
    Sensitivities,
    Unit,
    keep_sensitivities,
    read_sensitivities,
)
from qbench.running.loading import load
from qbench.running.mixes import held_against_budget, settled
from tests.inline_runs import failing, good, pretended, run_inline
from tests.tiny_models import make_tiny_model

if TYPE_CHECKING:
    from pathlib import Path

    from qbench.core.record import Record
    from qbench.plan.job import Job, Task
    from tests.inline_runs import Ran
    from tests.workplace import Workplace

SUITE = """\
models: [{model}]
reference: fp32
precisions:
  - fp32
  - nf4
  - {{mixed: {{budget: {budget}, from: [nf4, int8-wo], dtype: fp32}}, name: mix}}
measure:
  footprint:
"""
MEASURED = "  sensitivity: {text: text.txt, window: 32, by: kind}\n"
SIZES = {"nf4": 2500, "int8-wo": 4200}


def write_suite(place: Workplace, budget: str = "7 bits", more: str = MEASURED) -> None:
    place.write("suite.yaml", SUITE.format(model=place.model, budget=budget) + more)


def with_a_table(job: Job, task: Task) -> Record:
    """As a worker leaves it: the reference's sensitivity has a table of one layer."""
    if task.item.measurement == SENSITIVITY and task.item.makes_states:
        layer = "model.layers.0.mlp.down_proj"
        formats = {one.label: one for one in params_of(task.item).formats}
        costs = {label: Cost(bytes=SIZES[label], kl=0.25) for label in formats}
        unit = Unit(name=layer, layers=(layer,), weights=8192, plain_bytes=32768, costs=costs)
        table = Sensitivities(rest="fp32", formats=formats, units=(unit,), tokens=64)
        keep_sensitivities(task.key, table)
    return good(job, task)


def run_pretended(place: Workplace, **options: Any) -> Ran:
    return run_inline(place, work=pretended(with_a_table), **options)


def of(place: Workplace, label: str, measurement: str) -> Record:
    (found,) = (
        one
        for one in place.records().values()
        if (one.cell.label, one.item.measurement) == (label, measurement)
    )
    return found


class TestFound:
    """One run with a worker's true code."""

    @pytest.fixture(scope="class")
    def ran(
        self, tmp_path_factory: pytest.TempPathFactory, tiny_model: Path
    ) -> tuple[Workplace, Ran]:
        from tests.workplace import Workplace, write_text

        place = Workplace(tmp_path_factory.mktemp("found"), tiny_model)
        write_text(place.folder)
        write_suite(place)
        ran = run_inline(place)
        assert [record.reason for record in ran.result.records if record.status != "ok"] == []
        assert [job.cell.label for job in ran.jobs] == ["fp32", "nf4", "mix"]
        return place, ran

    @pytest.fixture(scope="class")
    def place(self, ran: tuple[Workplace, Ran]) -> Workplace:
        return ran[0]

    def test_it_is_the_best_of_all_assignments(self, place: Workplace) -> None:
        reference, mix = of(place, "fp32", SENSITIVITY), of(place, "mix", "footprint")
        with place.entered():
            table = read_sensitivities(reference.key)
        choices = [
            [("fp32", one.plain_bytes, 0.0)]
            + [(label, cost.bytes, cost.kl or 0.0) for label, cost in one.costs.items()]
            for one in table.units
        ]
        most = 7 * sum(one.weights for one in table.units) // 8
        fit = [
            (math.fsum(kl for _, _, kl in every), every)
            for every in itertools.product(*choices)
            if sum(size for _, size, _ in every) <= most
        ]
        least, best = min(fit)
        found = mix.details["loaded"]["mix"]
        assert found["predicted_kl"] == pytest.approx(least, rel=1e-9)
        names = [one.name for one in table.units]
        assert found["units"] == dict(zip(names, (label for label, _, _ in best), strict=True))
        assert len(set(found["units"].values())) > 1

    def test_its_layers_are_what_was_found(self, place: Workplace) -> None:
        loaded = of(place, "mix", "footprint").details["loaded"]
        found = loaded["mix"]["units"]
        assert loaded["held_in"] == {
            name: found[name.rpartition(".")[2]] for name in loaded["held_in"]
        }

    def test_it_keeps_the_budget_and_takes_what_was_predicted(self, place: Workplace) -> None:
        mix = of(place, "mix", "footprint")
        found = mix.details["loaded"]["mix"]
        assert mix.value("bits_per_weight.linear") == found["bits_per_weight"] <= 7
        assert mix.value("memory.static") == found["static_bytes"]
        assert mix.value("memory.static.predicted") == found["static_bytes"]
        assert (found["budget"], found["by"]) == ("7 bits", "kl")

    def test_its_own_kl_is_measured_on_the_same_text(self, place: Workplace) -> None:
        kl = of(place, "mix", SENSITIVITY).value("sensitivity.kl.mean")
        predicted = of(place, "mix", SENSITIVITY).details["loaded"]["mix"]["predicted_kl"]
        assert kl is not None
        assert predicted / 3 < kl < predicted * 3

    def test_its_records_name_what_it_was_found_from(self, place: Workplace) -> None:
        key = of(place, "fp32", SENSITIVITY).key
        for record in place.records().values():
            expected = key if record.cell.label == "mix" else None
            assert record.identity.get("sensitivities") == expected
        cell = of(place, "mix", "footprint").cell
        assert cell.precision.options == {
            "dtype": "fp32",
            "budget": "7 bits",
            "from": ["nf4", "int8-wo"],
            "by": "kl",
        }

    def test_a_model_that_takes_more_is_a_fault(self, ran: tuple[Workplace, Ran]) -> None:
        place, (*_, job) = ran[0], ran[1].jobs
        with place.entered():
            own = settled(job)
            model = load(own, lambda _: None).model
            assert held_against_budget(own, model)[1] == []
            assert own.found is not None
            less = own.found.model_copy(update={"budget": "4.6 bits"})
            _, faults = held_against_budget(own.model_copy(update={"found": less}), model)
        (fault,) = faults
        assert "bits a weight where 4.6 bits are allowed" in fault


def test_what_it_is_found_from_is_taken_first_and_again_when_it_is_gone(
    workplace: Workplace,
) -> None:
    place = workplace
    write_suite(place)
    ran = run_pretended(place, only=["mix"])
    assert [job.cell.label for job in ran.jobs] == ["fp32", "mix"]
    assert ran.taken_items == ["fp32 sensitivity", "mix footprint", "mix sensitivity"]
    assert run_pretended(place, only=["mix"]).taken == set()

    shutil.rmtree(place.folder / "cache" / "sensitivities")
    assert run_pretended(place, only=["mix"]).taken == set()
    for path in (place.folder / "results").rglob("*--mix/footprint-*.json"):
        path.unlink()
    ran = run_pretended(place, only=["mix"])
    assert ran.taken_items == ["fp32 sensitivity", "mix footprint"]


def test_another_table_makes_another_mix(workplace: Workplace) -> None:
    place = workplace
    write_suite(place)
    run_pretended(place)
    before = of(place, "mix", "footprint").key
    write_suite(place, more=MEASURED.replace("32", "16"))
    ran = run_pretended(place)
    assert "mix footprint" in ran.taken_items
    assert "nf4 footprint" not in ran.taken_items
    assert before not in {name.rpartition("-")[2] for name in ran.taken}


@pytest.mark.parametrize("how", ["error", "oom"])
def test_where_the_sensitivity_fails_the_mix_says_why(workplace: Workplace, how: Any) -> None:
    place = workplace
    write_suite(place)
    broken = failing(how, "no memory for this")

    def answer(job: Job, task: Task) -> Record:
        made = broken if task.item.measurement == SENSITIVITY and job.reference else with_a_table
        return made(job, task)

    ran = run_inline(place, work=pretended(answer))
    assert [job.cell.label for job in ran.jobs] == ["fp32", "nf4"]
    record = of(place, "mix", "footprint")
    reason = f"what its mix is found from failed ({how}): no memory for this"
    assert (record.status, record.phase, record.reason) == ("error", "prepare", reason)


def test_a_table_that_could_not_be_kept_is_the_reason(workplace: Workplace) -> None:
    write_suite(workplace)
    (workplace.folder / "cache").mkdir()
    (workplace.folder / "cache" / "sensitivities").write_text("a file where a folder is wanted")
    run_inline(workplace, only=["mix"])
    record = of(workplace, "mix", "footprint")
    assert (record.status, record.phase) == ("error", "prepare")
    assert "no table of sensitivities" in (record.reason or "")


@pytest.mark.slow
def test_processes_that_build_the_model_themselves_build_the_mix(workplace: Workplace) -> None:
    more = "  cold_start: {repeats: 1, prompt_tokens: 4}\n" + MEASURED
    write_suite(workplace, more=more)
    finished = workplace.call("run", "suite.yaml", "--only", "mix", "--device", "cpu")
    assert finished.code == 0, finished.output + finished.errors
    units = of(workplace, "mix", "footprint").details["loaded"]["mix"]["units"]
    started = [one for one in workplace.records().values() if one.item.measurement == "cold_start"]
    own = [one.details["loaded"]["mix"] for one in started if one.cell.label == "mix"]
    assert own
    assert {tuple(one["units"].items()) for one in own} == {tuple(units.items())}


@pytest.mark.slow
def test_on_another_text_it_beats_every_uniform_format_of_the_same_bytes(
    workplace: Workplace,
) -> None:
    """Of a model made here: mixes within the bytes that each format takes, found on half a text."""
    place = workplace
    make_tiny_model(place.folder / "model", "llama", layers=3, seed=5, tied=True)
    words = (place.folder / "text.txt").read_text(encoding="utf-8").replace("add_", "sum_of_")
    place.write("other.txt", words * 2)
    formats = ("fp4", "nf4", "int4-g32", "fp8", "int8-wo")
    own = {"fp4": "compute_dtype", "nf4": "compute_dtype"}
    uniform = [f"  - {{{one}: {{{own.get(one, 'dtype')}: fp32}}, name: {one}}}" for one in formats]
    plain = "\n".join(
        [
            "models: [model]\nreference: fp32\nprecisions:\n  - fp32",
            *uniform,
            "measure:\n  footprint:\n  quality: {text: other.txt, window: 32}\n",
        ]
    )
    place.write("suite.yaml", plain)
    run_inline(place)
    sizes = {one: of(place, one, "footprint").value("memory.static") for one in formats}
    mixes = [
        f"  - {{name: as-{one}, mixed: {{budget: {size:.0f} B, dtype: fp32,"
        f" from: [{', '.join(formats)}]}}}}\n"
        for one, size in sizes.items()
    ]
    found = plain.replace("measure:", f"{''.join(mixes)}measure:")
    place.write("suite.yaml", f"{found}{MEASURED}")
    run_inline(place)
    kl = {
        label: of(place, label, "quality").value("kl.mean") or 0.0
        for one in formats
        for label in (one, f"as-{one}")
    }
    for one, size in sizes.items():
        assert (of(place, f"as-{one}", "footprint").value("memory.static") or 0) <= (size or 0)
        # Where nothing else fits, it is that format itself.
        assert kl[f"as-{one}"] <= kl[one]
    assert kl["as-fp4"] < 0.9 * kl["fp4"]
    assert kl["as-fp8"] < 0.9 * kl["fp8"]
