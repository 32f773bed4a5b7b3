"""Runs jobs of one slot in Slurm: submits each, follows what it tells, submits its rest again."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from qbench.core.process_ends import tail_of_log
from qbench.core.store import append_to_log, write_record_text
from qbench.running.executors.executor import JobEnd, RunStoppedError
from qbench.running.executors.slurm.on_node import Work

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from qbench.plan.job import Job
    from qbench.running.executors.executor import OnEvent
    from qbench.running.executors.slurm.asking import Resources
    from qbench.running.executors.slurm.folder import Entry, Event, SlurmFolder, Submitted
    from qbench.running.executors.slurm.submitting import Gone, Queue

SUBMITTED_AGAIN = 3
"""How often what is left of a job is submitted again after it was lost."""
POLL_S = 0.5
"""Between two looks at what a job tells."""
POLLS_AFTER_ITS_END = 20
"""In which what an ended job told last must be seen, also on a network's disk."""


class Earlier:
    """Jobs that an earlier run submitted, and that may run on; shared by all slots."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._entries: dict[str, tuple[Entry, Submitted, int, tuple[str, ...]]] = {}
        """By their names; with the place read up to, and the keys of what is not recorded."""
        self._lock = threading.Lock()

    def add(self, entry: Entry, submitted: Submitted, read: int) -> None:
        """Keeps one whose events were read up to a place in its file."""
        done = entry.recorded()
        tasks = enumerate(entry.tasks)
        left = tuple(task.key for index, task in tasks if index not in done)
        self._entries[entry.folder.name] = (entry, submitted, read, left)

    def take(self, job: Job) -> tuple[Entry, Submitted, int] | None:
        """The one that measures what the job is to measure, and nothing else.

        Others that measure some of it are ended: what they would tell is not what is asked for now.
        """
        wanted = tuple(task.key for task in job.tasks)
        with self._lock:
            some = {
                name: one
                for name, one in self._entries.items()
                if not set(wanted).isdisjoint(one[3])
            }
            for name in some:
                del self._entries[name]
        found = None
        for entry, submitted, read, left in some.values():
            if left == wanted and found is None:
                found = entry, submitted, read
            else:
                self._queue.cancel([submitted])
                entry.remove()
        return found

    def end(self) -> None:
        """Ends those that nobody took."""
        with self._lock:
            left = [*self._entries.values()]
            self._entries.clear()
        self._queue.cancel(submitted for _, submitted, _, _ in left)
        for entry, *_ in left:
            entry.remove()


class SlurmExecutor:
    """One place in which jobs run in Slurm, one after the other."""

    def __init__(
        self,
        folder: SlurmFolder,
        queue: Queue,
        earlier: Earlier,
        resources: Callable[[Job], Resources],
        *,
        cache: str,
        threads: int,
    ) -> None:
        """`resources` says what a job asks for; `threads` are those that the plan is made for."""
        self._folder = folder
        self._queue = queue
        self._earlier = earlier
        self._resources = resources
        self._cache = cache
        self._threads = threads
        self.stopped = False
        """Whether `stop` was called."""
        self._wake = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Each `run` ends what it submitted."""

    def device_held(self, job: Job, on_wait: Callable[[], None]) -> AbstractContextManager[None]:
        """Nothing to hold: Slurm gives each job its device, and a job waits where it runs."""
        return nullcontext()

    def stop(self) -> None:
        """Ends what is submitted, from another thread: its `run` raises `RunStoppedError`."""
        self.stopped = True
        self._wake.set()

    def run(self, job: Job, log: Path, timeout_s: float, on_event: OnEvent) -> JobEnd:
        """Runs a job to its end; what is left of one that Slurm lost is submitted again.

        Raises `RunStoppedError` after `stop`.
        """
        follower = _Follower(job, log, on_event)
        found = self._earlier.take(job)
        lost = 0
        while True:
            if self.stopped:
                raise RunStoppedError
            if found is not None:
                entry, submitted, read = found
                follower.note(f"an earlier run submitted it as job {submitted.id}")
            else:
                rest = follower.rest
                told = {
                    "job": rest.model_dump(mode="json"),
                    "timeout_s": timeout_s,
                    "threads": self._threads,
                }
                entry, read = self._folder.add(told), 0
                try:
                    submitted = self._queue.submit(
                        Work(str(entry.folder), self._cache), self._resources(job)
                    )
                except BaseException:
                    entry.remove()
                    raise
            end = self._ended(entry, submitted, read, follower)
            if isinstance(end, JobEnd):
                return end
            if not follower.left:
                return JobEnd("finished")
            printed = f"what it printed: {submitted.output}"
            follower.note(f"{end.state}; {printed}")
            follower.say(f"{tail_of_log(Path(submitted.output)) or ''}\n")
            if end.how != "lost":
                return JobEnd(end.how, f"{end.state}; {printed}")
            if lost == SUBMITTED_AGAIN:
                times = f"after it was submitted again {SUBMITTED_AGAIN} times"
                return JobEnd("crash", f"{end.state}, {times}; {printed}")
            lost, found = lost + 1, None

    def _ended(
        self, entry: Entry, submitted: Submitted, read: int, follower: _Follower
    ) -> JobEnd | Gone:
        """Follows a job until it tells its end, or Slurm does; leaves nothing of it behind."""
        polls = 0
        try:
            entry.keep_submitted(submitted)
            follower.follow(entry, read)
            follower.queued()
            while True:
                end = follower.look()
                if end is not None:
                    self._queue.forget(submitted)
                    entry.remove()
                    return end
                gone = self._queue.gone(submitted)
                polls = polls + 1 if gone else 0
                if gone and polls > (1 if self._queue.local else POLLS_AFTER_ITS_END):
                    self._queue.cancel([submitted])  # Slurm may mean to start it once more
                    entry.remove()
                    return gone
                self._wake.wait(POLL_S)
                if self.stopped:
                    raise RunStoppedError  # noqa: TRY301 - as an interrupt: the job must end
        except BaseException:
            entry.take_back()
            self._queue.cancel([submitted])
            self._queue.forget(submitted)
            entry.remove()
            raise


