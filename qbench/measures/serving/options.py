"""What a suite says of a load, and the points that follow from it."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    model_validator,
)
from pydantic_core import PydanticCustomError

from qbench.core.aliases import Also
from qbench.core.reading import InvalidValueError
from qbench.core.spec import Frozen
from qbench.measures.options import GridRepeats, OneOrMorePositive, as_tuple, not_empty

Endpoint = Literal["completions", "chat"]
Arrival = Literal["poisson", "constant"]

REQUESTS_A_STREAM = 10
"""Requests of a load, for each that is under way at once, unless a suite says how many."""
SECONDS_OF_ARRIVALS = 20
FEWEST_REQUESTS = 20
"""Of a rate: as many as arrive in that time, and no fewer."""
MOST_PILED_UP = 64
"""Requests of a rate for which a server that must be told has room."""

OneOrMoreRates = Annotated[
    tuple[PositiveFloat, ...],
    AfterValidator(not_empty),
    BeforeValidator(
        as_tuple,
        json_schema_input_type=PositiveFloat | Annotated[list[PositiveFloat], Field(min_length=1)],
    ),
]


QBENCH_SENDS = {
    "model": "`model` of the server",
    "prompt": "`prompt_tokens`",
    "messages": "`prompt_tokens` and `endpoint: chat`",
    "max_tokens": "`output_tokens`",
    "max_completion_tokens": "`output_tokens`",
    "stream": None,
    "stream_options": None,
}
"""Fields of a request that make the load what it is called, each with the option that sets it."""


def _adds_alone(body: dict[str, Any]) -> dict[str, Any]:
    for name in body:
        if name in QBENCH_SENDS:
            option = QBENCH_SENDS[name]
            remedy = "remove it" if option is None else f"use {option}"
            expected = "fields that qbench does not set itself"
            raise InvalidValueError(expected, f"the field `{name}`", remedy)
    return body


class Objectives(Frozen):
    """What a request must keep to, to count as served well; those left out do not matter."""

    ttft: PositiveFloat | None = None
    """Seconds until the first token, at most."""
    itl: Annotated[PositiveFloat | None, Also("tpot")] = None
    """Seconds between two tokens after it, at most: what vLLM's bench calls TPOT."""
    e2e: Annotated[PositiveFloat | None, Also("e2el")] = None
    """Seconds of the whole request, at most."""

    @model_validator(mode="after")
    def _one_at_least(self) -> Self:
        if self.ttft is self.itl is self.e2e is None:
            raise PydanticCustomError("no_objective", "no objective: give ttft, itl or e2e")
        return self


