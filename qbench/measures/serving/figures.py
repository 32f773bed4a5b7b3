"""The figures of a load: guidellm's own, in seconds, with the values of each request.

guidellm tells them over a window: from the end of the warm-up until the last request ended. A
request belongs to it that was under way in it; to the times of first tokens, one whose first token
came in it; to the times between tokens, one that was past its first token in it. A quantile is the
smallest value up to which lies that share of the weight; tokens weigh in TPOT and ITL, requests in
all else.
"""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from qbench.core.errors import MeasurementError
from qbench.core.record import Metric, MetricDefinition
from qbench.measures.loaded import make_metric

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from qbench.measures.serving.guidellm_report import Benchmark, Distribution, Request

    Better = Literal["lower", "higher", "neither"]

SOURCE = "guidellm, https://github.com/vllm-project/guidellm"
QUANTILES = ("p90", "p95", "p99")
MOST_ERRORS_NAMED = 3

_TIMES: dict[str, tuple[str, str, str, tuple[str, ...]]] = {
    "ttft": (
        "time_to_first_token_ms",
        "time to the first token",
        "from the sending of a request until its first piece of text",
        ("time to first token",),
    ),
    "tpot": (
        "time_per_output_token_ms",
        "time per output token",
        "from the sending of a request until its last token, divided by its tokens",
        ("TPOT with the first token", "time_per_output_token of guidellm"),
    ),
    "itl": (
        "inter_token_latency_ms",
        "time between tokens",
        "from the first token of a request until its last, divided by its tokens less one",
        ("ITL", "TPOT of vLLM's bench", "inter-token latency"),
    ),
    "e2e": (
        "request_latency",
        "whole request",
        "from the sending of a request until its answer has ended",
        ("E2EL", "request latency", "end-to-end latency"),
    ),
}
"""By the metric: guidellm's name, a title, what it is, and what others call it."""


def _time_definitions(name: str) -> list[MetricDefinition]:
    field, title, words, others = _TIMES[name]
    weighed = "tokens" if name in ("tpot", "itl") else "requests"
    return [
        MetricDefinition(
            name=f"serving.{name}",
            unit="s",
            better="lower",
            title=title,
            formula=f"median over the {weighed} of the window, {words} ({field}; {SOURCE})",
            also_called=others,
        ),
        *(
            MetricDefinition(
                name=f"serving.{name}.{quantile}",
                unit="s",
                better="lower",
                title=f"{title}, {quantile}",
                formula=f"quantile over the {weighed} of the window ({field}; {SOURCE})",
                also_called=(f"{others[0]} {quantile}",),
            )
            for quantile in QUANTILES
        ),
    ]


def _rate(
    name: str, unit: str, better: Better, title: str, formula: str, *others: str
) -> MetricDefinition:
    return MetricDefinition(
        name=f"serving.{name}",
        unit=unit,
        better=better,
        title=title,
        formula=formula,
        varies_by="process",
        also_called=others,
    )


METRICS = (
    *(definition for name in _TIMES for definition in _time_definitions(name)),
    _rate(
        "output_throughput",
        "tokens/s",
        "higher",
        "generated tokens a second",
        f"tokens of the window's answers / its seconds (output_tokens_per_second; {SOURCE})",
        "output token throughput",
    ),
    _rate(
        "total_throughput",
        "tokens/s",
        "higher",
        "tokens a second, prompts too",
        f"tokens of the window's prompts and answers / its seconds (tokens_per_second; {SOURCE})",
        "total token throughput",
    ),
    _rate(
        "requests_per_s",
        "requests/s",
        "higher",
        "requests a second",
        f"requests that ended in the window / its seconds (requests_per_second; {SOURCE})",
        "request throughput",
        "QPS",
    ),
    _rate(
        "concurrency",
        "1",
        "neither",
        "requests at once",
        f"mean over the window of how many were under way (request_concurrency; {SOURCE})",
    ),
    _rate(
        "errors",
        "1",
        "lower",
        "requests that failed",
        "requests that were refused or broke off / requests that ended, warm-up and all",
        "error rate",
    ),
    _rate(
        "goodput",
        "requests/s",
        "higher",
        "requests a second within the objectives",
        f"requests that kept to all of `slo` / seconds of the window (request_goodput; {SOURCE})",
    ),
    _rate(
        "slo_attainment",
        "1",
        "higher",
        "requests within the objectives",
        f"share of the requests that kept to all of `slo` (slo_attainment; {SOURCE})",
    ),
    _rate(
        "memory.peak",
        "B",
        "lower",
        "peak memory of the server",
        "highest resident size of the server's process and its children under the load, looked at"
        " every 0.1 s; pages that they share count for each",
        "RSS",
    ),
    _rate(
        "memory.device",
        "B",
        "lower",
        "peak GPU memory of the server",
        "highest memory in use of the GPUs under the load by NVML, less that before the server was"
        " started; engines reserve most of a GPU ahead, whatever they need",
        "VRAM",
    ),
    _rate(
        "start",
        "s",
        "lower",
        "start of the server",
        "from the start of its process until it is healthy: the model's load is in it",
        "start-up time",
    ),
)


