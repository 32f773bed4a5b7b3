"""How long jobs take on an H200, by arithmetic: a pass by the roofline, never below its calls.

Constants are of the published records of an H200 where they say so (`python -m tools.scale` holds
the arithmetic against them in its first table), else they are assumptions.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from qbench.finetune import training_options
from qbench.finetune.lora_options import LoraOptions
from qbench.finetune.targets import target_names
from qbench.measures.roofline.operations import (
    decode_operations,
    forward_operations,
    step_operations,
)
from qbench.plan.needs import download_bytes
from qbench.predict.model_config import decoder_of
from tools.scale.matrix import NODE_GPUS
from tools.scale.simulation import Load

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qbench.core.spec import Item, ResolvedModel
    from qbench.plan.job import Job
    from qbench.predict.shapes import DecoderShape

READ_RATE = 3.85e12
"""Bytes a second of memory: `latency.read_bandwidth` of the records is 3.8 to 4.0 TB/s."""
MATRIX_RATE = 785e12
"""Operations a second in bf16: `latency.matrix_rate` of the records is 777 to 794 TFLOP/s."""
MATRIX_SHARE = {"int8": 0.26}
"""Of it that prefill reaches at batch 32, by precision: `latency.prefill.matrix_share`."""
OTHER_SHARE = 0.64
LAYER_S = {"bf16": 1.05e-3, "int8": 4.2e-3}
"""The least that one layer of a forward pass takes, however few tokens it has: starting its
kernels. `latency.decode` of the records over 32 layers."""
OTHER_LAYER_S = 1.4e-3
CACHE_LAYER_S = 1.5e-3
"""More of a layer with a quantized cache, which it dequantizes at each step. An assumption."""
STEP_LAYER_S = {"bf16": 11.8e-3, "int8": 22e-3}
"""The same of a training step with checkpointing: `training.step_time` of the records."""
OTHER_STEP_LAYER_S = 17e-3
STEP_SHARE = 0.4
"""Of the matrix rate that a step with many tokens reaches. An assumption: records have none."""
TRAINING_S = 8.0
"""Of a training beside its steps and evaluations: `duration_s` of the records over their steps."""
WARM_UP = 5.5
"""Iterations before those that are timed, of 3 to 10: the mean of the records."""
LATENCY_S = 2.5
"""Of a point of latency beside its iterations: the device's rates are measured."""
MEMORY_S = 1.2
ITEM_S = 1.0
"""Of any other item beside its passes."""
BYTES_A_TOKEN = 3.5
"""Of texts and tasks: vocabularies of 32,000 to 256,000 entries make 3 to 4 of code."""
TEXT_BYTES = 190_712
"""Of bundled:stdlib-heldout."""
TASK_TOKENS = 130
"""Of an item of the bundled tasks with one of its endings: the mean line is 450 bytes."""
TASK_ITEMS = 400
ENDINGS = {"stdlib-choice": 4}
EXAMPLE_TOKENS = 250
"""Of an example of the tuning data."""
ADAPTER_S = 20.0
"""Of the item `adapters`: loading four, and decoding with each."""


def loads_of(jobs: Sequence[Job], *, needed_gpus: bool = False) -> list[Load]:
    """What each job of a plan asks of a cluster.

    `needed_gpus`: a model that is laid over a node's GPUs takes as few as hold it, not all.
    """
    known: dict[tuple[str, str, str], float] = {}

    def seconds(job: Job, item: Item) -> float:
        place = job.cell.slug, item.measurement, item.slug  # every repeat takes the same
        if place not in known:
            known[place] = item_s(job, item)
        return known[place]

    return [_load(job, seconds, needed_gpus=needed_gpus) for job in jobs]


def _load(job: Job, seconds: Callable[[Job, Item], float], *, needed_gpus: bool) -> Load:
    files = download_bytes(job.model) or 0
    reads = 1 + sum(task.item.measurement == "weight_error" for task in job.tasks)
    busy = sum(seconds(job, task.item) for task in job.tasks)
    if job.cell.deploy == "merged" and not any(task.item.repeat for task in job.tasks):
        reads += 2  # a cell's first job writes the merged checkpoint and loads it; others load it
    return Load(
        busy_s=busy,
        read_bytes=reads * files,
        model=job.model.ref.name,
        model_bytes=files,
        gpus=_gpus(job, files, needed=needed_gpus),
    )


def _gpus(job: Job, files: int, *, needed: bool) -> int:
    if job.cell.model.device_map is None:
        return 1
    memory = job.environment.device_memory_bytes or 0
    gpus = 1
    while needed and gpus * memory * 0.75 < files and gpus < NODE_GPUS:
        gpus *= 2
    return gpus if needed else NODE_GPUS


