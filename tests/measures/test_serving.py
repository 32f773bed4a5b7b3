"""Cells behind servers: a real run, and what a suite may say of loads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from qbench.core.options import typed_options
from qbench.measures.serving.options import LoadOptions
from qbench.measures.serving.serving import SERVING, ServingParams
from qbench.plan.rehearsal_options import shorten_measure
from qbench.sources.models.resolve import parse_model, resolve_model

if TYPE_CHECKING:
    from qbench.core.spec import ResolvedModel
    from tests.workplace import Workplace

SUITE = """
name: served
models: [{model}]
precisions: [fp32]
measure:
  serving:
    servers: [{{engine: transformers}}]
    concurrency: [1, 2]
    requests: 5
    warmup: 1
    input_len: 12
    output_len: 6
gate:
  serving.ttft: {{max_increase: 10%, against: reference}}
"""


def options(**given: Any) -> Any:
    return SERVING.options.model_validate(given)


@pytest.fixture
def resolved(tiny_model: Path) -> ResolvedModel:
    return resolve_model(parse_model(str(tiny_model), base=tiny_model))


@pytest.mark.slow
def test_a_run_of_a_server_under_two_loads(workplace: Workplace) -> None:
    workplace.write("suite.yaml", SUITE.format(model=workplace.model))
    done = workplace.call("run", "suite.yaml")
    assert done.code == 0, done.output + done.errors
    records = workplace.records()
    assert [one.item.slug for one in records.values()] == [
        "transformers-c1-p12-n6",
        "transformers-c2-p12-n6",
    ]
    for record in records.values():
        assert record.status == "ok"
        assert set(SERVING.metrics) >= {
            one for one in SERVING.metrics if record.metric(one.name) is not None
        }
        streams = record.item.params["concurrency"]
        tokens = record.details["tokens"]
        assert tokens["counted_by"] == "the server's usage"
        # Stop tokens are ignored, and random weights would give some.
        assert tokens["output_tokens"]["min"] == tokens["output_tokens"]["max"] == 6
        assert abs(tokens["prompt_tokens"]["median"] - 12) <= 2
        assert record.details["requests"]["all"] == {
            "successful": 5,
            "errored": 0,
            "incomplete": 0,
        }
        assert 0 < (record.value("serving.concurrency") or 0) <= streams
        ttft, whole = record.value("serving.ttft"), record.value("serving.e2e")
        assert ttft is not None
        assert whole is not None
        assert 0 < ttft < whole
        assert (record.value("serving.memory.peak") or 0) > 2**20
        assert record.details["loaded"]["faults"] == []
        assert record.details["server"]["version"].startswith("transformers ")
        assert record.details["guidellm"]["cpu_s"] > 0
        assert record.identity["versions"]["guidellm"] is not None
        (folder,) = (workplace.folder / "results").rglob("tiny--fp32")
        assert (folder / record.details["server"]["log"]).read_text(encoding="utf-8")
        assert list(folder.glob("*.guidellm.log"))
    assert workplace.survivors() == []
    (page,) = (workplace.folder / "reports").glob("*.md")
    text = page.read_text(encoding="utf-8")
    for title in ("1 at once, 12 prompt tokens, 6 new", "2 at once, 12 prompt tokens, 6 new"):
        assert f"Serving under load: {title}" in text
    again = workplace.call_here("plan", "suite.yaml")
    assert "2/2" in again.output
    assert "serving starts transformers serve without continuous batching 2 times" in again.output


def test_unless_told_a_load_is_of_one_and_of_eight_at_once(resolved: ResolvedModel) -> None:
    items = SERVING.items(options(), resolved, Path())
    found = [typed_options(ServingParams, one.params) for one in items]
    assert [one.concurrency for one in found] == [1, 8]
    assert [one.requests for one in found] == [10, 80]
    assert [one.warmup for one in found] == [1, 8]
    assert {one.server.label for one in found} == {"transformers-cb"}


def test_every_server_and_load_has_an_item_for_each_repeat(resolved: ResolvedModel) -> None:
    given = options(
        servers=[{"engine": "transformers"}, {"address": "http://127.0.0.1:9", "cells": "fp32"}],
        rate=[0.5, 2],
        prompt_tokens=[8, 16],
        repeats=2,
    )
    items = SERVING.items(given, resolved, Path())
    assert len({(one.slug, one.repeat) for one in items}) == len(items) == 2 * 2 * 2 * 2
    assert items[0].slug == "transformers-r0.5-p8-n32"
    assert {one.params["arrival"] for one in items} == {"poisson"}


@pytest.mark.parametrize(
    ("given", "requests", "warmup"),
    [
        ({"concurrency": 4}, 40, 4),
        ({"concurrency": 4, "requests": 8, "warmup": 0}, 8, 0),
        ({"concurrency": 4, "requests": 8, "warmup": 3}, 8, 3),
        ({"concurrency": 1, "requests": 3}, 3, 1),  # never none, where a share was asked for
        ({"rate": 0.5}, 20, 2),
        ({"rate": 3}, 60, 6),
        ({"rate": 3, "seconds": 9}, None, 0.1),
    ],
)
def test_how_long_a_load_is(given: dict[str, Any], requests: int | None, warmup: float) -> None:
    point = LoadOptions.model_validate(given).points()[0]
    assert (point.requests, point.warmup) == (requests, warmup)


@pytest.mark.parametrize(
    ("given", "place", "words"),
    [
        ({"warmup": 5, "seconds": 9}, "warmup", "5 requests, where `seconds` ends the load"),
        ({"warmup": 5, "requests": 5}, "warmup", "5 of 5 requests"),
        ({"warmup": 1.5}, "warmup", "1.5 requests"),
        ({"concurrency": [1, 8], "requests": 5}, "requests", "which are never 8 at once"),
        ({"rate": [1, 0.02]}, "timeout", "600 s for a load of some 1000 s (0.02 a second)"),
        ({"seconds": 900}, "timeout", "600 s for a load of some 900 s (1 at once)"),
        ({"prompt_tokens": 10**6}, "prompt_tokens", "1000000 with 32 new tokens"),
        ({"servers": [{"engine": "transformers"}] * 2}, "servers", "two servers that are called"),
        ({"repeats": 100, "prompt_tokens": [*range(1, 60)]}, "concurrency", "11800 servers"),
    ],
)
def test_what_cannot_be_done_is_refused(
    given: dict[str, Any], place: str, words: str, resolved: ResolvedModel
) -> None:
    problem = SERVING.misfit(options(**given), resolved)
    assert problem is not None
    assert problem.place == place
    assert words in problem.found


@pytest.mark.parametrize("name", ["model", "prompt", "messages", "max_tokens", "stream"])
def test_a_load_stays_what_it_is_called(name: str) -> None:
    with pytest.raises(ValidationError, match="fields that qbench does not set itself"):
        LoadOptions.model_validate({"extra_body": {"top_k": 1, name: None}})


def test_one_wrong_server_is_one_problem() -> None:
    for servers, place in (([{"engine": "vllm"}], ("servers", 0, "engine")), ([], ("servers",))):
        with pytest.raises(ValidationError) as caught:
            options(servers=servers)
        assert [one["loc"] for one in caught.value.errors()] == [place]


def test_a_rehearsal_is_short_and_starts_no_engine_of_others() -> None:
    given = options(
        servers=[
            {"engine": "transformers", "continuous_batching": True},
            {"command": "vllm serve {model} --port {port}", "cells": ["fp32"]},
            {"address": "http://10.0.0.1:8000", "cells": ["fp32"], "name": "far"},
        ],
        rate=[0.1, 8],
        concurrency=[1, 8, 32],
        requests=500,
        warmup=0.2,
        extra_body={"ignore_eos": True},
    )
    made, words = shorten_measure("serving", given)
    points = made.points()  # type: ignore[attr-defined]
    assert [one.concurrency for one in points] == [1, 2, 4, None, None]
    assert all(one.requests == 6 and one.warmup == 1 for one in points)
    assert [one.rate for one in points if one.rate] == [4.0, 5.0]
    servers = made.servers  # type: ignore[attr-defined]
    assert {one.engine for one in servers} == {"transformers"}
    assert [one.label for one in servers] == ["transformers-cb", "vllm", "far"]
    assert servers[1].cells == ("fp32",)
    assert made.extra_body is None  # type: ignore[attr-defined]
    assert "servers transformers+transformers+transformers for" in words[0]
