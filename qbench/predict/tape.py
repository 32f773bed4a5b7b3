"""Forward and backward passes of which only the bytes are there: no numbers, no torch.

A program written for a `Tape` does what a model does, operation by operation, on tensors that are
only a number of elements and of bytes an element. Memory is taken when a tensor is made and given
back when nothing refers to it any more, by the same counting of references in Python that frees a
real model's temporaries. The tape keeps what autograd keeps for the backward pass, and lets go of
it in autograd's order. The highest moment, and what it is made of, is in the `Ledger`.
"""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BATCH = "batch"
LAYERS = "layers"
CHECKPOINT_INPUTS = "checkpoint_inputs"
WEIGHT_CASTS = "weight_casts"
LOGITS_AND_LOSS = "logits_and_loss"
TRANSIENT = "transient"
GRADIENTS = "gradients"


class Ledger:
    """Bytes held now and at the highest moment, by part."""

    def __init__(self) -> None:
        self.live: defaultdict[str, int] = defaultdict(int)
        self.live_bytes = 0
        self.peak: defaultdict[str, int] = defaultdict(int)
        self.peak_bytes = 0

    def take(self, part: str, size: int) -> None:
        """Books bytes in."""
        self.live[part] += size
        self.live_bytes += size
        if self.live_bytes > self.peak_bytes:
            self.peak_bytes = self.live_bytes
            self.peak = self.live.copy()

    def give(self, part: str, size: int) -> None:
        """Books bytes out."""
        self.live[part] -= size
        self.live_bytes -= size

    def begin(self, layer: int | None) -> None:
        """What follows is of that layer, or of none."""


class Storage:
    """Bytes that are held for as long as something refers to this object."""

    __slots__ = ("_ledger", "_part", "size")

    def __init__(self, ledger: Ledger, part: str, size: int) -> None:
        self._ledger, self._part, self.size = ledger, part, size
        ledger.take(part, size)

    def __del__(self) -> None:
        self._ledger.give(self._part, self.size)

    def move_to(self, part: str) -> None:
        """Counts the bytes under another part from now on."""
        self._ledger.give(self._part, self.size)
        self._part = part
        self._ledger.take(part, self.size)


class Edge:
    """Where the gradient of one tensor gathers on its way back."""

    __slots__ = ("_stays", "gradient", "size")

    def __init__(self, size: int, *, stays: bool = False) -> None:
        self.size = size
        self.gradient: Storage | None = None
        self._stays = stays

    def receive(self, gradient: Storage) -> None:
        """Takes the first gradient as it is; a further one is added to it in place."""
        if self.gradient is None:
            self.gradient = gradient
            if self._stays:
                gradient.move_to(GRADIENTS)


@dataclass(slots=True)
class Bytes:
    """A tensor."""

    elements: int
    item_bytes: int
    storage: Storage | None
    """None for a weight: what holds the weights counts them."""
    edge: Edge | None
    """None for what needs no gradient."""

    @property
    def size(self) -> int:
        """Its bytes."""
        return self.elements * self.item_bytes


def make_weight(elements: int, item_bytes: int, *, trained: bool) -> Bytes:
    """A parameter; its gradient, once there, stays."""
    return Bytes(
        elements, item_bytes, None, Edge(elements * item_bytes, stays=True) if trained else None
    )


class _Node(NamedTuple):
    """One operation, seen from the backward pass."""

    out: Edge
    inputs: tuple[Edge, ...]
    saved: tuple[Storage | None, ...]
    passes: bool = False
    elementwise: bool = False
    scratch_bytes: int = 0
    segment: _Segment | None = None
    """What has its `saved`, where the operation is part of a checkpointed block."""
    place: int = 0
    """Its place in that block."""


class _Segment:
    """A checkpointed block, which is run again when its first saved tensor is asked for."""

    def __init__(self, tape: Tape, run: Callable[[], object], last: int) -> None:
        self._tape, self._run, self._last = tape, run, last
        self._saved: list[tuple[Storage | None, ...]] | None = None

    def take(self, place: int) -> tuple[Storage | None, ...]:
        """What the operation at that place saved; it is not kept here any longer."""
        if self._saved is None:
            self._saved = self._tape.run_again(self._run, self._last)
        taken, self._saved[place] = self._saved[place], ()
        return taken


class _AllSaved(Exception):  # noqa: N818 - no error: the rest of the block need not be run again
    """The last tensor that the backward pass needs is there."""


