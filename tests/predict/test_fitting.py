"""The largest batch and length that fit: each fits, and one more does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qbench.cli.fit_table import find_model
from qbench.core.spec import Cell, Item
from qbench.finetune import training_options
from qbench.predict.devices import RESERVED_BYTES, parse_memory
from qbench.predict.fitting import LENGTH_STEP, MOST_SEQUENCES, FitCase, fit_cases, fit_row, largest
from qbench.predict.peaks import predicted_peak, training_peak

if TYPE_CHECKING:
    from qbench.core.spec import ResolvedModel
    from qbench.predict.devices import DeviceMemory

EVERY = fit_cases(["bf16", "int8", "nf4-dq"], rank=64, target="default", optimizer="adamw")
LENGTHS = (512, 2048)


@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=60),
    st.integers(0, 1500),
    st.integers(1, 60),
)
def test_largest_is_what_trying_all_finds(rises: list[int], limit: int, most: int) -> None:
    """Of any rising function, however crooked."""
    sums = [sum(rises[: at + 1]) for at in range(len(rises))]

    def needed(number: int) -> int:
        return sums[min(number, len(sums)) - 1]

    tried = [number for number in range(1, most + 1) if needed(number) <= limit]
    assert largest(needed, limit, most) == max(tried, default=0)


def test_few_trials_are_enough_for_a_line() -> None:
    asked: list[int] = []

    def needed(number: int) -> int:
        asked.append(number)
        return 1000 + 7 * number

    assert largest(needed, 1000 + 7 * 300 + 3, 4096) == 300
    assert len(asked) <= 5


def test_the_ways_are_those_that_the_methods_have() -> None:
    found = [(case.use, case.precision.name, case.checkpointing) for case in EVERY]
    assert found[:3] == [("inference", name, False) for name in ("bf16", "int8", "nf4-dq")]
    assert ("LoRA", "bf16", True) in found
    assert ("QLoRA", "nf4-dq", True) in found
    assert ("LoRA", "nf4-dq", False) not in found
    # Codes cannot be tuned in full.
    assert {(use, name) for use, name, _ in found if use == "full"} == {("full", "bf16")}


def test_full_tuning_is_shown_once_for_each_type_of_master_weights() -> None:
    found = fit_cases(["fp32", "bf16", "fp16"], rank=8, target="default", optimizer="adamw")
    full = [(case.precision.name, case.checkpointing) for case in found if case.use == "full"]
    assert sorted(full) == [("bf16", False), ("bf16", True), ("fp32", False), ("fp32", True)]


@pytest.mark.parametrize("case", EVERY, ids=lambda case: f"{case.use}-{case.precision.name}")
def test_the_largest_fits_and_one_more_does_not(case: FitCase, mistral: ResolvedModel) -> None:
    gpu = parse_memory("24GB")
    row = fit_row(mistral, case, gpu, LENGTHS)
    assert row.least_bytes == _needed(mistral, case, 1, LENGTHS[0], gpu)
    for length, batch in zip(LENGTHS, row.batches, strict=True):
        assert batch is not None
        if batch:
            assert _needed(mistral, case, batch, length, gpu) <= gpu.bytes
        if batch < MOST_SEQUENCES:
            assert _needed(mistral, case, batch + 1, length, gpu) > gpu.bytes
    assert row.longest is not None
    if row.longest:
        assert _needed(mistral, case, 1, row.longest, gpu) <= gpu.bytes
    if row.longest < (mistral.context_tokens or 0):
        assert _needed(mistral, case, 1, row.longest + LENGTH_STEP, gpu) > gpu.bytes


def test_a_longer_sequence_may_fit_more_where_the_kernel_changes() -> None:
    """A sliding window of 4096 with its mask, on a GPU without flash attention."""
    gpu = parse_memory("t4")
    model = find_model("Mistral-7B-v0.1")
    (case,) = (case for case in EVERY if (case.use, case.precision.name) == ("inference", "nf4-dq"))
    lengths = (2048, 4096)
    for length, batch in zip(lengths, fit_row(model, case, gpu, lengths).batches, strict=True):
        assert batch is not None
        assert _needed(model, case, batch, length, gpu) <= gpu.bytes
        assert _needed(model, case, batch + 1, length, gpu) > gpu.bytes


def test_what_is_calibrated_needs_the_floating_model_that_it_is_made_of() -> None:
    """70.6 billion weights: 66 GiB in bytes, but 131 GiB in bf16."""
    model = find_model("Llama-3-70B")
    gpu = parse_memory("h100")
    names = ["bf16", "int8", "int8-wo", "int4-g32", "int4-g32-gptq"]
    rows = {
        case.precision.name: fit_row(model, case, gpu, (512,))
        for case in fit_cases(names, rank=8, target="default", optimizer="adamw")
        if case.use == "inference"
    }
    bf16_bytes = 2 * 70_553_706_496 + 2 * 64 * 4  # and two tables of rotary frequencies
    for name in ("int8", "int8-wo", "int4-g32"):
        assert rows[name].batches[0]
        assert rows[name].loading_bytes is None
    made = rows["int4-g32-gptq"]
    assert made.batches == (0,)
    assert made.loading_bytes == bf16_bytes + RESERVED_BYTES
    assert made.least_bytes == rows["int4-g32"].least_bytes


@pytest.mark.parametrize(
    ("model", "precision", "tokens"),
    [
        ("Llama-2-7B", "int8", 512),
        ("Llama-2-7B", "nf4", 1024),
        ("Llama-2-13B", "nf4", 512),
        ("Llama-2-13B", "nf4-dq", 1024),
    ],
)
def test_what_is_published_to_train_on_a_t4_fits_one(
    model: str, precision: str, tokens: int
) -> None:
    """LLaMA, batch 1, accumulated over 4 batches, checkpointed.

    From "Making LLMs even more accessible with bitsandbytes, 4-bit quantization and QLoRA" (Hugging
    Face's blog). Two that it found not to fit (7B in int8 at 1024, 13B in NF4 at 1024) are
    predicted to: it does not tell the adapter and the versions that it had.
    """
    gpu = parse_memory("t4")
    (case,) = (
        case
        for case in fit_cases([precision], rank=64, target="default", optimizer="adamw")
        if case.checkpointing
    )
    assert case.tuning is not None
    options = training_options(case.tuning).model_copy(update={"accumulate": 4})
    found = find_model(model)
    peak = training_peak(found, "lora", case.precision, options, tokens=tokens, padded=True)
    assert peak.resident is not None
    assert peak.resident + RESERVED_BYTES <= gpu.bytes


def _needed(model: ResolvedModel, case: FitCase, batch: int, tokens: int, gpu: DeviceMemory) -> int:
    """As a suite of one item, or one training, would have it."""
    if case.tuning is not None:
        options = training_options(case.tuning).model_copy(update={"batch": batch})
        peak = training_peak(
            model, case.tuning.method, case.precision, options, tokens=tokens, padded=True
        )
        assert peak.resident is not None
        return peak.resident + RESERVED_BYTES
    cell = Cell(model=model.ref, precision=case.precision)
    params = {"batch": batch, "prompt_tokens": tokens, "new_tokens": 1}
    item = Item(measurement="latency", slug="x", params=params)
    found = predicted_peak(cell, model, item, flash=gpu.flash)
    assert found is not None
    assert found.resident is not None
    return found.resident + RESERVED_BYTES


@pytest.mark.parametrize("case", EVERY[::5], ids=lambda case: f"{case.use}-{case.precision.name}")
def test_more_memory_never_fits_less(case: FitCase, mistral: ResolvedModel) -> None:
    batches = [
        fit_row(mistral, case, parse_memory(size), (1024,)).batches[0] or 0
        for size in ("12GB", "24GB", "80GB")
    ]
    assert batches == sorted(batches)


def test_a_length_beyond_the_context_is_no_question(mistral: ResolvedModel) -> None:
    row = fit_row(mistral, EVERY[0], parse_memory("h100"), (512, 65536))
    assert row.batches[0]
    assert row.batches[1] is None


def test_what_is_not_known_has_a_reason(mistral: ResolvedModel) -> None:
    case = fit_cases(["fp16"], rank=8, target="default", optimizer="adamw")[-1]
    row = fit_row(mistral, case, parse_memory("h100"), LENGTHS)
    assert (row.least_bytes, row.batches, row.longest) == (None, (None, None), None)
    assert "fp16" in str(row.reason)
