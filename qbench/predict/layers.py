"""The highest moment of a step through many equal layers, from steps through three and four.

Every layer between the first and the last books the same bytes and leaves the same behind. So the
n-th layer from either end has, in a model of one more layer, the same bytes more at each moment;
and of a moment that comes in all layers between, the highest is in the second or the last but one.
A step through four layers has all of these, and one through three tells what a layer more adds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from qbench.predict.tape import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_FEWER, _ENOUGH = 3, 4
_BETWEEN = 1
"""Of three layers the one that is neither the first nor the last."""


class Moment(NamedTuple):
    """What is held at once."""

    total: int
    parts: dict[str, int]
    """Bytes by part."""

    def further(self, before: Moment, layers: int) -> Moment:
        """This moment with so many layers more, where `before` is the same with one less."""
        parts = {
            part: held + layers * (held - before.parts.get(part, 0))
            for part, held in self.parts.items()
        }
        return Moment(sum(parts.values()), parts)


def highest_moment(step: Callable[[Ledger, int], int], layers: int) -> tuple[Moment, int]:
    """The highest moment of a step through so many layers, and the gradients at its end, in bytes.

    `step` books the step through as many layers as it is given, and returns those gradients.
    """
    if layers <= _ENOUGH:
        ledger = Ledger()
        gradients = step(ledger, layers)
        return Moment(ledger.peak_bytes, ledger.peak), gradients
    fewer, enough = _Moments(), _Moments()
    before, gradients = step(fewer, _FEWER), step(enough, _ENOUGH)
    more = layers - _ENOUGH
    held_before, held = max(
        zip(fewer.with_one_layer_twice(), enough.all(), strict=True),
        key=lambda pair: pair[1].total + more * (pair[1].total - pair[0].total),
    )
    return held.further(held_before, more), gradients + more * (gradients - before)


class _Moments(Ledger):
    """Keeps every moment at which bytes were taken, by the layer that took them."""

    def __init__(self) -> None:
        super().__init__()
        self._stretches: list[tuple[int | None, list[Moment]]] = [(None, [])]

    def begin(self, layer: int | None) -> None:
        self._stretches.append((layer, []))

    def take(self, part: str, size: int) -> None:
        self.live[part] += size
        self.live_bytes += size
        self._stretches[-1][1].append(Moment(self.live_bytes, dict(self.live)))

    def all(self) -> Iterator[Moment]:
        for _, moments in self._stretches:
            yield from moments

    def with_one_layer_twice(self) -> Iterator[Moment]:
        for layer, moments in self._stretches:
            for _ in range(2 if layer == _BETWEEN else 1):
                yield from moments
