"""What is sent, in which order, and what becomes of failures: with a tracker in a list."""

from __future__ import annotations

import io
import json
import signal
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from qbench.core.errors import UsageError
from qbench.core.packages import install_command
from qbench.report.trackers import delivery as delivering
from qbench.report.trackers.delivery import Delivery, Record, Report, Steps
from qbench.report.trackers.process import _serve, line_of, message_of
from qbench.report.trackers.run import run_of_record
from qbench.report.trackers.sender import Sender
from qbench.report.trackers.told import STEP_LOSS, curve_of_record
from qbench.report.trackers.tracker import Already, Kind
from qbench.report.trackers.trackers import TRACKERS, parse_trackers
from tests.report.trackers.test_told import published

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from qbench.report.trackers.run import TrackedRun
    from qbench.report.trackers.told import Entry, Point


@dataclass
class Kept:
    """A run; satisfies `OpenRun`."""

    place: Place
    already: Already = field(default_factory=Already)
    entries: list[Entry] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    values: list[dict[str, float]] = field(default_factory=list)
    pages: list[str] = field(default_factory=list)

    def add(self, entry: Entry) -> None:
        self.place.answer()
        self.entries.append(entry)

    def draw(self, points: Sequence[Point]) -> None:
        self.place.answer()
        self.points += points

    def log(self, values: dict[str, float]) -> None:
        self.values.append(values)

    def show(self, page: Path, digest: str) -> None:
        self.pages.append(page.read_text(encoding="utf-8"))

    def keep(self) -> None:
        pass

    def close(self) -> None:
        self.place.closed += 1


class Place:
    """Satisfies `Tracker`; keeps what it is sent, and is away when it is told to be."""

    most_open = 2

    def __init__(self) -> None:
        self.runs: dict[TrackedRun, Kept] = {}
        self.away = False
        self.closed = 0

    def begin(self) -> str:
        return "a list"

    def check(self) -> None:
        self.answer()

    def answer(self) -> None:
        if self.away:
            raise ConnectionError("nobody\nis there")

    def open(self, run: TrackedRun) -> Kept:
        self.answer()
        return self.runs.setdefault(run, Kept(self))


@pytest.fixture
def complaints() -> list[str]:
    return []


def test_each_record_is_sent_once_whoever_sends_it(complaints: list[str]) -> None:
    place, paths = Place(), list(published("quickstart"))
    for _ in range(2):
        delivery = Delivery(place, complaints.append)
        for path in (*paths, *paths):
            delivery.take(Record(path))
        delivery.end()
    sent = [entry.path for run in place.runs.values() for entry in run.entries]
    assert sorted(sent) == sorted(paths)
    assert (delivery.sent, delivery.there, delivery.left) == (0, 2 * len(paths), 0)
    assert not complaints
    assert place.closed >= 2 * len(place.runs)


def test_a_curve_that_was_told_live_is_not_told_again(complaints: list[str]) -> None:
    place = Place()
    path, record = next(
        (path, one)
        for path, one in published("quickstart").items()
        if one.item.measurement == "training"
    )
    delivery = Delivery(place, complaints.append)
    run, losses = run_of_record(record), record.series["step_loss"]
    for first, count in ((0, 1), (1, 7)):
        told = losses[first : first + count]
        event = {"first": first, "loss": told, "learning_rate": told, "validation": []}
        delivery.take(Steps(run, {"event": "steps", "of": len(losses), **event}))
    assert len(place.runs[run].points) == 8
    delivery.take(Record(path))
    curve = curve_of_record(record)
    assert curve is not None
    drawn = [point for point in place.runs[run].points if STEP_LOSS in point.values]
    assert [point.values[STEP_LOSS] for point in drawn] == losses
    assert [point.step for point in drawn] == list(range(len(losses)))
    assert len(place.runs[run].points) == len(curve.steps) + len(curve.validation)


