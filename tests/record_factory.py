"""Records as a run would leave them, made without a model: what the report's tests read."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Any

from qbench.core.record import Environment, Metric, Record, Status, content_key
from qbench.core.spec import Cell, Item, ModelRef, PrecisionRef

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qbench.core.record import Better

PRECISIONS = ("fp32", "bf16", "fp16", "int8", "fp4", "nf4", "nf4-dq")
LINEAR_WEIGHTS = 4_718_592
OTHER_WEIGHTS = 1_053_952
WEIGHTS = LINEAR_WEIGHTS + OTHER_WEIGHTS
WINDOWS = 120
WINDOW_TOKENS = 255
REPEATS = 3
LOG_PERPLEXITY_CHANGE = {
    "fp32": 0.0,
    "bf16": -0.0004,
    "fp16": 1e-6,
    "int8": 0.0011,
    "fp4": 0.0090,
    "nf4": 0.0059,
    "nf4-dq": 0.0061,
}
"""Of the mean loss of a token, against fp32; each window strays from it on its own."""
DECODE_S = {
    "fp32": 0.0121,
    "bf16": 0.0098,
    "fp16": 0.0415,
    "int8": 0.0302,
    "fp4": 0.0092,
    "nf4": 0.0090,
    "nf4-dq": 0.0124,
}
_UNITS: dict[str, tuple[str, Better]] = {
    "memory.static.predicted": ("B", "neither"),
    "memory": ("B", "lower"),
    "disk_bytes": ("B", "lower"),
    "load_time": ("s", "lower"),
    "latency.decode.read_share": ("1", "higher"),
    "latency.decode.read_floor": ("s", "neither"),
    "latency.decode.floor_share": ("1", "higher"),
    "latency.decode.floor": ("s", "neither"),
    "latency": ("s", "lower"),
    "throughput": ("tokens/s", "higher"),
    "bits_per": ("bit", "lower"),
    "perplexity": ("1", "lower"),
}


def make_environment(**changes: Any) -> Environment:
    """The conditions of a small CPU machine."""
    values: dict[str, Any] = {
        "qbench": "0.1.0",
        "python": "3.11.7",
        "platform": "Linux-x86_64",
        "device": "Intel Xeon (2 cores)",
        "device_kind": "cpu-intel-xeon-2c",
        "device_type": "cpu",
        "device_memory_bytes": 24 * 2**30,
        "threads": 2,
        "versions": {"torch": "2.13.0", "transformers": "5.23.0", "peft": None},
        "git_revision": "0123abc",
        "cpu_features": ("avx2", "avx512f"),
    }
    return Environment(**(values | changes))


def make_metric(
    name: str,
    value: float | None,
    *,
    reason: str | None = None,
    samples: tuple[float, ...] | None = None,
) -> Metric:
    """A metric with the unit and direction that qbench's own metrics of that name have."""
    known = (entry for prefix, entry in _UNITS.items() if name.startswith(prefix))
    unit, better = next(known, ("1", "neither"))
    if value is None and reason is None:
        reason = "could not be taken"
    return Metric(name=name, unit=unit, better=better, value=value, reason=reason, samples=samples)


def make_record(
    precision: str = "nf4",
    measurement: str = "footprint",
    metrics: Mapping[str, float | None] | None = None,
    *,
    slug: str = "model",
    params: Mapping[str, Any] | None = None,
    repeat: int = 0,
    name: str | None = None,
    model: str = "tiny-mistral",
    suite: str = "quickstart",
    status: Status = "ok",
    started_at: str = "2026-07-01T12:00:00+00:00",
    environment: Environment | None = None,
    more_metrics: tuple[Metric, ...] = (),
    **changes: Any,
) -> Record:
    """A record; `precision` is the label, `name` the precision's name where that differs."""
    source = ModelRef(name=model, source=f"bundled:{model}", kind="bundled", location=model)
    cell = Cell(model=source, precision=PrecisionRef(label=precision, name=name or precision))
    item = Item(measurement=measurement, slug=slug, params=dict(params or {}), repeat=repeat)
    taken_in = environment or make_environment()
    identity = {
        "model": {"fingerprint": model.encode().hex(), "revision": None},
        "precision": {"name": cell.precision.name, "label": precision},
        "measurement": {"name": measurement, "params": item.params, "repeat": repeat},
        "versions": taken_in.versions,
    }
    values: dict[str, Any] = {
        "key": content_key(identity),
        "identity": identity,
        "suite": suite,
        "cell": cell,
        "item": item,
        "reference": precision == "fp32",
        "status": status,
        "metrics": (*(make_metric(*one) for one in (metrics or {}).items()), *more_metrics),
        "environment": taken_in,
        "started_at": started_at,
        "duration_s": 1.5,
    }
    return Record(**(values | changes))


