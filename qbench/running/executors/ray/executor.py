"""Runs jobs on nodes of a Ray cluster, one at a time in each slot."""

from __future__ import annotations

import time
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from qbench.core.errors import NotKeptError, StoreError
from qbench.core.store import append_to_log, write_record_text
from qbench.running.executors.executor import JobEnd, RunStoppedError
from qbench.running.executors.travel import Arrival, Made, Piece

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from qbench.plan.job import Job
    from qbench.running.executors.executor import OnEvent
    from qbench.running.executors.ray.nodes import NodesOfKind

MOST_LOSSES = 3
"""Nodes that may be lost with a job, with no record in between, before the job is the cause."""
_WAIT_S = 1.0
_LOOK_AGAIN_S = 10.0
"""How long a job is queued before the cluster is looked at for nodes that are new."""


class RayExecutor:
    """Submits jobs to the nodes of one kind; a context manager that leaves nothing running."""

    def __init__(self, nodes: NodesOfKind) -> None:
        self._nodes = nodes
        self._number: int | None = None
        self.stopped = False
        """Whether `stop` was called."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Ends what is running."""
        self._cancel()

    def stop(self) -> None:
        """Ends what is running, from another thread: its `run` raises `RunStoppedError`."""
        self.stopped = True

    def device_held(self, job: Job, on_wait: Callable[[], None]) -> AbstractContextManager[None]:
        """Nothing: the node holds the device for the job."""
        return nullcontext()

    def run(self, job: Job, log: Path, timeout_s: float, on_event: OnEvent) -> JobEnd:
        """Runs a job to its end; what a lost node leaves of it goes to another one.

        Raises `RunStoppedError` after `stop`, `StoreError` where what comes cannot be written.
        """
        done, losses = 0, 0
        while True:
            rest = job.model_copy(update={"tasks": job.tasks[done:]})
            following = _Following(rest, done, log, on_event)
            last = self._followed(rest, timeout_s, following)
            done += following.recorded
            if last["event"] == "ended":
                return JobEnd(last["how"], last["reason"])
            if done == len(job.tasks):
                return JobEnd("finished")
            losses = 1 if following.recorded else losses + 1
            where = following.host or "before it began"
            if not last["again"]:
                return JobEnd(last["how"], f"{where}: {last['reason']}")
            if losses > MOST_LOSSES:
                return JobEnd(
                    "crash",
                    f"{losses} nodes were lost with it, one after the other, the last one {where}:"
                    f" {last['reason']}",
                )
            append_to_log(
                log, f"--- lost: {where}: {last['reason']}; the rest goes to another node\n"
            )

    def _followed(self, job: Job, timeout_s: float, following: _Following) -> dict[str, Any]:
        """Submits a job and follows it to its last event."""
        with following:
            while True:
                self._check()
                nodes = self._nodes.now()
                self._number = self._nodes.start(job, timeout_s)
                following.queued()
                submitted = time.monotonic()
                while True:
                    self._check()
                    event = self._nodes.jobs.next(self._number, _WAIT_S)
                    if event is not None:
                        if event["event"] in {"ended", "lost"}:
                            self._number = None
                            return event
                        following(event)
                    elif not following.host and time.monotonic() - submitted > _LOOK_AGAIN_S:
                        submitted = time.monotonic()
                        self._nodes.look_again()
                        if self._nodes.now() != nodes:  # which the queued task does not know of
                            break
                self._cancel()

    def _check(self) -> None:
        if self.stopped:
            self._cancel()
            raise RunStoppedError

    def _cancel(self) -> None:
        number, self._number = self._number, None
        if number is not None:
            self._nodes.jobs.cancel(number)


class _Following:
    """Writes what a job tells to this machine's disks, and passes the rest on."""

    def __init__(self, job: Job, offset: int, log: Path, on_event: OnEvent) -> None:
        """`offset` is how many tasks of the whole job stand before this one's."""
        self._job = job
        self._offset = offset
        self._log = log
        self._on_event = on_event
        self._arrivals: dict[Made, Arrival] = {}
        self._stack = ExitStack()
        self.host = ""
        """Of the node that the job runs on; empty before it does."""
        self.recorded = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """What did not arrive whole is removed."""
        self._stack.close()

    def queued(self) -> None:
        """Tells that the job waits for a node."""
        self._on_event({"event": "queued"})

    def __call__(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "node":
            self.host = event["host"]
            append_to_log(self._log, f"--- on node {self.host}\n")
            self._on_event(event)
        elif kind == "log":
            append_to_log(self._log, event["text"])
        elif kind in {"made", "made_all"}:
            self._arrived(event)
        else:
            if kind == "record":
                path = Path(self._job.tasks[event["index"]].path)
                write_record_text(path, event.pop("text"))
                self.recorded += 1
            if "index" in event:
                event["index"] += self._offset
            self._on_event(event)

    def _arrived(self, event: dict[str, Any]) -> None:
        made = Made(event["what"], event["key"])
        try:
            if made not in self._arrivals:
                self._arrivals[made] = self._stack.enter_context(Arrival(made))
            if event["event"] == "made":
                self._arrivals[made].add(Piece(event["file"], event["data"]))
            else:
                damage = self._arrivals.pop(made).finish()
                if damage is not None:
                    raise StoreError(
                        f"{made.folder}: did not arrive whole from {self.host}: {damage}; run again"
                    )
        except NotKeptError as error:
            raise StoreError(str(error)) from error