def load_metrics(load: Benchmark, *, with_slo: bool) -> list[Metric]:
    """The figures of a load of which some requests were answered."""
    figures = load.metrics
    found = [
        metric
        for name, (field, *_) in _TIMES.items()
        for metric in _times(
            name,
            getattr(figures, field).successful,
            samples(load, name),
            whole=not_streamed(load),
        )
    ]
    rates = {
        "output_throughput": figures.output_tokens_per_second,
        "total_throughput": figures.tokens_per_second,
        "requests_per_s": figures.requests_per_second,
        "concurrency": figures.request_concurrency,
    }
    found += [
        make_metric(METRICS, f"serving.{name}", one.successful.mean) for name, one in rates.items()
    ]
    found.append(make_metric(METRICS, "serving.errors", error_share(load)))
    if with_slo:
        reason = "guidellm could decide it of no request"
        goodput = figures.request_goodput
        kept = None if goodput is None else goodput.successful.mean
        found += [
            make_metric(METRICS, "serving.goodput", kept, reason=reason),
            make_metric(METRICS, "serving.slo_attainment", figures.slo_attainment, reason=reason),
        ]
    return found


def _times(name: str, found: Distribution, values: list[float], *, whole: bool) -> list[Metric]:
    of_ms = 1.0 if name == "e2e" else 1000.0
    reason = None
    if found.count == 0:
        reason = "no answer had a second token" if name == "itl" else "no answer lies in the window"
    elif name == "itl" and whole:
        reason = "each answer came in one piece: the server does not stream"
    told = {
        f"serving.{name}": found.percentiles.p50,
        **{f"serving.{name}.{one}": getattr(found.percentiles, one) for one in QUANTILES},
    }
    return [
        make_metric(
            METRICS,
            metric,
            value / of_ms if reason is None else None,
            reason=reason,
            samples=values if metric == f"serving.{name}" and reason is None else None,
        )
        for metric, value in told.items()
    ]


def samples(load: Benchmark, name: str) -> list[float]:
    """The value of each request of the window, in seconds, in the order of the report.

    The window is guidellm's own: see the module.
    """
    field, *_ = _TIMES[name]
    of_ms = 1.0 if name == "e2e" else 1000.0
    chosen = in_window(load, *_SPANS.get(name, (_start, _end)))
    values = (getattr(request, field) for request in chosen)
    return [value / of_ms for value in values if value is not None]


def _start(request: Request) -> float | None:
    return request.request_start_time


def _end(request: Request) -> float | None:
    return request.request_end_time


def _first_token(request: Request) -> float | None:
    return request.info.timings.first_token_iteration


_SPANS: dict[str, tuple[Callable[[Request], float | None], Callable[[Request], float | None]]] = {
    "ttft": (_start, _first_token),
    "itl": (_first_token, _end),
}


def in_window(
    load: Benchmark,
    start: Callable[[Request], float | None] = _start,
    end: Callable[[Request], float | None] = _end,
) -> list[Request]:
    """The answered requests whose span from `start` to `end` touches the window."""
    spans = ((request, start(request), end(request)) for request in load.requests.successful)
    return [
        request
        for request, began, ended in spans
        if ended is not None
        and ended >= load.start_time
        and (ended if began is None else began) <= load.end_time
    ]


