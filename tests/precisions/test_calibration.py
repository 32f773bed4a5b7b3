"""Calibration: which windows, which ranges, GPTQ and SmoothQuant, against naive computations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from qbench.core.errors import ModelError, TextError
from qbench.core.number_types import torch_type
from qbench.finetune.train.live_bytes import LivePeak
from qbench.precisions.integer.options import IntegerOptions
from qbench.precisions.integer.ranges import Errors, Extremes, Largest
from qbench.precisions.verification import linear_layers
from tests.precisions.calibrated import (
    LLAMA,
    OPTIONS,
    SEED,
    TOKENS,
    WINDOWS,
    calibration,
    naive_inputs,
)
from tests.precisions.naive_integers import quantize
from tests.precisions.tiny_cells import TinyCells, load_fresh
from tests.tiny_models import make_tiny_model, make_tiny_tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import torch

    from qbench.measures.loaded import LoadedModel


def naive_minmax(values: np.ndarray) -> float:
    return float(np.abs(values).max())


def naive_percentile(values: np.ndarray) -> float:
    return float(np.percentile(np.abs(values).astype(np.float64), 99.9))


def naive_mse(values: np.ndarray) -> float:
    flat = values.astype(np.float64).reshape(-1)
    largest = np.abs(flat).max()
    errors = {}
    for part in range(1, 101):
        limit = largest * part / 100
        scale = limit / 127.5
        errors[limit] = np.square(np.clip(np.round(flat / scale), -128, 127) * scale - flat).sum()
    return float(min(errors, key=lambda limit: errors[limit]))


@pytest.mark.parametrize(
    ("method", "naive"),
    [("minmax", naive_minmax), ("percentile", naive_percentile), ("mse", naive_mse)],
)
def test_recorded_ranges_equal_naive_ones(
    method: str, naive: Callable[[np.ndarray], float], cells: TinyCells
) -> None:
    loaded = cells.load(LLAMA, "w8a8-static", calibration_method=method, **OPTIONS)
    recorded = calibration(loaded)
    assert (recorded["method"], recorded["windows"]) == (method, WINDOWS)
    assert recorded["window_tokens"] == TOKENS
    layers = recorded["layers"]
    inputs = naive_inputs(cells)
    assert set(layers) == set(inputs)
    for name, values in inputs.items():
        found = layers[name]
        assert found["min"] == pytest.approx(values.min(), rel=1e-5)
        assert found["max"] == pytest.approx(values.max(), rel=1e-5)
        assert found["limit"] == pytest.approx(naive(values), rel=1e-5)
        assert found["scale"] == pytest.approx(2 * naive(values) / 255, rel=1e-5)
        share = (np.abs(values) > found["limit"] * (1 + 1e-6)).mean()
        assert found["clipped_share"] == pytest.approx(share, abs=2e-4)
    held = dict(linear_layers(loaded.model))
    for name, found in layers.items():
        assert float(held[name].weight.act_quant_scale) == pytest.approx(found["scale"])


def test_inputs_that_are_all_zero_have_a_range() -> None:
    import torch

    extremes = Extremes()
    extremes.see(torch.zeros(5))
    for chosen in (Errors(extremes), Largest(extremes, 99.9)):
        chosen.see(torch.zeros(5))
        assert chosen.choose() == (0.0, 0)
    assert extremes.range(0.0, 0).scale > 0


@pytest.mark.slow
@pytest.mark.parametrize("method", ["percentile", "mse"])
def test_what_was_seen_is_not_kept(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many windows there are, and in parts of any size, the limit is the same."""
    import torch

    generator = torch.Generator().manual_seed(0)
    windows = [torch.randn(1, 64, 256, generator=generator) for _ in range(64)]
    extremes = Extremes()
    for window in windows:
        extremes.see(window)
    found = []
    for size in (2**11, 2**22):
        monkeypatch.setattr("qbench.precisions.integer.ranges.VALUES_AT_ONCE", size)
        chosen = Errors(extremes) if method == "mse" else Largest(extremes, 99.5)
        with LivePeak("cpu", windows) as peak:
            for window in windows:
                chosen.see(window)
        found.append(chosen.choose())
        given = sum(window.nbytes for window in windows)
        # Of one window's values in fp64, sorted and summed, there are some copies; not of all.
        assert peak.peak_bytes - given < given  # half of all in fp64
    values = torch.cat([window.reshape(-1) for window in windows]).numpy()
    naive = naive_mse(values) if method == "mse" else float(np.percentile(np.abs(values), 99.5))
    for limit, clipped in found:
        assert limit == pytest.approx(naive, rel=1e-6)
        assert clipped == (np.abs(values.astype(np.float64)) > limit).sum()