def make_failure(
    precision: str, measurement: str, status: Status, reason: str, **changes: Any
) -> Record:
    """A record without metrics, of a measurement that failed or was skipped."""
    values: dict[str, Any] = {"phase": "measure"}
    return make_record(precision, measurement, status=status, reason=reason, **(values | changes))


def static_bytes(precision: str) -> dict[str, int]:
    """Bytes by kind, by arithmetic: 64 weights a block in 4 bits, 256 blocks a nested block."""
    item_bytes = 4 if precision == "fp32" else 2
    linear, state = LINEAR_WEIGHTS * item_bytes, 0
    if precision == "int8":
        linear, state = LINEAR_WEIGHTS, 4 * 12_288
    elif precision in ("fp4", "nf4"):
        linear, state = LINEAR_WEIGHTS // 2, LINEAR_WEIGHTS // 64 * 4
    elif precision == "nf4-dq":
        blocks = LINEAR_WEIGHTS // 64
        linear, state = LINEAR_WEIGHTS // 2, blocks + blocks // 256 * 4
    return {
        "linear": linear,
        "quantization_state": state,
        "embeddings_and_head": (OTHER_WEIGHTS - 5_376) * item_bytes,
        "norms": 5_376 * item_bytes,
        "biases": 0,
        "buffers": 256,
        "other": 0,
    }


def footprint_record(precision: str, **changes: Any) -> Record:
    """Footprint of a cell."""
    kinds = static_bytes(precision)
    total = sum(kinds.values())
    quantized = precision not in ("fp32", "bf16", "fp16")
    linear_bytes = kinds["linear"] + kinds["quantization_state"]
    metrics = {
        "memory.static": total,
        **{f"memory.static.{kind}": size for kind, size in kinds.items()},
        "memory.static.predicted": total,
        "weights": WEIGHTS,
        "bits_per_weight.linear": 8 * linear_bytes / LINEAR_WEIGHTS,
        "bits_per_weight.model": 8 * total / WEIGHTS,
        "quantized_share": LINEAR_WEIGHTS / WEIGHTS if quantized else 0.0,
        "disk_bytes": WEIGHTS * 4,
        "load_time": 0.412,
    }
    loaded = {
        "dtype": "float32" if precision == "fp32" else "bfloat16",
        "quant_type": precision.removesuffix("-dq") if quantized else None,
        "compute_dtype": "float32",
        "linear_modules": 43,
        "quantized_modules": 42 if quantized else 0,
        "quantized_share": LINEAR_WEIGHTS / WEIGHTS if quantized else 0.0,
        "left_out": ["lm_head"] if quantized else [],
        "attention": "sdpa",
        "largest_error": 3.1e-7 if quantized else None,
    }
    values: dict[str, Any] = {"details": {"loaded": loaded}}
    return make_record(precision, "footprint", metrics, **(values | changes))


def memory_record(precision: str, **changes: Any) -> Record:
    """Peak memory of a cell on a CPU, where nothing is reserved."""
    total = sum(static_bytes(precision).values())
    peaks = {"load": 1.6 * total, "idle": 1.1 * total, "prefill": 1.3 * total + 9e6}
    peaks["decode"] = 1.2 * total + 4e6
    metrics = {"memory.peak": max(peaks.values())}
    metrics |= {f"memory.peak.{phase}": peak for phase, peak in peaks.items()}
    reserved = tuple(
        make_metric(f"memory.reserved.{phase}", None, reason="only CUDA reserves memory")
        for phase in peaks
    )
    values: dict[str, Any] = {
        "slug": "b1-p128-n32",
        "params": {"batch": 1, "prompt_tokens": 128, "new_tokens": 32},
        "more_metrics": reserved,
    }
    return make_record(precision, "memory", metrics, **(values | changes))


