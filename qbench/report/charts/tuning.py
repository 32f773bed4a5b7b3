"""Fine-tuning: loss curves, the arms compared, what became of each adapter, memory of a step."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from qbench.compare.items import text_titles
from qbench.core.page import Chart, Charts
from qbench.core.units import counted
from qbench.report.charts.axes import quantity, rounded, tooltip
from qbench.report.charts.forest import HOW_TO_READ, change_of, forest
from qbench.report.charts.memory import stacked
from qbench.report.finetune.deployments import CHANGE, deployment_label, judged_deployments
from qbench.report.finetune.memory import KINDS, MEMORY, PEAK
from qbench.report.sparkline import downsample

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from qbench.compare.selection import CellRecords, TableRecords
    from qbench.compare.tuned.arms import Arm
    from qbench.core.page import Part, Table
    from qbench.report.finetune.changes import Judged
    from qbench.report.finetune.results import Results

MOST_POINTS = 6_000
"""Of all curves together; longer ones are means over equal stretches of steps."""
_LONGEST = 100
_COLOURS = 10
"""Arms that the page has colours for; of more the lines differ too."""
_LOSS = "difference (nat), lower is better"
_PERPLEXITY = "change (%), lower is better"


def arm_charts(results: Results) -> list[Part]:
    """What each arm gained, by how much it is apart from its counterpart, what it forgot."""
    gains = {one.arm.name: one.gain for one in results.arms}
    against = {one.arm.name: one.against for one in results.arms if one.against is not None}
    charts = [
        _forest("Change of the test loss from the untuned base", gains, _LOSS),
        _forest("Test loss against the counterpart's", against, _LOSS),
    ]
    for slug, text in text_titles(results.texts).items():
        forgotten = {one.arm.name: one.forgetting[slug] for one in results.arms}
        title = f"Change of the perplexity of neutral text: {text}"
        charts.append(_forest(title, forgotten, _PERPLEXITY))
    return _group(charts, HOW_TO_READ)


def deployment_charts(records: TableRecords, results: Results) -> list[Part]:
    """How far each deployment is from its arm's first, and from the untuned reference on texts."""
    changes: dict[str, dict[str, Judged]] = {}
    for (arm, deployment, question), judged in judged_deployments(records, results).items():
        changes.setdefault(question, {})[deployment_label(arm, deployment)] = judged
    title = "Change of the test loss from the same arm's attached or 16-bit model"
    charts = [_forest(title, changes.pop(CHANGE, {}), _LOSS)]
    titles = text_titles(results.texts)
    for slug, of_text in changes.items():
        title = f"Change of the perplexity of neutral text: {titles[slug]}"
        charts.append(_forest(title, of_text, _PERPLEXITY))
    return _group(charts, HOW_TO_READ)


def step_memory_charts(table: Table) -> list[Part]:
    """The memory of a training step by kind, of the table of it, beside the measured peak."""
    parts = [
        (row.label, title, figure.value)
        for key, title in KINDS.items()
        for row, figure in zip(table.rows, table.column(MEMORY + key), strict=True)
        if figure.value is not None and figure.value > 0
    ]
    peaks = [
        (row.label, figure.value)
        for row, figure in zip(table.rows, table.column(MEMORY + PEAK), strict=True)
        if figure.value is not None
    ]
    kinds = tuple(KINDS.values())
    chart = stacked(table.title, "bytes", parts, peaks, kinds, "the measured peak")
    return [] if chart is None else [chart]


