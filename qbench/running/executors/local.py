"""Runs jobs on this machine, one at a time, each in a process forked from a warm server."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import tempfile
import time
from contextlib import ExitStack, suppress
from typing import IO, TYPE_CHECKING, Any, Self

from qbench.core.files import scratch_folder
from qbench.core.nvml import visible_ids
from qbench.core.process_ends import memory_kills, why_ended
from qbench.core.processes import python_command, python_environment
from qbench.running.executors.device_locks import devices_held
from qbench.running.executors.executor import JobEnd, RunStoppedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager
    from pathlib import Path

    from qbench.plan.job import Job
    from qbench.running.executors.executor import OnEvent


_PATIENCE_S = 5.0
"""For the server to end what a worker left running."""


class LocalExecutor:
    """Owns the fork server; a context manager, so that nothing it started outlives it."""

    def __init__(self, device: str, jobs: Iterable[Job] = ()) -> None:
        """`jobs` are those to come, as far as they are known: what they need is imported once."""
        self._device = device
        self._measurements = dict.fromkeys(
            task.item.measurement for job in jobs for task in job.tasks
        )
        self._server: subprocess.Popen[bytes] | None = None
        self._worker_pid: int | None = None
        self._buffer = b""
        self._errors: IO[bytes] | None = None
        self._scratch = ExitStack()
        """Holds the folder for what libraries put aside; it goes with the server."""
        self.stopped = False
        """Whether `stop` was called."""

    def __enter__(self) -> Self:
        """Starts the server, which imports while the caller goes on."""
        self._start()
        return self

    def __exit__(self, *_: object) -> None:
        """Ends a running worker and the server."""
        self._stop()

    def stop(self) -> None:
        """Ends what is running, from another thread: its `run` raises `RunStoppedError`."""
        self.stopped = True
        worker_pid, server = self._worker_pid, self._server
        if worker_pid is not None:
            with suppress(ProcessLookupError):
                os.killpg(worker_pid, signal.SIGKILL)
        if server is not None:
            server.terminate()  # ends a worker that it has just started, too

    def device_held(self, job: Job, on_wait: Callable[[], None]) -> AbstractContextManager[None]:
        """A context in which no other run of this machine uses the job's devices."""
        return devices_held(self._device, job.cell.model, lambda: self.stopped, on_wait)

    def run(self, job: Job, log: Path, timeout_s: float, on_event: OnEvent) -> JobEnd:
        """Runs a job to its end, sleeping meanwhile; `on_event` gets each of its events.

        Raises `RunStoppedError` after `stop`.
        """
        if self._server is None:
            self._start()
        if self.stopped:
            raise RunStoppedError
        killed_before = memory_kills()
        log_begins = log.stat().st_size if log.exists() else 0
        request = job.model_copy(update={"device": self._device})
        self._send({"job": request.model_dump(mode="json"), "log": str(log)})
        # The clock of a job's timeout starts with its worker, not with the server's imports.
        deadline: float | None = None
        while True:
            event = self._receive(deadline)
            if self.stopped:
                raise RunStoppedError
            if event is None:
                self._stop()
                return JobEnd("timeout", f"stopped after {timeout_s:g} s, the suite's timeout_s")
            if event["event"] == "started":
                self._worker_pid = event["pid"]
                deadline = time.monotonic() + timeout_s
            elif event["event"] == "ended":
                self._worker_pid = None
                return _end(event["exit_code"], killed_before, _since(log, log_begins))
            elif event["event"] == "server_ended":
                said = self._last_words()
                self._stop()
                end = _end(event["exit_code"], killed_before, "")
                return JobEnd(end.how, f"{end.reason}; the fork server itself ended: {said}")
            else:
                on_event(event)

    def _start(self) -> None:
        self._buffer = b""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed when the server is stopped
        scratch = self._scratch.enter_context(scratch_folder("qbench-run"))
        self._server = subprocess.Popen(
            python_command(
                "qbench.running.executors.fork_server",
                str(os.getpid()),
                self._device,
                *self._measurements,
            ),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env={
                **python_environment(gpu=self._device.startswith("cuda"), visible=visible_ids()),
                "TMPDIR": str(scratch),
            },
            start_new_session=True,  # Ctrl-C reaches the parent alone, which then ends the worker
        )

    def _stop(self) -> None:
        if self._worker_pid is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._worker_pid, signal.SIGKILL)
            self._worker_pid = None
        if self._server is not None:
            self._server.terminate()
            try:
                self._server.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:
                self._server.kill()
                self._server.wait()
            for pipe in (self._server.stdin, self._server.stdout):
                if pipe is not None:
                    with suppress(OSError):
                        pipe.close()
            self._server = None
        if self._errors is not None:
            self._errors.close()
            self._errors = None
        self._scratch.close()

    def _last_words(self) -> str:
        """The last line that the server, not a worker, printed."""
        if self._errors is None:
            return "it said nothing"
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def _send(self, request: dict[str, Any]) -> None:
        if self._server is None or self._server.stdin is None:
            raise RuntimeError("the fork server is not running")
        with suppress(BrokenPipeError):  # its end is reported by the next read
            self._server.stdin.write(json.dumps(request).encode() + b"\n")
            self._server.stdin.flush()

    def _receive(self, deadline: float | None) -> dict[str, Any] | None:
        """The next event; None when the deadline has passed."""
        if self._server is None or self._server.stdout is None:
            raise RuntimeError("the fork server is not running")
        descriptor = self._server.stdout.fileno()
        while b"\n" not in self._buffer:
            wait_s = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not select.select([descriptor], [], [], wait_s)[0]:
                return None
            received = os.read(descriptor, 65536)
            if not received:
                return {"event": "server_ended", "exit_code": self._server.wait()}
            self._buffer += received
        line, self._buffer = self._buffer.split(b"\n", 1)
        event: dict[str, Any] = json.loads(line)
        return event


def _since(log: Path, begins: int) -> str:
    """What was written to a log from there on."""
    try:
        return log.read_bytes()[begins:].decode(errors="replace")
    except OSError:
        return ""


def _end(exit_code: int, killed_before: int | None, log: str) -> JobEnd:
    if exit_code == 0:
        return JobEnd("finished")
    return JobEnd(*why_ended(exit_code, killed_before, log))