class _Follower:
    """Hands on what the entries of one job tell, with the records on disk before they are told."""

    def __init__(self, job: Job, log: Path, on_event: OnEvent) -> None:
        self._job = job
        self._log = log
        self._on_event = on_event
        self._places: dict[str, int] = {task.key: at for at, task in enumerate(job.tasks)}
        self.left = [*job.tasks]

    @property
    def rest(self) -> Job:
        """What is not recorded yet."""
        return self._job.model_copy(update={"tasks": tuple(self.left)})

    def follow(self, entry: Entry, read: int) -> None:
        """Follows an entry from there on."""
        self._entry, self._read = entry, read
        self._keys = [task.key for task in entry.tasks]

    def queued(self) -> None:
        """Tells that the job is submitted."""
        self._on_event({"event": "queued"})

    def look(self) -> JobEnd | None:
        """Hands on what is new; the job's end, once it has told it."""
        for event, end in self._entry.events(self._read):
            self._read = end
            if event["event"] == "ended":
                return JobEnd(event["how"], event["reason"])
            if event["event"] == "log":
                self.say(event["text"])
            elif event["event"] == "begun":
                self.note(f"on node {event['host']}")
                self._on_event({"event": "node", "host": event["host"]})
            else:
                self._hand_on(event)
        return None

    def note(self, sentence: str) -> None:
        """Adds a sentence of the driver's to the cell's log."""
        self.say(f"--- {sentence}\n")

    def say(self, text: str) -> None:
        """Adds to the cell's log."""
        append_to_log(self._log, text)

    def _hand_on(self, event: Event) -> None:
        told: dict[str, Any] = {name: value for name, value in event.items() if name != "text"}
        if "index" in event:
            told["index"] = self._places[self._keys[event["index"]]]
        if event["event"] == "record":
            task = self._job.tasks[told["index"]]
            write_record_text(Path(task.path), event["text"])
            self.left.remove(task)
        self._on_event(told)
