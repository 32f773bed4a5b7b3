"""How a server is started for a cell: its command, its port, its environment, its log."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from qbench.core.errors import MeasurementError
from qbench.core.nvml import visible_gpus
from qbench.core.processes import OFFLINE, python_command, python_environment
from qbench.measures.serving.commands import filled, filled_command, values_for, why_not_started
from qbench.measures.serving.servers import LOOPBACK
from qbench.sources.models.gguf_models import gguf_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qbench.measures.loaded import UnbuiltCell
    from qbench.measures.serving.servers import ServerOptions

_CB_PAGE_TOKENS = 256
"""Of transformers' paged cache (`ContinuousBatchingConfig.page_size`)."""
_CB_MOST_BATCH_TOKENS = 8192
"""That transformers batches unless told otherwise."""

QUIET = {
    **OFFLINE,
    "DO_NOT_TRACK": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "NO_PROXY": "127.0.0.1,localhost",
    "no_proxy": "127.0.0.1,localhost",
}
"""Of servers and of what loads them: nothing is fetched or told, and loopback has no proxy."""


@dataclass(frozen=True)
class Start:
    """How a server is started."""

    command: list[str]
    flags: tuple[str, ...]
    """The command for the record, without what is another in each start."""
    environment: dict[str, str]
    model: str
    port: int
    version: list[str]
    """The command that prints the engine's version; no words where there is none."""
    log: Path
    marks: Path
    """What qbench's own process tells; not there for others."""

    @property
    def url(self) -> str:
        """Where it is to answer."""
        return f"http://{LOOPBACK}:{self.port}"


def start_of(
    options: ServerOptions, cell: UnbuiltCell, scratch: Path, context: int, streams: int
) -> Start:
    """Raises `MeasurementError` for a program that is not there, or is not trusted."""
    folder = cell.checkpoint.folder
    port, model = _free_port(), str(gguf_of(folder) or folder)
    marks = scratch / "marks"
    values = values_for(cell.cell, model=model, port=port, context=context, streams=streams)
    environment = environment_for(cell, foreign=options.command is not None)
    if options.command is None:
        job = scratch / "job.json"
        job.write_text(json.dumps(cell.job), encoding="utf-8")
        own = _own_flags(options, cell, values)
        listen = ["--host", LOOPBACK, "--port", str(port)]
        command = python_command("qbench.running.alone.serve", str(job), str(marks), *listen, *own)
        flags = ("transformers", "serve", *own)
    else:
        command = filled_command(options, cell.cell, values)
        flags = tuple(command)
        if not cell.job["trust_code"]:
            raise MeasurementError(
                f"{command[0]} runs only where the suite says `trust_code: true`"
            )
        gone = why_not_started(command[0])
        if gone is not None:
            raise MeasurementError(gone)
    record = Path(cell.job["tasks"][0]["path"])
    record.parent.mkdir(parents=True, exist_ok=True)
    log = record.with_suffix(".server.log")
    log.write_bytes(b"")  # of this start alone
    version = filled(options.version or (), values)
    return Start(command, flags, environment, model, port, version, log, marks)


def environment_for(cell: UnbuiltCell, *, foreign: bool) -> dict[str, str]:
    """The variables of a server's process; `foreign` for one that qbench did not bring.

    Such a program may be of another Python, which must not find this one's packages; and it takes
    the first GPU that it sees, so it sees the cell's alone, or all where the model is spread.
    """
    gpu, visible = cell.device.startswith("cuda"), None
    if foreign and gpu and cell.cell.model.device_map is None:
        index, gpus = int(cell.device.partition(":")[2] or 0), visible_gpus()
        visible = gpus[index].uuid if index < len(gpus) else None
    environment = python_environment(gpu=gpu, visible=visible) | QUIET
    if foreign:
        environment.pop("PYTHONPATH", None)
    return environment


def _own_flags(
    options: ServerOptions, cell: UnbuiltCell, values: Mapping[str, str | int]
) -> list[str]:
    """The flags of `transformers serve`.

    On a CPU it would take 60 % of the machine's memory for its paged cache; it gets what the load
    can fill, unless the suite says how much.
    """
    given = filled(options.arguments, values)
    if not options.continuous_batching:
        return given
    own = ["--continuous-batching"]
    if cell.device == "cpu":
        context, streams = int(values["context"]), int(values["streams"])
        blocks = streams * (-(-context // _CB_PAGE_TOKENS) + 1)
        tokens = min(_CB_MOST_BATCH_TOKENS, max(_CB_PAGE_TOKENS, streams * context))
        bounds = {"--cb-num-blocks": blocks, "--cb-max-batch-tokens": tokens}
        for flag, value in bounds.items():
            if not any(word.partition("=")[0] == flag for word in given):
                own += [flag, str(value)]
    return [*own, *given]


def _free_port() -> int:
    with socket.socket() as held:
        held.bind((LOOPBACK, 0))
        port: int = held.getsockname()[1]
    return port