def naive_gptq(
    weight: np.ndarray,
    hessian: np.ndarray,
    bits: int,
    mapping: str,
    group: int,
    *,
    damping: float = 0.01,
    act_order: bool = False,
) -> np.ndarray:
    """Optimal brain quantization in a fixed order, with the inverse updated column by column."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    left = weight.astype(np.float64)
    inverse = np.linalg.inv(hessian + damping * np.diag(hessian).mean() * np.eye(len(hessian)))
    codes = np.zeros(weight.shape, dtype=np.int8)
    order = list(range(weight.shape[1]))
    if act_order:
        order.sort(key=lambda column: -hessian[column, column])
    for column in order:
        if act_order or column % group == 0:
            first = column - column % group
            source = weight if act_order else left
            part = source[:, first : first + group].astype(np.float32)
            _, scale, zero = quantize(part, bits, mapping, (1, group))
        code = np.clip(np.round(left[:, [column]] / scale) + zero, low, high)
        codes[:, [column]] = code
        error = left[:, [column]] - (code - zero.astype(np.float64)) * scale
        left -= error * inverse[[column]] / inverse[column, column]
        # The inverse of the Hessian of what is left, once this column is fixed.
        inverse = inverse - np.outer(inverse[:, column], inverse[column]) / inverse[column, column]
    return codes


GROUPS = {"granularity": "group", "group": 16}


@pytest.mark.parametrize(
    ("mapping", "granularity", "more"),
    [
        ("symmetric", GROUPS, {}),
        ("asymmetric", {}, {}),
        ("asymmetric", GROUPS, {"act_order": True}),
        ("symmetric", {}, {"act_order": True, "damping": 0.1}),
    ],
)
def test_gptq_equals_brain_surgery_column_by_column(
    mapping: str, granularity: dict[str, Any], more: dict[str, Any], cells: TinyCells
) -> None:
    options = {"bits": 4, "mapping": mapping, "weights": "gptq", **granularity, **more}
    loaded = cells.load(LLAMA, "integer", **options, **OPTIONS)
    inputs = naive_inputs(cells)
    held = dict(linear_layers(loaded.model))
    original = dict(linear_layers(cells.load(LLAMA, "fp32").model))
    # The first block alone sees the same inputs, whatever was quantized before it.
    for name in [f"model.layers.0.self_attn.{one}_proj" for one in "qkvo"]:
        values = inputs[name].astype(np.float64)
        weight = original[name].weight.numpy()
        group = granularity.get("group", 64)
        codes = held[name].weight.qdata.numpy()
        nearest, _, _ = quantize(weight, 4, mapping, (1, group))
        expected = naive_gptq(weight, values.T @ values, 4, mapping, group, **more)
        # In fp32 a weight midway between two levels may go another way than in fp64, and then the
        # rest of its row too.
        assert (codes == expected).mean() > 0.95
        assert (codes == nearest).mean() < 0.9


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
@pytest.mark.parametrize("mapping", ["symmetric", "asymmetric"])
def test_gptq_keeps_weights_that_are_all_0(mapping: str, dtype: str) -> None:
    import torch

    from qbench.precisions.integer.gptq import gptq_codes

    options = IntegerOptions.model_validate(
        {"bits": 4, "mapping": mapping, "granularity": "group", "group": 8, "weights": "gptq"}
        | {"dtype": dtype}
    )
    weight = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    weight[1], weight[2, :8] = 0, 0
    inputs = torch.randn(50, 16, generator=torch.Generator().manual_seed(1))
    codes = gptq_codes(weight, inputs.T @ inputs, options, torch_type(dtype))
    held = codes.dequantize().float()
    assert (held[1] == 0).all()
    assert (held[2, :8] == 0).all()
    assert ((held - weight).norm(dim=1) <= 0.3 * weight.norm(dim=1)).all()


def test_gptq_makes_smaller_errors_than_nearest_levels(cells: TinyCells) -> None:
    loaded = cells.load(LLAMA, "int4-g32-gptq", **OPTIONS)
    layers = calibration(loaded)["layers"]
    assert len(layers) == 14
    assert all(found["output_error"] < found["output_error_nearest"] for found in layers.values())


def test_smoothquant_divides_inputs_by_the_root_of_what_the_paper_says(cells: TinyCells) -> None:
    loaded = cells.load(LLAMA, "w8a8-smooth", **OPTIONS)
    inputs = naive_inputs(cells)
    held = dict(linear_layers(loaded.model))
    original = dict(linear_layers(cells.load(LLAMA, "fp32").model))
    for name, values in inputs.items():
        weight = original[name].weight.numpy()
        factor = np.sqrt(np.abs(values).max(axis=0) / np.abs(weight).max(axis=0))
        found = held[name].weight
        np.testing.assert_allclose(1 / found.act_pre_scale.numpy(), factor, rtol=1e-4)
        smoothed = (weight * factor).astype(np.float32)
        codes, _, _ = quantize(smoothed, 8, "symmetric", (1, len(factor)))
        # The largest of a row is midway between two levels.
        assert (found.qdata.numpy() == codes).mean() > 0.99


@pytest.mark.parametrize("name", ["w8a8-static", "int4-g32-gptq", "w8a8-smooth"])
def test_the_same_seed_gives_the_same_model(name: str, cells: TinyCells) -> None:
    first = cells.load(LLAMA, name, **OPTIONS)
    again = load_fresh(cells.folder(LLAMA), name, **OPTIONS)
    other = load_fresh(cells.folder(LLAMA), name, **{**OPTIONS, "calibration_seed": SEED + 1})
    assert calibration(first) == calibration(again)
    assert calibration(first)["ids_sha256"] != calibration(other)["ids_sha256"]
    assert calibration(first)["layers"] != calibration(other)["layers"]
    assert _logits(first).equal(_logits(again))


@pytest.mark.parametrize(
    ("name", "implementation"),
    [("w8a8-static", "torchao 0"), ("int4-g32-gptq", "qbench"), ("w8a8-smooth", "torchao 0")],
)
def test_the_record_says_whose_code_it_was(
    name: str, implementation: str, cells: TinyCells
) -> None:
    about = calibration(cells.load(LLAMA, name, **OPTIONS))
    assert implementation in about["implementation"]
    if name == "int4-g32-gptq":
        found = {part: about[part] for part in ("paper", "damping", "act_order")}
        assert found == {"paper": "arXiv 2210.17323", "damping": 0.01, "act_order": False}


@pytest.mark.slow
def test_the_default_is_128_windows_of_2048_tokens(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path, "llama", context=4096, layers=1, hidden=16, kv_heads=4)
    about = calibration(load_fresh(folder, "w8a8-smooth"))
    assert (about["windows"], about["window_tokens"]) == (128, 2048)


def test_a_shorter_context_and_a_shorter_text_have_fewer_tokens(
    cells: TinyCells, tmp_path: Path
) -> None:
    text = tmp_path / "short.txt"
    text.write_text("def add(first, second):\n    return first + second\n" * 100)
    about = calibration(
        load_fresh(cells.folder(LLAMA), "int4-g32-gptq", calibration_text=str(text))
    )
    assert about["window_tokens"] == 128
    ids = make_tiny_tokenizer()(text.read_text(), add_special_tokens=False)["input_ids"]
    assert about["windows"] == len(ids) // 127


def test_what_is_not_calibrated_is_written_as_it_was() -> None:
    """The keys of records follow from it."""
    assert IntegerOptions().model_dump() == {
        "bits": 8,
        "mapping": "symmetric",
        "granularity": "channel",
        "group": None,
        "activations": "none",
        "weights": "rtn",
        "dtype": "bf16",
        "calibration_text": "bundled:stdlib-calibration",
        "calibration_windows": 16,
        "calibration_window": None,
        "calibration_method": "minmax",
        "calibration_percentile": 99.9,
        "calibration_seed": 0,
    }
    assert IntegerOptions.model_validate(IntegerOptions().model_dump()) == IntegerOptions()
    calibrated = IntegerOptions(activations="static").model_dump()
    assert (calibrated["calibration_windows"], calibrated["calibration_window"]) == (None, 2048)


def test_what_was_calibrated_before_is_still_read() -> None:
    """Where a window's tokens were not stated they were 512 at most."""
    old = IntegerOptions(activations="static").model_dump() | {
        "calibration_windows": 16,
        "calibration_window": None,
    }
    read = IntegerOptions.model_validate(old)
    assert (read.calibration_windows, read.calibration_window) == (16, 512)


def test_a_text_that_is_too_short_is_an_error(cells: TinyCells, tmp_path: Path) -> None:
    text = tmp_path / "short.txt"
    text.write_text("def add(first, second):\n    return first + second\n")
    with pytest.raises(TextError, match="windows of 32 where 5 were asked for; give"):
        load_fresh(cells.folder(LLAMA), "w8a8-static", **{**OPTIONS, "calibration_text": str(text)})


def test_a_model_without_a_tokenizer_cannot_be_calibrated(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path, "llama", tokenizer=False)
    with pytest.raises(ModelError, match="calibration needs the model's tokenizer"):
        load_fresh(folder, "w8a8-static", **OPTIONS)


def test_without_calibration_there_is_none_in_the_record(cells: TinyCells) -> None:
    assert calibration(cells.load(LLAMA, "int8-wo")) is None
    assert not IntegerOptions().calibrates


def _logits(loaded: LoadedModel) -> torch.Tensor:
    import torch

    with torch.inference_mode():
        logits: torch.Tensor = loaded.model(input_ids=torch.arange(1, 30).reshape(1, -1)).logits
    return logits
