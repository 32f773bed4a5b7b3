"""What a plan's table does not say: what is measured, skipped and unknown, and what disks need."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from qbench.compare.speed import TIMED, marked_lines
from qbench.core.page import Words
from qbench.core.units import choose_scale, counted
from qbench.measures.serving.servers import ON_SERVERS, server_of
from qbench.plan.needs import cache_need, loading_bytes, saved_bytes
from qbench.plan.untrusted_code import code_notes
from qbench.precisions import is_quantized, options_of, unlike_served
from qbench.precisions.computing import rest_type
from qbench.precisions.mixed.layers import formats_of
from qbench.precisions.mixed.options import MixedOptions
from qbench.predict.bf16 import bf16_warning
from qbench.predict.devices import RESERVED_BYTES
from qbench.predict.mixtures import mixture_of
from qbench.predict.peaks import training_tokens
from qbench.report.plan_sensitivity import scored_texts, sensitivity_lines
from qbench.report.plan_serving import serving_lines

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.core.spec import Item
    from qbench.plan.cells import PlannedCell
    from qbench.plan.needs import CellNeed, DiskNeed
    from qbench.plan.plan import Plan

_HALF = 2
"""Bytes of a weight in 16 bits."""


def plan_notes(plan: Plan) -> list[Words]:
    """What each cell is measured for, by model; then what cannot run, and why."""
    lines = [] if plan.shard is None else [*plan.shard.notes]
    lines += [] if plan.device_note is None else [f"device: {plan.device_note}"]
    lines += [f"{cell.model.ref.name}: {_kind(cell)} {_measurements(cell)}" for cell in plan.cells]
    lines += [
        f"{cell.model.ref.name}: bytes are not known before loading, {cell.model.shape_unknown}"
        for cell in plan.cells
        if cell.predicted is None and cell.model.shape_unknown
    ]
    lines += _mixtures(plan)
    lines += [line for cell in plan.cells if (line := _mix_line(cell)) is not None]
    lines += serving_lines(plan)
    lines += sensitivity_lines(plan)
    once = dict.fromkeys(lines)
    skips = code_notes(plan)
    skips += _skips(plan)
    skips += dict.fromkeys(line for cell in plan.cells for line in _items_not_taken(cell))
    skips += scored_texts(plan)
    skips += _bf16_lines(plan)
    skips += _unlike_served_lines(plan)
    skips += _far_lines(plan)
    notes = [Words(f"rehearsal: {note}", "warned") for note in plan.suite.rehearsal]
    return [*notes, *map(Words, once), *(Words(line, "warned") for line in skips)]


def _mixtures(plan: Plan) -> list[str]:
    """How much of each mixture of experts a token reads, and where the experts stay as they are."""
    lines = []
    for name, model in {cell.model.ref.name: cell.model for cell in plan.cells}.items():
        mixture = mixture_of(model)
        if mixture is None:
            continue
        whole = _HALF * mixture.of_experts
        floating = dict.fromkeys(
            cell.cell.precision.label
            for cell in plan.cells
            if cell.model.ref.name == name
            and is_quantized(cell.cell.precision)
            and cell.predicted is not None
            and not cell.model.quantization
            and cell.predicted.other >= whole
        )
        lines.append(f"{name}: {mixture.words}")
        if floating:
            lines.append(
                f"{name}: its experts stay unquantized in {', '.join(floating)}: transformers"
                " stacks those of a layer into one tensor, which is no linear layer"
            )
    return lines


def _mix_line(cell: PlannedCell) -> str | None:
    """What a mix is found from, or what was found; None where none is to be found."""
    options = options_of(cell.cell.precision)
    if cell.skip or not isinstance(options, MixedOptions) or options.budget is None:
        return None
    place = f"{cell.model.ref.name}: {cell.cell.label}"
    if cell.found is None:
        labels = [one.label for one in formats_of(options)]
        return (
            f"{place}: found from {', '.join(labels)} and {options.dtype} once the reference's"
            f" sensitivity is measured; bytes are the most that {options.budget} allow"
        )
    found = cell.found[1]
    counts = Counter(found.units.values())
    listed = ", ".join(f"{count} in {label}" for label, count in sorted(counts.items()))
    kl = "" if found.predicted_kl is None else f"; predicted KL {found.predicted_kl:.3g}"
    return f"{place}: found: {counted(len(found.units), 'unit')}, {listed}{kl}"


def _bf16_lines(plan: Plan) -> list[str]:
    """Cells that compute in bf16 on a GPU that does not multiply it, by what to take instead."""
    found: dict[str, list[str]] = {}
    for cell in plan.cells:
        warning = None if cell.skip else bf16_warning(cell.cell, plan.environment)
        if warning is not None:
            found.setdefault(warning, []).append(cell.cell.label)
    return [f"{', '.join(dict.fromkeys(labels))}: {warning}" for warning, labels in found.items()]


def _unlike_served_lines(plan: Plan) -> list[str]:
    """Cells whose speed is measured and is not that of their format, by the reason."""
    found: dict[str, dict[str, None]] = {}
    for cell in plan.cells:
        timed = any(task.skip is None and _is_timed_here(task.item) for task in cell.tasks)
        held, device = cell.cell.precision, plan.environment.device_type
        reason = unlike_served(held, device, cell.cell.kv_cache)
        if reason is not None and timed and cell.skip is None and not cell.cell.is_training:
            found.setdefault(reason, {})[cell.cell.label] = None
    marked = marked_lines(found)
    return [f"reports will mark times by {line}" for line in marked[:1]] + marked[1:]


def _is_timed_here(item: Item) -> bool:
    """Whether it is timed with the kernels that the cell has here: an engine has its own."""
    own = item.measurement not in ON_SERVERS or server_of(item.params).engine is not None
    return own and item.measurement in TIMED


def _far_lines(plan: Plan) -> list[str]:
    """Servers that are not on this machine."""
    servers = [
        (task.item.measurement, server_of(task.item.params))
        for cell in plan.cells
        for task in cell.tasks
        if task.item.measurement in ON_SERVERS
    ]
    far = dict.fromkeys((name, one.far_address) for name, one in servers if one.far_address)
    return [
        f"{name} sends its requests to {address}, which the suite names: it is not this machine"
        for name, address in far
    ]


def _skips(plan: Plan) -> list[str]:
    """Skipped cells with the reason; of a training that is, what is served of it only by name."""
    skipped = {
        (cell.model.ref.name, training.label)
        for cell in plan.cells
        if cell.skip and (training := cell.cell.training) is not None
    }
    lines = []
    for cell in plan.cells:
        tuning = None if cell.cell.is_training else cell.cell.tuning
        if not cell.skip:
            continue
        if tuning is not None and (cell.model.ref.name, tuning.label) in skipped:
            lines.append(f"{cell.cell.slug}: skipped with its training")
        else:
            lines.append(f"{cell.cell.slug}: skipped: {cell.skip}")
    return lines


def need_notes(
    plan: Plan, needs: Sequence[CellNeed], disk: Sequence[DiskNeed], free: int | None
) -> list[Words]:
    """What the peaks are of, what does not fit, and what the disk needs.

    `free` are the bytes free for the cache; None where they are not known.
    """
    lines: list[Words] = []
    if any(need.bytes is not None for need in needs):
        kept = f"{RESERVED_BYTES / 2**20:.0f} MiB"
        text = f"peak: the highest predicted of a cell's measurements; {kept} more are kept free"
        lines.append(Words(text, "quiet"))
        gpus = plan.environment.gpus_memory_bytes
        if len(gpus) > 1 and any(cell.cell.model.device_map is not None for cell in plan.cells):
            text = (
                f"peak with device_map: of {len(gpus)} GPUs together, which have"
                f" {sum(gpus) / 2**30:.1f} GiB; {kept} more are kept free of each"
            )
            lines.append(Words(text, "quiet"))
    lengths = sorted(
        {
            training_tokens(training, cell.model)
            for cell, need in zip(plan.cells, needs, strict=True)
            if (training := cell.cell.training) is not None and need.bytes is not None
        }
    )
    if lengths:
        text = (
            "peak of a training: of the longest sequences that its options allow"
            f" ({' or '.join(map(str, lengths))} tokens); shorter data takes less"
        )
        lines.append(Words(text, "quiet"))
    lines += [Words(text, "quiet") for text in _other_bytes(plan)]
    lines += _cache_lines(plan)
    unknown: dict[str, list[str]] = {}
    for cell, need in zip(plan.cells, needs, strict=True):
        # What is skipped has its own reason, and no peak to ask for.
        if need.unknown is not None and cell.skip is None:
            unknown.setdefault(need.unknown, []).append(cell.cell.label)
    lines += [
        Words(f"peak not known: {', '.join(dict.fromkeys(labels))}: {reason}", "quiet")
        for reason, labels in unknown.items()
    ]
    if disk:
        lines.append(_disk_line(disk, free))
    return lines


def _other_bytes(plan: Plan) -> list[str]:
    """Cells that are simulated in more bytes than they are served in, or made of more."""
    told = []
    simulated = [cell.cell.precision.label for cell in plan.cells if saved_bytes(cell)]
    if simulated:
        listed = ", ".join(dict.fromkeys(simulated))
        told.append(
            f"bytes and bits/weight of {listed} are of packed codes, as they are served; here"
            " they are held wider (held here), and the peak is of that"
        )
    made = {
        cell.cell.precision.label: _size(size)
        for cell in plan.cells
        if (size := loading_bytes(cell, plan.environment)) is not None
    }
    if made:
        listed = ", ".join(f"{label} {size}" for label, size in made.items())
        told.append(f"made of the floating model, which must fit at first: loading {listed}")
    return told


def _cache_lines(plan: Plan) -> list[Words]:
    """Bytes of the KV cache at a point of the grid, of suites that quantize it: a line a point."""
    if all(cell.cell.kv_cache is None for cell in plan.cells):
        return []
    found: dict[str, dict[tuple[str, str], None]] = {}
    for cell in plan.cells:
        need = None if cell.skip else cache_need(cell)
        if need is not None:
            kind = cell.cell.kv_cache or rest_type(cell.cell.precision)
            place = f"{cell.model.ref.name} at {need[0]}"
            found.setdefault(place, {})[kind, _size(need[1])] = None
    return [
        Words(f"KV cache of {place}: {', '.join(map(' '.join, sizes))}", "quiet")
        for place, sizes in found.items()
    ]


def _disk_line(needs: Sequence[DiskNeed], free: int | None) -> Words:
    """What is fetched and kept, against what is free."""
    listed = ", ".join(f"{need.what} {_size(need.bytes)}" for need in needs)
    cached = sum(need.bytes for need in needs if need.is_cache)
    if free is None or not cached:
        return Words(f"disk: {listed}")
    short = cached > free
    told = f"disk: {listed}; {_size(free)} are free for the cache"
    remedy = ": free space, or name another folder with QBENCH_CACHE" if short else ""
    return Words(told + remedy, "warned" if short else "plain")


def _size(size: int) -> str:
    return choose_scale([size], "bytes").with_unit(size)


def _items_not_taken(cell: PlannedCell) -> list[str]:
    """Measurements of a cell that runs which are skipped, those with the same reason together."""
    alike: dict[str, dict[str, None]] = {}
    for task in cell.tasks:
        if task.skip is not None and cell.skip is None:
            alike.setdefault(task.skip, {})[task.item.measurement] = None
    return [
        f"{cell.model.ref.name}: {_kind(cell)} skips {', '.join(names)}: {reason}"
        for reason, names in alike.items()
    ]


def _kind(cell: PlannedCell) -> str:
    """Which of the cells are asked for the same."""
    if cell.cell.tuning is None:
        return "each cell" if cell.cell.kv_cache is None else "each with a quantized KV cache"
    if cell.cell.is_training:
        return "each training"
    return f"each model tuned by {cell.cell.tuning.method}, {cell.cell.deploy}:"


def _measurements(cell: PlannedCell) -> str:
    counts: dict[str, int] = {}
    for task in cell.tasks:
        counts[task.item.measurement] = counts.get(task.item.measurement, 0) + 1
    return ", ".join(name if n == 1 else f"{name} × {n}" for name, n in counts.items())
