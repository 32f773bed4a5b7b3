"""Jobs as Ray's tasks: each streams its events to whoever asks for them.

Ray's client cannot read such streams. There an actor on the cluster's head reads them for it.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Protocol

from qbench.running.executors.ray import node

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.plan.job import Job
    from qbench.running.executors.ray.node import Sent

_AT_ONCE = 1000
"""Calls that the actor on the head serves at once."""


class Jobs(Protocol):
    """Starts jobs and tells their events."""

    def start(
        self,
        job: Job,
        timeout_s: float,
        cache: str | None,
        sent: Sequence[Sent],
        options: dict[str, Any],
    ) -> int:
        """Submits a job with Ray's options of a task; returns its number."""

    def next(self, number: int, wait_s: float) -> dict[str, Any] | None:
        """The next event of a job, waited for that long; None where there is none yet.

        Beside those of `qbench.running.executors.ray.node.run`, one that is the end of a job of
        which nothing more comes:

            {"event": "lost", "how": "crash", "reason": "…", "again": True}

        `again` says that another node may fare better.
        """

    def cancel(self, number: int) -> None:
        """Ends a job with all its processes."""

    def ask_for(self, bundles: list[dict[str, float]]) -> None:
        """Asks the cluster's autoscaler for nodes with all these resources; [] takes it back."""


class OwnJobs:
    """Jobs of this process, which has joined the cluster."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._streams: dict[int, Any] = {}

    def start(
        self,
        job: Job,
        timeout_s: float,
        cache: str | None,
        sent: Sequence[Sent],
        options: dict[str, Any],
    ) -> int:
        """Submits a job with Ray's options of a task; returns its number."""
        task = remote(node.run, num_returns="streaming", **options)
        number = next(self._numbers)
        self._streams[number] = task.remote(job, timeout_s, cache, sent)
        return number

    def next(self, number: int, wait_s: float) -> dict[str, Any] | None:
        """The next event of a job; see `Jobs`."""
        import ray

        stream = self._streams[number]
        try:
            ready, _ = ray.wait([stream], timeout=wait_s)
            if not ready:
                return None
            event: dict[str, Any] = ray.get(next(stream))
        except StopIteration:
            event = _lost("crash", "its task on the node ended before it told how", again=False)
        except ray.exceptions.OutOfMemoryError as error:
            event = _lost("oom", _first_line(error), again=False)
        except ray.exceptions.RayTaskError as error:
            event = _lost("crash", last_line(error), again=False)
        except ray.exceptions.RayError as error:
            event = _lost("crash", _first_line(error), again=True)
        if event["event"] in {"ended", "lost"}:
            del self._streams[number]
        return event

    def cancel(self, number: int) -> None:
        """Ends a job with all its processes."""
        import ray

        stream = self._streams.pop(number, None)
        if stream is not None:
            ray.cancel(stream, force=True)

    def ask_for(self, bundles: list[dict[str, float]]) -> None:
        """Asks the cluster's autoscaler for nodes."""
        from ray.autoscaler.sdk import request_resources

        request_resources(bundles=bundles)


class JobsOnHead:
    """Jobs of an actor on the cluster's head, for a process that is Ray's client."""

    def __init__(self) -> None:
        """The actor ends with this client's connection."""
        import ray

        actor = ray.remote(OwnJobs).options(
            num_cpus=0,
            resources={"node:__internal_head__": 0.001},
            max_concurrency=_AT_ONCE,
        )
        self._actor: Any = actor.remote()

    def start(
        self,
        job: Job,
        timeout_s: float,
        cache: str | None,
        sent: Sequence[Sent],
        options: dict[str, Any],
    ) -> int:
        """Submits a job with Ray's options of a task; returns its number."""
        return self._called("start", job, timeout_s, cache, sent, options)  # type: ignore[no-any-return]

    def next(self, number: int, wait_s: float) -> dict[str, Any] | None:
        """The next event of a job; see `Jobs`."""
        return self._called("next", number, wait_s)  # type: ignore[no-any-return]

    def cancel(self, number: int) -> None:
        """Ends a job with all its processes."""
        self._called("cancel", number)

    def ask_for(self, bundles: list[dict[str, float]]) -> None:
        """Asks the cluster's autoscaler for nodes."""
        self._called("ask_for", bundles)

    def _called(self, method: str, *arguments: Any) -> Any:
        import ray

        return ray.get(getattr(self._actor, method).remote(*arguments))


def remote(function: Any, **options: Any) -> Any:
    """A function as Ray's task, in a worker of its own, that is never run again by Ray itself."""
    import ray

    return ray.remote(**{"max_calls": 1, "max_retries": 0, **options})(function)


def on_node(node: str) -> dict[str, Any]:
    """The options of a task that only looks at a node, whatever runs there."""
    return {"num_cpus": 0, "label_selector": {"ray.io/node-id": node}}


def _lost(how: str, reason: str, *, again: bool) -> dict[str, Any]:
    return {"event": "lost", "how": how, "reason": reason, "again": again}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def last_line(error: Exception) -> str:
    """Of an error with its traceback, what was raised."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
