"""The divergence from the reference: its quantiles, and how the tokens or windows spread."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from qbench.core.log_bins import EDGES, counts_of
from qbench.core.page import Chart
from qbench.core.units import counted
from qbench.report.charts.axes import cell_axis, decades, quantity, rounded, row_height, tooltip
from qbench.report.figures import with_interval

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from qbench.compare.selection import TableRecords
    from qbench.core.page import Figure
    from qbench.core.record import Record

_QUANTILES = {
    "kl.median": "median",
    "kl.mean": "mean",
    "kl.p90": "p90",
    "kl.p99": "p99",
    "kl.p99_9": "p99.9",
    "kl.max": "max",
}
_SHAPES = ("circle", "diamond", "square", "triangle-up", "triangle-right", "cross")
_WINDOW_BINS = 40
_AXIS = "KL (nat), logarithmic"
_UNSEEN = "What is 0 or below has no place on a logarithmic axis and is not drawn."
_TOKENS = (
    "Darker or lighter, away from the page's own colour: more of the tokens. They are counted in"
    f" bins of a quarter of a power of ten. {_UNSEEN}"
)
_WINDOWS = (
    "These records keep no histogram of tokens, so this is of the windows: of each the mean over"
    f" its tokens, which spreads far less than they do. {_UNSEEN}"
)


def divergence_charts(
    records: TableRecords, slug: str, text: str, measurement: str = "quality"
) -> list[Chart]:
    """The quantiles of one text and the spread; none where nothing was compared."""
    measured = {
        cell.label: found
        for cell in records.cells
        if not cell.reference and (found := cell.of(measurement, slug))
    }
    prefix = "" if measurement == "quality" else f"{measurement}."
    drawn = (_quantiles(measured, prefix), _of_tokens(measured) or _of_windows(measured))
    return [replace(one, title=f"{one.title}: {text}") for one in drawn if one is not None]


def _quantiles(measured: Mapping[str, Sequence[Record]], prefix: str) -> Chart | None:
    """`prefix` begins the names of the metrics."""
    rows: list[dict[str, Any]] = [
        {"cell": label, "quantile": name, "value": rounded(figure.value), **_ends(figure)}
        for label, found in measured.items()
        for metric, name in _QUANTILES.items()
        if (figure := with_interval(found, f"{prefix}{metric}")).value is not None
        and figure.value > 0
    ]
    if not rows:
        return None
    cells = len({row["cell"] for row in rows})
    x = quantity("value", _AXIS, **_log_axis(row[key] for row in rows for key in _PLACES & {*row}))
    known = any("low" in row for row in rows)
    names = list(_QUANTILES.values())
    point = {
        "field": "quantile",
        "type": "nominal",
        "scale": {"domain": names},
        "legend": {"title": None},
    }
    bars: list[dict[str, Any]] = [
        {
            "transform": [{"filter": "isValid(datum.low)"}],
            "mark": {"type": "rule", "strokeWidth": 5, "strokeOpacity": 0.5},
            "encoding": {"x": {**x, "field": "low"}, "x2": {"field": "high"}, "color": point},
        }
    ]
    spec = {
        "data": {"values": rows},
        "height": row_height(cells),
        "encoding": {"y": cell_axis()},
        "layer": [
            {
                "mark": {"type": "rule", "opacity": 0.4},
                "encoding": {"x": {**x, "aggregate": "min"}, "x2": {"aggregate": "max", **_VALUE}},
            },
            *(bars if known else ()),
            {
                "mark": {"type": "point", "filled": True, "size": 60, "opacity": 1},
                "encoding": {
                    "x": x,
                    "color": point,
                    "shape": {**point, "scale": {"domain": names, "range": list(_SHAPES)}},
                    "tooltip": tooltip(
                        {"cell": "cell", "quantile": "of tokens", "value": "KL"}
                        | ({"low": "95 % from", "high": "95 % to"} if known else {})
                    ),
                },
            },
        ],
    }
    return Chart(
        "Divergence by quantile of the tokens",
        "Mean, median, 90th, 99th and 99.9th percentile and maximum of the divergence of the"
        f" tokens from the reference's predictions, for {counted(cells, 'cell')}.",
        spec,
        "Bars behind the signs are 95 % intervals, where these are wider than the sign."
        if known
        else "",
    )


def _ends(figure: Figure) -> dict[str, float]:
    """The interval's ends, where they are known and have a place on the axis."""
    if figure.low is None or figure.high is None or not 0 < figure.low < figure.high:
        return {}
    return {"low": rounded(figure.low), "high": rounded(figure.high)}


