"""The GPUs that the stand-in has: those that `GPU_STANDIN` names, such as `h100` or `t4,t4`."""

from __future__ import annotations

import os
from dataclasses import dataclass

GIB = 2**30


@dataclass(frozen=True)
class Card:
    """A GPU as its driver describes it."""

    name: str
    capability: tuple[int, int]
    memory_bytes: int
    multiprocessors: int
    reserved_bytes: int = GIB // 2
    """What the driver keeps for itself."""


CARDS = {
    "t4": Card("Tesla T4", (7, 5), 15 * GIB, 40),
    "a100": Card("NVIDIA A100-SXM4-80GB", (8, 0), 80 * GIB, 108),
    "3090": Card("NVIDIA GeForce RTX 3090", (8, 6), 24 * GIB, 82),
    "sample": Card("NVIDIA Graphics Device", (7, 5), 15 * GIB, 40),
    "h100": Card("NVIDIA H100 80GB HBM3", (9, 0), 80 * GIB, 132),
}


def cards() -> list[Card]:
    """All cards of the machine, whether visible or not."""
    return [CARDS[name] for name in os.environ["GPU_STANDIN"].split(",")]


def uuid_of(index: int) -> str:
    """The id of a card by its place on the bus."""
    return f"GPU-{index:08x}-1111-2222-3333-444444444444"


def used_by_others_bytes() -> int:
    """What other processes hold of each card."""
    return int(os.environ.get("GPU_STANDIN_USED", "0"))


def faults() -> set[str]:
    """What is wrong with the machine: words of `GPU_STANDIN_FAULTS`, with commas.

    `old-driver`: CUDA cannot be initialised, though NVML answers. `nvml-permission`: NVML refuses
    to tell of the first card. `nvml-mismatch`: NVML itself refuses, as after an update.
    `nvml-silent`: NVML knows neither the driver's version nor a capability. `nvml-memory`: it does
    not tell of memory. `second-broken`: whatever is put on the second visible card fails.
    """
    return set(filter(None, os.environ.get("GPU_STANDIN_FAULTS", "").split(",")))
