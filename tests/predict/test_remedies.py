"""What is proposed in place of what does not fit does fit, and no larger batch would."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import pytest

from qbench.core.spec import Cell, Item, PrecisionRef, TuningRef
from qbench.finetune import methods, training_options
from qbench.predict.devices import fits, parse_memory
from qbench.predict.peaks import predicted_peak, training_peak
from qbench.predict.remedies import remedy
from tests.precisions.tiny_cells import all_options

if TYPE_CHECKING:
    from qbench.core.spec import ResolvedModel


def _ref(name: str) -> PrecisionRef:
    return PrecisionRef(label=name, name=name, options=all_options(name))


def _item(batch: int, tokens: int) -> Item:
    params = {"batch": batch, "prompt_tokens": tokens, "new_tokens": 16}
    return Item(measurement="latency", slug="x", params=params)


def _training(model: ResolvedModel, method: str, precision: str, **options: Any) -> Cell:
    chosen = methods()[method].options(**options).model_dump()
    tuning = TuningRef(label="t", arm="t", method=method, precision=_ref(precision), options=chosen)
    return Cell(model=model.ref, precision=_ref(precision), tuning=tuning)


def test_a_smaller_batch_of_an_item(mistral: ResolvedModel) -> None:
    gpu = parse_memory("24GB")
    cell = Cell(model=mistral.ref, precision=_ref("bf16"))
    found = remedy(cell, mistral, _item(64, 2048), gpu)
    batch = int(re.fullmatch(r"fits with batch: (\d+)", str(found))[1])  # type: ignore[index]
    for size, expected in ((batch, True), (batch + 1, False)):
        peak = predicted_peak(cell, mistral, _item(size, 2048))
        assert peak is not None
        assert fits(peak, gpu.bytes).fits is expected


def test_a_smaller_precision_where_the_weights_are_too_large(mistral: ResolvedModel) -> None:
    cell = Cell(model=mistral.ref, precision=_ref("fp32"))
    assert remedy(cell, mistral, _item(1, 512), parse_memory("t4")) == "fits in nf4-dq"
    assert remedy(cell, mistral, _item(1, 512), parse_memory("2GB")) is None


def test_checkpointing_first(mistral: ResolvedModel) -> None:
    cell = _training(mistral, "lora", "nf4-dq", batch=2, max_tokens=2048)
    gpu = parse_memory("t4")
    peak = predicted_peak(cell, mistral)
    assert peak is not None
    assert not fits(peak, gpu.bytes).fits
    assert remedy(cell, mistral, None, gpu) == "fits with checkpointing: true"


def test_then_a_smaller_batch(mistral: ResolvedModel) -> None:
    cell = _training(mistral, "lora", "nf4-dq", batch=64, max_tokens=2048)
    gpu = parse_memory("24GB")
    found = str(remedy(cell, mistral, None, gpu))
    match = re.fullmatch(
        r"fits with checkpointing: true and batch: (\d+) \(and more to accumulate\)", found
    )
    assert match is not None
    assert cell.tuning is not None
    for batch, expected in ((int(match[1]), True), (int(match[1]) + 1, False)):
        changed = {"checkpointing": True, "batch": batch}
        options = training_options(cell.tuning).model_copy(update=changed)
        peak = training_peak(mistral, "lora", cell.precision, options, tokens=2048, padded=True)
        assert fits(peak, gpu.bytes).fits is expected


def test_then_qlora(mistral: ResolvedModel) -> None:
    cell = _training(mistral, "lora", "bf16", batch=4, checkpointing=True)
    assert str(remedy(cell, mistral, None, parse_memory("12GB"))).startswith("fits in nf4-dq")


@pytest.mark.parametrize("gpu", ["24GB", "a100-40gb"])
def test_nothing_where_nothing_helps(gpu: str, mistral: ResolvedModel) -> None:
    cell = _training(mistral, "full", "bf16", batch=1)
    assert remedy(cell, mistral, None, parse_memory(gpu)) is None


def test_nothing_of_what_has_no_peak(mistral: ResolvedModel) -> None:
    cell = Cell(model=mistral.ref, precision=_ref("bf16"))
    assert remedy(cell, mistral, None, parse_memory("t4")) is None
