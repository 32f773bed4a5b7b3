"""A model's forward pass compiled by torch, with what compiling took.

The compiler starts from nothing: graphs of an earlier item are forgotten, and what Inductor keeps
on disk of compiled models is put aside, so that each process pays what a first one pays. Only what
it keeps of the machine (its processor, headers that are read before) it may find there.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from qbench.core.errors import MeasurementError, is_out_of_memory

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedModel

    from qbench.measures.peaks import PeakMeter

PASSES_MOST = 8
"""Iterations within which torch has to have compiled all that it will."""
_MOST_REASONS = 5
"""Reasons of graph breaks that a record keeps, the most frequent first."""


@dataclass
class Compiler:
    """Compiles while it is open; leaves nothing compiled behind."""

    model: PreTrainedModel
    mode: str
    step: Callable[..., Any] = field(init=False)
    """The compiled forward."""
    _open: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        import torch
        from torch._inductor.cpu_vec_isa import pick_vec_isa
        from torch._inductor.utils import fresh_cache

        self._forget()
        if self.model.device.type == "cpu":
            try:  # what the machine's processor can do is found once, not for each model
                pick_vec_isa()
            except Exception as error:
                raise MeasurementError(_why_not_compiled(error, self.mode)) from error
        # Silently eager from then on: not what was asked for.
        self._open.enter_context(
            _dynamo().config.patch(fail_on_recompile_limit_hit=True, suppress_errors=False)
        )
        self._open.enter_context(fresh_cache())
        self.step = torch.compile(self.model.__call__, mode=self.mode)
        return self

    def __exit__(self, *raised: object) -> None:
        self._open.close()
        self._forget()

    @property
    def compiled(self) -> int:
        """Frames that torch has compiled, or has tried to: more of them mean that it compiles."""
        return int(_counters()["frames"]["total"])

    def warm_up(self, one_iteration: Callable[[], dict[str, float]]) -> Compiling:
        """Iterates until torch compiles nothing more.

        `one_iteration` returns wall seconds by step. Raises `MeasurementError` where torch cannot
        compile the model, or goes on compiling.
        """
        seconds: list[float] = []
        known = -1
        while self.compiled != known:
            if len(seconds) > PASSES_MOST:
                raise MeasurementError(
                    f"torch still compiles after {PASSES_MOST} iterations of the same work; no time"
                    " of it is a steady one"
                )
            known = self.compiled
            try:
                seconds.append(one_iteration()["decode"])
            except Exception as error:
                if is_out_of_memory(error) or isinstance(error, MeasurementError):
                    raise
                raise MeasurementError(_why_not_compiled(error, self.mode)) from error
        if not _counters()["stats"]["unique_graphs"]:
            raise MeasurementError(
                "torch.compile made no graph of the model, so that all of it ran as the eager"
                " forward does; leave `compile` out of `forward` for it"
            )
        # The last one found all compiled.
        return Compiling(tuple(seconds[:-1]), self.compiled)

    def details(self) -> dict[str, Any]:
        """What torch made of the model: its graphs, and where it fell back to Python."""
        counters = _counters()
        breaks: Counter[str] = Counter()
        for reason, times in counters["graph_break"].items():
            breaks[_first_line(reason)] += times  # the lines after it tell where
        return {
            "compile_mode": self.mode,
            "compiled_frames": self.compiled,
            "graphs": int(counters["stats"]["unique_graphs"]),
            "graph_breaks": sum(breaks.values()),
            "graph_break_reasons": [reason for reason, _ in breaks.most_common(_MOST_REASONS)],
        }

    def _forget(self) -> None:
        _dynamo().reset()
        _counters().clear()


@dataclass(frozen=True)
class Compiling:
    """What compiling took."""

    decode_s: tuple[float, ...]
    """Wall seconds of the whole decodes in which torch compiled."""
    frames: int
    """Frames compiled by then."""

    def seconds(self, steady_decode_s: float) -> float:
        """Seconds beyond as many decodes that are compiled already."""
        return max(0.0, sum(self.decode_s) - len(self.decode_s) * steady_decode_s)


def peak_of(meter: PeakMeter, work: Callable[[], Any]) -> tuple[Any, int]:
    """What the work returns, and the peak of memory during it."""
    meter.boundary()
    result = work()
    return result, meter.read().used_bytes


def _dynamo() -> Any:
    import torch._dynamo as dynamo

    return dynamo


def _counters() -> Any:
    from torch._dynamo.utils import counters

    return counters


def _why_not_compiled(error: BaseException, mode: str) -> str:
    cause = _first_line(str(error)) or "no message"
    return (
        f"torch.compile (mode {mode}) failed on the model: {type(error).__name__}: {cause}; leave"
        " `compile` out of `forward` for it"
    )


def _first_line(text: object) -> str:
    lines = [line.strip() for line in str(text).strip().splitlines() if line.strip()]
    return lines[0] if lines else ""
