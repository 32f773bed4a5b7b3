"""The table of what each unit of a model costs in each format, by one pass a pair."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qbench.core.errors import MeasurementError
from qbench.measures.quality.scoring import ids_of, in_groups, score_windows
from qbench.measures.sensitivity.held import (
    HeldLayer,
    fault_of,
    hold,
    in_place,
    output_error,
    watching_inputs,
    weights_of,
)
from qbench.measures.sensitivity.replay import Replay
from qbench.precisions.mixed.sensitivities import Cost, Sensitivities, Unit
from qbench.precisions.mixed.units import Group, block_of, groups_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch

    from qbench.core.spec import PrecisionRef
    from qbench.measures.loaded import Progress
    from qbench.measures.quality.head import OutputHead
    from qbench.measures.quality.windows import Window
    from qbench.measures.sensitivity.options import SensitivityParams

_DIGITS = 6
"""Significant digits of a window's KL."""
_NOT_FINITE = "the model's predictions are not finite with it"


@dataclass(frozen=True)
class ReferenceStates:
    """The reference's final states, (scored tokens, hidden), with the head that is the model's."""

    head: OutputHead
    states: torch.Tensor

    def logits(self, start: int, own_states: torch.Tensor) -> torch.Tensor:
        """The reference's logits of the tokens from `start` on, as many as the cell's."""
        own = self.states[start : start + len(own_states)]
        return self.head.logits(own.to(own_states.device, non_blocking=True))


@dataclass(frozen=True)
class Measured:
    """The table, and what it was made of."""

    table: Sensitivities
    details: dict[str, Any]


@dataclass
class _Pair:
    """One unit in one format."""

    layers: dict[str, HeldLayer] = field(default_factory=dict)
    """None where they are made again when they are needed."""
    bytes: int = 0
    errors: tuple[float | None, ...] = ()
    """Of each layer's outputs; None where no input came by, or nothing came out."""
    changed: bool = False
    fault: str | None = None
    """What is wrong with its layers, which do not compute what they hold; None if nothing is."""


