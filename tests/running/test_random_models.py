"""A suite of random weights, planned and run as a user does it."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.inline_runs import run_inline
from tests.tiny_models import make_tiny_model

if TYPE_CHECKING:
    from pathlib import Path

    from qbench.core.record import Record
    from tests.workplace import Workplace

SUITE = """\
models: [{source: "random:./shape", device_map: auto}]
precisions: [bf16, int8, nf4-dq]
finetune:
  data: {train: 8, validation: 2, test: 2}
  methods:
    - {method: lora, precision: [bf16, int8, nf4-dq], rank: 4, steps: 2, batch: 2}
  deploy: [attached]
measure:
  footprint:
  memory: {prompt_tokens: 4, new_tokens: 2}
  latency: {prompt_tokens: 4, new_tokens: 2, repeats: 1, min_iterations: 1, min_seconds: 0.01}
  quality: {text: text.txt, window: 32}
  generation: {count: 2, new_tokens: 4}
  weight_error:
"""
LEARNED = {"quality", "generation", "weight_error", "completion"}
FORMATS = ("fp32", "bf16", "fp16", "int8", "fp4", "nf4", "nf4-dq")


@pytest.fixture
def place(workplace: Workplace, tmp_path: Path) -> Workplace:
    """A place with the configuration of a small GPT-2 and nothing else of it."""
    full = make_tiny_model(tmp_path / "full", "gpt2", tied=True, context=512, tokenizer=False)
    (workplace.folder / "shape").mkdir()
    shutil.copyfile(full / "config.json", workplace.folder / "shape" / "config.json")
    workplace.write("suite.yaml", SUITE)
    return workplace


def test_planned_and_run_with_what_it_cannot_tell_skipped(place: Workplace) -> None:
    planned = place.call_here("plan", "suite.yaml")
    assert planned.code == 0
    skips = " ".join(planned.output.split()).partition("each cell skips ")[2]
    assert set(skips.partition(":")[0].split(", ")) == LEARNED

    finished = run_inline(place)
    records = list(place.records().values())
    assert not finished.result.failed, finished.output
    for record in records:
        skipped = record.item.measurement in LEARNED
        assert record.status == ("skipped" if skipped else "ok"), record.reason
        if skipped:
            assert "weights are random" in (record.reason or "")
            assert record.phase == "plan"
    assert {record.item.measurement for record in records} == LEARNED | {
        "footprint", "memory", "latency", "training", "adapters",
    }  # fmt: skip

    for record in select(records, "footprint"):
        assert record.value("memory.static") == record.value("memory.static.predicted")
        assert record.value("load_time") is None
        assert record.value("disk_bytes") is None
    # GPT-2's Conv1D layers, four a block, all of them quantized.
    quantized = [r.details["loaded"]["quantized_modules"] for r in select(records, "latency")]
    assert sorted(quantized) == [0, 0, 8, 8, 8, 8]

    for record in select(records, "footprint"):
        placement = record.details["loaded"]["placement"]
        assert placement["modules"] == {"all": "cpu"}
        assert placement["static_bytes"] == {"cpu": record.value("memory.static")}
    for record in select(records, "latency"):
        falsified = any("which activation columns are outliers" in w for w in record.warnings)
        assert falsified == (record.cell.precision.name == "int8")
    for record in select(records, "training"):
        assert any("bundled:tiny-mistral's tokenizer" in w for w in record.warnings)
        assert (record.value("training.memory.peak") or 0) > 0
    assert "the weights are random, and so is which" in place.call_here("report").output
    (page,) = (place.folder / "reports").glob("*.md")
    shown = page.read_text(encoding="utf-8")
    assert "LLM.int8's time and peak memory are not the trained model's" in shown
    assert run_inline(place).jobs == ()


def test_a_known_shape_is_planned_in_every_format_without_a_network(workplace: Workplace) -> None:
    workplace.write(
        "suite.yaml",
        f"models: ['random:Mistral-7B']\nprecisions: [{', '.join(FORMATS)}]\nmeasure: footprint\n",
    )
    planned = workplace.call_here("plan", "suite.yaml")
    assert planned.code == 0
    # Published figures, with 512 bytes for the two rotary buffers.
    for total in (28_966_928_384, 14_483_464_192, 7_509_647_360, 4_450_703_360, 4_125_481_856):
        assert f"{total + 512:,}" in planned.output


def test_a_name_that_is_not_known_is_refused_at_its_line(workplace: Workplace) -> None:
    workplace.write("suite.yaml", "models:\n- 'random:Mistral-7c'\n")
    finished = workplace.call_here("plan", "suite.yaml")
    assert finished.code == 2
    assert "suite.yaml:2: models[0]" in finished.errors
    assert "did you mean 'Mistral-7B" in finished.errors


def select(records: list[Record], measurement: str) -> list[Record]:
    return [record for record in records if record.item.measurement == measurement]
