"""Engines under load: a cell behind an OpenAI-compatible server, loaded by guidellm.

An item is one server under one load: the server is started for it, loaded, and ended. So each point
has a server that nothing was done with before, whose memory is of that load alone and whose caches
hold nothing of another point; a server that dies takes no other point with it; and each record is
on disk as soon as its point was taken. The price is a start a point, which `serving.start` tells:
a 7B takes transformers some ten seconds from the page cache, and vLLM a minute or two.

The figures are guidellm's own (see `figures`), those of requests that were answered. On a CPU the
load itself takes processor time from the server; the record tells how much.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field

from qbench.core.errors import MeasurementError, Problem, ProcessFailedError
from qbench.core.files import scratch_folder
from qbench.core.options import plain_options, typed_options
from qbench.core.spec import Frozen, Item
from qbench.measures.grid import MOST_POINTS, misfit
from qbench.measures.loaded import Outcome, make_metric
from qbench.measures.measurement import Measurement
from qbench.measures.options import not_empty
from qbench.measures.roofline.energy_trace import open_energy_trace
from qbench.measures.serving.energy import METRICS as ENERGY
from qbench.measures.serving.energy import devices_of, load_energy
from qbench.measures.serving.figures import (
    METRICS,
    check_answered,
    error_texts,
    load_metrics,
    load_warnings,
    token_details,
)
from qbench.measures.serving.load import ENDPOINTS, Target, apply_load
from qbench.measures.serving.opening import open_server
from qbench.measures.serving.options import LoadOptions, LoadPoint
from qbench.measures.serving.servers import TRANSFORMERS, ServerOptions
from qbench.measures.serving.watch import LoadWatch
from qbench.precisions.loading import load_tokenizer
from qbench.sources.models.gguf_models import gguf_of

if TYPE_CHECKING:
    from qbench.core.checkpoint import Checkpoint
    from qbench.core.record import Metric, MetricDefinition
    from qbench.core.spec import ResolvedModel
    from qbench.measures.loaded import UnbuiltCell
    from qbench.measures.roofline.energy_trace import EnergyTrace
    from qbench.measures.serving.load import Loaded
    from qbench.measures.serving.server import Server

AROUND = {"completions": 8, "chat": 512}
"""Tokens that a server may put around a prompt: its first token, a chat template."""
NOT_OF_AN_ADDRESS = "the server was not started here"
NO_STOP: dict[str | None, dict[str, Any]] = {
    TRANSFORMERS: {"generation_config": json.dumps({"eos_token_id": -1})},
    None: {"ignore_eos": True},
}
"""What has a server go on after a stop token: of transformers, which knows no field for it, no
token to stop at; of others the field that vLLM, SGLang and llama.cpp share."""


class ServingOptions(LoadOptions):
    """Options of `serving`."""

    servers: Annotated[
        tuple[ServerOptions, ...],
        AfterValidator(not_empty),  # `min_length` would count one that is wrong as not there
        Field(json_schema_extra={"minItems": 1}),
    ] = (ServerOptions(engine="transformers", continuous_batching=True),)
    """What each cell is put behind: each has an `engine`, a `command` or an `address`."""


class ServingParams(LoadPoint):
    """One server under one load."""

    server: ServerOptions
    timeout: float


@dataclass(frozen=True)
class Serving(Measurement):
    """How a server of the model keeps up under load."""

    name: str = "serving"
    summary: str = "a server of the model under load: first token, tokens, throughput, errors"
    needs: tuple[str, ...] = ("guidellm",)
    options: type[Frozen] = ServingOptions
    metrics: tuple[MetricDefinition, ...] = (*METRICS, *ENERGY)
    by_default: bool = False
    of_machine: bool = True
    apart: bool = True

    def misfit(self, options: ServingOptions, model: ResolvedModel) -> Problem | None:
        """Lengths beyond the model's context, a grid without end, a warm-up that is everything."""
        points = options.points()
        count = len(points) * len(options.servers) * options.repeats
        if count > MOST_POINTS:
            found = f"{count} servers to be started for each cell"
            return Problem("concurrency", found, f"at most {MOST_POINTS}", "shorten the lists")
        labels = [server.label for server in options.servers]
        for label in labels:
            if labels.count(label) > 1:
                found = f"two servers that are called '{label}'"
                return Problem("servers", found, "a name for each", "give them a `name`")
        return (
            _warmup_misfit(points)
            or _load_misfit(points, options.timeout)
            or misfit((max(options.prompt_tokens),), (max(options.output_tokens),), model)
        )

    def items(self, options: ServingOptions, model: ResolvedModel, base: Path) -> list[Item]:
        """One item a server, load and repeat."""
        return [
            Item(
                measurement=self.name,
                slug=f"{server.label}-{point.slug}",
                params={
                    **plain_options(point),
                    "server": plain_options(server),
                    "timeout": options.timeout,
                },
                repeat=repeat,
            )
            for server in options.servers
            for point in options.points()
            for repeat in range(options.repeats)
        ]

    def measure_apart(self, cell: UnbuiltCell, item: Item) -> Outcome:
        """Starts the server, loads it, reads guidellm's report, ends the server."""
        params = typed_options(ServingParams, item.params)
        with (
            scratch_folder("qbench-load") as folder,
            open_server(
                params.server,
                cell,
                context_tokens=_context(params, cell.resolved),
                streams=params.streams,
                endpoint=ENDPOINTS[params.endpoint],
            ) as server,
        ):
            target = Target(
                server.url,
                server.model,
                tokenizer_folder(cell.checkpoint, folder),
                NO_STOP[params.server.engine],
            )
            with (
                LoadWatch(server.pid, on_gpu=cell.device.startswith("cuda")) as watch,
                open_energy_trace(devices_of(cell)) as energy,
            ):
                loaded = _loaded(params, target, folder, server, _log_file(cell))
            server.check()
            try:
                check_answered(loaded.report.load)
            except MeasurementError as error:
                raise server.fault(str(error)) from error
            return _outcome(params, server, loaded, watch, energy)


