"""The largest batch and the longest sequence that fit into a GPU, for each way to use a model."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

from qbench.core.number_types import MasterType
from qbench.core.spec import Cell, TuningRef
from qbench.finetune import methods, training_options
from qbench.finetune.full import FullOptions
from qbench.precisions import is_quantized, options_of, precisions, products_of, with_defaults
from qbench.predict.bf16 import in_fp16, is_bf16
from qbench.predict.peaks import load_peak, loaded_whole, training_peak, work_peak
from qbench.predict.static import saved_by_packing
from qbench.predict.work import GridPoint

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qbench.core.spec import PrecisionRef, ResolvedModel
    from qbench.finetune.options import TrainingOptions
    from qbench.predict.devices import DeviceMemory
    from qbench.predict.peaks import Peak

LENGTHS = (512, 1024, 2048, 4096, 8192)
"""Tokens of a sequence, where they are not asked for."""
MOST_SEQUENCES = 4096
"""Largest batch that is looked for."""
LENGTH_STEP = 64
"""The longest sequence is told to a multiple of this, as kernels like it."""
_MOST_TOKENS = 2**20


@dataclass(frozen=True)
class FitCase:
    """One way to use a model, which `fit` has a row of."""

    use: str
    """`inference`, `full`, `LoRA` or `QLoRA`."""
    precision: PrecisionRef
    tuning: TuningRef | None = None
    kv_cache: str | None = None
    """The kind of quantized KV cache; None for one in the model's own type."""

    def cell(self, model: ResolvedModel) -> Cell:
        """The model as it is held in inference."""
        return Cell(model=model.ref, precision=self.precision, kv_cache=self.kv_cache)

    @property
    def checkpointing(self) -> bool:
        """Whether activations are computed again in the backward pass."""
        return self.tuning is not None and training_options(self.tuning).checkpointing


@dataclass(frozen=True)
class FitRow:
    """How much of one case fits."""

    use: str
    precision: str
    checkpointing: bool
    least_bytes: int | None
    """Needed at batch 1 and the first length, once it is loaded, with what is kept free; None
    where not known."""
    batches: tuple[int | None, ...]
    """The largest batch at each length: 0 where not even one sequence fits, None where the length
    is beyond the model's context or nothing is known."""
    longest: int | None
    """Tokens of one sequence; 0 where not even the shortest fits, None where nothing is known."""
    reason: str | None = None
    """Why nothing is known."""
    kv_cache: str | None = None
    """The kind of quantized KV cache; None for one in the model's own type."""
    loading_bytes: int | None = None
    """Needed while the model is made, with what is kept free, where the floating model must fit as
    a whole for that, and takes more than what is done with it; else None."""
    simulated_bytes: int | None = None
    """What `least_bytes` is where the codes are simulated in bytes, as qbench runs them; None where
    they are not. All else is of the format as it is served, packed."""


def fit_cases(
    names: Sequence[str],
    *,
    rank: int,
    target: str | tuple[str, ...],
    optimizer: str,
    bf16: bool = True,
    kv_caches: Sequence[str] = (),
) -> list[FitCase]:
    """Inference in these precisions, then full tuning, then LoRA; trainings also checkpointed.

    Each precision has a row of inference with its own KV cache and with each of the kinds. What a
    method does not do in a precision is left out. Without `bf16`, for a GPU that does not
    multiply it, fp16 stands before it, and beside quantized weights in inference.
    """
    held = [with_defaults(name) for name in names]
    if not bf16:
        held.sort(key=is_bf16)
    found = [
        FitCase("inference", _on_cuda(one) if bf16 else in_fp16(one), kv_cache=cache)
        for one in held
        for cache in (None, *kv_caches)
    ]
    chosen: dict[str, list[dict[str, Any]]] = {
        "full": [{"master_weights": kind} for kind in get_args(MasterType)],
        "lora": [{"rank": rank, "target": target}],
    }
    for name, variants in chosen.items():
        method = methods()[name]
        for precision in held:
            for variant in variants:
                for checkpointing in (False, True):
                    options = method.options(
                        **variant, batch=1, checkpointing=checkpointing, optimizer=optimizer
                    )
                    if method.conflicts(precision, options) or _is_repeated(precision, options):
                        continue
                    use = _use(name, precision)
                    tuning = TuningRef(
                        label=use,
                        arm=use,
                        method=name,
                        precision=precision,
                        options=options.model_dump(),
                    )
                    found.append(FitCase(use, precision, tuning))
    return found


