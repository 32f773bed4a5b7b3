"""Runs in Slurm: through submitit's local executor, and with a Slurm of this machine alone."""

from __future__ import annotations

import json
import os
import platform
import signal
import time
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from tests.running.slurm_standin import (
    end_job,
    install,
    jobs_of,
    requeue_job,
    scripts_of,
)
from tests.waiting import WAITS, is_waiting, let_go

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    from qbench.core.record import Record
    from tests.workplace import Workplace

SUITE = """\
models: [{model}]
precisions: [{precisions}]
measure:
  footprint:
  quality: {{text: text.txt, window: 32}}
"""
SAME = {"key", "identity", "status", "metrics", "item", "cell"}


def write_suite(place: Workplace, *precisions: str, more: str = "") -> None:
    text = SUITE.format(model=place.model, precisions=", ".join(precisions))
    place.write("suite.yaml", text + more)


def told(records: dict[str, Record]) -> dict[str, Any]:
    """What two runs must have in common: keys, and every figure that is no time."""
    found = {name: record.model_dump(include=SAME) for name, record in records.items()}
    for one in found.values():
        one["metrics"] = [metric for metric in one["metrics"] if metric["unit"] != "s"]
    return found


@pytest.fixture
def cluster(workplace: Workplace) -> Workplace:
    """The same place, on a machine with Slurm's commands."""
    return workplace.with_plugins("unruly").with_environment(**install(workplace.folder))


def test_a_job_runs_in_submitits_local_executor(workplace: Workplace) -> None:
    workplace.write("suite.yaml", f"models: [{workplace.model}]\nmeasure: [footprint]\n")
    done = workplace.call("run", "suite.yaml", "--on", "slurm:local", "--only", "fp32")
    assert done.code == 0, done.errors
    (record,) = workplace.records().values()
    assert (record.status, record.item.measurement) == ("ok", "footprint")
    (log,) = workplace.logs().values()
    assert f"--- on node {platform.node()}\n" in log
    assert "Traceback" not in done.errors
    assert workplace.survivors() == []


@pytest.mark.slow
def test_records_are_those_of_a_local_run(workplace: Workplace) -> None:
    write_suite(workplace, "fp32", "nf4")
    assert workplace.call("run", "suite.yaml").code == 0
    local = workplace.records()
    done = workplace.call("run", "suite.yaml", "--on", "slurm:local", "--results", "other")
    assert done.code == 0, done.errors
    (workplace.folder / "results").rename(workplace.folder / "first")
    (workplace.folder / "other").rename(workplace.folder / "results")
    assert told(workplace.records()) == told(local)
    assert len(local) == 4
    assert workplace.survivors() == []
    assert all("fp32" in name or "nf4" in name for name in workplace.logs())
    again = workplace.call("run", "suite.yaml", "--on", "slurm:local")
    assert (again.code, "0 taken now" in again.output) == (0, True)


@pytest.mark.slow
def test_slurm_gets_arrays_and_what_needs_others_later(cluster: Workplace) -> None:
    section = "cluster: {slurm: {partition: cpu, time: 4:00:00, account: us, memory: 2G}}\n"
    write_suite(cluster, "fp32", "nf4", "int8", more=section)
    done = cluster.call("run", "suite.yaml", "--on", "slurm")
    assert done.code == 0, done.errors
    assert {record.status for record in cluster.records().values()} == {"ok"}
    look, *waves = scripts_of(cluster.folder)
    assert "#SBATCH --job-name=qbench-look" in look
    assert "#SBATCH --time=20" in look
    # The reference first, whose states the others need; these together.
    assert ["#SBATCH --array=0-1%2\n" in wave for wave in waves] == [False, True]
    for wave in waves:
        for line in ("partition=cpu", "time=240", "account=us", "mem=2048M", "exclusive"):
            assert f"#SBATCH --{line}\n" in wave
        assert "srun" not in wave
    states = {told["state"] for told in jobs_of(cluster.folder).values()}
    assert states == {"COMPLETED"}
    assert cluster.survivors() == []
    left = [*(cluster.folder / "cache" / "slurm").rglob("*")]
    assert [path.name for path in left if path.is_file()] == ["driver.lock"]


def started(place: Workplace) -> subprocess.Popen[str]:
    return place.start("run", "suite.yaml", "--on", "slurm")


