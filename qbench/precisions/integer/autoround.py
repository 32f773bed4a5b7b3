"""AutoRound: how each weight is rounded, and each group's range, tuned for the block's outputs.

Cheng et al. 2023, arXiv 2309.05516: a number within a half is added to each weight in steps before
it is rounded, and the ends of each group's range are multiplied by shares; both follow the sign of
the gradient of the squared error that a whole block makes. A block has the inputs that the rounded
ones before it give, and is held against what it makes in the model that is not rounded.
"""

from __future__ import annotations

import random
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from qbench.precisions.integer.grid import by_group, unpacked_codes
from qbench.precisions.integer.inputs import seen_by, unreached
from qbench.precisions.integer.walk import Walk, computing

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from qbench.precisions.integer.options import IntegerOptions
    from qbench.precisions.integer.walk import Block, Made

BATCH = 8
"""Windows of a step, as the authors do."""
_LOSS_FACTOR = 1000
"""So that no gradient is too small for fp16; its sign alone counts."""


def quantize_by_autoround(
    model: PreTrainedModel,
    layers: dict[str, Any],
    windows: list[torch.Tensor],
    options: IntegerOptions,
    dtype: torch.dtype,
) -> dict[str, dict[str, float]]:
    """Quantizes the layers in place; by layer the error of its block's outputs, relative by norm.

    The error is that on the calibration's inputs, beside that of nearest levels. Raises
    `ModelError` for a layer that no window reaches.
    """
    import torch

    model.requires_grad_(requires_grad=False)
    found: dict[str, dict[str, float]] = {}
    chooser = random.Random(options.calibration_seed)  # noqa: S311 - a sample, not a secret
    wanted: list[Made] = []
    for block in Walk(model, layers, windows).blocks():
        reached: set[str] = set()

        def note(name: str, _inputs: torch.Tensor, reached: set[str] = reached) -> None:
            reached.add(name)

        with torch.no_grad(), seen_by(block.layers, note):
            before: list[Made | None] = [*wanted] or [None] * len(windows)
            wanted = [block.made(at, one).stored() for at, one in enumerate(before)]
        for name in block.layers:
            if name not in reached:
                raise unreached(name)
        tuned = {name: Rounding(one.weight, options, dtype) for name, one in block.layers.items()}
        nearest = _error(block, tuned, wanted)
        untuned = [rounding.values() for rounding in tuned.values()]
        _tune(block, tuned, wanted, options, chooser)
        error = _error(block, tuned, wanted)
        if not error < nearest:
            for rounding, values in zip(tuned.values(), untuned, strict=True):
                rounding.take(values)
        for name, layer in block.layers.items():
            found[name] = {"block_error": min(error, nearest), "block_error_nearest": nearest}
            layer.weight = torch.nn.Parameter(tuned[name].codes(), requires_grad=False)
    return found


