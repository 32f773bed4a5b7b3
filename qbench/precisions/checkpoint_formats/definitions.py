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

A weight is (code - zero point) x scale. Nothing of the libraries that made the files is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import torch

    from qbench.precisions.checkpoint_formats.files import ModuleFiles

    Rows = Callable[[slice], "torch.Tensor"]

E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
"""The magnitudes that the lower three bits of a 4-bit float stand for; the fourth is the sign."""
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which column of eight each of the eight codes of an AWQ word is of, low bits first."""
WORD_BITS = 32
MX_BLOCK = 32


class Definition(NamedTuple):
    """The weights of one layer by definition."""

    shape: tuple[int, int]
    """(out, in)."""
    rows: Rows
    """Some output rows of it, (rows, in), in fp32."""


class MalformedError(ValueError):
    """Tensors that do not fit together, or lack one of them."""


def definition(held: ModuleFiles, quantization: Mapping[str, Any]) -> Definition | None:
    """What a module's tensors stand for; None for a format that is not written out here.

    Raises `MalformedError` for tensors that cannot be of their format.
    """
    try:
        return _definition(held, quantization)
    except KeyError as error:
        raise MalformedError(f"the checkpoint holds no {error.args[0]} of it") from error


def _definition(held: ModuleFiles, quantization: Mapping[str, Any]) -> Definition | None:
    if "qweight" in held:
        return _words_of_gptq_or_awq(held, quantization)
    if "weight_packed" in held:
        return _pairs(held) if held.tensors["weight_packed"].dtype == "U8" else _words(held)
    if "_weight_qdata" in held:
        return _plain_codes(held, "_weight_qdata", "_weight_scale", "_weight_zero_point")
    if "weight_scale_inv" in held:
        return _fp8_blocks(held, quantization)
    if "weight_scale" in held:
        return _plain_codes(held, "weight", "weight_scale", "weight_zero_point")
    if quantization.get("quant_method") in ("fp8", "mxfp8", "compressed-tensors"):
        raise MalformedError("the checkpoint holds codes of it, and no scales")
    return None


def unpacked(words: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    """The first `count` codes of `bits` bits in each row of int32 words, low bits first."""
    import torch

    single = words.unsqueeze(-1) >> torch.arange(WORD_BITS, dtype=torch.int32) & 1
    spelled = single.reshape(len(words), -1)[:, : count * bits].reshape(len(words), count, bits)
    return (spelled << torch.arange(bits, dtype=torch.int32)).sum(-1, dtype=torch.int32)


def e2m1(packed: torch.Tensor) -> torch.Tensor:
    """The values of pairs of 4-bit floats in bytes, the lower half first: twice as many."""
    import torch

    levels = torch.tensor([*E2M1, *(-level for level in E2M1)])
    both = torch.stack([packed & 15, packed >> 4], dim=-1)
    return levels[both.int()].flatten(-2)


def powers_of_two(exponents: torch.Tensor) -> torch.Tensor:
    """E8M0: 2 to the power of a byte less 127."""
    import torch

    return torch.exp2(exponents.view(torch.uint8).float() - 127)


def scales(stored: torch.Tensor) -> torch.Tensor:
    """Scales in fp32, of powers of two where bytes hold them."""
    return (
        powers_of_two(stored)
        if stored.element_size() == 1 and not _is_e4m3(stored)
        else (stored.float())
    )


def _is_e4m3(tensor: torch.Tensor) -> bool:
    import torch

    return tensor.dtype == torch.float8_e4m3fn


def spread(
    constants: torch.Tensor, rows: slice, shape: tuple[int, int], block: tuple[int, int] | None
) -> torch.Tensor:
    """A constant for each weight of some rows: of its block, where one has (rows, columns) so many.

    Without a block's size all of them are equally large.
    """
    if constants.numel() == 1:
        return constants.reshape(1, 1)
    constants = constants.reshape(len(constants), -1)
    sizes = []
    for have, whole, size in zip(constants.shape, shape, block or (0, 0), strict=True):
        each = size or whole // have
        if have not in (1, -(-whole // each)) or (have > 1 and not size and whole % have):
            found = "×".join(map(str, constants.shape))
            wanted = "×".join(map(str, shape))
            raise MalformedError(f"the checkpoint holds {found} scales for {wanted} weights")
        sizes.append(whole if have == 1 else each)
    first, end = rows.start // sizes[0], -(-rows.stop // sizes[0])
    part = constants[first:end].repeat_interleave(sizes[0], dim=0)
    part = part[rows.start - first * sizes[0] :][: rows.stop - rows.start]
    return part.repeat_interleave(sizes[1], dim=1)[:, : shape[1]]


def _matrix(held: ModuleFiles, own_name: str) -> tuple[int, int]:
    shape = held.shape(own_name)
    if len(shape) != 2:
        raise MalformedError(f"the checkpoint holds its {own_name} as {list(shape)}")
    return shape[0], shape[1]


def _plain_codes(held: ModuleFiles, codes: str, scale: str, zero: str) -> Definition | None:
    """A code for each element of a tensor."""
    if held.tensors[codes].dtype not in ("I8", "F8_E4M3"):
        return None
    shape = _matrix(held, codes)
    constants = scales(held.read(scale))
    if constants.dim() == 1 and len(constants) not in (1, shape[0]):
        raise MalformedError(f"the checkpoint holds {len(constants)} scales for {shape[0]} rows")
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
    shape, constants = _matrix(held, "weight"), scales(held.read("weight_scale_inv"))
    size = quantization.get("weight_block_size")
    block = (int(size[0]), int(size[1])) if size else None
    spread(constants, slice(0, 1), shape, block)

    def rows(part: slice) -> torch.Tensor:
        return held.read("weight", part).float() * spread(constants, part, shape, block)

    return Definition(shape, rows)


def _pairs(held: ModuleFiles) -> Definition | None:
    """NVFP4 and MXFP4 as compressed-tensors keeps them."""
    outputs, pairs = _matrix(held, "weight_packed")
    shape = outputs, 2 * pairs
    constants = scales(held.read("weight_scale"))
    if constants.shape not in {(outputs, shape[1] // size) for size in (16, MX_BLOCK)}:
        return None  # codes of 6 bits, or blocks of another kind
    if "weight_global_scale" in held:
        constants = constants / held.read("weight_global_scale").float()

    def rows(part: slice) -> torch.Tensor:
        return e2m1(held.read("weight_packed", part)) * spread(constants, part, shape, None)

    return Definition(shape, rows)


def _words(held: ModuleFiles) -> Definition:
    """Codes packed along the inputs, zero points along the outputs."""
    outputs, words = _matrix(held, "weight_packed")
    inputs = int(held.read("weight_shape")[1])
    bits = words * WORD_BITS // inputs if inputs else 0
    if not 1 <= bits <= 8 or words != -(-inputs * bits // WORD_BITS):
        raise MalformedError(f"the checkpoint holds {words} words for {inputs} weights of a row")
    shape, middle = (outputs, inputs), 1 << (bits - 1)
    constants = scales(held.read("weight_scale"))
    zeros = None
    if "weight_zero_point" in held:
        packed = held.read("weight_zero_point")
        zeros = (unpacked(packed.T.contiguous(), bits, outputs) - middle).T.float()
    order = held.read("weight_g_idx").long() if "weight_g_idx" in held else None
    if order is None:
        spread(constants, slice(0, 1), shape, None)

    def rows(part: slice) -> torch.Tensor:
        values = (unpacked(held.read("weight_packed", part), bits, inputs) - middle).float()
        if order is not None:
            below = 0.0 if zeros is None else zeros[part][:, order]
            return (values - below) * constants[part][:, order]
        if zeros is not None:
            values = values - spread(zeros, part, shape, None)
        return values * spread(constants, part, shape, None)

    return Definition(shape, rows)


def _words_of_gptq_or_awq(held: ModuleFiles, quantization: Mapping[str, Any]) -> Definition | None:
    bits = int(quantization.get("bits") or 4)
    packing = str(quantization.get("packing_format") or quantization.get("quant_method"))
    groups, outputs = _matrix(held, "scales")
    if held.tensors["qweight"].dtype != "I32" or "qzeros" not in held:
        return None
    if "awq" in packing:
        return _awq(held, bits) if quantization.get("version", "gemm") == "gemm" else None
    inputs = held.shape("qweight")[0] * WORD_BITS // bits
    shape = outputs, inputs
    kind = str(quantization.get("checkpoint_format") or quantization.get("format") or "gptq")
    one = 0 if kind == "gptq_v2" else 1
    if held.shape("qweight")[1] != outputs or held.shape("qzeros") != (
        groups,
        outputs * bits // WORD_BITS,
    ):
        raise MalformedError(
            f"the checkpoint holds {list(held.shape('qweight'))} words of codes and"
            f" {list(held.shape('qzeros'))} of zero points for {groups}×{outputs} scales"
        )
    constants = held.read("scales").float()
    zeros = (unpacked(held.read("qzeros"), bits, outputs) + one).float()
    order = _groups_of(held, inputs, groups)

    def rows(part: slice) -> torch.Tensor:
        words = held.read("qweight", slice(None), part).T.contiguous()
        values = unpacked(words, bits, inputs).float()
        return (values - zeros[order][:, part].T) * constants[order][:, part].T

    return Definition(shape, rows)


def _groups_of(held: ModuleFiles, inputs: int, groups: int) -> torch.Tensor:
    """The group of each input."""
    import torch

    if "g_idx" not in held:
        return torch.arange(inputs) // max(1, inputs // groups)
    order = held.read("g_idx").long()
    if order.shape != (inputs,) or int(order.min()) < 0 or int(order.max()) >= groups:
        raise MalformedError(
            f"the checkpoint holds groups {int(order.min())} to {int(order.max())} of"
            f" {len(order)} inputs for {groups} groups of {inputs}"
        )
    return order


def _awq(held: ModuleFiles, bits: int) -> Definition | None:
    import torch

    if bits != 4:
        return None
    inputs, words = _matrix(held, "qweight")
    groups, outputs = _matrix(held, "scales")
    each = WORD_BITS // bits
    if words * each != outputs or held.shape("qzeros") != (groups, words) or inputs % groups:
        raise MalformedError(
            f"the checkpoint holds {inputs}×{words} words of codes and"
            f" {list(held.shape('qzeros'))} of zero points for {groups}×{outputs} scales"
        )
    place = torch.argsort(torch.tensor(AWQ_ORDER))

    def columns(packed: torch.Tensor) -> torch.Tensor:
        codes = unpacked(packed, bits, packed.shape[1] * each)
        return codes.reshape(len(packed), -1, each)[:, :, place].reshape(len(packed), -1).float()

    zeros, constants = columns(held.read("qzeros")), held.read("scales").float()
    order = torch.arange(inputs) // (inputs // groups)

    def rows(part: slice) -> torch.Tensor:
        first, end = part.start // each, -(-part.stop // each)
        values = columns(held.read("qweight", slice(None), slice(first, end)))
        values = values[:, part.start - first * each :][:, : part.stop - part.start]
        return ((values - zeros[order][:, part]) * constants[order][:, part]).T.contiguous()

    return Definition((outputs, inputs), rows)
