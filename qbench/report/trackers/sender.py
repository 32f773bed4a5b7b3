"""Hands messages to the process of a tracker, without ever waiting for it while anything is timed.

A thread writes what is to be sent into the process's pipe, and another reads what it says. Whoever
measures only adds to a queue.
"""

from __future__ import annotations

import json
import queue
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from qbench.core.credentials import without_credentials
from qbench.core.errors import UsageError
from qbench.core.processes import python_command, python_environment
from qbench.core.units import counted
from qbench.report.trackers.process import line_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from qbench.report.trackers.delivery import Message
    from qbench.report.trackers.tracker import Kind

BEGIN_S = 60.0
"""For the process to import its tracker and say where things go."""
PATIENCE_S = 60.0
"""At the end, without any message that was sent, before what is left is given up."""

_PATIENCE_AFTER_S = 5.0
"""For what its library does as the process ends."""


class Sender:
    """Owns the process of one tracker."""

    def __init__(self, kind: Kind, note: Callable[[str], None]) -> None:
        """`note` gets, in a thread, what the user should know; once what failed first.

        Starts the process. Raises `UsageError` where a person must mend something first.
        """
        self.kind = kind
        self._note = note
        self._queue: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._free = threading.Event()
        self._free.set()
        self._answered = threading.Event()
        """Set when the process is done with what it was told last."""
        self._gone = threading.Event()
        """Set when it says nothing any more, before `_answered` is set for the last time."""
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            python_command("qbench.report.trackers.process", kind.name),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=python_environment(gpu=False),
            start_new_session=True,  # Ctrl-C reaches the parent alone, which then ends this
            text=True,
        )
        self._begun: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._added = False
        self.complete = True
        """Whether all that was added was sent, once it has ended."""
        self._counts = {"sent": 0, "there": 0, "left": 0}
        self._moved_at = time.monotonic()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._writer = threading.Thread(target=self._write, daemon=True)
        self._reader.start()

    def begin(self) -> str:
        """Waits until the process has begun; where things go, in words."""
        try:
            told = self._begun.get(timeout=BEGIN_S)
        except queue.Empty:
            told = {"refused": f"it has not begun after {BEGIN_S:g} s"}
        if "where" not in told:
            self._stop()
            raise UsageError(f"--track {self.kind.name}: {told['refused']}")
        self._writer.start()
        where: str = told["where"]
        return where

    def add(self, message: Message) -> None:
        """To be sent, after what was added before; returns at once."""
        self._added = True
        self._queue.put(message)

    def hold(self) -> None:
        """Sends nothing until `release`: something is timed on this machine."""
        self._free.clear()

    def release(self) -> None:
        """Goes on."""
        self._free.set()

    def end(self, patience_s: float = PATIENCE_S) -> str:
        """Waits until all is sent, or until nothing was for that long; what came of it, in words.

        They are empty where nothing was added.
        """
        self.release()
        self._queue.put(None)
        self._moved_at = time.monotonic()
        while self._reader.is_alive() and time.monotonic() - self._moved_at < patience_s:
            self._reader.join(0.1)
        gave_up = self._reader.is_alive()
        self._stop()
        if not self._added:
            return ""
        name = self.kind.name
        told = f"{name}: sent {counted(self._counts['sent'], 'record')}"
        if self._counts["there"]:
            told += f"; {self._counts['there']} had been sent before"
        self.complete = not (gave_up or self._counts["left"] or self._process.returncode)
        if self.complete:
            return told
        return (
            f"{told}; not all could be sent. The records are on disk: `qbench export tracker"
            f" RESULTS --track {name}` sends what is missing"
        )

    def _write(self) -> None:
        pipe = self._process.stdin
        if pipe is None:
            raise RuntimeError("the process has no input")
        try:
            while (message := self._queue.get()) is not None:
                self._free.wait()
                self._answered.clear()
                if self._gone.is_set():
                    break
                pipe.write(line_of(message))
                pipe.flush()
                self._answered.wait()
            pipe.close()
        except (OSError, ValueError):  # it has ended, or was
            return

    def _read(self) -> None:
        pipe = self._process.stdout
        if pipe is None:
            raise RuntimeError("the process has no output")
        for line in pipe:
            if not line.endswith("\n"):  # it was killed within it
                break
            told = json.loads(line)
            self._moved_at = time.monotonic()
            if "problem" in told:
                self._note(
                    f"{self.kind.name}: cannot send ({told['problem']}); it is tried again, and the"
                    " records are on disk"
                )
            elif "sent" in told:
                self._counts = told
                self._answered.set()
            else:
                self._begun.put(told)
        self._gone.set()
        self._begun.put({"refused": self._last_words()})
        self._answered.set()

    def _last_words(self) -> str:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_PATIENCE_AFTER_S)
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        last = lines[-1] if lines else "its process ended and said nothing"
        return without_credentials(last)

    def _stop(self) -> None:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(0.0 if self._reader.is_alive() else _PATIENCE_AFTER_S)
        self._process.kill()
        self._process.wait()
        self._reader.join()
        if self._writer.ident is not None:
            self._queue.put(None)
            self._writer.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):  # what was not written is given up
                    pipe.close()
        self._errors.close()
