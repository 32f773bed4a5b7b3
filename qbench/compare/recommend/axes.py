"""The quantities that a cell is chosen by, each with the metric that it is read from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.compare.items import (
    TASKS,
    against_merged,
    describe_point,
    first_point,
    items,
    text_titles,
)
from qbench.compare.recommend.axis import Axis, cost_axis
from qbench.compare.recommend.prices import token_prices
from qbench.compare.served import SERVED, STATIC, stored_wider

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.price import Price
    from qbench.compare.selection import CellRecords, TableRecords
    from qbench.core.record import Record

NEEDLE = "needle"
_HERE = TASKS[0]
_NOWHERE = ""
"""No item has this slug."""


def cost_axes_of(
    cells: Sequence[CellRecords], *, price: Price | None = None, batch: int | None = None
) -> list[Axis]:
    """Bytes, peak, times, energy, and prices of a million tokens.

    Times and peaks are read at one point of their grids: of `batch` where it is given, else that of
    the decision table.
    """
    memory = first_point(cells, "memory", batch=batch)
    latency = first_point(cells, "latency", batch=batch)
    there, here = _at(memory), _at(latency)
    slug = memory.item.slug if memory else _NOWHERE
    on_gpu = memory is not None and memory.environment.device_type == "cuda"
    peak = "memory.peak" if on_gpu else "memory.peak.inference"
    found = [
        cost_axis(
            "bytes",
            "static bytes, as served" if stored_wider(cells) else "static bytes",
            "static bytes",
            "bytes",
            "B",
            "footprint",
            None,
            SERVED[STATIC],
        ),
        cost_axis("peak", f"peak of inference{there}", "peak", "bytes", "B", "memory", slug, peak),
    ]
    slug = latency.item.slug if latency else _NOWHERE
    found += [
        cost_axis(step, f"{words}{here}", step, "seconds", "s", "latency", slug, f"latency.{step}")
        for step, words in (("prefill", "prefill"), ("decode", "decode a token"))
    ]
    found.append(
        cost_axis(
            "energy",
            f"energy a token{here}",
            "energy/token",
            "number",
            "J",
            "latency",
            slug,
            "latency.energy",
        )
    )
    return [*found, *token_prices(price, cells, latency)]


def quality_axes(records: TableRecords) -> list[Axis]:
    """Perplexity and divergence of texts, divergence on answers, scores of tasks and needles."""
    titles = text_titles(items(records, "quality"))
    found: list[Axis] = []
    for slug, name in titles.items():
        on = f" on {name}"
        short = on if len(titles) > 1 else ""
        found += [
            Axis(
                f"perplexity:{slug}",
                f"perplexity{on}",
                f"perplexity{short}",
                "change",
                "1",
                "lower",
                "quality",
                "quality",
                slug,
                "perplexity",
                of_change=True,
            ),
            Axis(
                f"kl:{slug}",
                f"KL{on}",
                f"KL{short}",
                "number",
                "nat",
                "lower",
                "quality",
                "quality",
                slug,
                "kl.mean",
            ),
        ]
    return [*found, *_chat_axes(records), *_all_task_axes(records), *_needle_axes(records)]


def _chat_axes(records: TableRecords) -> list[Axis]:
    """Divergence on the reference's answers, a divergence as that on a text is."""
    found = {
        slug: record
        for slug, record in items(records, "chat").items()
        if not against_merged(record)
    }
    titles = {slug: f"answers to {name}" for slug, name in text_titles(found).items()}
    return [
        Axis(
            f"kl:{slug}",
            f"KL on {title}",
            f"KL on {title if len(titles) > 1 else 'answers'}",
            "number",
            "nat",
            "lower",
            "quality",
            "chat",
            slug,
            "chat.kl.mean",
        )
        for slug, title in titles.items()
    ]


def _at(point: Record | None) -> str:
    return f" at {describe_point(point)}" if point else ""


def _needle_axes(records: TableRecords) -> list[Axis]:
    """The share of the needles found, of each length."""
    return [
        Axis(
            f"{NEEDLE}:{slug}",
            title := f"needles found, {slug}",
            title,
            "number",
            "1",
            "higher",
            "quality",
            NEEDLE,
            slug,
            "needle.retrieval",
            of_change=True,
        )
        for slug in items(records, NEEDLE)
    ]


def _all_task_axes(records: TableRecords) -> list[Axis]:
    return [axis for measurement in TASKS for axis in _task_axes(records, measurement)]


def _task_axes(records: TableRecords, measurement: str) -> list[Axis]:
    """Scores of tasks; of a task at several servers one each, which the item's slug tells apart."""
    found: dict[str, Axis] = {}
    for slug in items(records, measurement):
        scored = (
            metric
            for cell in records.cells
            for record in cell.of(measurement, slug)
            for metric in record.metrics
        )
        for metric in scored:
            key = metric.name if measurement == _HERE else f"{metric.name}:{slug}"
            if metric.better == "neither" or key in found:
                continue
            title = f"{slug} {metric.name.rpartition('.')[2]}"
            found[key] = Axis(
                key,
                title,
                title,
                "number",
                "1",
                metric.better,
                "quality",
                measurement,
                slug,
                metric.name,
                of_change=True,
            )
    return list(found.values())