def item_s(job: Job, item: Item) -> float:
    """Seconds of one item of a job, its model loaded."""
    shape = _shape_of(job.model)
    seconds = _SECONDS.get(item.measurement)
    return ITEM_S if shape is None or seconds is None else seconds(job, shape, item.params)


def _latency_s(job: Job, shape: DecoderShape, params: dict[str, Any]) -> float:
    once = _decoding_s(job, shape, params)
    timed: float = max(params["min_iterations"], params["min_seconds"] / once)
    return LATENCY_S + once * (WARM_UP + timed)


def _memory_s(job: Job, shape: DecoderShape, params: dict[str, Any]) -> float:
    return MEMORY_S + _decoding_s(job, shape, params)


def _quality_s(job: Job, shape: DecoderShape, params: dict[str, Any]) -> float:
    windows = -(-TEXT_BYTES / BYTES_A_TOKEN // params["window"])
    return ITEM_S + _scoring_s(job, shape, windows, params["window"], params["batch"])


def _tasks_s(job: Job, shape: DecoderShape, params: dict[str, Any]) -> float:
    limit: int = params["limit"] or TASK_ITEMS
    sequences = limit * ENDINGS.get(params["task"]["name"], 1)
    return ITEM_S + _scoring_s(job, shape, sequences, TASK_TOKENS, params.get("batch", 1))


def _completion_s(job: Job, shape: DecoderShape, params: dict[str, Any]) -> float:
    examples = params["data"]["options"]["test"]
    return ITEM_S + _scoring_s(job, shape, examples, EXAMPLE_TOKENS, params["batch"])


def _generation_s(job: Job, shape: DecoderShape, params: dict[str, Any]) -> float:
    asked = {**params, "prompt_tokens": EXAMPLE_TOKENS}
    batches: int = -(-params["count"] // params["batch"])
    return ITEM_S + batches * _decoding_s(job, shape, asked)


def _decoding_s(job: Job, shape: DecoderShape, params: dict[str, Any]) -> float:
    """A prompt is read, then tokens are decoded."""
    batch, prompt = params["batch"], params["prompt_tokens"]
    new: int = params["new_tokens"]
    read = forward_operations(shape, batch=batch, tokens=prompt, head_tokens=1).total
    step = decode_operations(shape, batch=batch, prompt=prompt, new=max(1, new)).total
    return _pass_s(job, shape, read) + new * _pass_s(job, shape, step)


def _scoring_s(job: Job, shape: DecoderShape, sequences: float, tokens: int, batch: int) -> float:
    work = forward_operations(shape, batch=batch, tokens=tokens, head_tokens=tokens).total
    return -(-sequences // batch) * _pass_s(job, shape, work)


def _pass_s(job: Job, shape: DecoderShape, operations: float) -> float:
    """The longest of reading the weights, multiplying, and starting the kernels."""
    name = job.cell.precision.name
    held = 0 if job.predicted is None else job.predicted.total
    layer_s = LAYER_S.get(name, OTHER_LAYER_S)
    if job.cell.kv_cache is not None:
        layer_s += CACHE_LAYER_S
    rate = MATRIX_RATE * MATRIX_SHARE.get(name, OTHER_SHARE)
    return max(shape.layers * layer_s, operations / rate, held / READ_RATE)


def _training_s(job: Job, shape: DecoderShape, params: dict[str, Any]) -> float:
    tuning = job.cell.tuning
    if tuning is None:
        return 0.0
    options = training_options(tuning)
    adapted, rank = None, 0
    if isinstance(options, LoraOptions) and job.model.shape is not None:
        adapted = target_names(job.model.shape, job.model.architecture, options.target)
        rank = options.rank
    tokens = params["options"]["max_tokens"]
    work = step_operations(
        shape, sequences=options.batch, tokens=tokens, adapted=adapted, rank=rank
    ).total
    layer_s = STEP_LAYER_S.get(job.cell.precision.name, OTHER_STEP_LAYER_S)
    # Checkpointing computes each block's forward again: a third more than the counted work.
    step = max(shape.layers * layer_s, 4 / 3 * work / (MATRIX_RATE * STEP_SHARE))
    steps = options.steps or 0
    examples = params["data"]["options"]["validation"]
    evaluated = 2 * _scoring_s(job, shape, examples, EXAMPLE_TOKENS, options.batch)
    return TRAINING_S + options.accumulate * steps * step + evaluated


_SECONDS: dict[str, Callable[..., float]] = {
    "latency": _latency_s,
    "memory": _memory_s,
    "quality": _quality_s,
    "tasks": _tasks_s,
    "completion": _completion_s,
    "generation": _generation_s,
    "adapters": lambda *_: ADAPTER_S,
    "training": _training_s,
}


@cache
def _shape_of(model: ResolvedModel) -> DecoderShape | None:
    return decoder_of(model)[0]
