"""What is read of guidellm's report of one load.

Only what is used is read, and each field must be of its type; fields that a newer guidellm adds are
left alone. Times in the report are in seconds of the clock or in milliseconds, as their names say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from qbench.core.errors import MeasurementError

if TYPE_CHECKING:
    from pathlib import Path


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, protected_namespaces=())


class Percentiles(_Part):
    """The smallest value up to which lies that share of the weight; none between two values."""

    p50: float
    p90: float
    p95: float
    p99: float


class Distribution(_Part):
    """Of one figure over the requests of the window."""

    mean: float
    count: int
    """0 where there was nothing: the other figures are then 0.0 and mean nothing."""
    percentiles: Percentiles


class OfStatus(_Part):
    """The distribution over requests that were answered."""

    successful: Distribution


class Counts(_Part):
    """Requests by how they ended."""

    successful: int
    errored: int
    incomplete: int
    """Cut off when the time was over."""


class Figures(_Part):
    """guidellm's own figures, over the window between warm-up and cool-down."""

    request_totals: Counts
    requests_per_second: OfStatus
    request_concurrency: OfStatus
    request_latency: OfStatus
    time_to_first_token_ms: OfStatus
    time_per_output_token_ms: OfStatus
    inter_token_latency_ms: OfStatus
    output_tokens_per_second: OfStatus
    tokens_per_second: OfStatus
    request_goodput: OfStatus | None = None
    slo_attainment: float | None = None


class Timings(_Part):
    """Of a request: moments of the clock, in seconds."""

    first_token_iteration: float | None = None
    token_iterations: int = 0
    """Pieces of text that came: of most servers one a token."""


class Info(_Part):
    """How a request went."""

    timings: Timings
    error: str | None = None


class Usage(_Part):
    """Tokens as the server counted them; None where it did not say."""

    text_tokens: int | None = None


class Request(_Part):
    """One request."""

    info: Info
    output_metrics: Usage
    request_start_time: float | None = None
    request_end_time: float | None = None
    request_latency: float | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    time_to_first_token_ms: float | None = None
    time_per_output_token_ms: float | None = None
    inter_token_latency_ms: float | None = None


class Requests(_Part):
    """All requests, those of the warm-up too."""

    successful: list[Request]
    errored: list[Request]
    incomplete: list[Request]


class SchedulerFigures(_Part):
    """Of the load as a whole, the warm-up too."""

    requests_made: Counts


class Warned(_Part):
    """What guidellm warns of."""

    message: str
    note: str | None = None


class Benchmark(_Part):
    """One load."""

    metrics: Figures
    requests: Requests
    scheduler_metrics: SchedulerFigures
    warnings: list[Warned] = []
    start_time: float
    """When the warm-up was over."""
    end_time: float
    duration: float
    warmup_duration: float
    cooldown_duration: float


class Metadata(_Part):
    """Who wrote the report."""

    guidellm_version: str


class Report(_Part):
    """guidellm's file of one load."""

    metadata: Metadata
    benchmarks: list[Benchmark]

    @property
    def load(self) -> Benchmark:
        """The load: a file of qbench's holds one."""
        return self.benchmarks[0]


def read_report(path: Path) -> Report:
    """Reads the file; raises `MeasurementError` for one that is absent, cut short or another."""
    try:
        report = Report.model_validate_json(path.read_bytes())
    except OSError as error:
        raise MeasurementError(
            f"guidellm left no report ({error.strerror}: {path.name})"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise MeasurementError(
            f"guidellm's report is not as expected: {place}: {first['msg']}; install the version"
            " that constraints.txt names"
        ) from error
    if len(report.benchmarks) != 1:
        raise MeasurementError(
            f"guidellm's report holds {len(report.benchmarks)} loads, where one was asked for"
        )
    return report
