"""Lines over the history: what is told of them, and what is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from scipy import stats

from qbench.compare.history.batches import Batch, Batches
from qbench.compare.history.history import find_history
from tests.measured_commits import MEMORY, run_of, started
from tests.paired_records import footprint, latency, losses, quality, task
from tests.record_factory import make_environment

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qbench.compare.history.history import History
    from qbench.core.record import Record

COMMITS = 30


def history(runs: Iterable[Iterable[Record]], **asked: Any) -> History:
    """Of runs whose commits no repository knows: they are ordered by time."""
    records = tuple(record for run in runs for record in run)
    return find_history("quickstart", Batches((Batch(records, None),), None, ()), Path(), **asked)


def changes(found: History) -> dict[tuple[str, str], list[int]]:
    """The numbers of the measurements at which each line that changed did."""
    return {
        (one.line.name.cell, one.line.metric.name): [
            one.line.dots[shift.at].place.number for shift in one.judged.shifts
        ]
        for one in found.lines
        if one.judged.shifts
    }


def dated(number: int, **more: Any) -> dict[str, Any]:
    """For a run on its own day with its own commit."""
    environment = make_environment(git_revision=f"{number:040x}", **more)
    return {"environment": environment, "started_at": started(number)}


@pytest.mark.parametrize("amount", [0.05, 0.08, -0.1])
@pytest.mark.parametrize("at", [8, 19, 25])
def test_a_change_of_each_kind_is_found_at_its_commit(at: int, amount: float) -> None:
    found = history(
        run_of(
            number,
            f"{number:040x}",
            slower=amount if number >= at else 0.0,
            worse=amount if number >= at else 0.0,
            larger=amount if number >= at else 0.0,
            noise=0.006,
            slow=0.0,
        )
        for number in range(COMMITS)
    )
    assert changes(found) == {
        ("nf4", name): [at] for name in ("latency.decode", "perplexity", MEMORY)
    }
    (turn,) = found.turns
    assert (turn.new.number, turn.old.number) == (at, at - 1)
    for line, shift in turn.changes:
        assert shift.direction(line.metric.better) == ("worse" if amount > 0 else "better")
        low, high = shift.difference.ends(0.025)
        true = pytest.approx(amount, abs=0.02)
        assert shift.difference.plain == true
        assert low is not None
        assert high is not None
        assert low <= shift.difference.plain <= high


def test_unchanged_histories_alarm_no_more_often_than_is_stated() -> None:
    """100 histories of 30 commits, each with machines in other states and slow runs."""
    alarms = 0
    for seed in range(100):
        runs = []
        for number in range(COMMITS):
            made = run_of(1_000 * seed + number, f"{number:040x}", noise=0.02)
            kept = {one.item.measurement: one for one in made if one.cell.label == "nf4"}
            runs.append(
                [
                    one.model_copy(update={"started_at": started(number), "series": {}})
                    for name, one in kept.items()
                    if name != "quality"
                ]
            )
        alarms += bool(changes(history(runs)))
    assert alarms <= stats.binom.ppf(0.999, 100, 0.05)


def test_what_is_surely_changed_but_small_is_not_told() -> None:
    def run(number: int, step: float) -> list[Record]:
        seconds = 0.010 * (1 + step * (number >= 15)) * (1 + 0.001 * (number % 3))
        return latency("nf4", [seconds], **dated(number))

    assert not changes(history(run(number, 0.02) for number in range(COMMITS)))
    told = changes(history(run(number, 0.06) for number in range(COMMITS)))
    assert told == {("nf4", "latency.decode"): [15]}


def test_what_has_no_chance_from_run_to_run_is_told_at_once() -> None:
    """Of two measurements: bytes, and losses of the same windows."""

    def run(number: int, change: float) -> list[Record]:
        return [
            footprint("nf4", 1_000_000 + number, **dated(number)),
            quality("nf4", losses(change, seed=3 + number), **dated(number)),
        ]

    found = history([run(0, 0.0), run(1, 0.05)])
    assert changes(found) == {("nf4", "memory.static"): [1], ("nf4", "perplexity"): [1]}
    assert all(one.judged.untold is None for one in found.lines)
    small = history([run(0, 0.0), run(1, 0.0008)])
    assert changes(small) == {("nf4", "memory.static"): [1]}


def test_what_creeps_is_told_when_it_is_more_than_small() -> None:
    found = history(
        [quality("nf4", losses(0.002 * number), **dated(number))] for number in range(8)
    )
    assert changes(found) == {("nf4", "perplexity"): [3, 6]}


def test_scores_of_tasks_are_paired_by_item() -> None:
    def run(number: int, right: int) -> list[Record]:
        return [task("nf4", [1.0] * right + [0.0] * (400 - right), **dated(number))]

    found = history([run(0, 320), run(1, 318), run(2, 280)])
    assert changes(found) == {("nf4", "accuracy"): [2]}


def test_a_few_times_tell_nothing_and_say_so() -> None:
    found = history(
        latency("nf4", [0.01 * (1 + (number == 3))], **dated(number)) for number in range(4)
    )
    assert not changes(found)
    (line,) = found.lines
    assert "there are 4, 4 more are needed" in str(line.judged.untold)


def test_a_line_begins_anew_where_it_does_not_compare() -> None:
    def run(number: int) -> list[Record]:
        threads = 2 if number < 10 else 4
        records = latency("nf4", [0.010 / threads], **dated(number, threads=threads))
        protocol = "2" if number < 15 else "3"
        return [one.model_copy(update={"protocol": protocol}) for one in records]

    found = history(run(number) for number in range(20))
    assert not changes(found)
    (line,) = found.lines
    assert [(one.at, one.reason) for one in line.line.breaks] == [
        (10, "another number of threads: 4 here, 2 there"),
        (15, "other protocol: 3 here, 2 there"),
    ]


def test_devices_have_lines_of_their_own_and_rehearsals_none() -> None:
    other = {"device": "NVIDIA H200", "device_kind": "nvidia-h200"}
    runs = [
        [
            *footprint_of(number, {}),
            *footprint_of(number, other),
        ]
        for number in range(3)
    ]
    found = history(runs)
    assert [one.line.name.device_kind for one in found.lines] == [
        "cpu-intel-xeon-2c",
        "nvidia-h200",
    ]
    (line,) = history(runs, devices=["nvidia-*"]).lines
    assert line.line.device == "NVIDIA H200"


def footprint_of(number: int, more: dict[str, Any]) -> list[Record]:
    return [footprint("nf4", 1_000_000, **dated(number, **more))]


def test_what_is_asked_for_is_shown() -> None:
    runs = [run_of(number, f"{number:040x}") for number in range(2)]

    def names(**asked: Any) -> set[tuple[str, str]]:
        found = history(runs, **asked)
        return {(one.line.name.cell, one.line.metric.name) for one in found.lines}

    assert names(metrics=["perp*"], only=["nf4"]) == {("nf4", "perplexity")}
    assert names(metrics=["quality.tokens"]) == {("nf4", "tokens"), ("fp32", "tokens")}
    assert ("nf4", "tokens") in names(everything=True)
    assert ("nf4", "tokens") not in names()


def test_one_measurement_is_one_point_however_often_it_was_committed() -> None:
    run = tuple(run_of(0, "a" * 40))
    batch = Batch(run, None)
    found = find_history("quickstart", Batches((batch, replace(batch)), None, ()), Path())
    assert {len(one.line.dots) for one in found.lines} == {1}


def test_two_ways_to_measure_at_one_commit_are_two_points() -> None:
    """Records of other parameters under the same name are no repeats of each other."""

    def run(day: int, seconds: float, least: float) -> list[Record]:
        made = latency("nf4", [seconds] * 2, **dated(0))
        return [
            one.model_copy(
                update={
                    "started_at": started(day),
                    "identity": {**one.identity, "least": least},
                    "item": one.item.model_copy(
                        update={"params": {**one.item.params, "least": least}}
                    ),
                    "key": f"{day}{one.key[1:]}",
                }
            )
            for one in made
        ]

    (line,) = history([run(0, 0.01, 0.2), run(1, 0.02, 0.5)]).lines
    assert line.line.values == (0.01, 0.02)
    assert [one.reason for one in line.line.breaks] == ["other least: 0.5 here, 0.2 there"]


def test_other_figures_are_another_measurement() -> None:
    """Though a clock that stands still gives all the same time, and a suite the same keys."""
    runs = [
        latency("nf4", [0.01 + number], environment=make_environment(git_revision=f"{number:040x}"))
        for number in range(3)
    ]
    (line,) = history(runs).lines
    assert line.line.values == (0.01, 1.01, 2.01)
