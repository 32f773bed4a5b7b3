"""What to change so that something fits: tried by arithmetic, the least change first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.finetune import training_options
from qbench.precisions import is_quantized, precisions, products_of, with_defaults
from qbench.predict.devices import fits
from qbench.predict.fitting import largest
from qbench.predict.peaks import training_peak, training_tokens, work_peak
from qbench.predict.shapes import INFERRED, TRAINED
from qbench.predict.static import stored_bytes
from qbench.predict.work import GridPoint, work_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qbench.core.spec import Cell, Item, PrecisionRef, ResolvedModel, TuningRef
    from qbench.precisions.products import ProductKind
    from qbench.predict.devices import DeviceMemory
    from qbench.predict.peaks import Peak
    from qbench.predict.work import Scoring

LEAST_CHUNK_POWER = 6
"""A prefill in chunks of fewer than 64 tokens is slow for what it saves."""


def remedy(cell: Cell, model: ResolvedModel, item: Item | None, device: DeviceMemory) -> str | None:
    """What would fit in place of an item, or of the training that the cell is, which does not.

    None where no smaller batch and no smaller precision fits, or where the peak is not known.
    """
    if cell.training is not None:
        return _of_training(cell.training, model, device)
    if item is None:
        return None
    return _of_item(cell, model, item, device)


def _of_item(cell: Cell, model: ResolvedModel, item: Item, device: DeviceMemory) -> str | None:
    work = work_of(item)
    if work is None:
        return None

    def needed_of(tried: GridPoint | Scoring) -> int:
        peak = work_peak(cell, model, tried, device=device.kind, flash=device.flash)
        return _needed_bytes(peak, device)

    def needed(batch: int) -> int:
        return needed_of(work.model_copy(update={"batch": batch}))

    if isinstance(work, GridPoint):
        for chunk in _smaller_chunks(work):
            if needed_of(work.model_copy(update={"prefill_chunk": chunk})) <= device.bytes:
                return f"fits with prefill_chunk: {chunk}"
    batch = largest(needed, device.bytes, max(1, work.batch))
    if batch:
        return f"fits with batch: {batch}"
    if is_quantized(cell.precision) or cell.tuning is not None:
        return None
    smallest = _smallest(model, INFERRED)
    if smallest is None:
        return None
    smaller = cell.model_copy(update={"precision": smallest})
    peak = work_peak(smaller, model, work, device=device.kind, flash=device.flash)
    fitting = _needed_bytes(peak, device) <= device.bytes
    return f"fits in {smallest.label}" if fitting else None


def _smaller_chunks(work: GridPoint) -> Iterator[int]:
    """Powers of two below what one forward of prefill reads, the largest first."""
    size: int = work.prefill_parts[0]
    for power in range((size - 1).bit_length() - 1, LEAST_CHUNK_POWER - 1, -1):
        yield 2**power


def _of_training(tuning: TuningRef, model: ResolvedModel, device: DeviceMemory) -> str | None:
    parsed = training_options(tuning)
    tokens = training_tokens(tuning, model)
    checkpointed = parsed.model_copy(update={"checkpointing": True})

    def needed(tuned: TuningRef, batch: int) -> int:
        peak = training_peak(
            model,
            tuned.method,
            tuned.precision,
            checkpointed.model_copy(update={"batch": batch}),
            tokens=tokens,
            padded=True,
            device=device.kind,
            flash=device.flash,
        )
        return _needed_bytes(peak, device)

    with_checkpoints = "" if parsed.checkpointing else "checkpointing: true and "
    batch = largest(lambda size: needed(tuning, size), device.bytes, parsed.batch)
    if batch == parsed.batch:
        return "fits with checkpointing: true"
    if batch:
        return f"fits with {with_checkpoints}batch: {batch} (and more to accumulate)"
    if tuning.method != "lora" or is_quantized(tuning.precision):
        return None
    smallest = _smallest(model, TRAINED)
    if smallest is None:
        return None
    quantized = tuning.model_copy(update={"precision": smallest})
    batch = largest(lambda size: needed(quantized, size), device.bytes, parsed.batch)
    return f"fits in {smallest.label} with {with_checkpoints}batch: {batch}" if batch else None


def _needed_bytes(peak: Peak, device: DeviceMemory) -> int:
    """More than the device has, where the peak is not known."""
    if peak.resident is None:
        return device.bytes + 1
    return fits(peak, 0, gpus=device.gpus).needed_bytes


def _smallest(model: ResolvedModel, kinds: frozenset[ProductKind]) -> PrecisionRef | None:
    """The precision that takes the fewest bytes, of those whose products are of these kinds."""
    if model.shape is None:
        return None
    sizes = {}
    for name, held in precisions().items():
        ref = with_defaults(name)
        products = products_of(ref)
        if held.by_default and products is not None and products.kind in kinds:
            sizes[stored_bytes(model.shape, ref).total, name] = ref
    return sizes[min(sizes)] if sizes else None
