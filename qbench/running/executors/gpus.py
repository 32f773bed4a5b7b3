"""Which GPUs of this machine cells run on side by side."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from qbench.core.errors import DeviceError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.core.nvml import Gpu


def choose_gpus(text: str, gpus: Sequence[Gpu]) -> tuple[str, ...]:
    """Devices as torch names them, from `all` or numbers with commas (`0,1`).

    `gpus` are those that torch would see, in its order. All chosen ones must be of one model: their
    figures stand in one column. Raises `DeviceError`, naming what there is.
    """
    there = ", ".join(f"{at} ({gpu.name})" for at, gpu in enumerate(gpus)) or "none"
    if text.strip().lower() == "all":
        chosen = list(range(len(gpus)))
    else:
        parts = [part.strip() for part in text.split(",")]
        wrong = [part for part in parts if not re.fullmatch(r"\d+", part)]
        if wrong:
            raise DeviceError(
                f"--gpus {text!r}: found {wrong[0]!r}; expected all, or numbers with commas such as"
                f" 0,1; GPUs here: {there}"
            )
        chosen = list(dict.fromkeys(map(int, parts)))
    missing = [at for at in chosen if at >= len(gpus)]
    if missing or not chosen:
        what = f"there is no GPU {missing[0]}" if missing else "there is no GPU"
        raise DeviceError(
            f"--gpus {text!r}: {what} that torch would see; GPUs here: {there}; choose among them,"
            " or leave --gpus out"
        )
    names = {gpus[at].name for at in chosen}
    if len(names) > 1:
        raise DeviceError(
            f"--gpus {text!r}: found {' and '.join(sorted(names))}; expected GPUs of one model,"
            f" whose figures compare; GPUs here: {there}"
        )
    return tuple(f"cuda:{at}" for at in chosen)