def wait_for(found: Callable[[], Any], process: subprocess.Popen[str] | None = None) -> Any:
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline:
        value = found()
        if value:
            return value
        if process is not None and process.poll() is not None:
            pytest.fail(f"ended: {process.communicate()}")
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def measuring(place: Workplace) -> str | None:
    """The id of a job that is in the midst of a measurement, which lasts until it is let go."""
    if not is_waiting(place.folder):
        return None
    for path in (place.folder / "cache" / "slurm").glob("*/job-*/events"):
        if (path.parent / "look").exists():
            continue
        if '"task"' in path.read_text(encoding="utf-8"):
            try:
                submitted = json.loads((path.parent / "submitted.json").read_bytes())
            except OSError:
                continue
            return str(submitted[0])
    return None


@pytest.mark.slow
@pytest.mark.parametrize("how", ["NODE_FAIL", "requeue"])
def test_a_lost_job_is_run_again(cluster: Workplace, how: str) -> None:
    write_suite(cluster, "fp32", more=WAITS)
    with started(cluster) as process:
        job = wait_for(lambda: measuring(cluster), process)
        if how == "requeue":
            requeue_job(cluster.folder, job)
        else:
            end_job(cluster.folder, job, how)
        let_go(cluster.folder)
        output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, output + errors
    assert [record.status for record in cluster.records().values()] == ["ok"] * 3
    jobs = [one for one in jobs_of(cluster.folder) if one != "100"]
    assert len(jobs) == (1 if how == "requeue" else 2)
    assert ("NODE_FAIL" in cluster.logs()[next(iter(cluster.logs()))]) == (how == "NODE_FAIL")
    assert cluster.survivors() == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("state", "status"),
    [("OUT_OF_MEMORY", "oom"), ("TIMEOUT", "timeout"), ("CANCELLED by 7", "crash")],
)
def test_what_slurm_ends_is_told_as_that(cluster: Workplace, state: str, status: str) -> None:
    write_suite(cluster, "fp32", more=WAITS)
    with started(cluster) as process:
        job = wait_for(lambda: measuring(cluster), process)
        end_job(cluster.folder, job, state)
        process.communicate(timeout=240)
    assert process.returncode == 1
    failed = [one for one in cluster.records().values() if one.status != "ok"]
    assert {one.status for one in failed} == {status}
    assert f"Slurm ended job {job} ({state})" in (failed[0].reason or "")


@pytest.mark.slow
def test_a_job_near_its_time_limit_is_told_as_that(workplace: Workplace) -> None:
    workplace = workplace.with_plugins("unruly")
    write_suite(workplace, "fp32", more=WAITS)
    limit = ("--on", "slurm:local", "--time", "5")
    with workplace.start("run", "suite.yaml", *limit) as process:
        controller = psutil.Process(int(wait_for(lambda: measuring(workplace), process)))
        (job,) = controller.children()
        job.send_signal(signal.SIGUSR2)  # as Slurm does before it ends a job
        process.communicate(timeout=240)
    assert process.returncode == 1
    statuses = {record.status for record in workplace.records().values()}
    assert "timeout" in statuses
    assert statuses <= {"ok", "timeout"}
    assert workplace.survivors() == []


@pytest.mark.slow
@pytest.mark.parametrize("on", ["slurm", "slurm:local"])
def test_an_interrupt_leaves_no_job(cluster: Workplace, on: str) -> None:
    write_suite(cluster, "fp32", more=WAITS)
    with cluster.start("run", "suite.yaml", "--on", on) as process:
        wait_for(lambda: measuring(cluster), process)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert not any(told["state"] == "RUNNING" for told in jobs_of(cluster.folder).values())
    assert cluster.survivors() == []
    kept = sorted(one.name for one in (cluster.folder / "cache").glob("slurm/*/*"))
    assert kept == ["driver.lock", "submitit"]
    assert [*(cluster.folder / "cache").glob("slurm/*/submitit/*")] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "more", ["", "trust_code: true\ncluster: {slurm: {setup: [export LINE=1]}}\n"]
)
def test_an_interrupt_ends_a_look(workplace: Workplace, more: str) -> None:
    write_suite(workplace, "fp32", more=more)
    with workplace.start("run", "suite.yaml", "--on", "slurm:local") as process:
        wait_for(lambda: [*(workplace.folder / "cache").glob("slurm/*/job-*/begun")], process)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert workplace.survivors() == []
    assert [*(workplace.folder / "cache").glob("slurm/*/job-*")] == []