class TableMaker:
    """Holds one unit after another in each format, and runs the model on from its block."""

    def __init__(
        self,
        head: OutputHead,
        windows: list[Window],
        reference: torch.Tensor,
        vocabulary: int,
        params: SensitivityParams,
        progress: Progress,
    ) -> None:
        """`reference` are the final states of the scored tokens, (tokens, hidden)."""
        self._progress = progress
        self._head = head
        self._model = head.model
        self._windows = windows
        self._params = params
        self._vocabulary = vocabulary
        self._reference = ReferenceStates(head, reference)
        groups = in_groups(windows, params.batch)
        self._ids = [ids_of(group, head.model.device) for group in groups]
        self._replay = Replay(head, self._ids)
        self._tokens = sum(window.scored for window in windows)
        self._weights = weights_of(head.model)
        self._formats = {one.label: one for one in params.formats}
        self._passes = 0
        self._blocks_run = 0

    def make(self) -> Measured:
        """The whole table; raises `MeasurementError` where the model is not as it was at the end.

        To be called in inference mode.
        """
        if not self._weights:
            raise MeasurementError(
                "the model has no plain linear layer that could be held in a format by itself"
            )
        units = groups_of(self._weights, self._params.by)
        made: dict[str, Unit] = {}
        windows: dict[str, dict[str, tuple[float, ...]]] = {}
        for done, unit in enumerate(sorted(units, key=self._first_block)):
            self._progress(done, len(units))
            self._replay.go_to(self._first_block(unit))
            costs, windows[unit.name] = self._measure(unit)
            made[unit.name] = self._unit(unit, costs)
        self._check_unchanged()
        return Measured(
            Sensitivities(
                rest=self._params.rest,
                formats=self._formats,
                units=tuple(made[unit.name] for unit in units),
                tokens=self._tokens,
                window_tokens=tuple(window.scored for window in self._windows),
                window_kl_sums={unit.name: windows[unit.name] for unit in units},
            ),
            self._details(),
        )

    def _first_block(self, unit: Group) -> int:
        """The first block that a unit has a layer in; 0 for one outside of all."""
        places = {name: index for index, name in enumerate(self._replay.names)}
        return min(places.get(block_of(layer) or "", 0) for layer in unit.layers)

    def _measure(self, unit: Group) -> tuple[dict[str, Cost], dict[str, tuple[float, ...]]]:
        """What the unit costs in each format, and its KL by window."""
        formats = self._formats
        inputs = self._inputs(unit)
        reasons: dict[str, str] = {}
        pairs: dict[str, _Pair] = {}
        if self._params.prune is not None:
            # Several layers in every format would be several models: they are made again.
            keep = len(unit.layers) == 1
            pairs = {
                label: self._hold(unit, ref, inputs, keep=keep) for label, ref in formats.items()
            }
            # What holds another thing than its format makes none needless.
            whole = {label: pair for label, pair in pairs.items() if pair.fault is None}
            reasons = dominated({label: (pair.bytes, pair.errors) for label, pair in whole.items()})
        costs: dict[str, Cost] = {}
        windows: dict[str, tuple[float, ...]] = {}
        for label, ref in formats.items():
            pair = pairs.pop(label, None)
            kl, reason = None, reasons.get(label)
            if pair is None or (reason is None and pair.fault is None and not pair.layers):
                pair = self._hold(unit, ref, inputs, keep=True)
            if reason is None:
                found, reason = self._run(pair)
                if reason is not None:
                    pair.errors = ()  # of what is no choice
                else:
                    kl = math.fsum(found) / self._tokens
                    # More digits are beyond the intervals that are made of them.
                    windows[label] = tuple(float(f"{one:.{_DIGITS}g}") for one in found)
            known = [error for error in pair.errors if error is not None]
            costs[label] = Cost(
                bytes=pair.bytes,
                kl=kl,
                reason=reason,
                output_error=max(known, default=None),
            )
        return costs, windows

    def _inputs(self, unit: Group) -> dict[str, torch.Tensor]:
        """What each of the unit's layers is given for the first group of windows."""
        with watching_inputs(self._model, unit.layers) as found:
            self._replay.states(0, self._ids[0])
        return found

    def _hold(
        self, unit: Group, ref: PrecisionRef, inputs: Mapping[str, torch.Tensor], *, keep: bool
    ) -> _Pair:
        """Each layer of the unit in a format, one after another."""
        made, errors = _Pair(), []
        for name in unit.layers:
            held = hold(self._model, name, ref)
            if held.changed and made.fault is None:
                with in_place(self._model, {name: held.module}):
                    made.fault = fault_of(self._model, [name], ref)
            given, plain = inputs.get(name), self._model.get_submodule(name)
            errors.append(None if given is None else output_error(plain, held.module, given))
            made.bytes += held.bytes
            made.changed |= held.changed
            if keep:
                made.layers[name] = held
        made.errors = tuple(errors)
        return made

    def _run(self, pair: _Pair) -> tuple[list[float], str | None]:
        """Summed KL of each window with the unit held so; or what is wrong with its layers."""
        if pair.fault is not None:
            return [], pair.fault
        layers = {name: held.module for name, held in pair.layers.items() if held.changed}
        if not layers:  # as it was: nothing to run
            return [0.0] * len(self._windows), None
        with in_place(self._model, layers):
            self._passes += 1
            self._blocks_run += len(self._replay.names) - self._replay.start
            scores = score_windows(
                self._replay.head,
                self._windows,
                self._params.batch,
                self._vocabulary,
                self._reference,
            )
        return scores.kl, None if math.isfinite(math.fsum(scores.kl)) else _NOT_FINITE

    def _unit(self, unit: Group, costs: dict[str, Cost]) -> Unit:
        weights = sum(self._weights[name] for name in unit.layers)
        size = sum(
            self._weights[name] * self._model.get_submodule(name).weight.element_size()
            for name in unit.layers
        )
        return Unit(
            name=unit.name, layers=unit.layers, weights=weights, plain_bytes=size, costs=costs
        )

    def _check_unchanged(self) -> None:
        """Raises `MeasurementError` where the model does not compute what it did at first.

        One that never computes the same twice cannot be asked.
        """
        import torch

        self._replay.go_to(0)
        found, again = (self._replay.states(0, self._ids[0]) for _ in range(2))
        if not torch.equal(found, self._replay.first) and torch.equal(found, again):
            raise MeasurementError(
                "the reference does not compute what it did before its layers were held in other"
                " formats and put back: a library changed more than the layer; leave formats out"
                " until it does"
            )

    def _details(self) -> dict[str, Any]:
        blocks = len(self._replay.names)
        return {
            "passes": self._passes,
            "blocks": blocks,
            "blocks_run": self._blocks_run,
            "whole_forwards": self._replay.refused,
            "inexact_blocks": self._replay.inexact,
        }


def dominated(
    found: Mapping[str, tuple[int, tuple[float | None, ...]]],
) -> dict[str, str]:
    """Formats of a unit that another makes needless, with the reason.

    `found` are the bytes and the errors of each layer's outputs, by format. Another has no more
    bytes and errs no more on any layer; of two that are alike the first stays.
    """
    reasons: dict[str, str] = {}
    order = list(found)
    for label, (size, errors) in found.items():
        for other, (other_size, other_errors) in found.items():
            if other in reasons or other == label or None in errors or None in other_errors:
                continue
            pairs = list(zip(other_errors, errors, strict=True))
            no_worse = other_size <= size and all(a <= b for a, b in pairs)  # type: ignore[operator]
            same = other_size == size and other_errors == errors
            if no_worse and (not same or order.index(other) < order.index(label)):
                reasons[label] = (
                    f"{other} has no more bytes and errs no more on the layers' outputs"
                )
                break
    return reasons
