"""The optimizers by name, and keeping their state across a stop."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from qbench.core.packages import missing_packages

if TYPE_CHECKING:
    from collections.abc import Iterable

    import torch

    from qbench.core.record import Environment
    from qbench.finetune.options import OptimizerName, TrainingOptions

BETAS = (0.9, 0.999)
EPSILON = 1e-8
_OF_BITSANDBYTES = {
    "adamw_8bit": "AdamW8bit",
    "paged_adamw_32bit": "PagedAdamW32bit",
    "paged_adamw_8bit": "PagedAdamW8bit",
}
_CODE_BOOKS = ("qmap1", "qmap2")
_PAGED_STATES = ("state1", "state2")


def optimizer_unavailable(name: OptimizerName, environment: Environment) -> str | None:
    """Why this machine cannot run the optimizer, with the remedy; None if it can."""
    if name not in _OF_BITSANDBYTES:
        return None
    missing = missing_packages(("bitsandbytes",), environment)
    return f"{name} {missing}, or use optimizer: adamw" if missing else None


def fallback_reason(name: OptimizerName, device: str) -> str | None:
    """What a reader must know where the device runs a twin of the optimizer; else None."""
    if name.startswith("paged") and not device.startswith("cuda"):
        return (
            f"{name} ran unpaged: a CPU has no second memory to page its states to; its updates"
            " are the same, what it saves shows on a GPU alone"
        )
    return None


def make_optimizer(
    options: TrainingOptions, weights: Iterable[torch.nn.Parameter]
) -> torch.optim.Optimizer:
    """AdamW over the trainable weights; those with less than two dimensions do not decay."""
    import torch

    trainable = [weight for weight in weights if weight.requires_grad]
    groups = [
        {"params": group, "weight_decay": decay}
        for group, decay in (
            ([weight for weight in trainable if weight.dim() > 1], options.weight_decay),
            ([weight for weight in trainable if weight.dim() <= 1], 0.0),
        )
        if group
    ]
    common: dict[str, Any] = {"lr": options.learning_rate, "betas": BETAS, "eps": EPSILON}
    if options.optimizer == "adamw":
        return torch.optim.AdamW(groups, **common)
    import bitsandbytes

    made: torch.optim.Optimizer
    made = getattr(bitsandbytes.optim, _OF_BITSANDBYTES[options.optimizer])(groups, **common)
    # Said once, in `fallback_reason`, and in the record's warnings.
    warnings.filterwarnings("ignore", message="Paged optimizers are not supported on CPU")
    return made


def restore_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Gives an optimizer the state that another of its kind had, in the same kind of memory."""
    optimizer.load_state_dict(state)
    if not hasattr(optimizer, "get_state_buffer"):
        return
    # bitsandbytes loads each state into plain memory of its own: its code books, which all share,
    # would be there once for every weight, and paged states would no longer be paged.
    shared: dict[str, torch.Tensor] = {}
    for weight, states in optimizer.state.items():
        for name in _CODE_BOOKS:
            if name in states:
                states[name] = shared.setdefault(name, states[name])
        for name in _PAGED_STATES:
            if getattr(optimizer, "is_paged", False) and weight.is_cuda and name in states:
                loaded = states[name]
                states[name] = optimizer.get_state_buffer(weight, dtype=loaded.dtype)
                states[name].copy_(loaded)
