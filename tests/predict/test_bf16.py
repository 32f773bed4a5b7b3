"""Which cells compute in bf16, where nothing multiplies it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from qbench.core.spec import Cell, ModelRef, PrecisionRef, TuningRef
from qbench.finetune import methods
from qbench.predict.bf16 import bf16_warning, has_bf16, in_fp16
from qbench.predict.devices import as_if_on, parse_memory
from qbench.predict.peaks import training_peak
from qbench.sources.models.resolve import parse_model, resolve_model
from tests.precisions.tiny_cells import all_options
from tests.record_factory import make_environment
from tests.tiny_models import make_tiny_model

if TYPE_CHECKING:
    from pathlib import Path

T4 = as_if_on(make_environment(), parse_memory("t4"))
L4 = as_if_on(make_environment(), parse_memory("l4"))


def precision_of(name: str, **options: Any) -> PrecisionRef:
    return PrecisionRef(label=name, name=name, options=all_options(name, **options))


def cell_of(precision: PrecisionRef, tuning: TuningRef | None = None) -> Cell:
    model = ModelRef(name="m", source="m", kind="folder", location="m")
    return Cell(model=model, precision=precision, tuning=tuning)


@pytest.mark.parametrize(
    ("name", "options", "instead"),
    [
        ("bf16", {}, "take the precision fp16"),
        ("int8", {}, "set dtype: fp16"),
        ("nf4", {}, "set compute_dtype: fp16"),
        ("nf4", {"compute_dtype": "fp32", "dtype": "bf16"}, "set dtype: fp16"),
        ("w8a8", {}, "set dtype: fp16"),
        ("fp16", {}, None),
        ("fp32", {}, None),
        ("int8", {"dtype": "fp16"}, None),
        ("nf4", {"compute_dtype": "fp32"}, None),
    ],
)
def test_what_computes_in_bf16_is_warned_of(
    name: str, options: dict[str, Any], instead: str | None
) -> None:
    cell = cell_of(precision_of(name, **options))
    warning = bf16_warning(cell, T4)
    assert bf16_warning(cell, L4) is None
    assert bf16_warning(cell, make_environment()) is None
    if instead is None:
        assert warning is None
    else:
        assert warning is not None
        assert warning.startswith("t4 does not multiply bf16")
        assert warning.endswith(instead)
        # What is advised is what helps.
        assert name == "bf16" or bf16_warning(cell_of(in_fp16(cell.precision)), T4) is None


@pytest.mark.parametrize(
    ("compute", "name", "words"),
    [
        ("bf16", "fp32", "train with compute: fp32"),
        ("bf16", "nf4", "train with compute: fp32"),
        ("fp32", "nf4", "train on a base in fp32"),
        ("fp32", "bf16", "train on a base in fp32"),
        ("fp32", "fp32", None),
    ],
)
def test_a_training_by_what_it_computes_in(compute: str, name: str, words: str | None) -> None:
    held = precision_of(name)
    tuning = TuningRef(
        label="lora", arm="lora", method="lora", precision=held, options={"compute": compute}
    )
    warning = bf16_warning(cell_of(held, tuning), T4)
    assert (warning is None) is (words is None)
    assert (words or "") in (warning or "")


def test_a_training_before_ampere_holds_all_scores(tmp_path: Path) -> None:
    """Predicted so, for the GPU that is named."""
    folder = make_tiny_model(tmp_path / "model", "llama", context=2048)
    model = resolve_model(parse_model(str(folder), base=tmp_path))
    options = methods()["lora"].options(rank=8, target="all-linear", batch=2)
    held = precision_of("bf16")
    peaks = {
        flash: training_peak(model, "lora", held, options, tokens=1024, flash=flash).total
        for flash in (False, True)
    }
    assert (peaks[False] or 0) - (peaks[True] or 0) > 2 * 2 * 4 * 4 * 1024**2


def test_the_capability_that_is_told_decides() -> None:
    unknown = T4.model_copy(update={"device": "NVIDIA Something"})
    assert has_bf16(unknown)
    assert not has_bf16(unknown.model_copy(update={"capability": (7, 5)}))
    assert has_bf16(T4.model_copy(update={"capability": (8, 0)}))
