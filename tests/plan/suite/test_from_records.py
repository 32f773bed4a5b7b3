"""Suites that ask again for records: under the records' own conditions they give their keys."""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qbench.core.environment import detect_environment
from qbench.core.record import Record
from qbench.core.store import read_folder
from qbench.plan.plan import tasks_under
from qbench.plan.rehearsal import rehearse
from qbench.plan.reproduction import environment_of
from qbench.plan.suite.from_records import restate
from qbench.plan.suite.suite import load_suite, load_suite_text
from qbench.plan.suite.yaml_lines import write_yaml
from tests.workplace import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from qbench.plan.suite.restated import Restated
    from qbench.plan.suite.suite import Suite

PUBLISHED = REPOSITORY / "results" / "published"
CURRENT = ("claims", "formats", "full", "mistral-shape", "quality", "quickstart")
"""Published records of the protocol that holds now."""
LARGE = ("claims", "formats")
SHIPPED = (
    "ci",
    "forward",
    "full",
    "kernels",
    "kv-cache",
    "long-context",
    "mistral-shape",
    "mixes",
    "rank-sweep",
    "served-tasks",
    "serving",
)
"""Suites that together have every kind of cell and item, and plan without a hub."""


def _asked(suite: Suite) -> list[Record]:
    """Records as a run of the suite would leave them, without their numbers."""
    environment = detect_environment("cpu")
    return [
        Record(
            key=task.key,
            identity=task.identity,
            suite=suite.name,
            cell=cell,
            item=task.item,
            reference=(cell.label, cell.is_training) == (suite.reference, False),
            rehearsal=suite.rehearsal,
            status="ok",
            environment=environment,
            started_at="2026-11-28T12:00:00+00:00",
        )
        for cell, task in tasks_under(suite, Path("results"), environment)
    ]


def _again(restated: Restated, base: Path) -> Suite:
    suite = load_suite_text(write_yaml(restated.stated(trust_code=True)), "suite.yaml", base)
    return rehearse(suite) if restated.rehearsal else suite


def _keys(restated: Restated, base: Path) -> set[str]:
    """Keys of all that the suite asks for, under the conditions of any of its records."""
    suite = _again(restated, base)
    conditions = {one.model_dump_json(): one for one in map(environment_of, restated.records)}
    return {
        task.key
        for environment in conditions.values()
        for _, task in tasks_under(suite, Path("results"), environment)
    }


def _missing(records: Sequence[Record], known: Iterable[Record], base: Path) -> list[str]:
    made = restate(records, {one.key: one for one in known})
    assert sum(len(one.records) for one in made) == len(records)
    return [
        f"{record.cell.slug} {record.item.measurement} {record.item.slug}"
        for one in made
        for keys in [_keys(one, base)]
        for record in one.records
        if record.key not in keys
    ]


@pytest.mark.parametrize("name", SHIPPED)
def test_records_of_a_shipped_suite_are_asked_for_by_one_suite(name: str) -> None:
    suite = load_suite(REPOSITORY / "suites" / f"{name}.yaml")
    records = _asked(suite)

    made = restate(records, {one.key: one for one in records})

    assert len(made) == 1
    assert {one.key for one in records} <= _keys(made[0], suite.base)


@pytest.mark.parametrize("name", ["mistral-shape", "ci", "dialogpt-shape"])
def test_a_rehearsal_is_rehearsed_again(name: str) -> None:
    suite = rehearse(load_suite(REPOSITORY / "suites" / f"{name}.yaml"))
    records = _asked(suite)

    assert _missing(records, records, suite.base) == []


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in CURRENT],
)
def test_published_records_are_asked_for_under_their_own_keys(name: str, tmp_path: Path) -> None:
    records, _ = read_folder(PUBLISHED / name)
    by_device = defaultdict(list)
    for one in records:
        by_device[one.environment.device_kind].append(one)

    missing = [line for some in by_device.values() for line in _missing(some, some, tmp_path)]

    # These were taken before the kernel was part of what is measured.
    before = ("mxfp4", "nvfp4", "int4")
    assert [line for line in missing if not any(name in line for name in before)] == []
    assert len(missing) <= len(before)


@cache
def _of_ci() -> tuple[Suite, list[Record]]:
    """A suite that tunes, and its records."""
    suite = load_suite(REPOSITORY / "suites" / "ci.yaml")
    return suite, _asked(suite)


@pytest.mark.slow
@settings(max_examples=40)
@given(places=st.sets(st.integers(min_value=0, max_value=199), min_size=1, max_size=5))
def test_any_records_of_a_suite_are_asked_for_again(places: set[int]) -> None:
    suite, every = _of_ci()
    chosen = [every[place % len(every)] for place in places]

    assert _missing(chosen, every, suite.base) == []


def test_options_that_one_suite_cannot_hold_make_two(tmp_path: Path) -> None:
    text = (
        "models: [bundled:tiny-mistral]\nprecisions: [fp32, nf4]\nmeasure: {quality: {limit: %d}}"
    )
    records = [
        record
        for limit in (3, 4)
        for record in _asked(load_suite_text(text % limit, "suite.yaml", tmp_path))
    ]

    made = restate(records, {one.key: one for one in records})

    assert [len(one.records) for one in made] == [2, 2]
    assert _missing(records, records, tmp_path) == []


def test_code_of_strangers_is_left_out_unless_it_is_allowed(tmp_path: Path) -> None:
    text = """\
models: [bundled:tiny-mistral]
precisions: [fp32]
measure: {serving: {concurrency: 1, servers: [{command: "serve {model} --port {port}"}]}}
trust_code: true
"""
    records = _asked(load_suite_text(text, "suite.yaml", tmp_path))

    (made,) = restate(records, {one.key: one for one in records})

    assert "trust_code" not in made.stated()
    assert made.stated(trust_code=True)["trust_code"] is True
    assert made.runs_code == ("a server is started by: serve {model} --port {port}",)