class Rounding:
    """How one weight, (out, in), is rounded: what is tuned of it."""

    def __init__(self, weight: torch.Tensor, options: IntegerOptions, dtype: torch.dtype) -> None:
        import torch

        self._weight = weight.detach().float()
        self._options, self._dtype = options, dtype
        self._grouped = by_group(self._weight, options.group or weight.shape[1])
        ends = (*self._grouped.shape[:2], 1)
        self.added = torch.zeros_like(self._grouped, requires_grad=True)
        self.low = torch.ones(ends, device=weight.device, requires_grad=True)
        self.high = torch.ones(ends, device=weight.device, requires_grad=True)

    def parts(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Codes, scales and zero points; gradients pass all rounding as if there were none."""
        levels = 2**self._options.bits - 1
        bottom = -(2 ** (self._options.bits - 1))
        if self._options.mapping == "symmetric":
            width = 2 * self._grouped.abs().amax(2, keepdim=True) * self.high
            scale = self._kept(width / levels)
            zero = scale.detach() * 0
        else:
            lowest = self._grouped.amin(2, keepdim=True).clamp(max=0) * self.low
            highest = self._grouped.amax(2, keepdim=True).clamp(min=0) * self.high
            scale = self._kept((highest - lowest) / levels)
            zero = (bottom - _rounded(lowest / scale)).clamp(bottom, bottom + levels)
        steps = _rounded(self._grouped / scale + self.added) + zero
        return steps.clamp(bottom, bottom + levels), scale, zero

    def weight(self) -> torch.Tensor:
        """The rounded weight, (out, in) in fp32."""
        codes, scale, zero = self.parts()
        return ((codes - zero) * scale).reshape(self._weight.shape)

    def codes(self) -> Any:
        """The same as torchao's tensor."""
        import torch

        with torch.no_grad():
            codes, scale, zero = self.parts()
        shaped = codes.reshape(self._weight.shape)
        return unpacked_codes(shaped, scale[..., 0], zero[..., 0], self._options, self._dtype)

    def step(self, rate: float) -> None:
        """One step against the sign of the gradients."""
        import torch

        with torch.no_grad():
            for tensor, least, most in (
                (self.added, -0.5, 0.5),
                (self.low, 0.0, 1.0),
                (self.high, 0.0, 1.0),
            ):
                if tensor.grad is not None:
                    tensor.sub_(rate * tensor.grad.sign()).clamp_(least, most)
                    tensor.grad = None

    def values(self) -> list[torch.Tensor]:
        """A copy of what is tuned."""
        return [one.detach().clone() for one in (self.added, self.low, self.high)]

    def take(self, values: list[torch.Tensor]) -> None:
        """Goes back to such a copy."""
        for tensor, value in zip((self.added, self.low, self.high), values, strict=True):
            tensor.data.copy_(value)

    def _kept(self, scale: torch.Tensor) -> torch.Tensor:
        """The scale in the type that keeps it; 1 where that is 0, as of weights that are all 0."""
        import torch

        held = scale.to(self._dtype).float()
        held = torch.where(held == 0, 1.0, held)
        return scale + (held - scale).detach()


def _tune(
    block: Block,
    tuned: dict[str, Rounding],
    wanted: list[Made],
    options: IntegerOptions,
    chooser: random.Random,
) -> None:
    """Leaves the values of the step with the smallest loss."""
    import torch

    places = range(len(wanted))
    least = float("inf")
    best = [rounding.values() for rounding in tuned.values()]
    with _rounded_layers(block, tuned), torch.enable_grad():
        for step in range(options.rounding_steps):
            total = 0.0
            batch = chooser.sample(places, min(BATCH, len(places)))
            for at in batch:
                loss = _off(block, at, wanted).square().mean() / len(batch)
                scaled: Any = _LOSS_FACTOR * loss
                scaled.backward()
                total += float(loss.detach())
            if total < least:
                least, best = total, [rounding.values() for rounding in tuned.values()]
            for rounding in tuned.values():
                rounding.step((1 - step / options.rounding_steps) / options.rounding_steps)
    for rounding, values in zip(tuned.values(), best, strict=True):
        rounding.take(values)


def _error(block: Block, tuned: dict[str, Rounding], wanted: list[Made]) -> float:
    """Norm of what the block's outputs are off, over that of the outputs, on all windows."""
    import torch

    off = whole = 0.0
    with _rounded_layers(block, tuned), torch.no_grad():
        for at, one in enumerate(wanted):
            off += float(_off(block, at, wanted).square().sum())
            whole += float(one.hidden.float().square().sum())
    return float((off / whole) ** 0.5) if whole > 0 else 0.0


def _off(block: Block, at: int, wanted: list[Made]) -> torch.Tensor:
    """What the block's output of a window is off, in fp32."""
    return block.made(at).hidden.float() - wanted[at].hidden.float()


def _rounded_layers(block: Block, tuned: dict[str, Rounding]) -> ExitStack:
    """Has the block's layers multiply with their rounded weights."""
    from torch.nn.functional import linear

    def forward(layer: Any, rounding: Rounding) -> Any:
        return lambda inputs: linear(inputs, rounding.weight().to(inputs.dtype), layer.bias)

    changed = ExitStack()
    for name, layer in block.layers.items():
        changed.enter_context(computing(layer, forward(layer, tuned[name])))
    return changed


def _rounded(values: torch.Tensor) -> torch.Tensor:
    """Rounded, for the gradient as they are."""
    return values + (values.round() - values).detach()