class Tape:
    """What autograd notes during a forward pass, and how it goes back."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.part = BATCH
        """The part that new tensors count under."""
        self._nodes: list[_Node] = []
        self._pinned: list[Storage | None] = []
        self._casts: dict[int, Bytes] = {}
        self._keeps = True
        self._stops_at: int | None = None
        self._layer: int | None = None
        self._borders: list[tuple[int, int | None]] = []

    def border(self, layer: int | None) -> None:
        """What follows is of that layer, or of none; the way back comes by the same borders."""
        self._borders.append((len(self._nodes), self._layer))
        self._layer = layer
        self.ledger.begin(layer)

    def op(
        self,
        elements: int,
        item_bytes: int,
        inputs: Sequence[Bytes] = (),
        *,
        saved: Sequence[Bytes] = (),
        saves_output: bool = False,
        view_of: Bytes | None = None,
        passes: bool = False,
        elementwise: bool = False,
        scratch_bytes: int = 0,
    ) -> Bytes:
        """An operation's output.

        `saved` is what its backward pass reads. There a gradient is made for each input that needs
        one, of the input's size; `passes`: the output's own gradient goes on where its size allows;
        `elementwise`: it is made at the output's size first, then summed or cast to the input's.
        `scratch_bytes` are what the step back takes besides.
        """
        edges = tuple([tensor.edge for tensor in inputs if tensor.edge is not None])
        if not edges:
            return Bytes(elements, item_bytes, self._hold(elements * item_bytes, view_of), None)
        node = _Node(
            Edge(elements * item_bytes),
            edges,
            tuple([tensor.storage for tensor in saved]) if self._keeps else (None,) * len(saved),
            passes,
            elementwise,
            scratch_bytes,
        )
        stops = len(self._nodes) == self._stops_at
        if stops and not saves_output:  # inputs are saved before anything is computed
            self._nodes.append(node)
            raise _AllSaved
        storage = self._hold(elements * item_bytes, view_of)
        if saves_output:
            node = node._replace(saved=(*node.saved, storage if self._keeps else None))
        self._nodes.append(node)
        if stops:
            raise _AllSaved
        return Bytes(elements, item_bytes, storage, node.out)

    def _hold(self, size: int, view_of: Bytes | None) -> Storage | None:
        return view_of.storage if view_of else Storage(self.ledger, self.part, size)

    def scratch(self, size: int) -> None:
        """Bytes that are taken and given back within one operation of the forward pass."""
        Storage(self.ledger, self.part, size)

    def cast(self, tensor: Bytes, item_bytes: int) -> Bytes:
        """The tensor with elements of that size; itself if they are."""
        if tensor.item_bytes == item_bytes:
            return tensor
        return self.op(tensor.elements, item_bytes, [tensor])

    def cast_weight(self, weight: Bytes, item_bytes: int) -> Bytes:
        """As autocast casts a weight: a trained one once in a forward pass, a frozen one anew."""
        if weight.item_bytes == item_bytes or id(weight) in self._casts:
            return self._casts.get(id(weight), weight)
        part, self.part = self.part, WEIGHT_CASTS
        made = self.cast(weight, item_bytes)
        self.part = part
        if weight.edge is not None:
            self._casts[id(weight)] = made
        return made

    def leave_autocast(self) -> None:
        """Drops the casts of weights but those that the backward pass needs."""
        self._casts.clear()

    def pin(self, tensor: Bytes) -> None:
        """Keeps a tensor until the whole graph is dropped, whatever the backward pass frees."""
        self._pinned.append(tensor.storage)

    def checkpoint(self, run: Callable[[Bytes], Bytes], tensor: Bytes) -> Bytes:
        """Keeps only the input of `run`, which the backward pass calls again.

        What `run` pins is kept all the same: checkpointing replaces what autograd saves, not what
        an operation keeps on its own account.
        """
        outer, self._nodes = self._nodes, []
        self._keeps = False
        out = run(tensor)
        self._keeps = True
        nodes, self._nodes = self._nodes, outer
        places = [place for place, node in enumerate(nodes) if node.saved]
        if not places:
            self._nodes += nodes
            return out
        if tensor.storage is not None:
            tensor.storage.move_to(CHECKPOINT_INPUTS)
        segment = _Segment(self, lambda: run(tensor), places[-1])
        self._nodes += [
            node._replace(saved=(), segment=segment, place=place) if node.saved else node
            for place, node in enumerate(nodes)
        ]
        return out

    def run_again(self, run: Callable[[], object], last: int) -> list[tuple[Storage | None, ...]]:
        """What each operation of a block saves, up to the last one that saves anything."""
        nodes, self._nodes = self._nodes, []
        pinned, self._pinned = self._pinned, []
        part, self.part = self.part, LAYERS
        self._stops_at = last
        with suppress(_AllSaved):
            run()
        self._stops_at = None
        saved = [node.saved for node in self._nodes]
        self._nodes, self._pinned, self.part = nodes, pinned, part
        self.leave_autocast()
        return saved

    def backward(self, loss: Bytes) -> None:
        """Goes back from the loss, to the last gradient."""
        if loss.edge is not None:
            loss.edge.gradient = Storage(self.ledger, TRANSIENT, loss.size)
        self._go_back()
        self._pinned.clear()

    def _go_back(self) -> None:
        self._cross_borders()
        while self._nodes:
            for edge, gradient in self._step_back(self._nodes.pop()):
                edge.receive(gradient)
                del gradient
            self._cross_borders()

    def _cross_borders(self) -> None:
        while self._borders and self._borders[-1][0] >= len(self._nodes):
            self._layer = self._borders.pop()[1]
            self.ledger.begin(self._layer)

    def _step_back(self, node: _Node) -> list[tuple[Edge, Storage]]:
        """The gradients of the inputs; the output's, and what was saved, are let go."""
        gradient, node.out.gradient = node.out.gradient, None
        if gradient is None:
            return []
        saved = node.segment.take(node.place) if node.segment else node.saved
        scratch = Storage(self.ledger, TRANSIENT, node.scratch_bytes)
        results = []
        for edge in node.inputs:
            if node.passes and edge.size == gradient.size:
                results.append((edge, gradient))
            else:
                size = max(edge.size, gradient.size) if node.elementwise else edge.size
                results.append((edge, Storage(self.ledger, TRANSIENT, size)))
        del scratch, saved
        return [
            (edge, made if made.size == edge.size else Storage(self.ledger, TRANSIENT, edge.size))
            for edge, made in results
        ]
