"""What is known of a GPU by its name: its memory, and whether its architecture is Ampere or later.

From compute capability 8.0 on (Ampere, 2020) NVIDIA's GPUs multiply bf16 and have a flash
attention; before, bf16 is computed in fp32 and attention in it by its definition, all scores at
once. (torch, `aten/src/ATen/native/transformers/cuda/sdp_utils.cpp`.)
"""

from __future__ import annotations

import re
from functools import cache

GPUS_GIB: dict[str, tuple[float, bool]] = {
    "p100": (15.8, False),
    "v100-16gb": (15.7, False),
    "v100-32gb": (31.7, False),
    "t4": (14.7, False),
    "1660ti": (5.6, False),
    "2060": (5.6, False),
    "2070": (7.6, False),
    "2080": (7.6, False),
    "2080ti": (10.7, False),
    "quadrortx6000": (23.6, False),
    "quadrortx8000": (47.2, False),
    "titanrtx": (23.6, False),
    "3060": (11.6, True),
    "3080": (9.7, True),
    "3090": (23.6, True),
    "4060ti-16gb": (15.6, True),
    "4070": (11.6, True),
    "4080": (15.6, True),
    "4090": (23.6, True),
    "5090": (31.3, True),
    "a10": (22.0, True),
    "a10g": (22.0, True),
    "a6000": (47.4, True),
    "6000ada": (47.4, True),
    "l4": (22.0, True),
    "l40s": (44.3, True),
    "a100-40gb": (39.3, True),
    "a100-80gb": (79.1, True),
    "h100": (79.1, True),
    "h200": (139.7, True),
    "b200": (178.3, True),
}
"""Memory in GiB as CUDA tells it (the total capacity in torch's messages), rounded down, which is
less than what the card is sold with; and whether it is Ampere or later."""

AMPERE = (8, 0)
"""Compute capability from which on NVIDIA's GPUs multiply bf16 and have a flash attention."""

_OLD = re.compile(
    r"(tesla|grid)?(k80|m\d0|p100|p40|p4|v100|t4(?!\d))"
    r"|(geforce)?(rtx)?20[678]0"  # RTX 2050 is an Ampere
    r"|(geforce)?(gtx|gt|mx[1-4])\d+"
    r"|(geforce)?16[356]0"
    r"|quadro"  # its last generation is Turing's; later ones are called RTX A6000, RTX 6000 Ada
    r"|titan"
    r"|t[4-9]00|t1[02]00"
)
"""The beginnings of names of GPUs before Ampere, the maker's aside."""
_OWN_PREFIX = re.compile(r"^(nvidia|geforce|tesla|rtx|gtx|quadro(?!rtx))+")
_SOCKET = re.compile(r"sxm\d?|pcie|hbm\d\w?$")
_SOLD_AS_LEAST = 0.9
"""What CUDA tells in GiB, at least, of each GB that a card is sold with."""


@cache
def canonical(text: str) -> str:
    """A GPU's name without maker, socket, spaces and case: `NVIDIA A100-SXM4-40GB` is `a100-40gb`.

    A size that is the only one of its kind may stand there: `H100 80GB HBM3` is `h100`.
    """
    joined = _SOCKET.sub("", _OWN_PREFIX.sub("", _joined(text)))
    for known, (gib, _) in GPUS_GIB.items():
        size = re.fullmatch(rf"{known.replace('-', '')}(?:(\d+)gb)?", joined)
        if size and (size[1] is None or _SOLD_AS_LEAST <= gib / max(1, int(size[1])) <= 1):
            return known
    return joined


def is_ampere_or_later(name: str) -> bool:
    """By the name that its driver tells, or one of `GPUS_GIB`; unknown ones are taken to be new."""
    known = GPUS_GIB.get(canonical(name))
    if known is not None:
        return known[1]
    return _OLD.match(_joined(name).removeprefix("nvidia")) is None


def _joined(text: str) -> str:
    return re.sub(r"[\s_-]+", "", text.casefold())
