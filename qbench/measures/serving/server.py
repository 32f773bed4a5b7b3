"""A server that is open: where it is, what it is, whether it still runs, and what it holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qbench.core.errors import ProcessFailedError, names_no_memory
from qbench.core.keeper import NOT_RUN
from qbench.core.process_ends import tail_of_log, why_ended

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from qbench.measures.serving.watching import MemoryWatch, ServerMemory

_SIGNALLED = 128
"""Exit codes above it are signals, as shells have them."""


@dataclass(frozen=True)
class Server:
    """An OpenAI-compatible server that has answered that it is healthy."""

    url: str
    """Without the path: `http://127.0.0.1:PORT`."""
    model: str
    """What requests are to name."""
    version: str | None
    """Of the engine, in its own words; None where it does not tell."""
    flags: tuple[str, ...]
    """The command line that started it; empty for an address."""
    pid: int | None
    """Of the process that keeps it; None for an address."""
    log: Path | None
    """Where its output goes; None for an address."""
    start_s: float | None = None
    """From its start until it was healthy; None for an address."""
    details: dict[str, Any] = field(default_factory=dict)
    """What else is known of it, for the record: what was loaded, what is not known."""
    process: subprocess.Popen[bytes] | None = None
    watch: MemoryWatch | None = None
    kills_before: int | None = None
    """Processes that the system had killed for memory when it was started."""
    headers: dict[str, str] = field(default_factory=dict, repr=False)
    """Of each request: the key that an address asks for."""

    def alive(self) -> bool:
        """Whether its process still runs; true for an address, of which no process is known."""
        return self.process is None or self.process.poll() is None

    def check(self) -> None:
        """Raises `ProcessFailedError` when its process has ended."""
        if not self.alive():
            raise self.fault("")

    def fault(self, words: str, *, hangs: bool = False) -> ProcessFailedError:
        """What is to be raised for something that it did wrong under load, with its log's tail.

        The reason is its end, where its process has ended meanwhile; `hangs` says that no answer
        came in time.
        """
        tail = self.log_tail()
        if self.process is not None and (code := self.process.poll()) is not None:
            when = f"under load ({words})" if words else "under load"
            return ended_error(when, code, self.kills_before, tail)
        return ProcessFailedError("timeout" if hangs else "error", words, log_tail=tail)

    def log_tail(self) -> str | None:
        """The last lines of its log; None if there are none."""
        return None if self.log is None else tail_of_log(self.log)

    def memory(self) -> ServerMemory | None:
        """The highest memory of its processes so far; None for an address."""
        return None if self.watch is None else self.watch.read()


def ended_error(
    when: str, code: int, kills_before: int | None, tail: str | None
) -> ProcessFailedError:
    """The end of a server that should not have ended, by its keeper's exit code."""
    if code > _SIGNALLED:
        code = _SIGNALLED - code
    who = f"the server, {when},"
    if code == NOT_RUN:
        return ProcessFailedError("error", f"{who} could not be run; see its log", log_tail=tail)
    if code == 0:
        reason = f"{who} ended with exit code 0; its log may say why"
        return ProcessFailedError("crash", reason, log_tail=tail)
    lines = (tail or "").splitlines()
    lacking = next((line.strip() for line in reversed(lines) if names_no_memory(line)), None)
    if lacking is not None:
        return ProcessFailedError("oom", f"{who} ended; its log says: {lacking}", log_tail=tail)
    status, reason = why_ended(code, kills_before, tail or "", who)
    return ProcessFailedError(status, reason, log_tail=tail)
