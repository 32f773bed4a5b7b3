"""QAT from a suite to the report, on a model from a folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.inline_runs import run_inline
from tests.tiny_models import make_tiny_model
from tests.workplace import Workplace, write_rows, write_text

if TYPE_CHECKING:
    from qbench.core.record import Record
    from tests.inline_runs import Ran

SUITE = """\
models: [{model}]
precisions: [fp32, int4-g32]
finetune:
  data:
    dataset: rows.jsonl
    recipe: {{prompt: "{{{{ name }}}} is", completion: " {{{{ kind }}}}"}}
    train: 24
    validation: 4
    test: 12
  methods:
    - {{method: full, batch: 4, learning_rate: 1.0e-3}}
    - {{method: qat, precision: [int4-g32, w8a8, nf4], batch: 4, learning_rate: 1.0e-3}}
    - {{method: lora, target: all-linear, batch: 4, learning_rate: 1.0e-2}}
    - {{name: adapters, method: qat, precision: int4-g32, rank: 16, batch: 4,
       learning_rate: 1.0e-2}}
    - {{name: wide, method: qat, batch: 4,
       precision: {{integer: {{bits: 4, granularity: group, group: 96}}, name: int4-g96}}}}
measure: {{footprint: }}
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workplace, Ran]:
    """The suite run to its end."""
    folder = tmp_path_factory.mktemp("qat")
    model = make_tiny_model(folder / "model", "mistral")
    place = Workplace(folder, model)
    write_text(folder)
    write_rows(folder, 40)
    place.write("suite.yaml", SUITE.format(model=model))
    return place, run_inline(place)


def loss(records: dict[str, Record], cell: str) -> float:
    (found,) = [
        record for name, record in records.items() if name.startswith(f"model--{cell}/completion-")
    ]
    value = found.value("completion.loss")
    assert value is not None
    return value


def test_everything_that_can_be_trained_is(done: tuple[Workplace, Ran]) -> None:
    place, finished = done
    assert not finished.result.failed, finished.output
    statuses = {
        name.partition("/")[0]: record.status
        for name, record in place.records().items()
        if "/training-" in name
    }
    assert statuses == {
        "model--full-bf16": "ok",
        "model--qat-int4-g32": "ok",
        "model--qat-w8a8": "ok",
        "model--qat-nf4": "skipped",
        "model--lora-bf16": "ok",
        "model--adapters-int4-g32": "ok",
        "model--wide-int4-g96": "skipped",
    }


def test_what_cannot_be_trained_says_why(done: tuple[Workplace, Ran]) -> None:
    reasons = {
        name.partition("/")[0]: str(record.reason)
        for name, record in done[0].records().items()
        if record.status == "skipped"
    }
    assert "{method: lora, precision: nf4}" in reasons["model--qat-nf4"]
    assert "group 96" in reasons["model--wide-int4-g96"]


def test_conversion_changes_the_test_loss_by_rounding_alone(
    done: tuple[Workplace, Ran],
) -> None:
    records = done[0].records()
    for arm in ("qat-int4-g32", "qat-w8a8", "adapters-int4-g32"):
        before = loss(records, f"{arm}--fake-quantized")
        after = loss(records, f"{arm}--quantized")
        assert abs(after - before) < 5e-3
        # Both arms have learned what follows the prompt.
        assert after < loss(records, "fp32") - 1
    assert loss(records, "full-bf16--quantized-int4-g32") != loss(records, "full-bf16--merged")


def test_both_saw_the_same_data_in_the_same_order(done: tuple[Workplace, Ran]) -> None:
    records = done[0].records()
    details = {
        name.partition("/")[0]: (record.details["steps"], record.details["tokens"])
        for name, record in records.items()
        if "/training-" in name and record.status == "ok"
    }
    assert len(set(details.values())) == 1


def test_the_memory_by_kind_says_what_is_not_predicted(done: tuple[Workplace, Ran]) -> None:
    (training,) = [
        record
        for name, record in done[0].records().items()
        if name.startswith("model--qat-int4-g32/training-")
    ]
    metric = training.metric("training.memory.activations_predicted")
    assert metric is not None
    assert metric.value is None
    assert "QAT" in str(metric.reason)
    assert (training.value("training.memory.peak") or 0) > 0


def test_the_report_says_what_was_won_back(done: tuple[Workplace, Ran]) -> None:
    assert done[0].call_here("report").code == 0
    (page,) = (done[0].folder / "reports").glob("*.md")
    text = page.read_text(encoding="utf-8")
    assert "Trained for the rounding (QAT) or rounded afterwards (PTQ)" in text
    assert "| qat-int4-g32 " in text
    assert "full-bf16--quantized-int4-g32" in text
    assert "QAT with LoRA for int4-g32" in text
    assert "lora-bf16--quantized-int4-g32" in text


def test_a_second_run_takes_nothing_again(done: tuple[Workplace, Ran]) -> None:
    place, _ = done
    before = place.records()
    again = run_inline(place)
    assert not again.result.failed
    assert again.jobs == ()
    assert place.records() == before
