"""Pictures of one kind in a group, with what all of them say said once."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from qbench.core.page import Charts

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qbench.core.page import Chart


def group_of(title: str, charts: Iterable[Chart | None]) -> list[Charts]:
    """The group, none without a picture; for an empty title see `Charts.title`."""
    drawn = [chart for chart in charts if chart is not None]
    captions = {chart.caption for chart in drawn}
    if not drawn:
        return []
    if len(captions) > 1:
        return [Charts(tuple(drawn), title=title)]
    plain = tuple(replace(chart, caption="") for chart in drawn)
    return [Charts(plain, captions.pop(), title=title)]
