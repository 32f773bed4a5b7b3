"""Types of tensors in GGUF files: how many weights a block holds, and in how many bytes.

The numbers and sizes are ggml's (`ggml.h`, `ggml-common.h`); a block of a quantized type has its
scales inside. A row of a tensor is a whole number of blocks.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BlockType:
    """One of ggml's types."""

    name: str
    """As llama.cpp writes it: `Q4_K`."""
    weights: int
    """Of one block; 1 for types that are not quantized."""
    bytes: int
    """Of one block."""

    @property
    def bits(self) -> float:
        """Bits a weight, scales included."""
        return 8 * self.bytes / self.weights

    def fits(self, width: int) -> bool:
        """Whether a row of so many weights is whole blocks."""
        return width % self.weights == 0

    def row_bytes(self, width: int) -> int:
        """Bytes of a row of so many weights."""
        return width // self.weights * self.bytes


_BY_NUMBER: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
}

TYPES: dict[int, BlockType] = {number: BlockType(*fields) for number, fields in _BY_NUMBER.items()}
"""By the number that a file has."""
BY_NAME: dict[str, BlockType] = {one.name: one for one in TYPES.values()}
FLOATING = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""Types that are not quantized, with torch's names."""
DEQUANTIZED = (
    *("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "TQ1_0", "NVFP4"),
)
"""Types whose blocks no layer of qbench's computes with: the package makes weights of them once."""
