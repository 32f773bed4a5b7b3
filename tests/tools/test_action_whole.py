"""The composite action from its first step to its last: a pass, then something worse."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from qbench.compare.baseline import read_baseline, write_baseline
from tests.workplace import write_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.composite import Composite
    from tests.tools.github_api import Comments
    from tests.workplace import Workplace

pytestmark = pytest.mark.slow

SUITE = """\
name: guarded
models: [bundled:tiny-mistral]
precisions: [fp32, bf16, nf4]
measure: {footprint: {}, quality: {text: text.txt, window: 64}}
gate:
  memory.static: {max_increase: 1%}
  kl: {max: 0.5, inconclusive: pass}
"""


def plant(path: Path) -> None:
    """Halves the bytes of bf16 in the baseline: what is measured then takes twice as many."""
    records = [
        record.model_copy(
            update={
                "metrics": tuple(
                    one.model_copy(update={"value": one.value / 2})
                    if one.name == "memory.static" and one.value
                    else one
                    for one in record.metrics
                )
            }
        )
        if record.cell.label == "bf16"
        else record
        for record in read_baseline(path)
    ]
    write_baseline(path, records)


def test_a_pass_then_a_planted_regression(
    job: Callable[..., Composite], place: Workplace, comments: Comments
) -> None:
    write_text(place.folder)
    place.write("my suite.yaml", SUITE)
    given = {"suite": "my suite.yaml", "python": sys.executable, "device": "cpu"}
    held = {**given, "baseline": "old/guarded.json.gz", "only": "fp32\nbf16"}

    first = job()
    assert first.call(**held, propose_baseline="true"), first.log
    assert first.outputs["verdict"] == "no-baseline"
    assert first.steps["Python"].outcome == "skipped"
    (cache,) = [step for name, step in first.steps.items() if name.startswith("Models")]
    assert cache.given["key"] == "qbench-Linux-hash-of-my suite.yaml"
    assert str(place.folder / "cache") in cache.given["path"]
    made = Path(first.steps["upload"].given["path"]) / "guarded.json.gz"
    (place.folder / "old").mkdir()
    baseline = made.rename(place.folder / "old" / made.name)
    assert {record.cell.label for record in read_baseline(baseline)} == {"fp32", "bf16"}

    passed = job()
    assert passed.call(**held), passed.log
    assert passed.outputs["verdict"] == "passed"
    assert passed.outputs["python"] == sys.executable
    assert passed.outputs["summary"].startswith("gate passed")
    assert json.loads(Path(passed.outputs["json"]).read_text("utf-8"))["passed"] is True
    kept = Path(passed.steps["upload"].given["path"])
    assert {path.suffix for path in (kept / "reports").iterdir()} == {".md", ".html"}
    assert "### ✅ qbench gate: guarded" in comments.bodies[1]

    plant(baseline)
    worse = job()
    assert not worse.call(**held)
    assert {name for name, step in worse.steps.items() if step.outcome == "failure"} == {"gate"}
    assert worse.outputs["verdict"] == "regression"
    failed = [
        case.get("classname")
        for case in ET.parse(worse.outputs["junit"]).getroot().iter("testcase")
        if case.find("failure") is not None
    ]
    assert failed == ["tiny-mistral.bf16.footprint"]
    assert "bf16: memory.static" in Path(worse.outputs["page"]).read_text("utf-8")
    assert worse.summary.count("## ❌ qbench gate") == 1
    assert list(comments.bodies) == [1]
    assert "### ❌ qbench gate: guarded" in comments.bodies[1]
    assert "+100" in comments.bodies[1]


def test_a_suite_that_is_wrong_is_told(
    job: Callable[..., Composite], place: Workplace, comments: Comments
) -> None:
    place.write("suite.yaml", SUITE.replace("nf4", "nf5"))
    used = job()
    assert not used.call(suite="suite.yaml", python=sys.executable)
    assert (used.steps["run"].code, used.steps["gate"].code) == (2, 2)
    assert "did you mean" in used.steps["run"].log
    assert used.outputs["verdict"] == "failed"
    assert "came to no verdict" in comments.bodies[1]
    assert "not measured to its end" in comments.bodies[1]


def test_a_python_without_qbench_is_refused(
    job: Callable[..., Composite], place: Workplace, comments: Comments
) -> None:
    place.write("suite.yaml", SUITE)
    used = job()
    used.environment = {**used.environment, "PYTHONPATH": ""}
    assert not used.call(suite="suite.yaml", python="/usr/bin/python3")
    assert "::error title=qbench action::python: found /usr/bin/python3, which" in used.log
    assert {step.outcome for name, step in used.steps.items() if name != "install"} == {"skipped"}
    assert comments.asked == []