def curve_charts(arms: Sequence[Arm]) -> list[Part]:
    """The losses of every training over its steps: of the training data, and held out."""
    trainings = [(arm.name, cell) for arm in arms for cell in arm.trainings]
    most = max(2, min(_LONGEST, MOST_POINTS // max(1, len(trainings))))
    trained = [row for arm, cell in trainings for row in _training_rows(arm, cell, most)]
    held_out = [row for arm, cell in trainings for row in _held_out_rows(arm, cell, most)]
    charts = [_curves("Training loss", trained), _curves("Held-out loss", held_out, points=True)]
    return _group(charts, _caption(arms, trainings, most))


def _group(charts: Iterable[Chart | None], caption: str) -> list[Part]:
    made = tuple(chart for chart in charts if chart is not None)
    return [Charts(made, caption)] if made else []


def _forest(title: str, judged: Mapping[str, Judged], axis: str) -> Chart | None:
    changes = [
        change
        for label, one in judged.items()
        if (change := change_of(label, one.found, one.mark, one.verdict, one.allowance))
    ]
    return forest(title, changes, axis=axis)


def _training_rows(arm: str, cell: CellRecords, most: int) -> list[dict[str, Any]]:
    losses = next((one.series.get("step_loss", []) for one in cell.of("training")), [])
    means = downsample(losses, most)
    stretch = len(losses) / len(means) if means else 1.0
    steps = ((at + 0.5) * stretch + 0.5 for at in range(len(means)))
    return _rows(arm, cell, zip(steps, means, strict=True))


def _held_out_rows(arm: str, cell: CellRecords, most: int) -> list[dict[str, Any]]:
    found = cell.of("training")
    series = found[0].series if found else {}
    losses, steps = series.get("validation_loss", []), series.get("validation_step", [])
    pairs = list(zip(steps, losses, strict=False))
    kept = pairs if len(pairs) <= most else [*pairs[:: -(-len(pairs) // most)], pairs[-1]]
    return _rows(arm, cell, kept)


def _rows(
    arm: str, cell: CellRecords, pairs: Iterable[tuple[float, float | None]]
) -> list[dict[str, Any]]:
    return [
        {"cell": arm, "training": cell.label, "step": rounded(step), "loss": rounded(loss)}
        for step, loss in pairs
        if loss is not None and math.isfinite(loss) and math.isfinite(step)
    ]


def _curves(title: str, rows: list[dict[str, Any]], *, points: bool = False) -> Chart | None:
    if not rows:
        return None
    trainings, arms = ({row[key] for row in rows} for key in ("training", "cell"))
    legend = {"title": None, "symbolOpacity": 1}
    arm = {"field": "cell", "type": "nominal", "sort": None, "legend": legend}
    told = {"cell": "arm", "training": "training", "step": "step", "loss": "nat a token"}
    several = len(trainings) > len(arms)
    loss = quantity("loss", "nat a token", scale={"zero": False})
    each: dict[str, Any] = {
        "mark": {
            "type": "line",
            "strokeWidth": 1 if several else 2,
            "opacity": 0.4 if several else 0.9,
            "point": {"size": 25} if points else False,
        },
        "encoding": {
            "y": loss,
            "detail": {"field": "training", "type": "nominal"},
            "tooltip": tooltip(told),
        },
    }
    mean = {
        "mark": {"type": "line", "strokeWidth": 2.5},
        "encoding": {"y": {**loss, "aggregate": "mean"}},
    }
    spec: dict[str, Any] = {
        "data": {"values": rows},
        "height": 240,
        "encoding": {"x": quantity("step", "step"), "color": arm},
        "layer": [each, *([mean] if several else [])],
    }
    if len(arms) > _COLOURS:
        spec["encoding"]["strokeDash"] = arm
    return Chart(
        title,
        f"{title} over the steps of {counted(len(trainings), 'training')} of"
        f" {counted(len(arms), 'arm')}.",
        spec,
    )


def _caption(arms: Sequence[Arm], trainings: Sequence[tuple[str, CellRecords]], most: int) -> str:
    several = len(trainings) > len(arms)
    told = "Each seed is a thin line, their mean a thick one." if several else ""
    lengths = [
        len(one.series.get("step_loss", [])) for _, cell in trainings for one in cell.of("training")
    ]
    if max(lengths, default=0) > most:
        told += f" Each point of a training loss is a mean over equal stretches, {most} of them."
    return told.strip()
