"""What is said of QAT: what it won back, and which arms have nothing to compare them with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.compare.tuned.arms import is_quantized
from qbench.report.finetune.qat import won_back_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.tuned.arms import Arm
    from qbench.report.finetune.qat import WonBack
    from qbench.report.finetune.results import Results


def qat_words(results: Results, compared: Sequence[WonBack]) -> str:
    """What each arm of QAT won back, and which have nothing to compare them with; may be empty."""
    return f"{won_back_words(compared)} {_without_counterpart(results, compared)}".strip()


def _without_counterpart(results: Results, compared: Sequence[WonBack]) -> str:
    """Which arms have no row beside PTQ, and what to add; empty where none was trained by QAT."""
    arms = [one.arm for one in results.arms if is_quantized(one.arm.tuning)]
    if not any(arm.tuning.method == "qat" for arm in arms):
        return ""
    there = {one.arm.name for one in compared}
    lacking = [arm for arm in arms if arm.name not in there and _was_run(arm)]
    if not lacking:
        return ""
    formats = list(dict.fromkeys(arm.tuning.precision.label for arm in lacking))
    return (
        f"Not compared with PTQ: {', '.join(arm.name for arm in lacking)}, for no model that was"
        f" tuned in floating point is rounded to {', '.join(formats)} afterwards; list"
        f" {'it' if len(formats) == 1 else 'them'} under finetune's `quantize`, beside an arm of"
        " method full (for adapters, lora in bf16)."
    )


def _was_run(arm: Arm) -> bool:
    """Whether the arm is there at all: one that was skipped has its own reason."""
    return any(record.status != "skipped" for cell in arm.shown for record in cell.records)
