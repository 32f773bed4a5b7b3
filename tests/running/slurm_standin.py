"""A Slurm of one machine, as far as its commands go: sbatch, squeue, sacct, scancel (and srun).

`install` writes the commands; each calls this file. A job is the script that sbatch was given, run
by bash with Slurm's variables; arrays are several, at most as many at once as there are slots. The
state of each job is a file. Another process can end one as Slurm would: `end_job`, `requeue_job`.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

COMMANDS = ("sbatch", "squeue", "sacct", "scancel", "srun")
PARTITIONS = ("cpu", "gpu")
FOLDER = "SLURM_STANDIN"
SLOTS = 2
WAITS = ("PENDING", "RUNNING")


def install(folder: Path) -> dict[str, str]:
    """Writes the commands below the folder; returns the variables that make them found."""
    commands = folder / "slurm-bin"
    commands.mkdir()
    for name in COMMANDS:
        script = f'#!/bin/sh\nexec {sys.executable} {Path(__file__)} {name} "$@"\n'
        (commands / name).write_text(script, encoding="utf-8")
        (commands / name).chmod(0o755)
    jobs = folder / "slurm-jobs"
    jobs.mkdir()
    return {"PATH": f"{commands}{os.pathsep}{os.environ['PATH']}", FOLDER: str(jobs)}


def jobs_of(folder: Path) -> dict[str, dict[str, Any]]:
    """All jobs there ever were, by id."""
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted((folder / "slurm-jobs").glob("*.json"))
    }


def scripts_of(folder: Path) -> list[str]:
    """The texts of what sbatch was given, in order."""
    paths = sorted((folder / "slurm-jobs").glob("*.sh"), key=lambda path: int(path.stem))
    return [path.read_text(encoding="utf-8") for path in paths]


def end_job(folder: Path, job: str, state: str) -> None:
    """Ends a job at once, for that reason."""
    _end(folder / "slurm-jobs", job, state)


def requeue_job(folder: Path, job: str) -> None:
    """Ends a job and starts it once more, as after a preemption."""
    (folder / "slurm-jobs" / f"{job}.requeue").touch()
    _kill(_read(folder / "slurm-jobs", job))


def _read(jobs: Path, job: str) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((jobs / f"{job}.json").read_text(encoding="utf-8"))
    return told


def _write(jobs: Path, job: str, **told: Any) -> None:
    path = jobs / f"{job}.json"
    waiting = path.with_suffix(f".{os.getpid()}.part")
    waiting.write_text(json.dumps(told), encoding="utf-8")
    waiting.rename(path)


def _end(jobs: Path, job: str, state: str) -> None:
    told = _read(jobs, job)
    if told["state"] in WAITS:
        _write(jobs, job, state=state, pid=None)
        _kill(told)


def _kill(told: dict[str, Any]) -> None:
    if told["pid"] is not None:
        with suppress(ProcessLookupError):
            os.killpg(told["pid"], signal.SIGKILL)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


def sbatch(jobs: Path, path: str) -> None:
    text = Path(path).read_text(encoding="utf-8")
    options = dict(
        shlex.split(line[len("#SBATCH --") :])[0].partition("=")[::2]
        for line in text.splitlines()
        if line.startswith("#SBATCH --")
    )
    if options.get("partition", "cpu") not in PARTITIONS:
        sys.exit("sbatch: error: invalid partition specified: " + options["partition"])
    with (jobs / "next").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        number = int(file.read() or 100)
        file.truncate(0)
        file.write(str(number + 100))
    (jobs / f"{number}.sh").write_text(text, encoding="utf-8")
    array = re.match(r"0-(\d+)%\d+", options.get("array", ""))
    tasks = [str(one) for one in range(int(array[1]) + 1)] if array else [""]
    for task in tasks:
        job = f"{number}_{task}" if task else str(number)
        _write(jobs, job, state="PENDING", pid=None)
        subprocess.Popen(
            [sys.executable, __file__, "task", str(number), task, json.dumps(options)],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    _say(f"Submitted batch job {number}")


def task(jobs: Path, number: str, index: str, told: str) -> None:
    """Waits for a slot and runs one job in it, again when it is put into the queue again."""
    options, job = json.loads(told), f"{number}_{index}" if index else number
    variables = {
        "SLURM_JOB_ID": str(int(number) + int(index or 0)),
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
        "SLURM_NODEID": "0",
        "SLURM_JOB_NODELIST": "here",
    }
    if index:
        variables |= {"SLURM_ARRAY_JOB_ID": number, "SLURM_ARRAY_TASK_ID": index}

    if "gres" in options:  # the node has such GPUs
        _, kind, count = options["gres"].split(":")
        variables["GPU_STANDIN"] = ",".join([kind.partition("-")[0]] * int(count))

    def place(name: str) -> str:
        return name.replace("%A", number).replace("%a", index).replace("%j", number)

    while True:
        with _slot(jobs):
            if _read(jobs, job)["state"] not in WAITS:
                return
            with (
                Path(place(options["output"])).open("ab") as output,
                Path(place(options["error"])).open("ab") as errors,
            ):
                process = subprocess.Popen(
                    ["bash", str(jobs / f"{number}.sh")],
                    env={**os.environ, **variables},
                    stdout=output,
                    stderr=errors,
                    start_new_session=True,
                )
            _write(jobs, job, state="RUNNING", pid=process.pid)
            code = process.wait()
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        again = jobs / f"{job}.requeue"
        if not again.exists():
            if _read(jobs, job)["state"] in WAITS:
                _write(jobs, job, state="FAILED" if code else "COMPLETED", pid=None)
            return
        again.unlink()
        _write(jobs, job, state="PENDING", pid=None)


class _slot:  # noqa: N801 - used as a function
    def __init__(self, jobs: Path) -> None:
        self._files = [(jobs / f"slot-{number}").open("w") for number in range(SLOTS)]

    def __enter__(self) -> None:
        while True:
            for file in self._files:
                with suppress(BlockingIOError):
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return
            time.sleep(0.1)

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.close()


def squeue(jobs: Path, *_: str) -> None:
    for job, told in jobs_of(jobs.parent).items():
        if told["state"] in WAITS:
            _say(job)


def sacct(jobs: Path, *arguments: str) -> None:
    asked = arguments[arguments.index("--jobs") + 1].split(",")
    _say("JobID|State|NodeList")
    for job, told in jobs_of(jobs.parent).items():
        if job.partition("_")[0] in asked:
            _say(f"{job}|{told['state']}|here")
            _say(f"{job}.batch|{told['state']}|here")


def scancel(jobs: Path, *arguments: str) -> None:
    for job in arguments:
        with suppress(FileNotFoundError):
            _end(jobs, job, "CANCELLED by 0")


def srun(jobs: Path, *_: str) -> None:
    sys.exit("srun: error: nobody is to call this")


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(os.environ[FOLDER]), *sys.argv[2:])