def not_streamed(load: Benchmark) -> bool:
    """Whether each answer of several tokens came in one piece: then nothing lies between tokens."""
    long = [one for one in in_window(load) if (one.output_tokens or 0) > 1]
    return bool(long) and all(one.info.timings.token_iterations <= 1 for one in long)


def error_share(load: Benchmark) -> float:
    """Requests that failed, of those that ended."""
    failed, answered = len(load.requests.errored), len(load.requests.successful)
    return failed / (failed + answered)


def error_texts(load: Benchmark) -> dict[str, int]:
    """What the failed requests were told, with how often."""
    found: dict[str, int] = {}
    for request in load.requests.errored:
        text = " ".join((request.info.error or "no reason given").split())
        found[text] = found.get(text, 0) + 1
    return found


def check_answered(load: Benchmark) -> None:
    """Raises `MeasurementError` for what no figure can be made of.

    Where no request was answered guidellm's figures are all 0.0; where the server counts no tokens
    in an answer that has some, those of a token mean nothing.
    """
    if load.requests.successful and load.metrics.request_totals.successful:
        fewest = min((one.output_tokens or 0 for one in in_window(load)), default=1)
        if fewest < 1:
            raise MeasurementError(
                f"the server counts {fewest} tokens (`usage.completion_tokens`) in an answer that"
                " has text; no time of a token follows from that"
            )
        return
    texts = error_texts(load)
    if texts:
        first = max(texts, key=lambda text: texts[text])
        count = len(load.requests.errored)
        raise MeasurementError(
            f"all {count} requests failed, {texts[first]} of them with: {first[:500]}"
        )
    cut = len(load.requests.incomplete)
    raise MeasurementError(
        f"no request was answered in time ({cut} cut off, {len(load.requests.successful)} in the"
        " warm-up); allow more `seconds`, or ask for fewer tokens"
    )


def token_details(load: Benchmark) -> dict[str, Any]:
    """How many tokens the window's prompts and answers really had, and who counted."""
    chosen = in_window(load)
    by_server = all(request.output_metrics.text_tokens is not None for request in chosen)
    return {
        "counted_by": "the server's usage" if by_server else "pieces of text that came",
        "prompt_tokens": _spread(request.prompt_tokens for request in chosen),
        "output_tokens": _spread(request.output_tokens for request in chosen),
        "pieces": _spread(request.info.timings.token_iterations for request in chosen),
    }


def _spread(counts: Iterable[int | None]) -> dict[str, float] | None:
    known = [count for count in counts if count is not None]
    if not known:
        return None
    return {"min": min(known), "median": median(known), "max": max(known), "sum": sum(known)}


def load_warnings(load: Benchmark, asked_tokens: int) -> list[str]:
    """What a reader of the figures must know."""
    found = []
    errors = error_texts(load)
    if errors:
        named = "; ".join(
            f"{count} times: {text[:200]}" for text, count in [*errors.items()][:MOST_ERRORS_NAMED]
        )
        failed = len(load.requests.errored)
        found.append(
            f"{failed} of {failed + len(load.requests.successful)} requests failed; the figures are"
            f" of those that were answered ({named})"
        )
    got = token_details(load)["output_tokens"]
    if got is not None and got["min"] < asked_tokens:
        found.append(
            f"answers had {got['min']:g} to {got['max']:g} tokens (median {got['median']:g}) where"
            f" {asked_tokens} were asked for: the server stops at stop tokens; times of a token are"
            " of those that came; have it go on by `extra_body`, if it can be told to"
        )
    if got is not None and got["max"] > asked_tokens:
        found.append(
            f"answers had up to {got['max']:g} tokens (median {got['median']:g}) where"
            f" {asked_tokens} were asked for: the server goes on beyond `max_tokens`, or counts"
            " otherwise; the figures are of what it counted"
        )
    if not_streamed(load):
        found.append(
            "each answer came in one piece: the server does not stream, and the time to the first"
            " token is that of the whole answer"
        )
    return found
