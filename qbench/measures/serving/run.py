"""One load, taken: the server started, loaded by guidellm, and ended, and what was found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qbench.core.errors import MeasurementError, ProcessFailedError
from qbench.core.files import scratch_folder
from qbench.measures.loaded import Outcome, make_metric
from qbench.measures.roofline.energy_trace import open_energy_trace
from qbench.measures.serving.api_key import key_in
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
from qbench.measures.serving.servers import TRANSFORMERS
from qbench.measures.serving.watch import LoadWatch
from qbench.precisions.loading import load_tokenizer
from qbench.sources.models.gguf_models import gguf_of

if TYPE_CHECKING:
    from qbench.core.checkpoint import Checkpoint
    from qbench.core.record import Metric
    from qbench.core.spec import ResolvedModel
    from qbench.measures.loaded import UnbuiltCell
    from qbench.measures.roofline.energy_trace import EnergyTrace
    from qbench.measures.serving.load import Loaded
    from qbench.measures.serving.server import Server
    from qbench.measures.serving.serving import ServingParams

AROUND = {"completions": 8, "chat": 512}
"""Tokens that a server may put around a prompt: its first token, a chat template."""
NOT_OF_AN_ADDRESS = "the server was not started here"
NO_STOP: dict[str | None, dict[str, Any]] = {
    TRANSFORMERS: {"generation_config": json.dumps({"eos_token_id": -1})},
    None: {"ignore_eos": True},
}
"""What has a server go on after a stop token: of transformers, which knows no field for it, no
token to stop at; of others the field that vLLM, SGLang and llama.cpp share."""


def take(params: ServingParams, cell: UnbuiltCell) -> Outcome:
    """Starts the server, loads it, reads guidellm's report, ends the server.

    Raises `MeasurementError`, for what the server or guidellm did wrong `ProcessFailedError`.
    """
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
            key_in(server.headers),
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
