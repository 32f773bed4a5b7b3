"""A model read block by block: what the blocks before one make of each window is kept.

Each block then runs twice, once to be seen and once when it is quantized, however many blocks
there are. The model's own forward runs from its start each time, so that a block is given masks,
positions and all else as ever; the blocks before return at once what they made, and those behind
never run. What is kept is one output a window, in the machine's memory: 2 GiB for 128 windows of
2,048 tokens of 4,096 numbers in bf16.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager, suppress
from itertools import groupby
from typing import TYPE_CHECKING, Any

from qbench.precisions.integer.inputs import seen_by

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch
    from torch import nn
    from transformers import PreTrainedModel


class Walk:
    """Windows on their way through a model whose blocks are quantized in order."""

    def __init__(
        self, model: PreTrainedModel, layers: dict[str, Any], windows: list[torch.Tensor]
    ) -> None:
        self._model = model
        self._layers = layers
        self._windows = windows
        self.count = len(windows)
        self._kept: list[Made | None] = [None] * len(windows)
        self._passed: list[nn.Module] = []
        self._chain = _chain(model, list(layers))
        if not self._hands_on():
            self._chain = []

    def blocks(self) -> Iterator[Block]:
        """The layers by the block that they stand in; each is to be quantized before the next."""
        for name, group in groupby(self._layers.items(), key=lambda item: _block(item[0])):
            yield Block(self, self._model.get_submodule(name) if name else None, dict(group))

    def forward(self, module: nn.Module | None, at: int, given: Made | None = None) -> Made:
        """What a block makes of a window as the model is now; the whole model for None.

        Of what was given, where the block before made that, else of what that makes as it is now.
        """
        while module in self._chain[len(self._passed) :] and module is not self._next:
            self._pass_on()
        kept = self._kept[at]
        if given is not None and self._passed and given.module is self._passed[-1]:
            kept = given
        return self._forward(module, kept, self._windows[at])

    @property
    def _next(self) -> nn.Module:
        return self._chain[len(self._passed)]

    def _pass_on(self) -> None:
        import torch

        with torch.no_grad():
            for at, window in enumerate(self._windows):
                self._kept[at] = self._forward(self._next, self._kept[at], window).stored()
        self._passed.append(self._next)

    def _forward(self, module: nn.Module | None, kept: Made | None, window: torch.Tensor) -> Made:
        """A forward that ends with the block; those passed return what was kept."""
        made: list[Any] = []

        def stop(_module: Any, _inputs: Any, output: Any) -> None:
            made.append(output)
            raise _BlockDoneError

        with ExitStack() as changed:
            if module in self._chain and self._passed:
                made_before = None if kept is None else kept.output

                def skip(*_inputs: Any, **_options: Any) -> Any:
                    return made_before

                for passed in self._passed:
                    changed.enter_context(computing(passed, skip))
            if module is not None:
                changed.callback(module.register_forward_hook(stop).remove)
            with suppress(_BlockDoneError):
                made.append(self._model(input_ids=window, use_cache=False))
        return Made(module, made[0])

    def _hands_on(self) -> bool:
        """Whether a window comes out of the last block as it does without what is kept.

        Not so where blocks hand on more than their outputs, such as keys that later ones share.
        """
        import torch

        if not self._chain:
            return False
        window = self._windows[0]
        with torch.no_grad():
            kept: Made | None = None
            try:
                for module in self._chain:
                    kept = self._forward(module, kept, window)
                    self._passed.append(module)
                self._passed.clear()
                whole = self._forward(self._chain[-1], None, window)
            except (RuntimeError, TypeError, ValueError, KeyError, AttributeError, IndexError):
                return False
            finally:
                self._passed.clear()
        return kept is not None and torch.equal(kept.hidden, whole.hidden)


class Block:
    """Some layers of one block, and what they see."""

    def __init__(self, walk: Walk, module: nn.Module | None, layers: dict[str, Any]) -> None:
        self.layers = layers
        self._walk = walk
        self._module = module

    def run(self, see: Callable[[str, torch.Tensor], None]) -> None:
        """Has the block read every window; `see` is given each layer's name and inputs."""
        import torch

        with torch.no_grad(), seen_by(self.layers, see):
            for at in range(self._walk.count):
                self._walk.forward(self._module, at)

    def made(self, at: int, given: Made | None = None) -> Made:
        """What the block makes of a window now, or of what the one before made of it."""
        return self._walk.forward(self._module, at, given)


class Made:
    """What a block returned."""

    def __init__(self, module: nn.Module | None, output: Any) -> None:
        self.module = module
        self._is_tensor = hasattr(output, "shape")
        parts = output.values() if isinstance(output, dict) else output
        self._parts = (output,) if self._is_tensor else tuple(parts)
        self._devices = [getattr(one, "device", None) for one in self._parts]

    def stored(self) -> Made:
        """The same, its tensors in the machine's memory."""
        self._parts = tuple(_on(one, "cpu") for one in self._parts)
        return self

    @property
    def output(self) -> Any:
        """As the block returned it."""
        parts = tuple(map(_on, self._parts, self._devices))
        return parts[0] if self._is_tensor else parts

    @property
    def hidden(self) -> torch.Tensor:
        """The hidden states, (1, tokens, hidden); the logits of a whole model."""
        found: torch.Tensor = _on(self._parts[0], self._devices[0])
        return found


def _on(value: Any, device: Any) -> Any:
    return value.to(device) if hasattr(value, "shape") else value


class _BlockDoneError(Exception):
    """A block has run: the rest of the model need not."""


@contextmanager
def computing(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Lets a module compute something else for a while."""
    own = module.__dict__.get("forward")
    held: Any = module
    held.forward = forward
    try:
        yield
    finally:
        if own is None:
            del held.forward
        else:
            held.forward = own


def _chain(model: PreTrainedModel, names: list[str]) -> list[nn.Module]:
    """The blocks of the list that most of the layers stand in, in order."""
    lists = [block.rpartition(".")[0] for name in names if (block := _block(name))]
    if not lists:
        return []
    return list(model.get_submodule(max(lists, key=lists.count)).children())


def _block(name: str) -> str:
    """`model.layers.3` of `model.layers.3.mlp.up_proj`; empty for a layer outside any block."""
    parts = name.split(".")
    number = next((place for place, part in enumerate(parts) if part.isdigit()), None)
    return "" if number is None else ".".join(parts[: number + 1])
