"""Every kind of picture in a real browser: each row of its data is drawn, and nothing is said."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from qbench.core.log_bins import EDGES, stored
from qbench.report.html.render import render
from qbench.report.report_page import report_page
from tests.paired_records import divergence, footprint, task
from tests.record_factory import make_metric, make_record
from tests.report.charts.specs import charts_of, values
from tests.report.html.browser import find_chromium, show
from tests.report.test_needle_tables import needles
from tests.sensitivity_records import of_reference
from tests.tuned_records import finetune_records

if TYPE_CHECKING:
    from pathlib import Path

    from qbench.core.record import Record

CHROMIUM = find_chromium()
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium is installed; `apt install chromium` makes these run"
)
NAME = "</script>'+alert(1)+'\" datum['cell'] [0].a"
COUNT = "plot => plot.querySelectorAll('svg .role-mark > :is(path, line)').length"
LINES = "plot => plot.querySelectorAll('svg [class*=mark-line] path').length"


def _cell(cell: str, shift: float) -> list[Record]:
    kl = divergence(cell, [shift * (1 + at % 7 / 10) for at in range(60)])
    details = {**kl.details, "kl_histogram": stored([0, *[at + 1 for at in range(len(EDGES))]])}
    quantiles = (make_metric(f"kl.{name}", 10 * shift or 0.0) for name in ("median", "p90", "max"))
    layers = [
        {"name": f"model.layers.{at}.{kind}", "relative_error": shift / (at + 1)}
        for at in range(3)
        for kind in ("q_proj", NAME)
    ]
    score = task(cell, [1.0] * (60 - round(1000 * shift)) + [0.0] * (40 + round(1000 * shift)))
    point: dict[str, Any] = {
        "slug": "b1-p128-n32",
        "params": {"batch": 1, "prompt_tokens": 128, "new_tokens": 32},
    }
    limits: dict[str, float | None] = {
        "latency.read_bandwidth": 1e9,
        "latency.matrix_rate": 1e11,
        "latency.decode.read_bytes": 4e6,
        "latency.prefill.operations": 1e8,
        "latency.decode.operations": 1e6,
    }
    times = [
        make_record(
            cell,
            "latency",
            limits,
            repeat=repeat,
            details={"multiplied_in": "fp32", "cache_bytes": 1e4},
            more_metrics=tuple(
                make_metric(
                    f"latency.{kind}",
                    0.01 + shift + repeat / 1000,
                    samples=(0.01 + shift, 0.012 + shift + repeat / 1000),
                )
                for kind in ("prefill", "decode")
            ),
            **point,
        )
        for repeat in range(5)
    ]
    peaks = {"memory.peak.predicted": 2e6, "memory.peak.inference": 2.5e6}
    return [
        kl.model_copy(update={"details": details, "metrics": (*kl.metrics, *quantiles)}),
        make_record(cell, "weight_error", {"relative": 0.1}, details={"layers": layers}),
        score.model_copy(update={"details": {**score.details, "chance": {"accuracy": 0.25}}}),
        *(needles(cell, length, (10, 9 - round(100 * shift), 8)) for length in (512, 1024)),
        footprint(cell, 1e6 + 1e8 * shift),
        make_record(cell, "footprint", {"memory.static": 1e6, "memory.static.linear": 1e6}),
        make_record(cell, "memory", peaks, **point),
        *times,
        *(
            make_record(
                cell,
                "kernels",
                slug=f"rows-{rows}",
                params={"rows": rows},
                more_metrics=tuple(
                    make_metric(f"kernels.{name}", (0.5 + shift) * rows**0.5)
                    for name in ("time", "time.bf16", "ratio", "floor")
                ),
            )
            for rows in (1, 4, 16)
        ),
    ]


def test_each_row_of_each_picture_is_drawn(tmp_path: Path) -> None:
    records = [
        *_cell("fp32", 0.0),
        *_cell("int8", 0.001),
        *_cell(NAME, 0.02),
        footprint("mix", 2e6, name="mixed"),
        divergence("mix", [0.01 + at / 1e4 for at in range(60)], name="mixed"),
        of_reference({"nf4": {NAME: 0.1, "a.0.b": None, "a.1.b": 0.01}}),
        *finetune_records((0, 1)),
    ]
    page = report_page(records)
    charts = list(charts_of(page.parts))
    assert len({chart.title.partition(":")[0] for chart in charts}) > 20
    path = tmp_path / "page.html"
    path.write_text(render(page), encoding="utf-8")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        shown = show(browser, path)
        plots = shown.page.locator(".plot[data-chart]").all()
        assert len(plots) == len(charts)
        for plot, chart in zip(plots, charts, strict=True):
            lines = {row.get("training") for row in values(chart)} - {None}
            if lines:
                assert plot.evaluate(LINES) >= len(lines), chart.title
            else:
                assert plot.evaluate(COUNT) >= len(values(chart)), chart.title
        assert shown.said == []
        browser.close()