def test_what_fails_is_told_once_and_sent_later(
    complaints: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, paths = Place(), list(published("quickstart"))[:6]
    delivery = Delivery(place, complaints.append)
    place.away = True
    for path in paths:
        delivery.take(Record(path))
    assert complaints == ["ConnectionError: nobody is there"]
    assert delivery.left == len(paths)
    place.away = False
    delivery.take(Record(paths[0]))
    assert not delivery.sent  # it is left alone for a while
    monkeypatch.setattr(delivering, "PAUSE_S", 0.0)
    delivery.end()
    assert (delivery.sent, delivery.left) == (len(paths), 0)
    assert len(complaints) == 1


def test_what_fails_is_told_without_credentials(complaints: list[str]) -> None:
    delivery = Delivery(Place(), complaints.append)
    address = f"https://me:{'hunter2' * 60}@host/api"
    delivery.fail(ConnectionError(f"{'of what was asked ' * 5}{address} failed"))
    (told,) = complaints
    assert "hunter2" not in told
    assert "https://***@host/api failed" in told


def test_where_things_go_is_told_without_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    class Elsewhere(Place):
        def begin(self) -> str:
            return "http://me:hunter2@host"

    monkeypatch.setitem(TRACKERS, "elsewhere", Kind("elsewhere", "none", "", Elsewhere))
    out = io.StringIO()
    _serve("elsewhere", io.StringIO(), out)
    signal.alarm(0)
    assert json.loads(out.getvalue().splitlines()[0]) == {"where": "http://***@host"}


def test_a_record_that_is_damaged_holds_no_other_back(
    complaints: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivering, "PAUSE_S", 0.0)
    place, paths = Place(), list(published("quickstart"))[:4]
    damaged = tmp_path / "footprint-model-0.json"
    damaged.write_text("{", encoding="utf-8")
    delivery = Delivery(place, complaints.append)
    for path in (damaged, *paths, damaged.with_name("gone.json")):
        delivery.take(Record(path))
    delivery.end()
    assert (delivery.sent, delivery.left) == (len(paths), 2)
    assert len(complaints) == 1
    assert complaints[0].startswith(f"DamagedRecordError: {damaged}: ")


def test_pages_and_bounds_are_sent_when_they_are_new(complaints: list[str], tmp_path: Path) -> None:
    place, paths = Place(), tuple(published("quickstart"))
    page = tmp_path / "page.html"
    report = run_of_record(published("quickstart")[paths[0]]).report
    for text in ("one", "one", "two"):
        page.write_text(text, encoding="utf-8")
        delivery = Delivery(place, complaints.append)
        delivery.take(Report(paths, ((report, page),)))
        delivery.end()
    assert not complaints
    assert place.runs[report].pages == ["one", "two"]
    assert all(len(run.values) <= 1 for run in place.runs.values())
    assert any(name.endswith(".low") for run in place.runs.values() for name in run.already.values)


def test_messages_are_the_same_after_their_way_through_a_pipe() -> None:
    path, record = next(iter(published("quickstart").items()))
    run = run_of_record(record)
    steps = {"event": "steps", "of": 2, "first": 0, "loss": [1.5], "validation": [[0, 2.5]]}
    for message in (Record(path), Steps(run, steps), Report((path,), ((run.report, path),))):
        back = message_of(json.loads(line_of(message)))
        assert back == message
        if isinstance(back, Steps):
            assert back.run.params == run.params


@pytest.mark.parametrize(
    ("texts", "names"),
    [
        ([], []),
        ([""], []),
        (["mlflow"], ["mlflow"]),
        (["wandb, mlflow", "wandb"], ["wandb", "mlflow"]),
        (["mlflow,wandb,trackio"], list(TRACKERS)),
    ],
)
def test_trackers_are_named_once_or_with_commas(texts: list[str], names: list[str]) -> None:
    assert [kind.name for kind in parse_trackers(texts, "--track")] == names


def test_an_unknown_tracker_is_answered_by_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"did you mean 'wandb'.*There is mlflow, wandb, trackio"):
        parse_trackers(["wanbd"], "--track")


def test_a_missing_package_is_one_line_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking = Kind("mlflow", "mlflow-skinny-that-is-not-there", "", Place)
    monkeypatch.setitem(TRACKERS, "mlflow", lacking)
    with pytest.raises(UsageError, match=r"^--track mlflow: needs mlflow-skinny-that-is-not-there"):
        parse_trackers(["mlflow"], "--track")


def test_every_tracker_s_package_is_in_the_extra() -> None:
    for kind in TRACKERS.values():
        assert install_command([kind.package]) == "pip install 'qbench-llm[trackers]'"


def test_a_process_that_cannot_begin_is_refused_with_its_last_words() -> None:
    told: list[str] = []
    sender = Sender(Kind("none", "none", "", Place), told.append)
    with pytest.raises(UsageError, match="--track none: KeyError: 'none'"):
        sender.begin()
    assert not told
    assert isinstance(sender._process, subprocess.Popen)
    assert sender._process.poll() is not None
