"""Integer precisions through the command: plans, what is wrong with a suite, a run, its report."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from qbench.core.errors import SuiteError
from qbench.plan.plan import make_plan
from qbench.plan.suite.suite import load_suite
from qbench.sources.bundled import bundled_texts
from tests.inline_runs import run_inline
from tests.tiny_models import make_tiny_model

if TYPE_CHECKING:
    from pathlib import Path

    from qbench.plan.plan import Plan

MODEL = "bundled:tiny-mistral"
SUITE = """\
models: [{model}]
precisions:
  - fp32
  - {precision}
measure:
  quality: {{text: {text}, window: 64}}
"""


def plan(folder: Path, precision: str, *, model: str = MODEL, text: str = "text.txt") -> Plan:
    """The plan of a suite with fp32 and one more precision."""
    if text == "text.txt":
        lines = bundled_texts()["stdlib-heldout"].read_text(encoding="utf-8").splitlines()
        (folder / text).write_text("\n".join(lines[:300]), encoding="utf-8")
    path = folder / "suite.yaml"
    path.write_text(SUITE.format(model=model, precision=precision, text=text), encoding="utf-8")
    return make_plan(load_suite(path), folder / "results", device="cpu")


def problem(folder: Path, precision: str, **changes: str) -> str:
    """What the plan of such a suite says is wrong, in one line."""
    with pytest.raises(SuiteError) as caught:
        plan(folder, precision, **changes)
    assert len(caught.value.problems) == 1
    return re.sub(r"\s+", " ", str(caught.value))


@pytest.mark.parametrize(
    ("precision", "expected"),
    [
        ("{integer: {bits: 9}}", ["precisions[1].integer.bits", "suite.yaml:4", "at most 8"]),
        ("{integer: {bits: 1}}", ["precisions[1].integer.bits", "2"]),
        ("{integer: {compute_dtype: bf16}}", ["'compute_dtype' is an option of fp4, nf4"]),
        ("{int4-g32: {bits: 3}}", ["int4-g32.bits", "expected 4 alone; part of int4-g32"]),
        ("{int8-wo: {group: 32}}", ["group", "expected no value", "write `integer` with its"]),
        ("{integer: {bits: 4, activations: static}}", ["bits: 8, mapping: symmetric"]),
        ("{integer: {granularity: group}}", ["`group`, the weights that share a scale"]),
        ("{int4-g32: {calibration_windows: 4}}", ["nothing is calibrated without"]),
        ("int4-g23", ["int4-g32"]),
        ("{w8a8-static: {calibration_text: none.txt}}", ["none.txt: no such file", "precisions"]),
        (
            "{w8a8-static: {calibration_text: 'bundled:stdlib-calibratio'}}",
            ["did you mean 'stdlib-calibration'?"],
        ),
        ("{w8a8-static: {calibration_text: text.txt}}", ["is the text that quality is measured"]),
        (
            "{int4-g32-gptq: {calibration_text: 'bundled:stdlib-heldout'}}",
            ["overlaps the text", "bundled:stdlib-calibration"],
        ),
        (
            "{w8a8-static: {calibration_text: tiny.txt, calibration_windows: 999}}",
            ["too short for 999 windows", "lower calibration_windows"],
        ),
    ],
)
def test_what_is_wrong_is_said_once_and_in_words(
    precision: str, expected: list[str], tmp_path: Path
) -> None:
    (tmp_path / "tiny.txt").write_text("def add(first, second): ...\n" * 5, encoding="utf-8")
    found = problem(tmp_path, precision)
    for words in expected:
        assert words in found


@pytest.mark.parametrize(
    ("precision", "expected"),
    [
        (
            "{integer: {bits: 4, granularity: group, group: 100}}",
            ["divides the width of no linear layer (256, 576)", "a group that divides 64"],
        ),
        (
            "{w8a8-static: {calibration_window: 1024}}",
            ["the model's context 512", "calibration_window to at most 512"],
        ),
    ],
)
def test_what_no_layer_can_hold_is_skipped_with_the_reason(
    precision: str, expected: list[str], tmp_path: Path
) -> None:
    reference, cell = plan(tmp_path, precision).cells
    assert reference.skip is None
    assert cell.skip is not None
    for words in expected:
        assert words in cell.skip


@pytest.mark.parametrize("place", ["precisions", "finetune.quantize"])
@pytest.mark.parametrize("column", ["", ', "text": "{0}, {1}"'])
def test_what_is_tuned_on_is_no_calibration_text(place: str, column: str, tmp_path: Path) -> None:
    """Whether or not its rows could be read as documents."""
    row = (
        '{{"instruction": "Which number comes after {0}?", "output": "It is {1}, by one more."'
        f"{column}}}}}"
    )
    rows = "\n".join(row.format(number, number + 1) for number in range(40))
    (tmp_path / "rows.jsonl").write_text(rows, encoding="utf-8")
    calibrated = "{w8a8-static: {calibration_text: rows.jsonl, calibration_window: 16}}"
    path = tmp_path / "suite.yaml"
    path.write_text(
        f"models: [{MODEL}]\n"
        f"precisions: [fp32{', ' + calibrated if place == 'precisions' else ''}]\n"
        "finetune:\n"
        "  data: {dataset: rows.jsonl, recipe: instruction, train: 20, validation: 5, test: 5}\n"
        "  methods: [{method: full}]\n"
        + (f"  quantize: [{calibrated}]\n" if place == "finetune.quantize" else ""),
        encoding="utf-8",
    )
    with pytest.raises(SuiteError) as caught:
        make_plan(load_suite(path), tmp_path / "results", device="cpu")
    (found,) = caught.value.problems
    assert found.place == place
    assert "rows.jsonl is the data of finetune, whose test split is scored" in str(found)


def test_wikitext_is_calibrated_on_by_its_train_split(tmp_path: Path) -> None:
    wrong = problem(tmp_path, "{w8a8-static: {calibration_text: wikitext-2}}", text="wikitext-2")
    assert "is the text that quality is measured on" in wrong
    right = "{w8a8-static: {calibration_text: wikitext-2-train}}"
    assert plan(tmp_path, right, text="wikitext-2").cells[1].skip is None


def keys(folder: Path, precision: str) -> list[str]:
    """The keys of the records of the second cell."""
    _, cell = plan(folder, precision).cells
    return [task.key for task in cell.tasks]


def test_the_key_follows_from_the_calibration(tmp_path: Path) -> None:
    source = bundled_texts()["stdlib-calibration"].read_text(encoding="utf-8")
    own, same = tmp_path / "own.txt", tmp_path / "same.txt"
    own.write_text(source, encoding="utf-8")
    same.write_text(source, encoding="utf-8")
    first = keys(tmp_path, "w8a8-static")
    assert keys(tmp_path, "{w8a8-static: {calibration_text: own.txt}}") == first
    assert keys(tmp_path, "{w8a8-static: {calibration_text: same.txt}}") == first
    own.write_text(source[:-100], encoding="utf-8")
    for change in (
        "calibration_text: own.txt",
        "calibration_seed: 1",
        "calibration_windows: 17",
        "calibration_method: mse",
    ):
        assert keys(tmp_path, f"{{w8a8-static: {{{change}}}}}") != first


def test_a_run_of_a_local_model_and_its_report(tmp_path: Path) -> None:
    from tests.workplace import Workplace

    model = make_tiny_model(tmp_path / "model", "gpt2")
    place = Workplace(tmp_path, model)
    text = bundled_texts()["stdlib-heldout"].read_text(encoding="utf-8")
    place.write("text.txt", text[:4000])
    place.write(
        "suite.yaml",
        f"""\
