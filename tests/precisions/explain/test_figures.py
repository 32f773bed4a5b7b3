"""What is told of each precision, against the formats' published definitions in numpy."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.precisions.explain.checkpoints import figures, random_weight, relative, save
from tests.precisions.numpy_formats import FP4_LEVELS, four_bit, int8_rows, nested_bound, rounded

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

WIDE = "dtype=fp32"


@pytest.fixture(scope="module")
def weight() -> NDArray[np.float32]:
    return random_weight()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, weight: NDArray[np.float32]) -> Path:
    return save(tmp_path_factory.mktemp("explained") / "model", weight)


def normal_quantiles(count: int) -> list[float]:
    """The first `count` of count + 1 even steps of probability from bitsandbytes' offset to 0.5."""
    steps = np.linspace(0.9677083, 0.5, count + 1)[:-1]
    return [NormalDist().inv_cdf(step) for step in steps]


class TestFloating:
    @pytest.mark.parametrize("name", ["bf16", "fp16"])
    def test_the_error_is_that_of_rounding(
        self, folder: Path, weight: NDArray[np.float32], name: str
    ) -> None:
        error = figures(name, folder)["error"]
        held = rounded(weight, name).astype(np.float64)
        difference = np.abs(held - weight)
        assert error["relative"] == pytest.approx(relative(held, weight), rel=1e-12)
        assert error["rms"] == pytest.approx(math.sqrt((difference**2).mean()), rel=1e-12)
        assert error["largest"] == difference.max()
        ratio = np.linalg.norm(weight.astype(np.float64)) / np.linalg.norm(held - weight)
        assert error["snr_db"] == pytest.approx(20 * math.log10(ratio), rel=1e-9)

    def test_no_error_is_told_as_such(self, folder: Path) -> None:
        found = figures("fp32", folder)
        assert (found["error"]["rms"], found["error"]["snr_db"]) == (0.0, None)
        assert found["error"]["reason"] == "there is no error"
        assert found["bits_per_weight"] == {"code": 32, "scales": 0, "stored": 32.0}

    def test_weights_beyond_the_range_are_counted(self, tmp_path: Path) -> None:
        huge = random_weight()
        huge[3, 5], huge[7, 9] = 1e6, -7e4
        error = figures("fp16", save(tmp_path / "huge", huge))["error"]
        assert (error["overflowed"], error["rms"], error["relative"]) == (2, None, None)
        assert error["reason"] == "2 weights become infinite or not a number"


