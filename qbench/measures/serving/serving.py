"""Engines under load: a cell behind an OpenAI-compatible server, loaded by guidellm.

An item is one server under one load: the server is started for it, loaded, and ended. So each point
has a server that nothing was done with before, whose memory is of that load alone and whose caches
hold nothing of another point; a server that dies takes no other point with it; and each record is
on disk as soon as its point was taken. The price is a start a point, which `serving.start` tells:
a 7B takes transformers some ten seconds from the page cache, and vLLM a minute or two.

The figures are guidellm's own (see `figures`), those of requests that were answered. On a CPU the
load itself takes processor time from the server; the record tells how much.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field

from qbench.core.errors import Problem
from qbench.core.options import plain_options, typed_options
from qbench.measures.grid import MOST_POINTS, misfit
from qbench.measures.measurement import Measurement, less_unsaid, repeated
from qbench.measures.options import not_empty
from qbench.measures.serving.energy import METRICS as ENERGY
from qbench.measures.serving.figures import METRICS
from qbench.measures.serving.options import LoadOptions, LoadPoint, less_given
from qbench.measures.serving.servers import ServerOptions, labels_misfit

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from qbench.core.record import MetricDefinition
    from qbench.core.spec import Frozen, Item, ResolvedModel
    from qbench.measures.loaded import Outcome, UnbuiltCell


class ServingOptions(LoadOptions):
    """Options of `serving`."""

    servers: Annotated[
        tuple[ServerOptions, ...],
        AfterValidator(not_empty),  # `min_length` would count one that is wrong as not there
        Field(json_schema_extra={"minItems": 1}),
    ] = (ServerOptions(engine="transformers", continuous_batching=True),)
    """What each cell is put behind: each has an `engine`, a `command` or an `address`."""


class ServingParams(LoadPoint):
    """One server under one load."""

    server: ServerOptions
    timeout: float


@dataclass(frozen=True)
class Serving(Measurement):
    """How a server of the model keeps up under load."""

    name: str = "serving"
    summary: str = "a server of the model under load: first token, tokens, throughput, errors"
    needs: tuple[str, ...] = ("guidellm",)
    options: type[Frozen] = ServingOptions
    metrics: tuple[MetricDefinition, ...] = (*METRICS, *ENERGY)
    by_default: bool = False
    of_machine: bool = True
    apart: bool = True

    def misfit(self, options: ServingOptions, model: ResolvedModel) -> Problem | None:
        """Lengths beyond the model's context, a grid without end, a warm-up that is everything."""
        points = options.points()
        count = len(points) * len(options.servers) * options.repeats
        if count > MOST_POINTS:
            found = f"{count} servers to be started for each cell"
            return Problem("concurrency", found, f"at most {MOST_POINTS}", "shorten the lists")
        return (
            labels_misfit(options.servers)
            or _warmup_misfit(points)
            or _load_misfit(points, options.timeout)
            or misfit((max(options.prompt_tokens),), (max(options.output_tokens),), model)
        )

    def items(self, options: ServingOptions, model: ResolvedModel, base: Path) -> list[Item]:
        """One item a server, load and repeat."""
        more = {"timeout": options.timeout}
        told = (
            (
                f"{server.label}-{point.slug}",
                {**plain_options(point), "server": plain_options(server), **more},
            )
            for server in options.servers
            for point in options.points()
        )
        return repeated(self.name, told, options.repeats)

    def asked_as(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """One load at one server, its numbers as given unless they follow from the load."""
        asked = {**super().asked_as(params), "servers": params["server"]}
        kept = less_unsaid(asked, "concurrency", "rate", "arrival", "requests", "seconds")
        return less_given(kept)

    def measure_apart(self, cell: UnbuiltCell, item: Item) -> Outcome:
        """Starts the server, loads it, reads guidellm's report, ends the server."""
        from qbench.measures.serving.run import take  # with what a plan has no use for

        return take(typed_options(ServingParams, item.params), cell)


def _load_misfit(points: list[LoadPoint], timeout_s: float) -> Problem | None:
    """A load that is never what it is called, or that cannot end in time."""
    for point in points:
        requests, streams = point.requests, point.concurrency
        if requests is not None and streams is not None and requests < streams:
            found = f"{requests} requests, which are never {streams} at once"
            return Problem("requests", found, f"{streams} or more", "send more, or lower the list")
        ends = [] if point.seconds is None else [point.seconds]
        if requests is not None and point.rate is not None:
            ends.append(requests / point.rate)
        if ends and min(ends) >= timeout_s:
            found = f"{timeout_s:g} s for a load of some {min(ends):g} s ({point.words})"
            return Problem("timeout", found, "more than the load takes", "raise it, or send less")
    return None


def _warmup_misfit(points: list[LoadPoint]) -> Problem | None:
    for point in points:
        if point.warmup > 1 and point.warmup != int(point.warmup):
            found = f"{point.warmup:g} requests"
            return Problem("warmup", found, "a share below 1, or a whole number", "round it")
        if point.requests is None and point.warmup >= 1:
            found = f"{point.warmup:g} requests, where `seconds` ends the load"
            return Problem("warmup", found, "a share of the time, below 1", "or give `requests`")
        if point.requests is not None and point.warmup >= point.requests:
            found = f"{point.warmup:g} of {point.requests} requests"
            return Problem("warmup", found, "fewer than are sent", "send more `requests`")
    return None


SERVING = Serving()
