"""What a plan needs before it is run: memory of the device by cell, disk, and time."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbench.core.cache import cache_folder
from qbench.core.files import nearest_existing
from qbench.core.number_types import ITEM_BYTES
from qbench.plan.cells import why_left_out
from qbench.precisions.computing import rest_type
from qbench.precisions.kv_cache import kv_cache_named
from qbench.predict.cache_bytes import cache_bytes
from qbench.predict.devices import Fit, fits, memory_of
from qbench.predict.model_config import config_of
from qbench.predict.peaks import load_peak, predicted_peak
from qbench.predict.static import saved_by_packing
from qbench.predict.training import trained_bytes
from qbench.predict.work import GridPoint, work_of

if TYPE_CHECKING:
    from pathlib import Path

    from qbench.core.record import Environment
    from qbench.core.spec import ResolvedModel
    from qbench.plan.cells import PlannedCell
    from qbench.plan.plan import Plan
    from qbench.predict.peaks import Peak

_MERGED = ("merged", "merged-dequantized", "merged-requantized")
"""Deployments with a checkpoint of their own; in 16 bits, or in what they are served in."""
_HALF = 2
MOST_GPUS = 16
"""Of one node, as far as is looked for."""


@dataclass(frozen=True)
class CellNeed:
    """The highest peak that is known of a cell's items."""

    peak: Peak | None = None
    """None where no peak is known."""
    fit: Fit | None = None
    """None where the peak or the device's memory is not known."""
    unknown: str | None = None
    """Why some item's peak is not known; None if all are that can be."""

    @property
    def bytes(self) -> int | None:
        """What must lie on the device at the highest moment; None where it is not known."""
        return None if self.peak is None else self.peak.resident


@dataclass(frozen=True)
class DiskNeed:
    """Files that a run makes or fetches."""

    what: str
    bytes: int
    is_cache: bool
    """Whether they lie in qbench's cache; else where the hub's library keeps its downloads."""


def cell_need(planned: PlannedCell, environment: Environment) -> CellNeed:
    """The highest peak of what is asked of a cell, and taken where it fits."""
    memory = memory_of(environment, spread=planned.cell.model.device_map is not None)
    highest, unknown = None, None
    # A repeat takes the same.
    items = {(task.item.measurement, task.item.slug): task.item for task in planned.tasks}
    for item in items.values():
        if why_left_out(planned.cell, planned.model, item, environment) is not None:
            continue
        peak = predicted_peak(
            planned.held,
            planned.model,
            item,
            device=environment.device_type,
            flash=memory is None or memory.flash,
        )
        if peak is not None:
            unknown = unknown or peak.reason
            highest = max(highest, peak, key=_bytes) if highest else peak
    load = load_peak(planned.held, planned.model, device=environment.device_type)
    if load is not None and highest is not None and highest.resident is not None:
        highest = max(highest, load, key=_bytes)
    if highest is None or highest.resident is None:
        return CellNeed(unknown=unknown)
    fit = None if memory is None else fits(highest, memory.bytes, gpus=memory.gpus)
    return CellNeed(highest, fit, unknown)


def gpus_needed(plan: Plan) -> int | None:
    """GPUs of the plan's kind that the largest of its models with `device_map` needs at its peak.

    None where a peak, or a GPU's memory, is not known.
    """
    each = plan.environment.device_memory_bytes
    most = 1
    for planned in plan.cells:
        if planned.cell.model.device_map is None:
            continue
        need = cell_need(planned, plan.environment)
        if need.peak is None or need.bytes is None or each is None:
            return None
        counts = range(most, MOST_GPUS + 1)
        enough = (one for one in counts if fits(need.peak, one * each, gpus=one).fits)
        most = next(enough, MOST_GPUS)
    return most


def cache_need(planned: PlannedCell) -> tuple[str, int] | None:
    """Where the smallest grid point lies that a cell decodes at, and its KV cache there.

    None where it decodes nothing, or its cache is not known.
    """
    works = [
        work
        for task in planned.tasks
        if task.skip is None
        and isinstance(work := work_of(task.item), GridPoint)
        and work.new_tokens
    ]
    config, _ = config_of(planned.model)
    if not works or config is None:
        return None
    # The eager one of a size is there for every cache.
    least = min(works, key=lambda work: (work.batch * work.tokens, work.forward != "eager"))
    size, _ = cache_bytes(
        config,
        kv_cache_named(planned.cell.kv_cache),
        batch=least.batch,
        prompt_tokens=least.prompt_tokens,
        new_tokens=least.new_tokens,
        item=ITEM_BYTES[rest_type(planned.cell.precision)],
        prefill_chunk=least.prefill_chunk,
    )
    return None if size is None else (least.slug, size)


def saved_bytes(planned: PlannedCell) -> float:
    """By which the cell's model as it is served is smaller than as it is held here."""
    if planned.predicted is None or planned.cell.is_training:
        return 0.0
    return saved_by_packing(planned.model.shape, planned.held.precision)


def loading_bytes(planned: PlannedCell, environment: Environment) -> int | None:
    """What loading takes, where the floating model must fit first and is larger; else None."""
    if planned.predicted is None or planned.cell.is_training:
        return None
    load = load_peak(planned.held, planned.model, device=environment.device_type)
    taken = None if load is None else load.resident
    return taken if taken is not None and taken > planned.predicted.total else None


def _bytes(peak: Peak) -> int:
    return peak.resident or 0


def disk_needs(plan: Plan) -> list[DiskNeed]:
    """What is fetched and what is kept, of the cells that can run; known from shapes."""
    cells = [cell for cell in plan.cells if cell.skip is None]
    needs = [
        DiskNeed(f"download of {model.ref.source}", size, is_cache=False)
        for model in {cell.model.ref.name: cell.model for cell in cells}.values()
        if (size := download_bytes(model))
    ]
    adapters = [size for cell in cells if (size := _trained_bytes(cell)) is not None]
    if adapters:
        needs.append(DiskNeed("tuned weights", sum(adapters), is_cache=True))
    merged = {
        (cell.model.ref.name, cell.cell.tuning.label, cell.cell.deploy == "merged-dequantized"): (
            _HALF * cell.model.shape.weights
        )
        for cell in cells
        if cell.cell.tuning is not None
        and cell.cell.tuning.method == "lora"
        and cell.cell.deploy in _MERGED
        and cell.model.shape is not None
    }
    if merged:
        needs.append(DiskNeed("merged checkpoints", sum(merged.values()), is_cache=True))
    return needs


def download_bytes(model: ResolvedModel) -> int | None:
    """Of a hub model that is not here yet; in 16 bits where the hub could not be asked.

    None of a model that is here, and where its shapes are not known either.
    """
    if model.folder is not None or model.ref.kind != "hub":
        return None
    if model.disk_bytes is not None:
        return model.disk_bytes
    return None if model.shape is None else _HALF * model.shape.weights


def free_bytes(folder: Path) -> int | None:
    """Free on the disk that a folder lies on, or will; None where it cannot be asked."""
    try:
        return shutil.disk_usage(nearest_existing(folder)).free
    except OSError:
        return None


def cache_free_bytes() -> int | None:
    """Free for qbench's cache."""
    return free_bytes(cache_folder())


def _trained_bytes(planned: PlannedCell) -> int | None:
    """Bytes of the adapter, or of all weights, that a training leaves; None for another cell."""
    training, shape = planned.cell.training, planned.model.shape
    if training is None or shape is None:
        return None
    return trained_bytes(shape, planned.model.architecture, training)