def latency_record(precision: str, repeat: int = 0, batch: int = 1, **changes: Any) -> Record:
    """Latency of a cell at one point of the grid, in one process."""
    decode_s = DECODE_S[precision] * (1 + 0.04 * repeat) * (1 + 0.2 * (batch - 1))
    prefill_s = decode_s * 3.7 * batch
    metrics = {
        "latency.prefill": prefill_s,
        "latency.prefill.p90": prefill_s * 1.05,
        "latency.prefill.p99": prefill_s * 1.2,
        "latency.prefill.iqr": prefill_s * 0.03,
        "latency.decode": decode_s,
        "latency.decode.p90": decode_s * 1.06,
        "latency.decode.p99": decode_s * 1.3,
        "latency.decode.iqr": decode_s * 0.02,
        "throughput.prefill": batch * 128 / prefill_s,
        "throughput.decode": batch / decode_s,
        "latency.decode.read_floor": decode_s * 0.21,
        "latency.decode.read_share": 0.21,
    }
    values: dict[str, Any] = {
        "slug": f"b{batch}-p128-n32",
        "params": {"batch": batch, "prompt_tokens": 128, "new_tokens": 32},
        "repeat": repeat,
    }
    return make_record(precision, "latency", metrics, **(values | changes))


def quality_record(precision: str, text: str = "stdlib-heldout", **changes: Any) -> Record:
    """Quality of a cell, with window losses that give exactly the perplexity recorded."""
    # the same losses in every cell, then a change of its own in each: paired, as in a run
    base = random.Random(0)
    own = random.Random(precision)
    change = LOG_PERPLEXITY_CHANGE[precision]
    spread = 0.01 if precision == "bf16" else abs(change)
    nll = [
        WINDOW_TOKENS * (2.41 + base.gauss(0, 0.3) + change + own.gauss(0, spread))
        for _ in range(WINDOWS)
    ]
    tokens = WINDOWS * WINDOW_TOKENS
    mean_nll = sum(nll) / tokens
    metrics = {
        "perplexity": math.exp(mean_nll),
        "bits_per_byte": mean_nll / math.log(2) / 3.4,
        "tokens": float(tokens),
        "nonfinite_share": 0.0,
    }
    values: dict[str, Any] = {
        "slug": f"{text}-w256-default",
        "params": {"text": {"name": text}, "window": 256, "protocol": "default", "batch": 4},
        "series": {"window_nll": nll, "window_tokens": [float(WINDOW_TOKENS)] * WINDOWS},
    }
    return make_record(precision, "quality", metrics, **(values | changes))


def cell_records(precision: str, **changes: Any) -> list[Record]:
    """All records of a cell in which everything went well."""
    return [
        footprint_record(precision, **changes),
        memory_record(precision, **changes),
        *(
            latency_record(precision, repeat, batch, **changes)
            for batch in (1, 4)
            for repeat in range(REPEATS)
        ),
        quality_record(precision, **changes),
    ]


def quickstart_records() -> list[Record]:
    """Seven cells of four measurements; fp16's latency erred, int8 had no memory at all."""
    records = [record for precision in PRECISIONS for record in cell_records(precision)]
    return [_spoilt(record) for record in records]


def _spoilt(record: Record) -> Record:
    label = record.cell.precision.label
    gone: dict[str, Any] = {"metrics": (), "series": {}, "details": {}}
    if label == "int8":
        reason = "the machine had 1.2 GiB left and 3 GiB were asked for; use a smaller model"
        failed = {"status": "oom", "reason": reason, "phase": "load", "log_tail": "Killed"}
        return record.model_copy(update=gone | failed)
    if label == "fp16" and record.item.slug == "b4-p128-n32":
        reason = "RuntimeError: \"softmax\" not implemented for 'Half' | see the log"
        failed = {"status": "error", "reason": reason, "phase": "measure", "log_tail": "a\n```\nb"}
        return record.model_copy(update=gone | failed)
    if label == "nf4" and record.item.measurement == "latency" and record.item.repeat > 0:
        text = f"decode is unstable: IQR {12 + record.item.repeat}% of the median; run again"
        return record.model_copy(update={"warnings": (text,)})
    return record
