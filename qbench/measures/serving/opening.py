"""Starts a server for a cell, waits until it is healthy, and ends it whatever happens."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qbench.core.errors import MeasurementError, ProcessFailedError
from qbench.core.gpu import device_used_bytes
from qbench.core.keeper import NOT_FOUND, kept
from qbench.core.processes import python_command, python_environment
from qbench.measures.serving.server import Server, end_in_words, ended_error, tail_of
from qbench.measures.serving.servers import LOOPBACK, words_of
from qbench.measures.serving.watching import MemoryWatch
from qbench.precisions.computing import rest_type

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qbench.measures.loaded import UnbuiltCell
    from qbench.measures.serving.servers import ServerOptions

PATIENCE_S = 5.0
"""For a server to end when it is asked to, before it is killed."""
ANSWER_S = 10.0
"""For one answer of a server that is only asked whether it is healthy, or what it serves."""
VERSION_S = 60.0
"""For a command that prints a version: some import torch for it."""
_PAUSE_S = 0.1
_TORCH_NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}

QUIET = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "NO_PROXY": "127.0.0.1,localhost",
    "no_proxy": "127.0.0.1,localhost",
}
"""Of servers and of what loads them: nothing is fetched or told, and loopback has no proxy."""


@contextmanager
def open_server(
    options: ServerOptions, cell: UnbuiltCell, *, context_tokens: int
) -> Iterator[Server]:
    """The server once it is healthy; what was started is ended when this is left, however.

    `context_tokens` are those of the longest prompt and answer together.
    Raises `ProcessFailedError`, and `MeasurementError` for a program that is not there.
    """
    if options.address is not None:
        yield _address(options)
        return
    with tempfile.TemporaryDirectory() as scratch:
        job = Path(scratch) / "job.json"
        job.write_text(json.dumps(cell.job), encoding="utf-8")
        port = _free_port()
        model = str(cell.checkpoint.folder)
        if options.command is None:
            command = _own_command(options, job, port)
        else:
            command = _filled(options, cell, model, port, context_tokens)
            if shutil.which(command[0]) is None:
                raise MeasurementError(
                    f"{command[0]}: no such program; install it, or give its path"
                )
        log = _log_file(cell)
        level = device_used_bytes(cell.device)
        with log.open("ab") as output:
            started = time.monotonic()
            process = subprocess.Popen(
                kept(command, PATIENCE_S),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_environment(cell, foreign=options.command is not None),
                start_new_session=True,
            )
        try:
            with MemoryWatch(process.pid, cell.device, level) as watch:
                url = f"http://{LOOPBACK}:{port}"
                _wait(process, url + options.health, options.start_timeout_s, log)
                start_s = time.monotonic() - started
                watch.healthy()
                yield Server(
                    url=url,
                    model=options.model or model,
                    version=_version(options),
                    flags=tuple(command),
                    pid=process.pid,
                    log=log,
                    start_s=start_s,
                    process=process,
                    watch=watch,
                )
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(2 * PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _own_command(options: ServerOptions, job: Path, port: int) -> list[str]:
    cb = ["--continuous-batching"] if options.continuous_batching else []
    own = ["--host", LOOPBACK, "--port", str(port), *cb, *words_of(options.arguments)]
    return python_command("qbench.running.alone.serve", str(job), *own)


def _filled(
    options: ServerOptions, cell: UnbuiltCell, model: str, port: int, context_tokens: int
) -> list[str]:
    """The command's words with their placeholders filled in, and the precision's flags."""
    precision = cell.cell.precision
    values: dict[str, Any] = {
        "model": model,
        "host": LOOPBACK,
        "port": port,
        "dtype": _TORCH_NAMES[rest_type(precision)],
        "context": context_tokens,
    }
    more = options.flags.get(precision.label, options.flags.get(precision.name, ()))
    flags = [word.format_map(values) for word in words_of(more)]
    words = words_of(options.command or ())
    if "{flags}" not in words:
        words.append("{flags}")
    filled: list[str] = []
    for word in words:
        filled += flags if word == "{flags}" else [word.format_map(values)]
    return filled


def _environment(cell: UnbuiltCell, *, foreign: bool) -> dict[str, str]:
    environment = python_environment(gpu=cell.device.startswith("cuda")) | QUIET
    if foreign:  # another Python's packages must not be shadowed by this one's
        del environment["PYTHONPATH"]
    return environment


def _free_port() -> int:
    with socket.socket() as held:
        held.bind((LOOPBACK, 0))
        port: int = held.getsockname()[1]
    return port


def _log_file(cell: UnbuiltCell) -> Path:
    """Beside the record that the server is started for."""
    record = Path(cell.job["tasks"][0]["path"])
    record.parent.mkdir(parents=True, exist_ok=True)
    return record.with_suffix(".server.log")


def _wait(process: subprocess.Popen[bytes], url: str, timeout_s: float, log: Path) -> None:
    deadline = time.monotonic() + timeout_s
    said = "no answer"
    while True:
        code = process.poll()
        if code is not None:
            how = end_in_words(code)
            if code == NOT_FOUND:
                how += ", as a program that cannot be run"
            raise ended_error(f"the server ended before it was healthy, {how}", tail_of(log))
        if time.monotonic() > deadline:
            words = f"the server was not healthy after {timeout_s:g} s ({url}: {said})"
            remedy = "see its log's tail, or raise `start_timeout_s`"
            raise ProcessFailedError("timeout", f"{words}; {remedy}", log_tail=tail_of(log))
        try:
            get(url, min(ANSWER_S, timeout_s))
        except (OSError, http.client.HTTPException) as error:
            said = str(error)
        else:
            return
        time.sleep(_PAUSE_S)


def get(url: str, timeout_s: float = ANSWER_S) -> bytes:
    """What an address answers, with no proxy between; raises `OSError` where it does not."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=timeout_s) as answer:
        contents: bytes = answer.read(2**20)
    return contents


def _version(options: ServerOptions) -> str | None:
    if options.engine is not None:
        from importlib.metadata import version

        return f"transformers {version('transformers')}"
    return None


def _address(options: ServerOptions) -> Server:
    url = str(options.address).rstrip("/")
    return Server(url=url, model=options.model or "", version=None, flags=(), pid=None, log=None)