@pytest.mark.slow
def test_what_a_job_measures_after_its_driver_was_killed_is_kept(cluster: Workplace) -> None:
    write_suite(cluster, "fp32", "nf4", more=WAITS)
    with started(cluster) as process:
        job = wait_for(lambda: measuring(cluster), process)
        process.kill()
    assert not any("/unruly" in name for name in cluster.records())
    let_go(cluster.folder)
    wait_for(lambda: jobs_of(cluster.folder)[job]["state"] == "COMPLETED")
    done = cluster.call("run", "suite.yaml", "--on", "slurm")
    assert done.code == 0, done.errors
    assert "3 taken now" in done.output  # of nf4; those of fp32 were there
    assert len(cluster.records()) == 6


@pytest.mark.slow
def test_a_rerun_follows_a_job_that_still_runs(cluster: Workplace) -> None:
    write_suite(cluster, "fp32", more=WAITS)
    with started(cluster) as process:
        job = wait_for(lambda: measuring(cluster), process)
        process.kill()
    with started(cluster) as process:
        wait_for(lambda: f"job {job}" in "".join(cluster.logs().values()), process)
        let_go(cluster.folder)
        output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, output + errors
    assert len(cluster.records()) == 3
    # Two looks, and the one job that measured.
    assert sorted(jobs_of(cluster.folder)) == sorted(["100", "300", job])


def test_wrong_options_are_told(workplace: Workplace) -> None:
    write_suite(workplace, "fp32")
    for arguments, words in (
        (["--on", "slurm"], "found no sbatch on this machine"),
        (["--on", "slurm:far"], "expected slurm, or slurm:local"),
        (["--partition", "gpu"], "--partition without --on slurm"),
        (["--on", "slurm:local", "--time", "soon"], "as sbatch reads it"),
        (["--on", "slurm:local", "--gpus", "0,1"], "such as h100 or h100:4"),
        (["--on", "slurm:local", "--gpus", "all"], "name types of GPU, such as --gpus h100"),
        (["--on", "slurm:local", "--gpus", "h100,h100:2"], "h100 twice"),
        (["--on", "slurm:local", "--gpus", "h100", "--device", "cpu"], "expected one of them"),
        (["--on", "slurm:local", "--device", "cuda:1"], "expected cpu or cuda"),
        (["--on", "slurm:local", "--set", "cluster.slurm.setup=echo"], "trust_code: true"),
    ):
        done = workplace.call_here("run", "suite.yaml", *arguments)
        assert done.code == 2, (arguments, done)
        assert words in " ".join(done.errors.split()), (arguments, done.errors)


def test_what_needs_no_node_is_told_before_one_is_asked_for(cluster: Workplace) -> None:
    write_suite(cluster, "fp32")
    for arguments, words in (
        (["--only", "nosuch"], "qbench: --only 'nosuch': matches no cell"),
        (["--results", "suite.yaml"], "the results folder cannot be written"),
    ):
        done = cluster.call_here("run", "suite.yaml", "--on", "slurm", *arguments)
        assert done.code == 2, (arguments, done)
        assert words in " ".join(done.errors.split()), (arguments, done.errors)
    assert jobs_of(cluster.folder) == {}


def test_what_sbatch_refuses_is_told(cluster: Workplace) -> None:
    write_suite(cluster, "fp32")
    done = cluster.call_here("run", "suite.yaml", "--on", "slurm", "--partition", "huge")
    assert done.code == 2
    assert "invalid partition specified: huge" in done.errors
    assert "--partition" in done.errors


@pytest.mark.slow
def test_a_node_that_does_not_see_the_cache_is_told(cluster: Workplace) -> None:
    write_suite(cluster, "fp32", more="trust_code: true\ncluster: {slurm: {setup: exit 3}}\n")
    done = cluster.call("run", "suite.yaml", "--on", "slurm")
    assert done.code == 2
    assert "QBENCH_CACHE" in done.errors
    assert "FAILED" in done.errors
    assert cluster.survivors() == []


@pytest.mark.slow
def test_two_runs_at_once_are_refused(cluster: Workplace) -> None:
    write_suite(cluster, "fp32")
    with started(cluster) as process:
        wait_for(lambda: [*(cluster.folder / "cache").glob("slurm/*/driver.lock")], process)
        wait_for(lambda: jobs_of(cluster.folder), process)
        second = cluster.call("run", "suite.yaml", "--on", "slurm")
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert second.code == 2
    assert "another run has jobs of this suite in Slurm" in second.errors
