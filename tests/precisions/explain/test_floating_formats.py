"""The floating formats by torch's own numbers, and bits by Python's."""

from __future__ import annotations

import math
import struct

import pytest
import torch

from qbench.precisions.explain.formats import FORMATS

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
FINITE = {"bf16": 2 * 255 * 128 - 1, "fp16": 2 * 31 * 1024 - 1, "fp32": 2 * 255 * 2**23 - 1}


@pytest.mark.parametrize("name", DTYPES)
def test_the_range_is_torch_s(name: str) -> None:
    kind, info = FORMATS[name], torch.finfo(DTYPES[name])
    assert kind.bits == info.bits
    assert (kind.largest, kind.smallest_normal, kind.epsilon) == (info.max, info.tiny, info.eps)
    assert kind.smallest_subnormal == info.smallest_normal * info.eps
    assert kind.finite_values == FINITE[name]


@pytest.mark.parametrize("value", [1.0, 1.5, 2.0, 0.0733, 3e-5, 1e-7, 60000.0])
@pytest.mark.parametrize("name", DTYPES)
def test_the_spacing_is_the_distance_to_the_next_number(name: str, value: float) -> None:
    held = torch.tensor(value).to(DTYPES[name])
    bits = torch.int32 if name == "fp32" else torch.int16
    following = (held.view(bits) + 1).view(DTYPES[name])
    assert FORMATS[name].spacing(float(held)) == float(following) - float(held)


def test_all_numbers_of_16_bits_are_taken_apart_to_themselves() -> None:
    for name in ("bf16", "fp16"):
        patterns = torch.arange(1 << 16)
        values = patterns.to(torch.uint16).view(DTYPES[name]).double().tolist()
        for pattern in patterns.tolist()[::7]:
            value = values[pattern]
            if math.isfinite(value):
                parts = FORMATS[name].take_apart(pattern)
                assert parts.value == value
                assert int(parts.written.replace(" ", ""), 2) == pattern


def test_a_single_is_taken_apart() -> None:
    (pattern,) = struct.unpack("<I", struct.pack("<f", -0.15625))
    parts = FORMATS["fp32"].take_apart(pattern)
    assert parts.written == "1 01111100 01000000000000000000000"
    assert (parts.power, parts.significand, parts.value) == (-3, 1.25, -0.15625)