models: [{model}]
precisions:
  - fp32
  - int4-g32
  - {{int4-g32-gptq: {{calibration_windows: 4}}}}
  - {{w8a8-static: {{calibration_windows: 4, calibration_method: percentile}}}}
  - {{int4-g128-awq: {{calibration_windows: 4}}}}
  - {{int4-g128-autoround: {{calibration_windows: 4, iters: 3}}}}
  - {{integer: {{bits: 4, granularity: group, group: 48}}}}
measure:
  footprint:
  quality: {{text: text.txt, window: 64}}
""",
    )
    ran = run_inline(place)
    assert not ran.result.failed, ran.output
    assert place.call_here("report").code == 0
    records = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in (tmp_path / "results").rglob("*.json")
    ]
    status = {
        label: {r["status"] for r in records if r["cell"]["precision"]["label"] == label}
        for label in {record["cell"]["precision"]["label"] for record in records}
    }
    assert status.pop("integer-bits=4-granularity=group-group=48") == {"skipped"}
    assert len(status) == 6
    assert all(found == {"ok"} for found in status.values())
    (static,) = (
        record["details"]["loaded"]["calibration"]
        for record in records
        if record["cell"]["precision"]["name"] == "w8a8-static"
        and record["item"]["measurement"] == "footprint"
    )
    assert static["method"] == "percentile"
    assert len(static["layers"]) == 8
    assert all(one["min"] < 0 < one["limit"] <= one["max"] + 9 for one in static["layers"].values())
    (page,) = (tmp_path / "reports").glob("*.md")
    words = page.read_text(encoding="utf-8")
    assert "bits held here" in words
    assert "### Calibration" in words
    assert "stdlib-calibration" in words
    assert "median error of the blocks' outputs" in words
    assert "ranges by qbench, codes by torchao" in words
    assert "set a group that divides 64" in words
