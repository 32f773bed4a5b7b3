"""Where the bits of a block lie: GGUF's block layouts, decoded and packed by one table.

After the structures of llama.cpp's `ggml-common.h`. A weight is

    scale · step · (code - offset) - minimum · floor

`scale` and `minimum` are fp16 numbers of the block; `step` and `floor` are small integers, one for
each part of a block of K-quants, and 1 elsewhere. Codes may stand for entries of a table instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from qbench.sources.models.gguf_types import BY_NAME

if TYPE_CHECKING:
    import torch

AT_ONCE = 2**19
"""Weights that a layer makes at once: never all of a head, which may take a gigabyte."""
_FP4 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)
"""Twice the values of e2m1 (OCP MX 1.0); the scale is half of e8m0's for it."""
_NO_NUMBER = 0xFF
"""An exponent that is none (OCP MX 1.0, E8M0)."""
_IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)


@dataclass(frozen=True)
class Field:
    """Some bits of numbers: of number i `bits` bits from `shifts[i]` on in byte `at[i]`."""

    at: tuple[int, ...]
    shifts: tuple[int, ...]
    bits: int
    place: int = 0
    """The bit of the number that the lowest of these is."""


Fields = tuple[Field, ...]


@dataclass(frozen=True)
class Layout:
    """A block of one type."""

    codes: Fields
    """Of each weight, in their order in the row."""
    scale_at: int | None
    """Byte of the fp16 scale; None where byte 0 is an exponent (e8m0)."""
    minimum_at: int | None = None
    """Byte of the fp16 minimum."""
    adds_minimum: bool = False
    """Whether the minimum is added, as it is where it has no floors."""
    offset: int = 0
    table: tuple[int, ...] = ()
    signed: bool = False
    """Whether codes are two's complement of 8 bits."""
    steps: Fields = ()
    step_offset: int = 0
    signed_steps: bool = False
    floors: Fields = ()


def _field(count: int, at: Any, shift: Any, bits: int, place: int = 0) -> Field:
    numbers = range(count)
    return Field(tuple(map(at, numbers)), tuple(map(shift, numbers)), bits, place)


def _lowest(_: int) -> int:
    """Where fields begin at the lowest bit of their bytes."""
    return 0


