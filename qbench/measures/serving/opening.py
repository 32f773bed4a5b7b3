"""Starts a server for a cell, waits until it answers, and ends it whatever happens."""

from __future__ import annotations

import re
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version as version_of_package
from typing import TYPE_CHECKING, Any

import psutil

from qbench.core.errors import ProcessFailedError
from qbench.core.files import scratch_folder
from qbench.core.gpu import device_used_bytes
from qbench.core.keeper import kept
from qbench.core.marks import read_marks
from qbench.core.names import shortened
from qbench.core.process_ends import memory_kills, tail_of_log
from qbench.measures.serving.api_key import headers_with
from qbench.measures.serving.asking import (
    ANSWER_S,
    COMPLETIONS,
    MODELS,
    AnswerError,
    ask,
    ask_for_a_token,
    first_model,
    told_version,
)
from qbench.measures.serving.server import Server, ended_error
from qbench.measures.serving.starting import Start, start_of
from qbench.measures.serving.watching import MemoryWatch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qbench.measures.loaded import UnbuiltCell
    from qbench.measures.serving.servers import ServerOptions

PATIENCE_S = 5.0
"""For a server to end when it is asked to, before it is killed."""
VERSION_S = 60.0
"""For a command that prints a version: some import torch for it."""
_PAUSE_S = 0.1
_ENDS_TRACEBACK = re.compile(r"[\w.]*(Error|Exception)\b")
_HELD = "what the suite says, of which qbench knows nothing more"
"""Of a server that is not told which model to hold."""


@contextmanager
def open_server(
    options: ServerOptions,
    cell: UnbuiltCell,
    *,
    context_tokens: int,
    streams: int = 1,
    endpoint: str = COMPLETIONS,
) -> Iterator[Server]:
    """The server once it has answered; what was started is ended when this is left, however.

    `context_tokens` are those that a request may take, `streams` the requests
    that are under way at most, `endpoint` the path that is loaded. Raises `ProcessFailedError` for
    whatever the server does wrong, and `MeasurementError` for a program that is not there.
    """
    if options.address is not None:
        yield _at_address(options, endpoint)
        return
    with scratch_folder("qbench-serve") as scratch:
        start = start_of(options, cell, scratch, context_tokens, streams)
        kills_before, level = memory_kills(), device_used_bytes(cell.device)
        with start.log.open("ab") as output:
            started = time.monotonic()
            process = subprocess.Popen(
                kept(start.command, PATIENCE_S),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=start.environment,
                start_new_session=True,
            )
        try:
            with MemoryWatch(process.pid, cell.device, level) as watch:
                waiting = _Waiting(process, start, options, kills_before)
                waiting.until_healthy()
                start_s = time.monotonic() - started
                watch.healthy()
                model = options.model or start.model
                waiting.until_answered(model, endpoint)
                yield Server(
                    url=start.url,
                    model=model,
                    version=_version(options, start),
                    flags=start.flags,
                    pid=process.pid,
                    log=start.log,
                    start_s=start_s,
                    details=_told(options, start),
                    process=process,
                    watch=watch,
                    kills_before=kills_before,
                )
        finally:
            _end(process)