_PLACES = {"value", "low", "high"}
_VALUE = {"field": "value"}


def _of_tokens(measured: Mapping[str, Sequence[Record]]) -> Chart | None:
    """The tokens of each cell that keeps a histogram of them."""
    kept = {
        label: counts
        for label, found in measured.items()
        if (counts := counts_of(found[0].details.get("kl_histogram"))) is not None
    }
    rows = [
        {"cell": label, "low": rounded(low), "high": rounded(high), "share": count / sum(counts)}
        for label, counts in kept.items()
        for low, high, count in zip(EDGES, EDGES[1:], counts[1:], strict=False)
        if count
    ]
    all_of_them = len(kept) == len(measured)
    told = "" if all_of_them else f" ({len(kept)} of {len(measured)} cells keep a histogram)"
    return _strips(f"Divergence of the tokens{told}", "tokens", rows, _TOKENS)


def _of_windows(measured: Mapping[str, Sequence[Record]]) -> Chart | None:
    """The mean of each window, in bins that are the same for all cells."""
    means = {label: _window_means(found[0]) for label, found in measured.items()}
    positive = [value for values in means.values() for value in values if value > 0]
    if not positive:
        return None
    low = math.log10(min(positive))
    step = (math.log10(max(positive)) - low) / _WINDOW_BINS or 1.0
    rows = []
    for label, values in means.items():
        counts = [0] * _WINDOW_BINS
        for value in values:
            if value > 0:
                counts[min(int((math.log10(value) - low) / step), _WINDOW_BINS - 1)] += 1
        rows += [
            {
                "cell": label,
                "low": rounded(10 ** (low + at * step)),
                "high": rounded(10 ** (low + (at + 1) * step)),
                "share": count / len(values),
            }
            for at, count in enumerate(counts)
            if count
        ]
    return _strips("Divergence of the windows' means", "windows", rows, _WINDOWS)


def _window_means(record: Record) -> list[float]:
    sums, tokens = record.series.get("window_kl_sum", []), record.series.get("window_tokens", [])
    means = (kl / number for kl, number in zip(sums, tokens, strict=False) if number)
    return [mean for mean in means if math.isfinite(mean)]


def _strips(title: str, what: str, rows: Sequence[dict[str, Any]], caption: str) -> Chart | None:
    """A histogram for each cell in one row, its shares as colours."""
    if not rows:
        return None
    rows = [{**row, "share": rounded(100 * row["share"])} for row in rows]
    cells = len({row["cell"] for row in rows})
    ends = [end for row in rows for end in (row["low"], row["high"])]
    spec = {
        "data": {"values": rows},
        "height": row_height(cells),
        "mark": {"type": "rect"},
        "encoding": {
            "y": cell_axis(),
            "x": quantity("low", _AXIS, **_log_axis(ends)),
            "x2": {"field": "high"},
            "color": {
                "field": "share",
                "type": "quantitative",
                "legend": {"title": f"% of the {what}"},
            },
            "tooltip": tooltip(
                {"cell": "cell", "low": "KL from", "high": "KL to", "share": f"% of the {what}"}
            ),
        },
    }
    description = (
        f"Histograms of the divergence of the {what} from the reference's predictions on a"
        f" logarithmic axis, for {counted(cells, 'cell')}."
    )
    return Chart(title, description, spec, caption)


def _log_axis(values: Iterable[float]) -> dict[str, Any]:
    ticks = decades(list(values))
    return {
        "scale": {"type": "log", "domain": [ticks[0], ticks[-1]]},
        "axis": {"values": ticks, "format": ".6~g"},
    }
