"""The names that a precision goes by, and what is nearest in kind to a name that none goes by.

Wherever a person names a precision, any of its names is taken; records, tables and messages have
its own alone.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from qbench.core.names import did_you_mean
from qbench.precisions import precisions

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from qbench.precisions.precision import Precision

ONE_OF_THE_LIST = "one that `qbench list` shows"
"""What a message expects for a name of none: they are too many to be named in it."""
_MOST_NEAR = 3
"""Precisions that are named as the nearest."""


class Kind(NamedTuple):
    """A family of formats, by the names that the field gives them."""

    pattern: str
    """Of all that such a name is, in small letters and with `-` for `_`."""
    words: str
    """What such a format is; `{bits}` is the group of that name."""
    near: Sequence[str]
    """Precisions nearest to it, the nearest first; those that are not there are passed over."""


_INTEGERS = ("int{bits}-g128", "int{bits}-g32", "int{bits}-wo", "hqq{bits}", "integer")
_GPTQ = ("int4-g128-gptq", "int4-g32-gptq", "stored")
_VECTORS = ("hqq2", "gguf-q2_k", "integer")
_FP4 = ("nvfp4", "mxfp4", "gguf-mxfp4", "fp4", "nf4")
_FP8 = ("fp8", "fp8-w8a8", "mxfp8", "int8-wo", "w8a8")
KINDS = (
    Kind(
        "(auto-?)?awq.*",
        "AWQ: 4-bit integers that a calibration scales",
        ("int4-g128-awq", *_GPTQ),
    ),
    Kind("(auto-?)?gptq.*", "GPTQ: integers whose codes a calibration chooses", _GPTQ),
    Kind(
        "auto-?round.*|signround",
        "AutoRound: integers rounded as a training finds best",
        ("int4-g128-autoround", *_GPTQ),
    ),
    Kind(
        "exl[23].*|exllama.*",
        "EXL2 and EXL3: codes of mixed widths for ExLlama alone",
        ("gguf-q4_k_m", *_GPTQ),
    ),
    Kind(
        "aqlm.*|quip.*|qtip.*|vptq.*|spqr.*|squeezellm.*|omniquant.*",
        "2 to 4 bits by learned codes or rotations, of a calibration",
        _VECTORS,
    ),
    Kind(
        "bitnet.*|b?1[.]58.*|ternary|binary|(int|w)1(?![0-9]).*",
        "under 2 bits, by training",
        _VECTORS,
    ),
    Kind("spinquant.*|quarot.*|outlier-suppression", "rotated integers", ("w8a8-smooth", "w8a8")),
    Kind("smooth-?quant.*", "SmoothQuant", ("w8a8-smooth",)),
    Kind(
        "bnb|bitsandbytes|qlora|load-in-4-?bit|bnb-?(4-?bit|int4)|bitsandbytes-4-?bit",
        "bitsandbytes' 4-bit formats (QLoRA is LoRA trained on one)",
        ("nf4", "nf4-dq", "fp4"),
    ),
    Kind("(mx-?)?(fp|float)-?6(?![0-9]).*|e2m3|e3m2", "6-bit floats", ("mxfp8", *_FP8)),
    Kind("(.*-)?(nv|mx)-?(fp|float)-?4.*|e2m1.*", "4-bit floats with scales a block", _FP4),
    Kind("(fp|float)-?4.*", "4-bit floats", ("nvfp4", "mxfp4", "fp4", "nf4")),
    Kind("(mx|nv)-?(fp|float)-?8.*|mx", "8-bit floats with scales a block", ("mxfp8", *_FP8)),
    Kind("(.*-)?(fp|float|f|bf)-?8.*|e4m3.*|e5m2.*", "8-bit floats", _FP8),
    Kind(
        "(gguf-)?i?q(?P<bits>[1-8])(-.*)?|(gguf-)?tq[12].*|gguf|ggml|llama[.]?cpp",
        "llama.cpp's blocks",
        ("gguf-q{bits}_k_m", "gguf-q{bits}_k", "gguf-q{bits}_0", "gguf-q4_k_m", "gguf-q8_0",
         "int4-g32"),
    ),
    Kind("hqq.*?(?P<bits>[2-8]?).*", "HQQ", ("hqq{bits}", "hqq", "integer")),
    Kind("quanto.*", "quanto's codes", ("quanto-int8", "quanto-int4", "quanto-fp8")),
    Kind("w4-?a4.*", "4-bit weights and activations", ("nvfp4-w4a4", "mxfp4-w4a4", "integer")),
    Kind(
        "w(?P<bits>[2-7])-?a[2-8].*|int8-dynamic-activation-int(?P<width>[2-7])-weight",
        "weights of {bits} bits beside rounded activations, which have 8 bits in qbench:"
        " `{{integer: {{bits: {bits}, activations: dynamic, …}}}}`",
        ("integer", "w8a8"),
    ),
    Kind("int8-static.*", "8-bit weights and activations", ("w8a8-static",)),
    Kind("(llm[.]?int8|eetq|bnb-?8-?bit).*", "8-bit weights", ("int8", "int8-wo")),
    Kind("(u?int|i)?-?8-?(bits?|b)?.*", "8-bit weights", ("int8", "int8-wo", "w8a8", "fp8")),
    Kind("4-?(bits?|b)?", "4-bit weights", ("nf4", "int4-g128", "int4-g32", "hqq4")),
    Kind("(marlin|machete|tinygemm).*", "kernels for 4-bit integers", ("int4-g128", "int4-g32")),
    Kind(
        "(u?int|i|w)-?(?P<bits>[2-7])(?![0-9]).*|(?P<width>[2-7])-?(bits?|b)",
        "integers of {bits} bits, `{{integer: {{bits: {bits}, …}}}}`",
        _INTEGERS,
    ),
    Kind(
        "compressed-?tensors|llm-?compressor|checkpoint|quark|modelopt|fbgemm.*|torchao.*",
        "checkpoints that are quantized already",
        ("stored",),
    ),
    Kind("(fp|float|f)-?64|double|tf32", "wide floats", ("fp32",)),
    Kind("(fp|float|f|bf|bfloat|u?int|w)-?16.*", "16-bit floats", ("bf16", "fp16")),
)  # fmt: skip
"""The first that a name fits says what it is."""


def own_name(name: str) -> str | None:
    """The precision's own name, by any of its names; None for a name of none.

    Case does not matter, nor whether `_` or `-` is written.
    """
    return _own_names().get(_folded(name))


def other_names(precision: Precision) -> list[str]:
    """What else a precision is called, its title first."""
    title = precision.title
    return [*([] if title in {None, precision.name} else [str(title)]), *precision.also_called]


def picks(pattern: str, names: Collection[str]) -> bool:
    """Whether a pattern, as of file names, fits one of a cell's names.

    So does any other name of its precision, where the precision's own is among the names.
    """
    return any(fnmatchcase(name, pattern) for name in names) or own_name(pattern) in names


@cache
def _own_names() -> dict[str, str]:
    table = precisions()
    others = {_folded(also): name for name, one in table.items() for also in other_names(one)}
    return others | {_folded(name): name for name in table}


def _folded(name: str) -> str:
    return name.strip().casefold().replace("_", "-")


def nearest_in_kind(name: str) -> str | None:
    """What a name that no precision has means, and the precisions nearest to that, in words.

    None where the name is of no known kind.
    """
    folded = _folded(name)
    for kind in KINDS:
        found = re.fullmatch(kind.pattern, folded)
        if found is None:
            continue
        given = found.groupdict()
        bits = given.get("bits") or given.get("width") or ""
        table = precisions()
        near = [own for one in kind.near if (own := one.format(bits=bits)) in table]
        named = ", ".join(list(dict.fromkeys(near))[:_MOST_NEAR])
        return f"{kind.words.format(bits=bits)}; nearest in kind: {named}" if near else None
    return None


def nearest_words(name: str, names: Iterable[str]) -> str | None:
    """The nearest in kind to a name of no precision; else that of the names nearest by letters."""
    return nearest_in_kind(name) or did_you_mean(name, names)
