"""The weights that the tensors of a checkpoint stand for: each format's public definition.

    pack-quantized    codes + 2^(bits-1) in int32 words, low bits first      compressed-tensors
    int-quantized     int8 codes
    float-quantized   fp8 (e4m3) codes
    nvfp4             pairs of e2m1 codes, an e4m3 scale for 16, one fp32 divisor for all of them
    mxfp4, mxfp8      e2m1 or e4m3 codes, a power of two for 32              OCP MX 1.0
    fp8               e4m3 codes, a scale for each block of 128 x 128        DeepSeek-V3
    gptq              words along the inputs; zero points less one, but in its v2
    awq               words along the outputs, eight columns in the order 0 2 4 6 1 3 5 7
    torchao           int8 or e4m3 codes, zero points
    bitnet            four codes of -1, 0 and 1 a byte, each of another quarter of the rows

A weight is (code - zero point) x scale. Nothing of the libraries that made the files is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.precisions.checkpoint_formats.layer_definition import (
    Definition,
    MalformedError,
    matrix,
    spread,
    telling_of,
)
from qbench.precisions.checkpoint_formats.words import gptq_or_awq, pack_quantized
from qbench.precisions.floating_codes.small_floats import (
    decoded,
    e2m1_values,
    e8m0_values,
    unpacked,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from qbench.precisions.checkpoint_formats.files import ModuleFiles

MX_BLOCK = 32


def definition(held: ModuleFiles, quantization: Mapping[str, Any]) -> Definition | None:
    """What a module's tensors stand for; None for a format that is not written out here.

    Raises `ModelError` for tensors that cannot be of their format.
    """
    with telling_of(held):
        return _definition(held, quantization)


def _definition(held: ModuleFiles, quantization: Mapping[str, Any]) -> Definition | None:
    if "qweight" in held:
        return gptq_or_awq(held, quantization)
    if "weight_packed" in held:
        return _pairs(held) if held.tensors["weight_packed"].dtype == "U8" else pack_quantized(held)
    if "weight_scale_inv" in held:
        return _fp8_blocks(held, quantization)
    if quantization.get("quant_method") == "bitnet" and "weight" in held:
        return _ternary(held)
    begin = "_weight_" if "_weight_qdata" in held else "weight_"
    codes = "_weight_qdata" if "_weight_qdata" in held else "weight"
    if f"{begin}scale" in held or codes != "weight":
        return _plain_codes(held, codes, f"{begin}scale", f"{begin}zero_point")
    if quantization.get("quant_method") in ("fp8", "mxfp8", "compressed-tensors"):
        raise MalformedError("codes and no scales")
    return None


def e2m1(packed: torch.Tensor) -> torch.Tensor:
    """The values of pairs of 4-bit floats in bytes, the lower half first: twice as many."""
    return decoded(unpacked(packed), e2m1_values())


def powers_of_two(exponents: torch.Tensor) -> torch.Tensor:
    """What bytes of E8M0 stand for."""
    return decoded(exponents, e8m0_values())


def scales(stored: torch.Tensor) -> torch.Tensor:
    """Scales in fp32, of powers of two where bytes hold them."""
    is_power = stored.element_size() == 1 and not _is_e4m3(stored)
    return powers_of_two(stored) if is_power else stored.float()


def _is_e4m3(tensor: torch.Tensor) -> bool:
    import torch

    return tensor.dtype == torch.float8_e4m3fn


def _plain_codes(held: ModuleFiles, codes: str, scale: str, zero: str) -> Definition | None:
    """A code for each element of a tensor."""
    if held.tensors[codes].dtype not in ("I8", "F8_E4M3"):
        return None
    shape = matrix(held, codes)
    constants = scales(held.read(scale))
    if constants.dim() == 1 and len(constants) not in (1, shape[0]):
        raise MalformedError(f"{len(constants)} scales for {shape[0]} rows")
    zeros = held.read(zero).float() if zero in held else None

    def rows(part: slice) -> torch.Tensor:
        values = held.read(codes, part).float()
        if zeros is not None:
            values = values - spread(zeros, part, shape, None)
        return values * spread(constants, part, shape, None)

    spread(constants, slice(0, 1), shape, None)  # raises where they do not fit
    return Definition(shape, rows)


def _fp8_blocks(held: ModuleFiles, quantization: Mapping[str, Any]) -> Definition | None:
    """E4m3 codes with a scale for each block, the last ones of a row or column cut short."""
    if held.tensors["weight"].dtype != "F8_E4M3":
        return None
    shape, constants = matrix(held, "weight"), scales(held.read("weight_scale_inv"))
    size = quantization.get("weight_block_size")
    if size and (not isinstance(size, list) or [type(each) for each in size] != [int, int]):
        raise MalformedError(f"a weight_block_size of {size!r}")
    block = (size[0], size[1]) if size else None
    spread(constants, slice(0, 1), shape, block)

    def rows(part: slice) -> torch.Tensor:
        return held.read("weight", part).float() * spread(constants, part, shape, block)

    return Definition(shape, rows)


def _pairs(held: ModuleFiles) -> Definition | None:
    """NVFP4 and MXFP4 as compressed-tensors keeps them."""
    outputs, pairs = matrix(held, "weight_packed")
    shape = outputs, 2 * pairs
    constants = scales(held.read("weight_scale"))
    if constants.shape not in {(outputs, shape[1] // size) for size in (16, MX_BLOCK)}:
        return None  # codes of 6 bits, or blocks of another kind
    if "weight_global_scale" in held:
        constants = constants / held.read("weight_global_scale").float()

    def rows(part: slice) -> torch.Tensor:
        return e2m1(held.read("weight_packed", part)) * spread(constants, part, shape, None)

    return Definition(shape, rows)


def _ternary(held: ModuleFiles) -> Definition:
    """BitNet's codes, in the lowest bits those of the first quarter of the rows."""
    import torch

    quarter, inputs = matrix(held, "weight")
    divisor = held.read("weight_scale").float()

    def rows(part: slice) -> torch.Tensor:
        wanted = torch.arange(part.start, part.stop)
        packed = held.read("weight")[wanted % quarter]
        codes = packed >> (2 * (wanted // quarter)).to(torch.uint8)[:, None] & 3
        return (codes.float() - 1) / divisor

    return Definition((4 * quarter, inputs), rows)
