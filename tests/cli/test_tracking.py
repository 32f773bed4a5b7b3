"""Runs that are tracked, by the real trackers, read back by their own clients."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from qbench.cli.tracking import Trackers
from qbench.core.store import write_record
from qbench.plan.plan import check_suite, make_plan
from qbench.plan.suite.written import read_file
from qbench.report.trackers.run import run_of_record
from qbench.report.trackers.told import (
    STEP_LOSS,
    VALIDATION_LOSS,
    entry_of,
    found_of,
)
from qbench.report.trackers.wandb_runs import STEP
from qbench.running.executors.executor import JobEnd
from tests.record_factory import footprint_record
from tests.workplace import REPOSITORY, place_of, write_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.core.record import Record
    from qbench.report.trackers.delivery import Message
    from qbench.report.trackers.sender import Sender
    from tests.workplace import Workplace

SUITE = """\
name: tracked
models: [{model}]
precisions: [fp32]
finetune:
  data:
    dataset: rows.jsonl
    recipe: {{prompt: "{{{{ name }}}} is", completion: " {{{{ kind }}}}"}}
    train: 8
    validation: 2
    test: 4
  methods: [{{method: lora, precision: fp32, rank: 2, batch: 4, steps: 6, validate_every: 3}}]
  deploy: [attached]
measure:
  footprint:
  latency: {{prompt_tokens: 4, new_tokens: 2, repeats: 2, min_iterations: 1, min_seconds: 0.05}}
  quality: {{text: text.txt, window: 32}}
"""
READ_MLFLOW = """
import json, os, sys
from mlflow.tracking import MlflowClient
client = MlflowClient(sys.argv[1])
found = {}
for experiment in client.search_experiments():
    for run in client.search_runs([experiment.experiment_id]):
        name = run.data.tags["mlflow.runName"]
        assert name not in found, name
        id = run.info.run_id
        artifacts = [
            os.path.basename(file.path)
            for folder in client.list_artifacts(id) if folder.is_dir
            for file in client.list_artifacts(id, folder.path)
        ]
        found[name] = {
            "experiment": experiment.name, "params": run.data.params, "tags": run.data.tags,
            "status": run.info.status, "id": id, "artifacts": artifacts,
            "metrics": {
                key: [(one.step, one.value) for one in client.get_metric_history(id, key)]
                for key in run.data.metrics
            },
        }
print(json.dumps(found))
"""
READ_TRACKIO = """
import json, sys, trackio
from trackio.sqlite_storage import SQLiteStorage
project = sys.argv[1]
found = {}
for run in trackio.Api().runs(project):
    assert run.name not in found, run.name
    rows = SQLiteStorage.get_logs(project, run.name, run_id=run.id)
    made = SQLiteStorage.get_run_artifacts(project, run.name, run.id)
    artifacts = [one["name"] for one in made["output"]]
    found[run.name] = {"config": run.config, "rows": rows, "artifacts": artifacts}
