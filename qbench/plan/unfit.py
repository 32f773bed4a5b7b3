"""What of a plan does not fit the device, by arithmetic: skipped with bytes and advice, not tried.

A cell whose weights alone are too large is skipped as a whole, as is a training whose step is, and
what would be served of it; else the items that are too large are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.predict.devices import fits, memory_of
from qbench.predict.peaks import load_peak, loaded_whole, predicted_peak
from qbench.predict.remedies import remedy

if TYPE_CHECKING:
    from collections.abc import Callable

    from qbench.core.record import Environment
    from qbench.core.spec import Cell, Item, ResolvedModel
    from qbench.predict.devices import DeviceMemory
    from qbench.predict.peaks import Peak

_GIB = 2**30


def why_cell_does_not_fit(cell: Cell, model: ResolvedModel, environment: Environment) -> str | None:
    """Why a training's step, or a model's weights, cannot be held; None if they can."""
    device = _device(cell, environment)
    if device is None:
        return None
    if cell.is_training:
        peak = predicted_peak(cell, model, device=device.kind, flash=device.flash)
        return _why_not("a training step", peak, device, lambda: remedy(cell, model, None, device))
    peak = load_peak(cell, model, device=device.kind)
    what = "the model"
    dtype = loaded_whole(cell.precision)
    if dtype is not None:
        what += f" in {dtype}, of which {cell.precision.name} is made,"
    return _why_not(what, peak, device, lambda: None)


def why_item_does_not_fit(
    cell: Cell, model: ResolvedModel, item: Item, environment: Environment
) -> str | None:
    """Why one item of a cell cannot be taken, whose model can be held; None if it can."""
    device = _device(cell, environment)
    if device is None or cell.is_training:
        return None
    peak = predicted_peak(cell, model, item, device=device.kind, flash=device.flash)
    what = f"{item.measurement} {item.slug}"
    return _why_not(what, peak, device, lambda: remedy(cell, model, item, device))


def _device(cell: Cell, environment: Environment) -> DeviceMemory | None:
    """The device that the cell must fit, or all GPUs that it is spread over; None if not known."""
    return memory_of(environment, spread=cell.model.device_map is not None)


def _why_not(
    what: str, peak: Peak | None, device: DeviceMemory, remedy_of: Callable[[], str | None]
) -> str | None:
    if peak is None or peak.resident is None:
        return None
    fit = fits(peak, device.bytes, gpus=device.gpus)
    if fit.fits:
        return None
    needed, there = fit.needed_bytes, fit.available_bytes
    # Trying what would fit takes time, and is useless where no batch is small enough.
    moving = sum(peak.kinds.get(kind, 0) for kind in ("activations", "kv_cache", "logits"))
    advice = remedy_of() if needed - there < moving else None
    return (
        f"does not fit: {what} needs {needed / _GIB:.1f} GiB ({needed:,} bytes), {device.name} has"
        f" {there / _GIB:.1f} GiB ({there:,} bytes); {advice or fit.advice}"
    )