def _nibbles(start: int) -> Fields:
    """Of 32 weights: the low halves of 16 bytes, then the high ones."""
    return (_field(32, lambda j: start + j % 16, lambda j: 4 * (j // 16), 4),)


def _fifth(start: int) -> Field:
    """The fifth bits of 32 weights, one after another."""
    return _field(32, lambda j: start + j // 8, lambda j: j % 8, 1, place=4)


def _k_nibbles(start: int) -> Field:
    """Of 256 weights: for every 64 the low halves of 32 bytes, then the high ones."""
    return _field(256, lambda j: start + 32 * (j // 64) + j % 32, lambda j: 4 * (j // 32 % 2), 4)


def _pairs(start: int) -> Field:
    """Of 256 weights: for every 128 the lowest 2 bits of 32 bytes, then the next ones."""
    return _field(256, lambda j: start + 32 * (j // 128) + j % 32, lambda j: 2 * (j % 128 // 32), 2)


def _sixes(start: int) -> tuple[Fields, Fields]:
    """8 steps and 8 floors of 6 bits, in 12 bytes: four in six bits each, four taken apart."""

    def steps(at: Any, shift: Any, bits: int, place: int) -> Field:
        return _field(8, lambda s: start + at(s), shift, bits, place)

    return (
        (
            steps(lambda s: s if s < 4 else s + 4, _lowest, 4, 0),
            Field(
                tuple(start + s % 4 for s in range(8)),
                tuple(4 if s < 4 else 6 for s in range(8)),
                2,
                4,
            ),
        ),
        (
            steps(lambda s: s + 4, lambda s: 0 if s < 4 else 4, 4, 0),
            steps(lambda s: s + 4 if s < 4 else s, lambda s: 4 if s < 4 else 6, 2, 4),
        ),
    )


_K4_STEPS, _K4_FLOORS = _sixes(4)
LAYOUTS: dict[str, Layout] = {
    "Q4_0": Layout(_nibbles(2), 0, offset=8),
    "Q4_1": Layout(_nibbles(4), 0, minimum_at=2, adds_minimum=True),
    "Q5_0": Layout((*_nibbles(6), _fifth(2)), 0, offset=16),
    "Q5_1": Layout((*_nibbles(8), _fifth(4)), 0, minimum_at=2, adds_minimum=True),
    "Q8_0": Layout((_field(32, lambda j: 2 + j, _lowest, 8),), 0, signed=True),
    "MXFP4": Layout(_nibbles(1), None, table=_FP4),
    "IQ4_NL": Layout(_nibbles(2), 0, table=_IQ4),
    "Q2_K": Layout(
        (_pairs(16),),
        80,
        minimum_at=82,
        steps=(_field(16, lambda s: s, _lowest, 4),),
        floors=(Field(tuple(range(16)), (4,) * 16, 4),),
    ),
    "Q3_K": Layout(
        (_pairs(32), _field(256, lambda j: j % 32, lambda j: j // 32, 1, place=2)),
        108,
        offset=4,
        steps=(
            _field(16, lambda s: 96 + s % 8, lambda s: 4 * (s // 8), 4),
            _field(16, lambda s: 104 + s % 4, lambda s: 2 * (s // 4), 2, place=4),
        ),
        step_offset=32,
    ),
    "Q4_K": Layout((_k_nibbles(16),), 0, minimum_at=2, steps=_K4_STEPS, floors=_K4_FLOORS),
    "Q5_K": Layout(
        (_k_nibbles(48), _field(256, lambda j: 16 + j % 32, lambda j: j // 32, 1, place=4)),
        0,
        minimum_at=2,
        steps=_K4_STEPS,
        floors=_K4_FLOORS,
    ),
    "Q6_K": Layout(
        (
            _field(256, lambda j: 64 * (j // 128) + j % 64, lambda j: 4 * (j % 128 // 64), 4),
            _field(
                256,
                lambda j: 128 + 32 * (j // 128) + j % 32,
                lambda j: 2 * (j % 128 // 32),
                2,
                place=4,
            ),
        ),
        208,
        offset=32,
        steps=(_field(16, lambda s: 192 + s, _lowest, 8),),
        signed_steps=True,
    ),
    "IQ4_XS": Layout(
        (
            _field(
                256, lambda j: 8 + 16 * (j // 32) + j % 16, lambda j: 4 * (j % 32 // 16), 4
            ),
        ),
        0,
        table=_IQ4,
        steps=(
            _field(8, lambda s: 4 + s // 2, lambda s: 4 * (s % 2), 4),
            _field(8, lambda s: 2 + s // 4, lambda s: 2 * (s % 4), 2, place=4),
        ),
        step_offset=32,
    ),
    "TQ2_0": Layout((_pairs(0),), 64, offset=1),
}  # fmt: skip
"""By the name of the type."""


def decode(blocks: torch.Tensor, kind: str) -> torch.Tensor:
    """Weights in fp32, (…, width), of rows of blocks, uint8 (…, bytes of a row)."""
    import torch

    layout, size = LAYOUTS[kind], BY_NAME[kind]
    held = blocks.reshape(-1, size.bytes)
    codes = read(held, layout.codes)
    if layout.table:
        table = torch.tensor(layout.table, dtype=torch.float32, device=blocks.device)
        values = table[codes.int()]
    elif layout.signed:
        values = codes.view(torch.int8).float()
    else:
        values = codes.float().sub_(layout.offset)
    scale, minimum, steps, floors = constants_of(held, kind)
    values = values.view(len(held), steps.shape[1], -1).mul_((scale * steps)[..., None])
    if layout.adds_minimum:
        values += minimum[..., None]
    elif layout.minimum_at is not None:
        values -= (minimum * floors)[..., None]
    return values.reshape(*blocks.shape[:-1], -1)


Constants = tuple["torch.Tensor", "torch.Tensor", "torch.Tensor", "torch.Tensor"]


def constants_of(blocks: torch.Tensor, kind: str) -> Constants:
    """Of blocks (blocks, bytes) in fp32: scale and minimum (blocks, 1), steps and floors.

    Steps and floors are (blocks, parts); one of 1 where there are none, as the minimum is 0.
    """
    import torch

    layout = LAYOUTS[kind]
    one = torch.ones(len(blocks), 1, device=blocks.device)
    return (
        _scale(blocks, layout.scale_at),
        torch.zeros_like(one) if layout.minimum_at is None else _half(blocks, layout.minimum_at),
        steps_of(blocks, kind) if layout.steps else one,
        read(blocks, layout.floors).float() if layout.floors else one,
    )


def steps_of(blocks: torch.Tensor, kind: str) -> torch.Tensor:
    """The steps of each block, (blocks, parts), in fp32."""
    import torch

    layout = LAYOUTS[kind]
    steps = read(blocks, layout.steps)
    if layout.signed_steps:
        return steps.view(torch.int8).float()
    return steps.float().sub_(layout.step_offset)


def read(blocks: torch.Tensor, fields: Fields) -> torch.Tensor:
    """The numbers of some fields, uint8 (blocks, numbers)."""
    import torch

    total: torch.Tensor | None = None
    for field in fields:
        at, shifts = _indices(field, blocks.device)
        part = blocks[:, at]
        part = part.bitwise_right_shift_(shifts).bitwise_and_((1 << field.bits) - 1)
        if field.place:
            part = part.bitwise_left_shift_(
                torch.tensor(field.place, dtype=torch.uint8, device=blocks.device)
            )
        total = part if total is None else total.bitwise_or_(part)
    if total is None:
        raise ValueError("no fields")
    return total


def write(blocks: torch.Tensor, fields: Fields, numbers: torch.Tensor) -> None:
    """Puts numbers, (blocks, numbers) of any integer type, into blocks whose bits there are 0."""
    import torch

    numbers = numbers.int()
    for field in fields:
        at, shifts = _indices(field, blocks.device)
        part = (numbers >> field.place & ((1 << field.bits) - 1)) << shifts.int()
        blocks.index_add_(1, at, part.to(torch.uint8))


def write_half(blocks: torch.Tensor, at: int, numbers: torch.Tensor) -> torch.Tensor:
    """Puts one fp16 number into each block; what it is then, (blocks, 1) in fp32."""
    import torch

    halves = numbers.flatten().half()
    blocks[:, at : at + 2] = halves.view(torch.uint8).view(-1, 2)
    return halves.float()[:, None]


def _half(blocks: torch.Tensor, at: int) -> torch.Tensor:
    import torch

    return blocks[:, at : at + 2].contiguous().view(torch.float16).float()


def _scale(blocks: torch.Tensor, at: int | None) -> torch.Tensor:
    """The scale of each block, (blocks, 1)."""
    import torch

    if at is not None:
        return _half(blocks, at)
    exponent = blocks[:, :1].int() - 128  # of half the scale that e8m0 says
    made = torch.ldexp(torch.ones_like(exponent, dtype=torch.float32), exponent)
    return made.where(blocks[:, :1] != _NO_NUMBER, torch.nan)


@cache
def _indices(field: Field, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    import torch

    return (
        torch.tensor(field.at, dtype=torch.int64, device=device),
        torch.tensor(field.shifts, dtype=torch.uint8, device=device),
    )
