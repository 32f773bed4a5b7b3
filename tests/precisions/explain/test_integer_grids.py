"""Integer formats explained, against the formulas computed group by group in numpy."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pytest

from qbench.cli.explain_options import read_assignments
from qbench.core.errors import UsageError
from qbench.core.page import Heading, Table
from qbench.precisions.explain.explain import explain
from tests.precisions.explain.checkpoints import figures, random_weight, relative, save
from tests.precisions.numpy_formats import rounded

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

WIDE = "dtype=fp32"
SHAPES = {"tensor": (128, 192), "channel": (1, 192), "group": (1, 32)}


@pytest.fixture(scope="module")
def weight() -> NDArray[np.float32]:
    skewed = random_weight()
    skewed[:, :96] = np.abs(skewed[:, :96])
    return skewed


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, weight: NDArray[np.float32]) -> Path:
    return save(tmp_path_factory.mktemp("explained") / "model", weight)


def naive(
    weight: NDArray[np.float32], bits: int, mapping: str, granularity: str, scale_type: str = "fp32"
) -> tuple[NDArray[np.float32], list[NDArray[np.float32]], list[float]]:
    """Held weights, codes and scales of every group, one after the other."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    tall, wide = SHAPES[granularity]
    held = np.empty_like(weight)
    codes, scales = [], []
    for row in range(0, weight.shape[0], tall):
        for column in range(0, weight.shape[1], wide):
            part = weight[row : row + tall, column : column + wide]
            if mapping == "symmetric":
                scale, zero = np.float32(np.abs(part).max() / ((high - low) / 2)), 0
            else:
                least, most = min(part.min(), 0), max(part.max(), 0)
                scale = np.float32((most - least) / np.float32(high - low))
                zero = low - int(np.round(least / scale))
            code = np.clip(np.round(part / scale) + zero, low, high)
            kept = rounded(scale.reshape(1), scale_type)[0]
            held[row : row + tall, column : column + wide] = (code - zero) * kept
            codes.append(code)
            scales.append(float(kept))
    return held, codes, scales