@dataclass(frozen=True)
class _Waiting:
    """Waits for a server that was started, and notices its end at once."""

    process: subprocess.Popen[bytes]
    start: Start
    options: ServerOptions
    kills_before: int | None

    def until_healthy(self) -> None:
        """Returns once the health path answers, and it is this server that does."""
        timeout_s, url = self.options.start_timeout_s, self.start.url + self.options.health
        deadline = time.monotonic() + timeout_s
        while True:
            self._check_running("before it was healthy")
            try:
                ask(url, min(ANSWER_S, timeout_s))
            except AnswerError as error:
                said = str(error)
            else:
                self._check_listens()
                return
            if time.monotonic() > deadline:
                words = (
                    f"the server was not healthy after {timeout_s:g} s: {self.options.health} last"
                    f" gave {said}; see its log, or set `start_timeout_s` or `health`"
                )
                raise ProcessFailedError("timeout", words, log_tail=tail_of_log(self.start.log))
            time.sleep(_PAUSE_S)

    def until_answered(self, model: str, endpoint: str) -> None:
        """Returns once it has answered a request for one token."""
        try:
            ask_for_a_token(self.start.url, model, endpoint, self.options.answer_timeout_s)
        except AnswerError as error:
            time.sleep(_PAUSE_S)  # for an end to be noticed as what it is
            self._check_running("at its first request")
            words = f"the server is healthy, and {endpoint} gave {error}"
            tail = tail_of_log(self.start.log)
            if error.broken and (said := _last_error(tail or "")) is not None:
                words += f"; its log says: {shortened(said, 200)}"
            raise _wrong_answer(words, tail, hangs=error.hangs) from error

    def _check_running(self, when: str) -> None:
        code = self.process.poll()
        if code is None:
            return
        told, tail = read_marks(self.start.marks), tail_of_log(self.start.log)
        if told.failed is not None:
            failed = told.failed
            raise ProcessFailedError(
                failed["status"], failed["reason"], log_tail=tail, phase=told.phase
            )
        raise ended_error(when, code, self.kills_before, tail)

    def _check_listens(self) -> None:
        """Raises `ProcessFailedError` where another program answers at the port."""
        try:
            tree = psutil.Process(self.process.pid).children(recursive=True)
            ports = {
                one.laddr.port
                for each in tree
                for one in each.net_connections(kind="tcp")
                if one.status == psutil.CONN_LISTEN
            }
        except psutil.Error:
            return  # not told here, or it is ending, which is noticed next
        if tree and self.start.port not in ports:
            words = (
                f"another program than the server that was started answers at port"
                f" {self.start.port}: it listens elsewhere, or hands its work to a process that is"
                " none of its own, which could not be ended; start the engine itself, on {port}"
            )
            raise ProcessFailedError("error", words, log_tail=tail_of_log(self.start.log))


def _told(options: ServerOptions, start: Start) -> dict[str, Any]:
    """What is known of the model that it holds: of qbench's own process, what was loaded."""
    if options.holds_what_it_holds:
        return {"held": _HELD}
    return read_marks(start.marks).told or {}


def _wrong_answer(words: str, tail: str | None, *, hangs: bool) -> ProcessFailedError:
    return ProcessFailedError("timeout" if hangs else "error", words, log_tail=tail)


def _last_error(log: str) -> str | None:
    """The last line of a log that ends a traceback of Python's; None where there is none."""
    found = (line for line in reversed(log.splitlines()) if _ENDS_TRACEBACK.match(line))
    return next(found, None)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(2 * PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _version(options: ServerOptions, start: Start) -> str | None:
    if options.engine is not None:
        return f"transformers {version_of_package('transformers')}"
    if not start.version:
        return told_version(start.url)
    try:
        done = subprocess.run(
            kept(start.version, 0.0),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=start.environment,
            start_new_session=True,
            timeout=VERSION_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return told_version(start.url)
    lines = (done.stdout or done.stderr).decode(errors="replace").strip().splitlines()
    return lines[-1].strip()[:200] if lines else None


def _at_address(options: ServerOptions, endpoint: str) -> Server:
    """A server that runs already; raises `ProcessFailedError` where it does not answer."""
    url = str(options.address).rstrip("/").removesuffix("/v1")
    headers = headers_with(options.api_key)
    path = options.health
    try:
        ask(url + path, ANSWER_S, headers=headers)
        path = MODELS
        model = options.model or first_model(url, headers)
        path = endpoint
        ask_for_a_token(url, model, endpoint, options.answer_timeout_s, headers)
    except AnswerError as error:
        words = f"{url}{path} gave {error}"
        if path == MODELS:
            words += "; name the model of the address in the suite: `model: …`"
        raise _wrong_answer(words, None, hangs=error.hangs) from error
    return Server(
        url=url,
        model=model,
        version=told_version(url, headers),
        flags=(),
        pid=None,
        log=None,
        details={"held": _HELD},
        headers=headers,
    )
