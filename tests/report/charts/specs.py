"""What tests ask of a chart: its data, and what stands in it besides its data."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from qbench.core.page import Chart, Charts, Fold

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from qbench.core.page import Part


def charts_of(parts: Iterable[Part]) -> Iterator[Chart]:
    """All charts of the parts, those in groups and folds too."""
    for part in parts:
        if isinstance(part, Chart):
            yield part
        elif isinstance(part, Charts):
            yield from part.charts
        elif isinstance(part, Fold):
            yield from charts_of(part.parts)


def values(chart: Chart) -> list[dict[str, Any]]:
    """The rows of the data that the whole chart is drawn from."""
    found: list[dict[str, Any]] = chart.spec["data"]["values"]
    return found


def by_cell(chart: Chart) -> dict[str, dict[str, Any]]:
    """The rows by cell, where each has one."""
    rows = {row["cell"]: row for row in values(chart)}
    assert len(rows) == len(values(chart))
    return rows


def without_data(spec: Any) -> str:
    """All of a specification but its data, as JSON."""
    return json.dumps(_without_data(spec), ensure_ascii=False)


def _without_data(spec: Any) -> Any:
    if isinstance(spec, dict):
        return {key: _without_data(each) for key, each in spec.items() if key != "data"}
    return [_without_data(each) for each in spec] if isinstance(spec, list) else spec
