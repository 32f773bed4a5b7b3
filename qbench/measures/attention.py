"""Which attention kernel a model is asked for, and which one really runs.

Some architectures (Falcon, MPT, Bloom, GPT-Neo, GPT-J) choose theirs when they are built and pass
over any change; torch's `sdpa` is several kernels, chosen anew at each call. So what is called is
looked at.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from qbench.core.errors import MeasurementError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel

SDPA = "sdpa"
EAGER = "eager"
_SDPA_CHOICES = {0: "math", 1: "flash", 2: "efficient", 3: "cudnn", 4: "overrideable"}
"""torch.nn.attention.SDPBackend by number."""
_SCORES_DIMENSIONS = 3
"""Attention scores have a dimension for heads, which a router's do not have."""


@contextmanager
def attention_kernel(model: PreTrainedModel, kernel: str | None) -> Iterator[None]:
    """The model under an attention kernel (None: its own), then under its own again.

    Raises `MeasurementError` for one that it does not have, or does not change to.
    """
    own = own_kernel(model)
    try:
        model.set_attn_implementation(kernel or own)
    except (ValueError, ImportError, NotImplementedError) as error:
        raise MeasurementError(
            f"the model has no attention kernel {kernel}, only {own} ({error})"
        ) from error
    try:
        if own_kernel(model) != (kernel or own):
            raise MeasurementError(
                f"{type(model).__name__} stays with the attention kernel {own} that it was built"
                f" with when {kernel} is asked for: nothing can be measured under {kernel}, leave"
                " it out"
            )
        yield
    finally:
        model.set_attn_implementation(own)


def own_kernel(model: PreTrainedModel) -> str | None:
    """The kernel that the model says it uses."""
    kernel: str | None = model.config._attn_implementation  # noqa: SLF001 - no public name for it
    return kernel


@contextmanager
def watching_attention() -> Iterator[set[str]]:
    """Collects the attention kernels that run in the block.

    `eager` is a softmax of scores; `sdpa: flash`, `sdpa: efficient`, `sdpa: cudnn` and `sdpa: math`
    are what torch chooses for these tensors; others go by the name of their function. Empty
    where the model has no attention. Time nothing inside.
    """
    from torch.overrides import TorchFunctionMode

    ran: set[str] = set()

    class Watch(TorchFunctionMode):
        """Looks at the names of torch's functions."""

        def __torch_function__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            name = getattr(function, "__name__", "")
            if name == "scaled_dot_product_attention":
                ran.add(f"{SDPA}: {_chosen(args, kwargs or {})}")
            elif name == "softmax" and args and args[0].dim() >= _SCORES_DIMENSIONS:
                ran.add(EAGER)
            elif "flash_attn" in name or "flex_attention" in name:
                ran.add(name)
            return function(*args, **(kwargs or {}))

    with Watch():
        yield ran


def _chosen(args: tuple[Any, ...], options: dict[str, Any]) -> str:
    """The kernel that torch takes for these arguments of its attention."""
    import torch

    choose: Any = torch._fused_sdp_choice  # noqa: SLF001 - what the function itself asks
    try:
        return _SDPA_CHOICES.get(int(choose(*args, **options)), "unknown")
    except (TypeError, RuntimeError):
        return "unknown"
