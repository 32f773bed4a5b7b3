"""Memory of a GPU that is named or of which only the size is, and whether a peak fits into it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbench.environment import gpu_kind
from qbench.errors import DeviceError
from qbench.sources.bundled import did_you_mean

if TYPE_CHECKING:
    from qbench.predict.peaks import Peak
    from qbench.record import Environment

RESERVED_BYTES = 768 * 2**20
"""Kept free: what torch's tensors do not tell. On a GPU the CUDA context with the kernels of torch
and bitsandbytes (300 to 600 MiB), cuBLAS' workspace (8 to 32 MiB), allocations rounded up; on a CPU
the libraries themselves."""
_GIB = 2**30
_UNITS = {"mb": 10**6, "mib": 2**20, "gb": 10**9, "gib": _GIB, "tb": 10**12, "tib": 2**40}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?i?b?)", re.IGNORECASE)
_OWN_PREFIX = re.compile(r"^(nvidia|geforce|tesla|quadro|rtx|gtx)+")
_SOCKET = re.compile(r"sxm\d?|pcie|hbm\d\w?$")
_SOLD_AS_LEAST = 0.9
"""What CUDA tells in GiB, at least, of each GB that a card is sold with."""


@dataclass(frozen=True)
class DeviceMemory:
    """A device, as far as what fits into it goes."""

    name: str
    """As it is shown: `h100`, `24GB`, or a device's own name."""
    bytes: int
    """All of its memory."""
    flash: bool = True
    """Whether it has a flash attention for 16-bit types: compute capability 8.0 and later."""
    kind: str = "cuda"
    """`cuda` or `cpu`."""


_GPUS_GIB: dict[str, tuple[float, bool]] = {
    "p100": (15.8, False),
    "v100-16gb": (15.7, False),
    "v100-32gb": (31.7, False),
    "t4": (14.7, False),
    "2080ti": (10.7, False),
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
less than what the card is sold with; and whether there is a flash attention."""


@dataclass(frozen=True)
class Fit:
    """Whether a peak fits into a device."""

    fits: bool
    needed_bytes: int
    """What must lie on the device, with what is kept free."""
    available_bytes: int
    """The device's memory."""
    advice: str
    """What to change where it does not fit; empty where it does."""


def known_gpus() -> tuple[str, ...]:
    """Names that `parse_memory` takes."""
    return tuple(_GPUS_GIB)


def parse_memory(text: str) -> DeviceMemory:
    """The memory that a size (`24GB`, `24GiB`) or the name of a GPU (`h100`, `RTX 4090`) means.

    GB are 10⁹ bytes, GiB 2³⁰. Raises `DeviceError` for anything else, and for a name that several
    sizes share.
    """
    wanted = text.strip()
    name = _canonical(wanted)
    if name in _GPUS_GIB:
        gib, flash = _GPUS_GIB[name]
        return DeviceMemory(name, round(gib * _GIB), flash)
    size = _SIZE.fullmatch(wanted)
    if size is not None and size[2]:
        unit = _UNITS.get(size[2].lower())
        count = float(size[1])
        if unit is None or count <= 0:
            raise DeviceError(f"--gpu {text!r}: expected a size such as 24GB or 24GiB")
        return DeviceMemory(wanted, round(count * unit))
    sizes = [known for known in _GPUS_GIB if name and known.startswith(f"{name}-")]
    if sizes:
        raise DeviceError(f"--gpu {text!r}: comes in several sizes; expected {' or '.join(sizes)}")
    if size is not None:
        raise DeviceError(
            f"--gpu {text!r}: a size without a unit; expected {wanted}GB or {wanted}GiB"
        )
    raise DeviceError(
        f"--gpu {text!r}: no GPU of that name is known; {did_you_mean(name, _GPUS_GIB)}; or give"
        " its memory, such as 24GB"
    )


def device_here(name: str, memory_bytes: int, *, kind: str = "cuda") -> DeviceMemory:
    """A device of this machine: the name and memory that it tells."""
    canonical = _canonical(name)
    flash = not any(
        canonical.startswith(known.partition("-")[0])
        for known, (_, has_flash) in _GPUS_GIB.items()
        if not has_flash
    )
    return DeviceMemory(name, memory_bytes, flash, kind)


def memory_of(environment: Environment) -> DeviceMemory | None:
    """The device that an environment describes; None where its memory is not known."""
    if environment.device_memory_bytes is None:
        return None
    return device_here(
        environment.device, environment.device_memory_bytes, kind=environment.device_type
    )


def as_if_on(environment: Environment, device: DeviceMemory) -> Environment:
    """The conditions on a GPU that is not here, with the packages of this machine."""
    return environment.model_copy(
        update={
            "device": device.name,
            "device_kind": gpu_kind(device.name),
            "device_type": "cuda",
            "device_memory_bytes": device.bytes,
        }
    )


def fits(peak: Peak, device_bytes: int) -> Fit:
    """Whether a predicted peak fits into so many bytes of a device, of which some are kept free.

    What an optimizer can page out need not fit. Raises ValueError for a peak that is not known.
    """
    if peak.resident is None:
        raise ValueError(f"the peak is not known: {peak.reason}")
    needed = peak.resident + RESERVED_BYTES
    short = needed - device_bytes
    return Fit(
        fits=short <= 0,
        needed_bytes=needed,
        available_bytes=device_bytes,
        advice=_advice(peak, short) if short > 0 else "",
    )


def _advice(peak: Peak, short_bytes: int) -> str:
    """What to change, by what takes the most of what batch and length decide."""
    moving = {kind: size for kind, size in peak.kinds.items() if kind not in _STAYING}
    if short_bytes >= sum(moving.values()):
        remedy = _SMALLER["training" if peak.phase == "training" else "inference"]
    else:
        remedy = _REMEDIES[max(moving, key=lambda kind: moving[kind])]
        if peak.phase == "training":
            remedy += ", with checkpointing where there is none"
    return f"{short_bytes / _GIB:.1f} GiB too much: {remedy}"


_STAYING = frozenset(
    {
        "static",
        "base_weights",
        "quantization_state",
        "adapters",
        "gradients",
        "optimizer_state",
        "dequantized_weight",
    }
)
"""Kinds that do not depend on batch and length."""
_SMALLER = {
    "inference": "the weights alone are too large: use a smaller precision (int8, nf4-dq), a"
    " smaller model or a larger GPU",
    "training": "weights, gradients and states alone are too large: use LoRA, QLoRA on nf4-dq, a"
    " smaller rank, an 8-bit or paged optimizer, or a larger GPU",
}
_REMEDIES = {
    "kv_cache": "use a smaller batch or fewer tokens: the cache grows with both",
    "activations": "use a smaller batch or shorter sequences",
    "logits": "use a smaller batch",
}


def _canonical(text: str) -> str:
    """A GPU's name without maker, socket, spaces and case: `NVIDIA A100-SXM4-40GB` is `a100-40gb`.

    A size that is the only one of its kind may stand there: `H100 80GB HBM3` is `h100`.
    """
    joined = re.sub(r"[\s_-]+", "", text.casefold())
    joined = _SOCKET.sub("", _OWN_PREFIX.sub("", joined))
    for known, (gib, _) in _GPUS_GIB.items():
        size = re.fullmatch(rf"{known.replace('-', '')}(?:(\d+)gb)?", joined)
        if size and (size[1] is None or _SOLD_AS_LEAST <= gib / max(1, int(size[1])) <= 1):
            return known
    return joined