def tokenizer_folder(checkpoint: Checkpoint, scratch: Path) -> Path:
    """The folder that has the model's tokenizer: that of a .gguf file is written into `scratch`."""
    if gguf_of(checkpoint.folder) is None:
        return checkpoint.folder
    folder = scratch / "tokenizer"
    load_tokenizer(checkpoint, bundled=False).save_pretrained(folder)
    return folder


def _context(params: ServingParams, model: ResolvedModel) -> int:
    """Tokens that a server must have room for in a request; no more than the model has."""
    needed = params.prompt_tokens + params.output_tokens + AROUND[params.endpoint]
    return needed if model.context_tokens is None else min(needed, model.context_tokens)


def _loaded(
    params: ServingParams, target: Target, folder: Path, server: Server, log: Path
) -> Loaded:
    """Applies the load; where that fails because of the server, its end or its log tells why."""
    try:
        return apply_load(params, target, folder, params.timeout, log)
    except ProcessFailedError as error:
        server.check()
        if error.status == "timeout":
            raise server.fault(str(error), hangs=True) from error
        raise


def _outcome(
    params: ServingParams, server: Server, loaded: Loaded, watch: LoadWatch, energy: EnergyTrace
) -> Outcome:
    load = loaded.report.load
    elsewhere = NOT_OF_AN_ADDRESS if server.pid is None else None
    others = watch.others
    return Outcome(
        metrics=(
            *load_metrics(load, with_slo=params.slo is not None),
            load_energy(energy, load, elsewhere),
            *_of_server(server),
        ),
        details={
            "server": {
                "name": params.server.label,
                "version": server.version,
                "flags": list(server.flags),
                "log": None if server.log is None else server.log.name,
            },
            **server.details,
            "tokens": token_details(load),
            "requests": {
                "window": load.metrics.request_totals.model_dump(),
                "all": load.scheduler_metrics.requests_made.model_dump(),
                "errors": error_texts(load),
            },
            "guidellm": {
                "version": loaded.report.metadata.guidellm_version,
                "cpu_s": loaded.cpu_s,
                "window_s": load.duration,
                "warmup_s": load.warmup_duration,
                "cooldown_s": load.cooldown_duration,
                "figures": load.metrics.model_dump(),
                "warnings": [one.message for one in load.warnings],
            },
            "energy_method": energy.method if elsewhere is None else None,
            "server_cpu_s": watch.server_cpu_s,
            "other_programs": None if others is None else others.details,
        },
        warnings=(
            *load_warnings(load, params.output_tokens),
            *(() if others is None else others.warnings("the load")),
        ),
    )


def _of_server(server: Server) -> list[Metric]:
    memory = server.memory()
    values = {
        "memory.peak": None if memory is None else memory.serve_bytes,
        "memory.device": None if memory is None else memory.device_bytes,
        "start": server.start_s,
    }
    reasons = {
        "memory.peak": "its processes could not be looked at",
        "memory.device": "the server is on a CPU, or NVML does not tell of the GPU",
    }
    return [
        make_metric(
            METRICS,
            f"serving.{name}",
            value,
            reason=NOT_OF_AN_ADDRESS if server.pid is None else reasons.get(name),
        )
        for name, value in values.items()
    ]


def _log_file(cell: UnbuiltCell) -> Path:
    """Beside the record that is taken."""
    return Path(cell.job["tasks"][0]["path"]).with_suffix(".guidellm.log")


def _load_misfit(points: list[LoadPoint], timeout_s: float) -> Problem | None:
    """A load that is never what it is called, or that cannot end in time."""
    for point in points:
        requests, streams = point.requests, point.concurrency
        if requests is not None and streams is not None and requests < streams:
            found = f"{requests} requests, which are never {streams} at once"
            return Problem("requests", found, f"{streams} or more", "send more, or lower the list")
        ends = [] if point.seconds is None else [point.seconds]
        if requests is not None and point.rate is not None:
            ends.append(requests / point.rate)
        if ends and min(ends) >= timeout_s:
            found = f"{timeout_s:g} s for a load of some {min(ends):g} s ({point.words})"
            return Problem("timeout", found, "more than the load takes", "raise it, or send less")
    return None


def _warmup_misfit(points: list[LoadPoint]) -> Problem | None:
    for point in points:
        if point.warmup > 1 and point.warmup != int(point.warmup):
            found = f"{point.warmup:g} requests"
            return Problem("warmup", found, "a share below 1, or a whole number", "round it")
        if point.requests is None and point.warmup >= 1:
            found = f"{point.warmup:g} requests, where `seconds` ends the load"
            return Problem("warmup", found, "a share of the time, below 1", "or give `requests`")
        if point.requests is not None and point.warmup >= point.requests:
            found = f"{point.warmup:g} of {point.requests} requests"
            return Problem("warmup", found, "fewer than are sent", "send more `requests`")
    return None


SERVING = Serving()
