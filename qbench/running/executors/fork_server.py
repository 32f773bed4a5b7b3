"""The fork server: imports once, then forks one worker a job.

`python -m qbench.running.executors.fork_server PARENT_PID DEVICE [MEASUREMENT …]`, with the
measurements that are to be taken, reads one request a line from its standard input,
`{"job": …, "log": path}`, and writes one event a line to its standard output: the worker's own (see
`qbench.running.worker`) between `{"event": "started", "pid": …}` and
`{"event": "ended", "exit_code": …}` (negative: the signal that ended it).
"""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import shutil
import signal
import sys
import tempfile
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

from qbench.core.orphans import adopt_orphans, die_with_parent, end_children
from qbench.running.executors.preload import preload

if TYPE_CHECKING:
    from types import FrameType


def main() -> None:
    """Serves until the standard input is closed."""
    die_with_parent(int(sys.argv[1]), signal.SIGTERM)
    # Libraries may print; only this module writes events.
    events = os.dup(1)
    os.dup2(2, 1)
    gc.disable()  # what is imported stays: looking through it is a fifth of the time
    preload(sys.argv[2], sys.argv[3:])
    # Leaving it out of later collections saves each worker 0.3 s a phase.
    gc.collect()
    gc.freeze()
    gc.enable()
    adopt_orphans()
    signal.signal(signal.SIGTERM, _end)
    for line in sys.stdin:
        _serve(json.loads(line), events)


def _end(number: int, _: FrameType | None) -> NoReturn:
    """Ends the running worker, all that it started, and the server."""
    end_children()
    os._exit(128 + number)


def _serve(request: dict[str, Any], events: int) -> None:
    """Forks a worker for the request and waits for its end, and ends what it left running.

    What libraries put aside for the time being lies in a folder of the worker's own, which goes
    with it.
    """
    server = os.getpid()
    scratch = tempfile.mkdtemp()
    pid = os.fork()
    if pid == 0:
        _become_worker(request, events, server, scratch)
    _send(events, {"event": "started", "pid": pid})
    _, status = os.waitpid(pid, 0)
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    end_children()
    shutil.rmtree(scratch, ignore_errors=True)
    _send(events, {"event": "ended", "exit_code": os.waitstatus_to_exitcode(status)})


def _become_worker(request: dict[str, Any], events: int, server: int, scratch: str) -> None:
    """Runs the job in the forked child, its output in the cell's log, and never returns."""
    code = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.setsid()
        os.environ["TMPDIR"] = tempfile.tempdir = scratch
        die_with_parent(server)
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        nothing = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nothing, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        faulthandler.enable()

        from qbench.plan.job import Job
        from qbench.running.worker import run_job

        run_job(Job.model_validate(request["job"]), lambda event: _send(events, event))
        code = 0
    except BaseException:  # noqa: BLE001 - a forked child must not run its parent's code
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _send(events: int, event: dict[str, Any]) -> None:
    os.write(events, json.dumps(event).encode() + b"\n")


if __name__ == "__main__":
    main()
