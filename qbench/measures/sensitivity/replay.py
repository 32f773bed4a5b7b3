"""Final states of a model computed from one of its blocks on, where what precedes it is known.

What the first blocks of a model hand on does not change while a later layer does. So it is kept:
the model's own forward runs with these blocks replaced by stubs that return it, and makes
positions, masks and all else as ever. Whether that gives the same states bit for bit is tried for
each block on the first windows; where it does not, the whole forward runs.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from qbench.measures.quality.head import OutputHead
from qbench.precisions.plain_layers import convertible_layers

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from torch import nn
    from transformers import PreTrainedModel

_HIDDEN = "hidden_states"


def find_blocks(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The model's blocks by name, in their order: of its outermost lists that with most layers."""
    from torch import nn

    lists = {name: part for name, part in model.named_modules() if isinstance(part, nn.ModuleList)}
    outer = [name for name in lists if not any(name.startswith(f"{one}.") for one in lists)]
    layers = convertible_layers(model)

    def count(name: str) -> int:
        return sum(layer.startswith(f"{name}.") for layer in layers)

    chosen = max(outer, key=count, default=None)
    if chosen is None or not count(chosen):
        return {}
    return {f"{chosen}.{index}": block for index, block in enumerate(lists[chosen])}


class _Reached(Exception):  # noqa: N818 - it ends a forward that has gone far enough
    """The block whose input is wanted was called."""


@dataclass(frozen=True)
class FromBlock(OutputHead):
    """A model whose groups of windows are run in their order, from the block that was reached."""

    replay: Replay
    _next: Iterator[int] = field(default_factory=lambda: iter(range(1 << 62)))

    def states(self, ids: torch.Tensor) -> torch.Tensor:
        """As `OutputHead.states`, of the next group."""
        return self.replay.states(next(self._next), ids)


class Replay:
    """Goes through a model's blocks, keeping what one of them is given for each group of windows.

    Kept are the states before one block, (batch, tokens, hidden) a group, in the machine's memory.
    """

    def __init__(self, head: OutputHead, groups: list[torch.Tensor]) -> None:
        """Runs the first group once; `groups` are token ids, (windows, tokens) each."""
        self._head = head
        self._groups = groups
        blocks = find_blocks(head.model)
        self.names = tuple(blocks)
        """Of the blocks, in their order."""
        self._blocks = tuple(blocks.values())
        self._parts: tuple[int | None, ...] = ()
        self.refused: str | None = None
        """Why no forward can start within the model; None if it can."""
        self.inexact: list[str] = []
        """Blocks from which on the states are not those of a whole forward."""
        self._start = 0
        self._kept: list[torch.Tensor] = []
        self._device: torch.device | None = None
        self.first = self._watch_first()
        """Final states of the first group."""

    @property
    def head(self) -> FromBlock:
        """The model with its states from here on, for one pass over all groups."""
        return FromBlock(self._head.model, self._head.route, self)

    @property
    def start(self) -> int:
        """The first block that is run."""
        return self._start

    def states(self, group: int, ids: torch.Tensor) -> torch.Tensor:
        """Final states of a group, (windows, tokens, hidden)."""
        with self._started(group):
            return self._head.states(ids)

    def go_to(self, block: int) -> None:
        """Keeps what a block is given, so that forwards start there from now on.

        They are whole ones where that is not the same, or the block is the first.
        """
        import torch

        if self.refused is not None or block == self._start:
            return
        kept: list[torch.Tensor] = []
        for group, ids in enumerate(self._groups):
            found = self._given(block, group, ids)
            self._device = found.device
            kept.append(found.to("cpu"))
        self._start, self._kept = block, kept
        if block and not torch.equal(self.states(0, self._groups[0]), self.first):
            self.inexact.append(self.names[block])
            self._start, self._kept = 0, []

    def _given(self, block: int, group: int, ids: torch.Tensor) -> torch.Tensor:
        """The states that a block is given for a group."""
        found: list[torch.Tensor] = []

        def look(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            found.append(args[0] if args else named[_HIDDEN])
            raise _Reached

        handle = self._blocks[block].register_forward_pre_hook(look, with_kwargs=True)
        try:
            if block < self._start:
                self._start, self._kept = 0, []
            self.states(group, ids)
        except _Reached:
            pass
        finally:
            handle.remove()
        return found[0]

    @contextmanager
    def _started(self, group: int) -> Iterator[None]:
        """The blocks before the start return what the block at the start is given."""
        with ExitStack() as stubs:
            if self._start:
                kept = self._kept[group].to(self._device, non_blocking=True)
                for block, parts in zip(self._blocks[: self._start], self._parts, strict=False):
                    output = kept if parts is None else (kept, *(None,) * (parts - 1))
                    stubs.enter_context(_returning(block, output))
            yield

    def _watch_first(self) -> torch.Tensor:
        """Final states of the first group; notes which block is called when, and returns what."""
        called: list[_Called] = []

        def watch(index: int) -> Any:
            def hook(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any], out: Any) -> None:
                parts = out if isinstance(out, tuple) else (out,)
                given = args[0] if args else named.get(_HIDDEN)
                shape = getattr(given, "shape", None)
                alike = shape is not None and getattr(parts[0], "shape", None) == shape
                alone = all(one is None for one in parts[1:])
                number = len(parts) if isinstance(out, tuple) else None
                called.append(_Called(index, number, replaceable=alike and alone))

            return hook

        handles = [
            block.register_forward_hook(watch(index), with_kwargs=True)
            for index, block in enumerate(self._blocks)
        ]
        try:
            states = self._head.states(self._groups[0])
        finally:
            for handle in handles:
                handle.remove()
        self._parts = tuple(one.parts for one in called)
        self.refused = _why_not(called, len(self._blocks))
        return states


class _Called(NamedTuple):
    """A call of a block in a forward."""

    block: int
    parts: int | None
    """Of the tuple that it returned; None for a tensor alone."""
    replaceable: bool
    """Whether it was given states, and returned such and nothing else."""


def _why_not(called: list[_Called], blocks: int) -> str | None:
    if not blocks:
        return "the model has no list of blocks"
    if [one.block for one in called] != list(range(blocks)):
        return "the model's blocks are not called once each in their order"
    if not all(one.replaceable for one in called):
        return "the model's blocks hand on more than the states that they are given"
    return None


@contextmanager
def _returning(block: Any, output: Any) -> Iterator[None]:
    """The block computes nothing, and returns that."""
    own = vars(block).get("forward")  # accelerate puts one there

    def stub(*_: object, **__: object) -> Any:
        return output

    block.forward = stub
    try:
        yield
    finally:
        if own is None:
            del block.forward
        else:
            block.forward = own