@pytest.mark.parametrize("granularity", SHAPES)
@pytest.mark.parametrize("mapping", ["symmetric", "asymmetric"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_every_weight_is_its_nearest_code(
    folder: Path, weight: NDArray[np.float32], bits: int, mapping: str, granularity: str
) -> None:
    group = ["group=32"] if granularity == "group" else []
    chosen = [f"bits={bits}", f"mapping={mapping}", f"granularity={granularity}", *group]
    found = figures("integer", folder, WIDE, *chosen)
    held, codes, scales = naive(weight, bits, mapping, granularity)
    assert found["error"]["relative"] == pytest.approx(relative(held, weight), rel=1e-4)
    limit = 2 ** (bits - 1)
    flat = np.concatenate([code.reshape(-1) for code in codes]).astype(int) + limit
    counts = np.bincount(flat, minlength=2 * limit)
    told = np.array(found["format"]["weights_by_code"])
    if mapping == "symmetric":
        # -absmax is in the very middle of the two lowest codes, and may fall either way.
        assert abs(told[0] - counts[0]) <= len(scales)
        told, counts = (np.array([each[:2].sum(), *each[2:]]) for each in (told, counts))
    # Few others are as near to a middle as fp32 rounds.
    assert np.abs(told - counts).sum() <= 4
    assert sum(found["histogram"]["counts"]) == weight.size
    assert found["format"]["groups"] == len(scales)
    assert found["format"]["group_weights"] == weight.size // len(scales)
    assert found["format"]["largest_scale"] == pytest.approx(max(scales), rel=1e-6)
    assert found["format"]["smallest_scale"] == pytest.approx(min(scales), rel=1e-6)


def test_scales_are_held_in_the_type_of_the_rest(folder: Path, weight: NDArray[np.float32]) -> None:
    found = figures("int4-g32", folder)
    held, _, scales = naive(rounded(weight, "bf16"), 4, "symmetric", "group", "bf16")
    assert found["format"]["largest_scale"] == max(scales)
    assert found["error"]["relative"] == pytest.approx(
        relative(rounded(held, "bf16"), weight), rel=1e-3
    )


def test_asymmetric_holds_skewed_weights_better(folder: Path) -> None:
    symmetric, asymmetric = (
        figures(name, folder)["error"]["relative"] for name in ("int4-g32", "int4-g32-asym")
    )
    assert asymmetric < 0.8 * symmetric


@pytest.mark.parametrize(
    ("name", "assignments", "code", "scales", "zero_points", "stored"),
    [
        ("int4-g32", (), 4, 16 / 32, 0, 8 + 24 / 32),
        ("int4-g32", (WIDE,), 4, 32 / 32, 0, 8 + 40 / 32),
        ("int4-g32-asym", (), 4, 16 / 32, 4 / 32, 8 + 24 / 32),
        ("int8-wo", (), 8, 16 / 192, 0, 8 + 24 / 192),
        ("w8a8", (), 8, 32 / 192, 0, 8 + 40 / 192),
        ("w8a8-static", (), 8, 32 / 192, 0, 8 + 40 / 192 + 32 / (128 * 192)),
        ("w8a8-smooth", (), 8, 32 / 192, 0, 8 + 40 / 192 + 32 / 128),
    ],
)
def test_nominal_and_stored_bits_are_told_apart(
    folder: Path,
    name: str,
    assignments: tuple[str, ...],
    code: int,
    scales: float,
    zero_points: float,
    stored: float,
) -> None:
    bits = figures(name, folder, *assignments)["bits_per_weight"]
    assert bits["nominal"] == pytest.approx(code + scales + zero_points)
    assert (bits["code"], bits["scales"]) == (code, pytest.approx(scales))
    assert bits["zero_points"] == pytest.approx(zero_points)
    assert bits["stored"] == pytest.approx(stored)


def test_an_asymmetric_group_is_told_with_zero_point_and_group(
    folder: Path, weight: NDArray[np.float32]
) -> None:
    options = read_assignments("int4-g32-asym", [WIDE])
    made = explain("int4-g32-asym", str(folder), None, options=options, base=folder)
    [at] = [
        at
        for at, part in enumerate(made.parts)
        if isinstance(part, Heading) and part.text.startswith("One weight")
    ]
    title = str(made.parts[at])
    row, column = (int(word) for word in re.findall(r"(?:row|column) (\d+)", title))
    table = next(part for part in made.parts[at:] if isinstance(part, Table))
    told = {line.label: float(line.figures[0].word or "") for line in table.rows}
    start = column // 32 * 32
    part = weight[row, start : start + 32]
    least, most = min(float(part.min()), 0.0), max(float(part.max()), 0.0)
    scale = (most - least) / 15
    zero = -8 - round(least / scale)
    code = min(7, max(-8, round(float(weight[row, column]) / scale) + zero))
    assert told["scale"] == pytest.approx(scale, rel=1e-5)
    assert (told["zero point"], told["code"]) == (zero, code)
    assert told["held as"] == pytest.approx((code - zero) * scale, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "assignments", "words"),
    [
        ("integer", ["granularity=group", "group=7"], "is 192 wide, which group 7 does not divide"),
        ("integer", ["group=32"], "expected granularity: group beside `group: 32`"),
        ("integer", ["bits=9"], "expected a whole number of at least 2 and of at most 8"),
        ("int4-g32", ["bits=8"], "bits: found the number 8; expected 4 alone"),
    ],
)
def test_what_does_not_go_together_is_told(
    folder: Path, name: str, assignments: list[str], words: str
) -> None:
    with pytest.raises(UsageError) as caught:
        figures(name, folder, *assignments)
    assert words in str(caught.value)