print(json.dumps(found, default=str))
"""


@pytest.fixture
def place(workplace: Workplace, tmp_path: Path) -> Workplace:
    place = workplace.with_environment(
        HOME=str(tmp_path), WANDB_MODE="offline", TRACKIO_DIR=str(tmp_path / "trackio")
    )
    write_rows(place.folder)
    place.write("suite.yaml", SUITE.format(model=place.model))
    return place


def in_mlflow(place: Workplace) -> dict[str, Any]:
    uri = (place.folder / "mlruns").as_uri()
    allowed = place.with_environment(MLFLOW_ALLOW_FILE_STORE="true")
    return dict(json.loads(allowed.output_of(READ_MLFLOW, uri)))


def in_trackio(place: Workplace) -> dict[str, Any]:
    return dict(json.loads(place.output_of(READ_TRACKIO, "tracked")))


def in_wandb(place: Workplace) -> dict[str, list[dict[str, Any]]]:
    """Lines of each run's files, as `wandb leet inspect` reads them, by the run's name."""
    found: dict[str, list[dict[str, Any]]] = {}
    for folder in sorted((place.folder / "wandb").glob("offline-run-*")):
        program = "import sys; from wandb.cli.cli import cli; cli(sys.argv[1:])"
        said = place.output_of(program, "leet", "inspect", "--json", str(folder))
        lines = [json.loads(line) for line in said.splitlines()]
        (run,) = (line["run"] for line in lines if line["type"] == "run")
        assert run["project"] == "qbench"
        assert run["run_group"] == "tracked"
        found.setdefault(run["display_name"], []).extend(lines)
    return found


def history(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [line["history"]["item"] for line in lines if line["type"] == "history"]


def summary(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for line in lines:
        if line["type"] == "summary":
            made |= line["summary"]["update"]
    return made


def by_run(records: Sequence[Record]) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for record in records:
        found.setdefault(run_of_record(record).name, []).append(record)
    return found


def assert_mlflow_has(place: Workplace, records: list[Record]) -> None:
    found = in_mlflow(place)
    (report,) = (run for name, run in found.items() if name.startswith("tracked: report on"))
    assert [name for name in report["artifacts"] if name.endswith(".html")]
    bounds = {run.name: values for run, values in found_of(records).items()}
    assert len(found) == 1 + len(by_run(records))
    for name, taken in by_run(records).items():
        run = found[name]
        assert run["experiment"] == "tracked"
        assert run["status"] == "FINISHED"
        assert run["tags"]["mlflow.parentRunId"] == report["id"]
        assert run["params"]["model"] == "tiny"
        assert run["params"]["precision"] == "fp32"
        wanted: dict[str, list[Any]] = {
            name: [(0, value)] for name, value in bounds.get(name, {}).items()
        }
        for record in taken:
            path = place_of(place.folder / "results", record)
            assert path.name in run["artifacts"]
            entry = entry_of(record, path)
            assert entry.words.items() <= run["tags"].items()
            for metric, value in entry.numbers.items():
                wanted.setdefault(metric, []).append((record.item.repeat, value))
        curves = {"training/step_loss", "training/step_learning_rate", "training/validation_loss"}
        sent = {name: points for name, points in run["metrics"].items() if name not in curves}
        assert {name: sorted(map(tuple, points)) for name, points in sent.items()} == {
            name: sorted(points) for name, points in wanted.items()
        }
        for record in taken:
            if record.item.measurement == "training":
                losses = record.series["step_loss"]
                assert run["metrics"][STEP_LOSS] == [list(one) for one in enumerate(losses)]
                validation = dict(run["metrics"][VALIDATION_LOSS])
                assert list(validation) == record.series["validation_step"]
                assert list(validation.values()) == record.series["validation_loss"]


def assert_wandb_has(place: Workplace, records: list[Record]) -> None:
    found = in_wandb(place)
    (report,) = (lines for name, lines in found.items() if name.startswith("report on"))
    assert len([line for line in report if line["type"] == "artifact"]) == 1
    assert len(found) == 1 + len(by_run(records))
    for name, taken in by_run(records).items():
        rows, words = history(found[name]), summary(found[name])
        for record in taken:
            entry = entry_of(record, place_of(place.folder / "results", record))
            assert entry.words.items() <= words.items()
            same = [row for row in rows if entry.numbers.items() <= row.items()]
            assert len(same) == 1
            if record.item.measurement == "training":
                curve = [(row[STEP], row[STEP_LOSS]) for row in rows if STEP_LOSS in row]
                assert curve == list(enumerate(record.series["step_loss"]))
                losses = [row[VALIDATION_LOSS] for row in rows if VALIDATION_LOSS in row]
                assert losses == record.series["validation_loss"]
                # Live: the first step was there before the record.
                assert rows.index(same[0]) > next(
                    at for at, row in enumerate(rows) if STEP_LOSS in row
                )


def assert_trackio_has(place: Workplace, records: list[Record]) -> None:
    found = in_trackio(place)
    (report,) = (run for name, run in found.items() if name.startswith("report on"))
    assert [row for row in report["rows"] if "report" in row]
    assert len(report["artifacts"]) == 1
    assert len(found) == 1 + len(by_run(records))
    for name, taken in by_run(records).items():
        run = found[name]
        assert run["config"]["precision"] == "fp32"
        for record in taken:
            entry = entry_of(record, place_of(place.folder / "results", record))
            (row,) = (one for one in run["rows"] if one.get("qbench/record") == record.key)
            assert (entry.numbers | entry.words).items() <= row.items()
            assert [one for one in run["artifacts"] if record.key in one]
            if record.item.measurement == "training":
                curve = [(row["step"], row[STEP_LOSS]) for row in run["rows"] if STEP_LOSS in row]
                assert curve == list(enumerate(record.series["step_loss"]))


def assert_each_has(place: Workplace, records: list[Record]) -> None:
    assert_mlflow_has(place, records)
    assert_wandb_has(place, records)
    assert_trackio_has(place, records)


@pytest.mark.slow
def test_a_run_is_in_each_tracker_as_it_is_on_disk_and_once(place: Workplace) -> None:
    ran = place.call("run", "suite.yaml", "--track", "mlflow,wandb", "--track", "trackio")
    assert ran.code == 0, ran.errors
    assert f"tracking with mlflow: {(place.folder / 'mlruns').as_uri()}" in ran.output
    assert f"tracking with wandb: {place.folder / 'wandb'} (offline" in ran.output
    assert f"tracking with trackio: {place.folder / 'trackio'}" in ran.output
    records = list(place.records().values())
    for name in ("mlflow", "wandb", "trackio"):
        assert f"{name}: sent {len(records)} records\n" in ran.output
    assert not place.survivors()
    assert_each_has(place, records)
    again = place.with_environment(QBENCH_TRACK="mlflow,wandb,trackio").call("run", "suite.yaml")
    assert again.code == 0
    assert again.output.count(f"sent 0 records; {len(records)} had been sent before\n") == 3
    assert_each_has(place, records)


@pytest.mark.slow
def test_records_that_are_there_are_exported_as_they_would_have_been_sent(
    place: Workplace,
) -> None:
    assert place.call("run", "suite.yaml").code == 0
    assert not (place.folder / "mlruns").exists()
    records = list(place.records().values())
    done = place.call("export", "tracker", "--track", "mlflow")
    assert done.code == 0, done.errors
    assert done.output.endswith(f"mlflow: sent {len(records)} records\n")
    assert_mlflow_has(place, records)


@pytest.mark.slow
def test_long_names_and_odd_folders_are_sent_too(place: Workplace) -> None:
    folder = place.folder / "results [a]*"
    for record in (footprint_record("fp32"), footprint_record("nf4")):
        environment = record.environment.model_copy(update={"device_kind": "k" * 100})
        model = record.cell.model.model_copy(update={"name": "m/" + "x" * 200})
        cell = record.cell.model_copy(update={"model": model})
        named = {"suite": f"s\u00fc/../ {'s' * 250}", "environment": environment, "cell": cell}
        path = folder / "long" / "kind" / record.cell.slug / f"footprint-model-{record.key}.json"
        write_record(path, record.model_copy(update=named))
    for sent in ("sent 2 records", "sent 0 records; 2 had been sent before"):
        done = place.call("export", "tracker", folder.name, "--track", "mlflow,wandb,trackio")
        assert done.code == 0, done.output
        assert done.output.count(f": {sent}\n") == 3
    saved = {path.name for path in (place.folder / "wandb").rglob("footprint-model-*.json")}
    assert saved == {path.name for path in folder.rglob("*.json")}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tracker", "environment"),
    [
        ("mlflow", {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}),
        ("trackio", {"TRACKIO_SERVER_URL": "http://127.0.0.1:9/?write_token=a-token"}),
    ],
)
def test_a_tracker_that_is_away_stops_nothing_and_is_told_once(
    place: Workplace, tracker: str, environment: dict[str, str]
) -> None:
    away = place.with_environment(**environment)
    ran = away.call("run", "suite.yaml", "--only", "fp32", "--track", tracker)
    assert ran.code == 0
    assert all(record.status == "ok" for record in place.records().values())
    assert ran.output.count(f"note: {tracker}: cannot send (") == 1
    assert f"`qbench export tracker RESULTS --track {tracker}` sends what is missing" in ran.output
    assert "a-token" not in ran.output
    exported = away.call("export", "tracker", "--track", tracker)
    assert exported.code == 1
    assert not place.survivors()


@pytest.mark.slow
@pytest.mark.parametrize("tracker", ["mlflow", "wandb", "trackio"])
def test_a_tracker_s_process_that_is_killed_holds_nothing_up(
    place: Workplace, tracker: str
) -> None:
    records = REPOSITORY / "results" / "published" / "quickstart"
    with place.start("export", "tracker", str(records), "--track", tracker) as process:
        folders = [place.folder / name for name in ("mlruns", "wandb", "trackio")]
        while not any(found for folder in folders for found in folder.glob("*")):
            assert process.poll() is None
            time.sleep(0.05)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        os.kill(int(children.split()[0]), signal.SIGKILL)
        said, errors = process.communicate(timeout=30)
    assert process.returncode == 1, errors
    assert "not all could be sent" in said
    assert not place.survivors()


@pytest.mark.slow
def test_an_interrupted_run_leaves_no_process_and_the_next_one_goes_on(place: Workplace) -> None:
    arguments = ("run", "suite.yaml", "--only", "fp32", "--track", "mlflow,wandb")
    with place.start(*arguments) as process:
        while not place.records():
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert not place.survivors()
    ran = place.call(*arguments)
    assert ran.code == 0, ran.errors
    records = list(place.records().values())
    assert_mlflow_has(place, records)
    assert_wandb_has(place, records)


@pytest.mark.slow
def test_the_driver_s_end_is_the_tracker_s(place: Workplace) -> None:
    with place.start(
        "run", "suite.yaml", "--only", "fp32", "--track", "mlflow,wandb,trackio"
    ) as process:
        while not place.records():
            assert process.poll() is None
            time.sleep(0.05)
        process.kill()
        process.communicate()
    deadline = time.monotonic() + 30
    while place.running() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not place.running()


def test_what_is_wrong_with_the_option_is_told_before_anything_is_measured(
    place: Workplace,
) -> None:
    wrong = place.call_here("run", "suite.yaml", "--track", "mlflo")
    assert wrong.code == 2
    assert "did you mean 'mlflow'?" in wrong.errors
    keyless = place.with_environment(WANDB_MODE="online")
    for arguments in (("run", "suite.yaml", "--track", "wandb"), ("run", "suite.yaml")):
        refused = keyless.with_environment(QBENCH_TRACK="wandb").call_here(*arguments)
        assert refused.code == 2
        assert "W&B has no API key here; `wandb login` or WANDB_API_KEY" in refused.errors
        assert len(refused.errors.splitlines()) == 1
    odd = place.with_environment(WANDB_MODE="often").call_here(
        "run", "suite.yaml", "--track", "wandb"
    )
    assert odd.code == 2
    assert "--track wandb: " in odd.errors
    assert "mode" in odd.errors
    taken = place.with_environment(WANDB_DIR=str(place.folder / "suite.yaml")).call_here(
        "run", "suite.yaml", "--track", "wandb"
    )
    assert taken.code == 2
    assert "suite.yaml/wandb: cannot be written (Not a directory); name another" in taken.errors
    for nothing in ((), ("--track", ",")):
        none = place.call_here("export", "tracker", *nothing)
        assert none.code == 2
        assert "expected one of mlflow, wandb, trackio" in none.errors
    assert not (place.folder / "results").exists()


class Listener:
    """What a sender is told to do; satisfies what `Trackers` asks of one."""

    def __init__(self) -> None:
        self.sent: list[tuple[Message, bool]] = []
        """With each message whether it may go at once."""
        self.free = True

    def add(self, message: Message) -> None:
        self.sent.append((message, self.free))

    def hold(self) -> None:
        self.free = False

    def release(self) -> None:
        self.free = True


@pytest.mark.parametrize("on_node", [False, True])
def test_nothing_is_sent_while_a_time_is_taken_on_this_cpu(
    place: Workplace, *, on_node: bool
) -> None:
    with place.entered():
        plan = make_plan(check_suite(read_file(place.folder / "suite.yaml")), place.folder)
    trackers, listener = Trackers((), print, print), Listener()
    trackers._senders.append(cast("Sender", listener))
    jobs = plan.jobs(lambda _: True)
    trackers.planned(plan, jobs)
    assert not listener.sent
    held: dict[str, bool] = {}
    for job in jobs:
        trackers.started(job)
        if on_node:
            trackers.happened(job, {"event": "node", "host": "node-1"})
        for index, task in enumerate(job.tasks):
            trackers.happened(job, {"event": "task", "index": index})
            if job.cell.is_training:
                steps = {"of": 1, "first": 0, "loss": [1.0], "learning_rate": [0.1]}
                trackers.happened(job, {"event": "steps", **steps, "validation": []})
            trackers.recorded(job, job.record(task, "ok"))
            held[task.item.measurement] = not listener.free
        trackers.ended(job, JobEnd("finished"))
        assert listener.free
    assert held["latency"] is not on_node
    assert not held["training"]
    assert not held["quality"]
    kinds = [type(message).__name__ for message, _ in listener.sent]
    assert kinds.count("Record") == sum(len(job.tasks) for job in jobs)
    assert kinds.count("Steps") == 1


def test_where_a_server_is_known_the_token_is_not_told(place: Workplace) -> None:
    program = "from qbench.report.trackers.trackio_runs import Trackio; print(Trackio().begin())"
    url = "http://user.example:7860/?write_token=secret"
    said = place.with_environment(TRACKIO_SERVER_URL=url).output_of(program)
    assert said == "http://user.example:7860/\n"