def _on_cuda(precision: PrecisionRef) -> PrecisionRef:
    """With the kernel that a GPU takes for it."""
    options = options_of(precision)
    changed = precisions()[precision.name].for_device(options, "cuda", bf16=True)
    return precision.model_copy(update={"options": {**precision.options, **changed}})


def fit_row(
    model: ResolvedModel, case: FitCase, device: DeviceMemory, lengths: Sequence[int]
) -> FitRow:
    """What fits of one case into the device, at lengths in ascending order."""
    names = case.use, case.cell(model).label, case.checkpointing
    first = _peak(model, case, device, 1, lengths[0])
    if first.resident is None:
        nothing = (None,) * len(lengths)
        return FitRow(*names, None, nothing, None, first.reason, case.kv_cache)
    saved = 0 if case.tuning else round(saved_by_packing(model.shape, case.precision))
    load = load_peak(Cell(model=model.ref, precision=case.precision), model)
    whole = loaded_whole(case.precision) is not None
    loaded = 0 if load is None else (load.resident or 0) - (0 if whole else saved)

    def taken(tokens: int, batch: int) -> int:
        peak = _peak(model, case, device, batch, tokens)
        # A kernel that reads packed codes makes no copy of a layer's weights.
        less = saved + peak.kinds.get("dequantized_weight", 0) if saved else 0
        return (peak.resident or 0) - less

    def needed(tokens: int, batch: int) -> int:
        return max(taken(tokens, batch), loaded) + device.kept_free_bytes

    context = model.context_tokens
    batches: list[int | None] = []
    most = MOST_SEQUENCES
    for length in lengths:
        if context is not None and length > context:
            batches.append(None)
            continue
        # What does not fit at a length does not at a longer one; but without a flash attention,
        # the mask of a sliding window takes a kernel that keeps no scores.
        if not device.flash:
            most = MOST_SEQUENCES
        most = largest(partial(needed, length), device.bytes, most) if most else 0
        batches.append(most)
    steps = min(context or _MOST_TOKENS, _MOST_TOKENS) // LENGTH_STEP
    longest = largest(lambda step: needed(step * LENGTH_STEP, 1), device.bytes, steps)
    least, free = taken(lengths[0], 1), device.kept_free_bytes
    return FitRow(
        *names,
        least + free,
        tuple(batches),
        longest * LENGTH_STEP,
        kv_cache=case.kv_cache,
        loading_bytes=loaded + free if loaded > least else None,
        simulated_bytes=first.resident + free if saved else None,
    )


def largest(needed: Callable[[int], int], limit: int, most: int) -> int:
    """The largest number up to `most` that needs at most `limit`; 0 if 1 needs more.

    `needed` never falls, and is nearly a line: where the line meets the limit is tried first.
    """
    at_low = needed(1)
    if at_low > limit:
        return 0
    at_high = needed(most)
    if at_high <= limit:
        return most
    low, high, turn = 1, most, 0
    while high - low > 1:
        turn += 1
        by_line = int((high - low) * (limit - at_low) / (at_high - at_low))
        step = (high - low) // 2 if turn % 4 == 0 else by_line
        guess = low + min(max(step, 1), high - low - 1)
        found = needed(guess)
        if found <= limit:
            low, at_low = guess, found
        else:
            high, at_high = guess, found
    return low


def _peak(
    model: ResolvedModel, case: FitCase, device: DeviceMemory, batch: int, tokens: int
) -> Peak:
    """Of inference: a prompt of so many tokens, and one decoded after it."""
    if case.tuning is not None:
        options = training_options(case.tuning).model_copy(update={"batch": batch})
        return training_peak(
            model,
            case.tuning.method,
            case.precision,
            options,
            tokens=tokens,
            padded=True,
            flash=device.flash,
        )
    point = GridPoint(batch=batch, prompt_tokens=tokens, new_tokens=1)
    return work_peak(case.cell(model), model, point, flash=device.flash)


def _is_repeated(precision: PrecisionRef, options: TrainingOptions) -> bool:
    """Whether another precision's row says the same: full tuning is held in its master weights."""
    products = products_of(precision)
    return isinstance(options, FullOptions) and (
        products is None or products.rest != options.master_weights
    )


def _use(method: str, precision: PrecisionRef) -> str:
    if method == "full":
        return "full"
    return "QLoRA" if is_quantized(precision) else "LoRA"
