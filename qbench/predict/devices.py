"""Memory of GPUs that are named or of which only the size is, and whether a peak fits into it.

With `device_map: auto` a model is laid over all GPUs and compared with their sum; each keeps
something free.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from qbench.core.errors import DeviceError
from qbench.core.names import what_there_is
from qbench.core.nvml import gpu_kind
from qbench.core.quantities import BYTE_UNITS
from qbench.precisions import ADVISED
from qbench.predict.gpu_models import AMPERE, GPUS_GIB, canonical, is_ampere_or_later

if TYPE_CHECKING:
    from qbench.core.record import Environment
    from qbench.predict.peaks import Peak

RESERVED_BYTES = 768 * 2**20
"""Kept free: what torch's tensors do not tell. On a GPU the CUDA context with the kernels of torch
and bitsandbytes (300 to 600 MiB), cuBLAS' workspace (8 to 32 MiB), allocations rounded up; on a CPU
the libraries themselves."""
_GIB = 2**30
_LEAST_UNIT = 10**6
"""Of a smaller unit no GPU's memory is told."""
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?i?b?)", re.IGNORECASE)
_SEVERAL = re.compile(r"(\d+)\s*[x×]\s*(\S.*)", re.IGNORECASE)


@dataclass(frozen=True)
class DeviceMemory:
    """A device, as far as what fits into it goes."""

    name: str
    """As it is shown: `h100`, `24GB`, or a device's own name."""
    bytes: int
    """All of its memory; of several, the sum."""
    flash: bool = True
    """Whether it has a flash attention for 16-bit types: compute capability 8.0 and later. A GPU
    that has none does not multiply bf16 either."""
    kind: str = "cuda"
    """`cuda` or `cpu`."""
    gpus: int = 1
    """GPUs that a model with `device_map` is laid over."""

    @property
    def kept_free_bytes(self) -> int:
        """What no tensor may take."""
        return self.gpus * RESERVED_BYTES


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
    return tuple(GPUS_GIB)


_MOST_BYTES = 2**60
_MOST_GPUS = 10_000
"""Beyond any machine's; larger sizes are slips, and no longer fit a number."""


def parse_memory(text: str) -> DeviceMemory:
    """The memory that a size (`24GB`, `24GiB`) or the name of a GPU (`h100`, `RTX 4090`) means.

    A number before it means so many of them (`2xh100`). GB are 10⁹ bytes, GiB 2³⁰. Raises
    `DeviceError` for anything else, and for a name that several sizes share.
    """
    wanted = text.strip()
    several = _SEVERAL.fullmatch(wanted)
    if several is not None:
        number, one = int(several[1]), parse_memory(several[2])
        if not 1 <= number <= _MOST_GPUS or one.gpus > 1:
            raise DeviceError(f"--gpu {text!r}: expected a number of GPUs, such as 2xh100")
        return replace(one, name=f"{number}x{one.name}", bytes=number * one.bytes, gpus=number)
    name = canonical(wanted)
    if name in GPUS_GIB:
        gib, flash = GPUS_GIB[name]
        return DeviceMemory(name, round(gib * _GIB), flash)
    size = _SIZE.fullmatch(wanted)
    if size is not None and size[2]:
        unit = BYTE_UNITS.get(size[2].lower(), 0)
        count = float(size[1])
        if unit < _LEAST_UNIT or not 0 < count * unit <= _MOST_BYTES:
            raise DeviceError(f"--gpu {text!r}: expected a size such as 24GB or 24GiB")
        return DeviceMemory(wanted, round(count * unit))
    sizes = [known for known in GPUS_GIB if name and known.startswith(f"{name}-")]
    if sizes:
        raise DeviceError(f"--gpu {text!r}: comes in several sizes; expected {' or '.join(sizes)}")
    if size is not None:
        raise DeviceError(
            f"--gpu {text!r}: a size without a unit; expected {wanted}GB or {wanted}GiB"
        )
    raise DeviceError(
        f"--gpu {text!r}: no GPU of that name is known; {what_there_is(name, GPUS_GIB)}; or give"
        " its memory, such as 24GB"
    )


def device_here(
    name: str, memory_bytes: int, *, kind: str = "cuda", capability: tuple[int, int] | None = None
) -> DeviceMemory:
    """A device of this machine: the name and memory that it tells.

    Where it does not tell its compute capability, its attention is known from its name.
    """
    flash = is_ampere_or_later(name) if capability is None else capability >= AMPERE
    return DeviceMemory(name, memory_bytes, flash or kind == "cpu", kind)


def memory_of(environment: Environment, *, spread: bool = False) -> DeviceMemory | None:
    """The device that an environment describes; None where its memory is not known.

    `spread`: all of its GPUs, for a model with `device_map`.
    """
    if environment.device_memory_bytes is None:
        return None
    one = device_here(
        environment.device,
        environment.device_memory_bytes,
        kind=environment.device_type,
        capability=environment.capability,
    )
    each = environment.gpus_memory_bytes
    if not spread or len(each) < 2:
        return one
    return replace(one, name=f"{len(each)}x{one.name}", bytes=sum(each), gpus=len(each))


def as_if_on(environment: Environment, device: DeviceMemory) -> Environment:
    """The conditions on GPUs that are not here, with the packages of this machine."""
    name = device.name.removeprefix(f"{device.gpus}x")
    one_bytes = device.bytes // device.gpus
    return environment.model_copy(
        update={
            "device": name,
            "device_kind": gpu_kind(name),
            "device_type": "cuda",
            "device_memory_bytes": one_bytes,
            "gpus_memory_bytes": (one_bytes,) * device.gpus,
            "capability": None,
        }
    )


def fits(peak: Peak, device_bytes: int, *, gpus: int = 1) -> Fit:
    """Whether a predicted peak fits into so many bytes of a device, of which some are kept free.

    `gpus`: the bytes are the sum of so many, each of which keeps some free. What an optimizer can
    page out need not fit. Raises ValueError for a peak that is not known.
    """
    if peak.resident is None:
        raise ValueError(f"the peak is not known: {peak.reason}")
    needed = peak.resident + gpus * RESERVED_BYTES
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
    "inference": "the weights alone are too large: use a smaller precision"
    f" ({', '.join(ADVISED)}), a smaller model or a larger GPU",
    "training": "weights, gradients and states alone are too large: use LoRA, QLoRA on"
    f" {ADVISED[-1]}, a smaller rank, an 8-bit or paged optimizer, or a larger GPU",
}
_REMEDIES = {
    "kv_cache": "use a smaller batch or fewer tokens: the cache grows with both",
    "activations": "use a smaller batch or shorter sequences",
    "logits": "use a smaller batch",
}