class LoadOptions(Frozen):
    """How servers are loaded."""

    concurrency: Annotated[OneOrMorePositive | None, Also("max_concurrency", "streams")] = None
    """Requests that are under way at once: as one is answered the next is sent. A list makes a
    point of each. 1 and 8 where neither this nor `rate` is given."""
    rate: Annotated[OneOrMoreRates | None, Also("request_rate")] = None
    """Requests a second, sent whether or not earlier ones are answered; a list makes a point of
    each."""
    arrival: Arrival = "poisson"
    """How the requests of a `rate` come: at random moments, or at even ones."""
    prompt_tokens: Annotated[OneOrMorePositive, Also("input_len", "random_input_len")] = (128,)
    """Tokens of each prompt, made with the model's tokenizer; a list makes a grid."""
    output_tokens: Annotated[
        OneOrMorePositive, Also("output_len", "random_output_len", "max_new_tokens", "new_tokens")
    ] = (32,)
    """Tokens that each request asks for; a list makes a grid."""
    requests: Annotated[PositiveInt | None, Also("num_prompts", "max_requests")] = None
    """Requests of a point, those of the warm-up with them. Unless it or `seconds` is given: 10 for
    each that is under way at once, or as many as arrive in 20 s."""
    seconds: Annotated[PositiveFloat | None, Also("max_seconds", "max_duration")] = None
    """Seconds of a point; with `requests` too, what is reached first ends it."""
    warmup: NonNegativeFloat = 0.1
    """What is left out at the beginning: a share of the requests (of the time, where `requests` is
    not given) if less than 1, else a number of requests."""
    endpoint: Endpoint = "completions"
    """`/v1/completions` takes the prompt as it is; `/v1/chat/completions` puts it into the model's
    chat template, whose tokens come on top."""
    slo: Objectives | None = None
    """Objectives of a request, in seconds, such as {ttft: 0.5, itl: 0.05}: the goodput is then
    recorded."""
    extra_body: Annotated[dict[str, Any], AfterValidator(_adds_alone)] | None = None
    """Further fields of each request, for servers that take them; null leaves out one that qbench
    sends (`temperature: 0`, `ignore_eos: true`)."""
    seed: int = Field(default=0, ge=0)
    """Chooses the prompts, and the moments of random arrivals."""
    repeats: GridRepeats = 1
    """Servers of their own that each point is taken on, interleaved over the cells. To compare and
    to gate needs several, which tell a difference from noise."""
    timeout: PositiveFloat = 600.0
    """Seconds that a load may take, and any one answer: then it has failed."""

    def points(self) -> list[LoadPoint]:
        """A point of each load and lengths, with every number resolved."""
        loads: list[dict[str, Any]] = []
        concurrency = self.concurrency
        if concurrency is None and self.rate is None:
            concurrency = (1, 8)
        loads += [{"concurrency": streams} for streams in concurrency or ()]
        loads += [{"rate": rate, "arrival": self.arrival} for rate in self.rate or ()]
        return [
            self._point(load, prompt, output)
            for load in loads
            for prompt in self.prompt_tokens
            for output in self.output_tokens
        ]

    def _point(self, load: dict[str, Any], prompt: int, output: int) -> LoadPoint:
        requests = self.requests
        if requests is None and self.seconds is None:
            requests = (
                REQUESTS_A_STREAM * load["concurrency"]
                if "concurrency" in load
                else max(FEWEST_REQUESTS, math.ceil(SECONDS_OF_ARRIVALS * load["rate"]))
            )
        warmup = self.warmup
        if requests is not None and 0 < warmup < 1:
            warmup = max(1, round(warmup * requests))
        given: dict[str, Any] = {
            **load,
            "prompt_tokens": prompt,
            "output_tokens": output,
            "requests": requests,
            "seconds": self.seconds,
            "warmup": warmup,
            "endpoint": self.endpoint,
            "slo": self.slo,
            "extra_body": self.extra_body,
            "seed": self.seed,
        }
        return LoadPoint(**{name: value for name, value in given.items() if value is not None})


def less_given(asked: dict[str, Any]) -> dict[str, Any]:
    """The options of one point, less those that follow from its load where nothing is said."""
    load = {name: (asked[name],) for name in ("concurrency", "rate") if name in asked}
    usual = LoadOptions.model_validate(load).points()[0]
    followed = {"requests": usual.requests} if "seconds" not in asked else {}
    requests = asked.get("requests")
    share = LoadOptions.model_fields["warmup"].default
    followed["warmup"] = share if requests is None else max(1, round(share * requests))
    return {name: one for name, one in asked.items() if followed.get(name) != one}


class LoadPoint(Frozen):
    """One load, as a server gets it."""

    model_config = ConfigDict(extra="ignore")

    concurrency: int | None = None
    """Requests under way at once; None of a `rate`."""
    rate: float | None = None
    """Requests a second; None of a `concurrency`."""
    arrival: Arrival = "poisson"
    prompt_tokens: int
    output_tokens: int
    requests: int | None = None
    seconds: float | None = None
    warmup: float
    """Requests that are left out; a share of the time where it is below 1."""
    endpoint: Endpoint
    slo: Objectives | None = None
    extra_body: dict[str, Any] | None = None
    seed: int

    @property
    def streams(self) -> int:
        """Requests that may be under way at once; of a rate a guess, as it knows no limit."""
        return self.concurrency or min(self.requests or MOST_PILED_UP, MOST_PILED_UP)

    @property
    def load_slug(self) -> str:
        """The load alone: `c8`, `r2.5`."""
        return f"c{self.concurrency}" if self.rate is None else f"r{self.rate:g}"

    @property
    def slug(self) -> str:
        """Readable name: `c8-p128-n32`, of 2.5 requests a second `r2.5-p128-n32`."""
        return f"{self.load_slug}-p{self.prompt_tokens}-n{self.output_tokens}"

    @property
    def words(self) -> str:
        """The load in words: `8 at once`, `2.5 a second`."""
        return f"{self.concurrency} at once" if self.rate is None else f"{self.rate:g} a second"