class TestFourBits:
    def test_nf4_s_levels_are_normal_quantiles(self, folder: Path) -> None:
        above, below = normal_quantiles(8), normal_quantiles(7)
        expected = sorted([*above, 0.0, *(-level for level in below)])
        levels = figures("nf4", folder)["format"]["levels"]
        assert levels == pytest.approx([level / max(above) for level in expected], abs=1e-6)

    def test_fp4_s_levels_are_sign_exponent_and_mantissa(self, folder: Path) -> None:
        levels = figures("fp4", folder)["format"]["levels"]
        assert sorted(set(levels)) == pytest.approx(list(FP4_LEVELS), abs=1e-7)
        assert len(levels) == 16

    @pytest.mark.parametrize("name", ["nf4", "fp4"])
    def test_every_weight_goes_to_its_nearest_level(
        self, folder: Path, weight: NDArray[np.float32], name: str
    ) -> None:
        found = figures(name, folder, WIDE, "compute_dtype=fp32")
        naive = four_bit(weight, name)
        assert found["error"]["relative"] == pytest.approx(relative(naive, weight), rel=1e-5)
        assert found["error"]["zeros"] == int((naive == 0).sum())
        rows = naive.reshape(-1, 64)
        maxima = np.abs(weight.reshape(-1, 64)).max(axis=1, keepdims=True).astype(np.float64)
        tops = int(np.isclose(rows / maxima, 1).sum())
        by_level = dict(
            zip(found["format"]["levels"], found["format"]["weights_by_code"], strict=True)
        )
        assert by_level[1.0] == tops
        assert sum(found["format"]["weights_by_code"]) == weight.size == found["error"]["weights"]

    def test_the_default_types_round_before_and_after(
        self, folder: Path, weight: NDArray[np.float32]
    ) -> None:
        before = rounded(weight, "bf16")
        after = rounded(four_bit(before, "nf4").astype(np.float32), "bf16")
        found = figures("nf4", folder)["error"]
        assert found["relative"] == pytest.approx(relative(after, weight), rel=1e-3)

    def test_bits_of_single_and_double_quantization(self, folder: Path) -> None:
        single, double = (figures(name, folder)["bits_per_weight"] for name in ("nf4", "nf4-dq"))
        assert (single["code"], single["scales"]) == (4, 0.5)
        assert double["scales"] == pytest.approx(0.127, abs=5e-5)  # QLoRA, section 3
        weights = 128 * 192
        blocks, groups = weights // 64, 2  # 384 blocks: two groups of 256
        tables = 16 * 4
        assert single["stored"] == 8 * (weights / 2 + 4 * blocks + tables) / weights
        doubled = weights / 2 + blocks + 4 * groups + 4 + tables + 256 * 4
        assert double["stored"] == 8 * doubled / weights

    def test_double_quantization_s_two_stages(
        self, folder: Path, weight: NDArray[np.float32]
    ) -> None:
        nested = figures("nf4-dq", folder, WIDE)["format"]["double_quant"]
        maxima = np.abs(weight.reshape(-1, 64)).max(axis=1)
        assert (nested["blocks"], nested["groups"], nested["nested_block"]) == (384, 2, 256)
        assert nested["offset"] == pytest.approx(float(maxima.mean()), rel=1e-6)
        levels = np.array(nested["levels"])
        held = np.empty(maxima.size)
        for start in (0, 256):
            centred = maxima[start : start + 256].astype(np.float64) - nested["offset"]
            own = np.abs(centred).max()
            codes = np.abs(centred[:, None] / own - levels).argmin(axis=1)
            held[start : start + 256] = levels[codes] * own + nested["offset"]
        # A tie between two levels may fall either way.
        assert nested["relative_change_of_scales"] == pytest.approx(
            relative(held, maxima), rel=1e-3
        )
        moved = np.repeat(np.abs(held - maxima), 64).reshape(weight.shape)
        assert (moved <= nested_bound(weight) * 1.0001).all()

    def test_without_double_quantization_there_is_no_second_stage(self, folder: Path) -> None:
        assert figures("nf4", folder)["format"]["double_quant"] is None

    def test_a_wrong_kernel_is_named_and_its_numbers_not_taken(self, tmp_path: Path) -> None:
        # On CPUs bitsandbytes 0.50 dequantizes rows of 96 weights wrongly.
        narrow = random_weight(width=96)
        found = figures("nf4", save(tmp_path / "narrow", narrow), WIDE, "compute_dtype=fp32")
        naive = relative(four_bit(narrow, "nf4"), narrow)
        assert found["error"]["relative"] == pytest.approx(naive, rel=1e-5)
        assert found["kernel_error"] is None or found["kernel_error"] > 0.05


class TestInt8:
    def test_every_row_has_255_even_steps(self, folder: Path, weight: NDArray[np.float32]) -> None:
        found = figures("int8", folder, WIDE)
        naive = int8_rows(weight)
        assert found["error"]["relative"] == pytest.approx(relative(naive, weight), rel=1e-3)
        maxima = np.abs(weight.astype(np.float16)).max(axis=1)
        assert found["format"]["smallest_absmax"] == maxima.min()
        assert found["format"]["largest_absmax"] == maxima.max()

    def test_bits_are_the_code_and_a_scale_a_row(self, folder: Path) -> None:
        bits = figures("int8", folder)["bits_per_weight"]
        assert bits["scales"] == pytest.approx(32 / 192)
        assert bits["stored"] == 8 + 32 / 192

    def test_a_row_of_zeros_is_held(self, tmp_path: Path) -> None:
        weight = random_weight()
        weight[5] = 0
        for name in ("int8", "nf4", "nf4-dq"):
            found = figures(name, save(tmp_path / "zeros", weight))
            assert found["error"]["overflowed"] == 0
            assert sum(found["histogram"]["counts"]) == weight.size
