"""The load: what guidellm is told, and that its figures are recorded as they are."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psutil
import pytest

from qbench.core.errors import MeasurementError, ProcessFailedError
from qbench.measures.serving.figures import (
    check_answered,
    load_metrics,
    load_warnings,
    token_details,
)
from qbench.measures.serving.guidellm_report import Report, read_report
from qbench.measures.serving.load import Loaded, Target, apply_load, scenario_of
from qbench.measures.serving.options import LoadOptions, LoadPoint
from tests.measures.scripted_server import Script, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from qbench.measures.serving.guidellm_report import Benchmark

PROMPT_TOKENS, OUTPUT_TOKENS, REQUESTS, WARMUP = 12, 5, 9, 3
OPTIONS = LoadOptions(
    concurrency=(2,),
    prompt_tokens=(PROMPT_TOKENS,),
    output_tokens=(OUTPUT_TOKENS,),
    requests=REQUESTS,
    warmup=WARMUP,
)
TIMES = {
    "ttft": "time_to_first_token_ms",
    "tpot": "time_per_output_token_ms",
    "itl": "inter_token_latency_ms",
    "e2e": "request_latency",
}
RATES = {
    "output_throughput": "output_tokens_per_second",
    "total_throughput": "tokens_per_second",
    "requests_per_s": "requests_per_second",
    "concurrency": "request_concurrency",
    "goodput": "request_goodput",
}


@dataclass(frozen=True)
class Kept:
    """A load that was applied once for many tests."""

    script: Script
    point: LoadPoint
    loaded: Loaded
    raw: dict[str, Any]
    """guidellm's file, as it is."""

    @property
    def values(self) -> dict[str, float | None]:
        with_slo = self.point.slo is not None
        found = load_metrics(self.loaded.report.load, with_slo=with_slo)
        return {one.name.removeprefix("serving."): one.value for one in found}

    @property
    def window(self) -> list[dict[str, Any]]:
        """The answered requests that guidellm measured, chosen here by its rule."""
        load = self.raw["benchmarks"][0]
        return [
            one
            for one in load["requests"]["successful"]
            if one["request_end_time"] >= load["start_time"]
            and one["request_start_time"] <= load["end_time"]
        ]


def apply(folder: Path, model: Path, script: Script, **changed: Any) -> Kept:
    point = OPTIONS.model_copy(update=changed).points()[0]
    with serving(script):
        target = Target(script.url, "a-model", model, {"ignore_eos": True})
        loaded = apply_load(point, target, folder, 60.0, folder / "guidellm.log")
    raw = json.loads((folder / "guidellm.json").read_text(encoding="utf-8"))
    return Kept(script, point, loaded, raw)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Kept:
    slo = LoadOptions.model_validate({"slo": {"ttft": 10, "itl": 10, "e2e": 10}}).slo
    folder = tmp_path_factory.mktemp("good")
    return apply(folder, tiny_model, Script(), slo=slo, extra_body={"top_k": 1})


@pytest.fixture(scope="module")
def poor(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Kept:
    """Some requests are refused, answers are short, and no one counts their tokens."""
    script = Script(refused=frozenset({1, 4}), most_tokens=3, tells_usage=False)
    return apply(tmp_path_factory.mktemp("poor"), tiny_model, script, warmup=0)


def own_quantile(weighed: Sequence[tuple[float, float]], share: float) -> float:
    """The smallest value up to which lies that share of the weight."""
    whole, sum_so_far = sum(weight for _, weight in weighed), 0.0
    for value, weight in sorted(weighed):
        sum_so_far += weight
        if sum_so_far >= share * whole - 1e-9:
            return value
    raise AssertionError("no value")


def test_every_figure_is_the_one_in_guidellms_report(good: Kept) -> None:
    figures, values = good.raw["benchmarks"][0]["metrics"], good.values
    for name, field in TIMES.items():
        quantiles = figures[field]["successful"]["percentiles"]
        of_ms = 1.0 if name == "e2e" else 1000.0
        assert (
            values[name]
            == quantiles["p50"] / of_ms
            == figures[field]["successful"]["median"] / of_ms
        )
        for quantile in ("p90", "p95", "p99"):
            assert values[f"{name}.{quantile}"] == quantiles[quantile] / of_ms
    for name, field in RATES.items():
        assert values[name] == figures[field]["successful"]["mean"]
    assert values["slo_attainment"] == figures["slo_attainment"] == 1.0
    assert values["errors"] == 0.0


def test_the_figures_follow_from_the_requests(good: Kept) -> None:
    """Computed again from the moments of each request, not from guidellm's summaries."""
    load, values, window = good.raw["benchmarks"][0], good.values, good.window
    assert len(window) == load["metrics"]["request_totals"]["successful"]
    waits, tokens, whole = [], [], []
    for one in window:
        times, begun = one["info"]["timings"], one["request_start_time"]
        whole.append((one["request_end_time"] - begun, 1.0))
        tokens.append(((times["last_token_iteration"] - begun) / OUTPUT_TOKENS, OUTPUT_TOKENS))
        if times["first_token_iteration"] >= load["start_time"]:
            waits.append((times["first_token_iteration"] - begun, 1.0))
    for name, weighed in (("ttft", waits), ("tpot", tokens), ("e2e", whole)):
        assert values[name] == pytest.approx(own_quantile(weighed, 0.5), abs=1e-6)
        assert values[f"{name}.p99"] == pytest.approx(own_quantile(weighed, 0.99), abs=1e-6)
    between = [
        (
            (one["info"]["timings"]["last_token_iteration"] - first) / (OUTPUT_TOKENS - 1),
            OUTPUT_TOKENS - 1,
        )
        for one in load["requests"]["successful"]
        if (first := one["info"]["timings"]["first_token_iteration"]) <= load["end_time"]
        and one["request_end_time"] >= load["start_time"]
    ]
    assert values["itl"] == pytest.approx(own_quantile(between, 0.5), abs=1e-6)
    ended = [
        one for one in window if load["start_time"] <= one["request_end_time"] <= load["end_time"]
    ]
    assert values["requests_per_s"] == pytest.approx(len(ended) / load["duration"], rel=1e-3)


def test_samples_are_those_of_the_window(good: Kept) -> None:
    found = {one.name: one for one in load_metrics(good.loaded.report.load, with_slo=False)}
    samples = found["serving.e2e"].samples
    assert samples == tuple(one["request_latency"] for one in good.window)
    assert (
        len(found["serving.ttft"].samples or ())
        == good.raw["benchmarks"][0]["metrics"]["time_to_first_token_ms"]["successful"]["count"]
    )


def test_the_server_was_asked_for_what_the_suite_says(good: Kept, tiny_model: Path) -> None:
    """By the server's own account, which knows nothing of guidellm's."""
    from transformers import AutoTokenizer

    bodies = good.script.bodies
    assert len(bodies) == REQUESTS == len(good.script.answered)
    assert sum(good.script.answered) == REQUESTS * OUTPUT_TOKENS
    made = good.raw["benchmarks"][0]["scheduler_metrics"]["requests_made"]
    assert made["successful"] == REQUESTS
    for body in bodies:
        assert body["max_tokens"] == OUTPUT_TOKENS
        assert body["temperature"] == 0.0
        assert body["ignore_eos"] is True
        assert body["top_k"] == 1
        assert body["model"] == "a-model"
    prompts = [body["prompt"] for body in bodies]
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    lengths = [len(tokenizer(one, add_special_tokens=False).input_ids) for one in prompts]
    assert max(abs(one - PROMPT_TOKENS) for one in lengths) <= 1
    starts = {tuple(tokenizer(one, add_special_tokens=False).input_ids[:4]) for one in prompts}
    assert len(starts) == REQUESTS  # nothing for a cache of prefixes to find


def test_who_counted_the_tokens_is_told(good: Kept) -> None:
    by_server = token_details(good.loaded.report.load)
    assert by_server["counted_by"] == "the server's usage"
    assert by_server["prompt_tokens"]["median"] == 9  # as the server says
    assert by_server["output_tokens"] == {
        **dict.fromkeys(("min", "median", "max"), OUTPUT_TOKENS),
        "sum": OUTPUT_TOKENS * len(good.window),
    }
    assert load_warnings(good.loaded.report.load, OUTPUT_TOKENS) == []


@pytest.mark.slow
def test_pieces_are_counted_where_no_one_counts_tokens(poor: Kept) -> None:
    by_pieces = token_details(poor.loaded.report.load)
    assert by_pieces["counted_by"] == "pieces of text that came"
    assert by_pieces["output_tokens"]["max"] == 3


@pytest.mark.slow
def test_some_failures_are_a_share_and_a_warning(poor: Kept) -> None:
    load = poor.loaded.report.load
    check_answered(load)
    assert len(load.requests.errored) == 2
    assert poor.values["errors"] == pytest.approx(2 / REQUESTS)
    failed, short = load_warnings(load, OUTPUT_TOKENS)
    assert failed.startswith(f"2 of {REQUESTS} requests failed; the figures are of those that")
    assert "500" in failed
    assert f"answers had 3 to 3 tokens (median 3) where {OUTPUT_TOKENS} were asked" in short


def test_the_generators_own_processor_time_is_told(good: Kept) -> None:
    assert good.loaded.cpu_s > 0


def changed(good: Kept, change: Callable[[dict[str, Any]], None]) -> Benchmark:
    """The report of a load whose answered requests are changed."""
    raw = json.loads(json.dumps(good.raw))
    for request in raw["benchmarks"][0]["requests"]["successful"]:
        change(request)
    return Report.model_validate_json(json.dumps(raw)).load


def test_more_tokens_than_were_asked_for_are_told(good: Kept) -> None:
    load = changed(good, lambda request: request.update(output_tokens=2 * OUTPUT_TOKENS))
    check_answered(load)
    (words,) = load_warnings(load, OUTPUT_TOKENS)
    assert words.startswith("answers had up to 10 tokens (median 10) where 5 were asked for")


@pytest.mark.parametrize("count", [0, -5])
def test_no_figure_is_made_of_tokens_that_are_none(good: Kept, count: int) -> None:
    load = changed(good, lambda request: request.update(output_tokens=count))
    with pytest.raises(MeasurementError, match=f"the server counts {count} tokens"):
        check_answered(load)


def test_between_the_tokens_of_one_piece_lies_no_time(good: Kept) -> None:
    load = changed(good, lambda request: request["info"]["timings"].update(token_iterations=1))
    found = {one.name: one for one in load_metrics(load, with_slo=False)}
    for name in ("serving.itl", "serving.itl.p99"):
        assert found[name].value is None
        assert "does not stream" in (found[name].reason or "")
    assert found["serving.ttft"].value == good.values["ttft"]
    (words,) = load_warnings(load, OUTPUT_TOKENS)
    assert "the server does not stream" in words


@pytest.mark.slow
def test_a_server_that_does_not_stream_is_seen(tmp_path: Path, tiny_model: Path) -> None:
    whole = apply(tmp_path, tiny_model, Script(in_one_piece=True), warmup=0)
    assert whole.values["itl"] is None
    assert whole.values["e2e"] is not None
    check_answered(whole.loaded.report.load)


def test_no_figure_is_made_of_failures_alone(good: Kept) -> None:
    raw = json.loads(json.dumps(good.raw))
    requests = raw["benchmarks"][0]["requests"]
    failed = requests["successful"][:2]
    for request in failed:
        request["info"]["error"] = "status 500"
    requests.update(successful=[], errored=failed)
    with pytest.raises(MeasurementError, match=r"all 2 requests failed, 2 of them with: .*500"):
        check_answered(Report.model_validate_json(json.dumps(raw)).load)
    requests["errored"] = []
    with pytest.raises(MeasurementError, match="no request was answered in time"):
        check_answered(Report.model_validate_json(json.dumps(raw)).load)


@pytest.mark.slow
def test_requests_carry_the_key_that_an_address_asks_for(tmp_path: Path, tiny_model: Path) -> None:
    point = OPTIONS.points()[0]
    with serving(Script()) as script:
        target = Target(script.url, "a-model", tiny_model, {}, "sk-of-a-test")
        apply_load(point, target, tmp_path, 60.0, tmp_path / "guidellm.log")
    assert set(script.keys) == {"Bearer sk-of-a-test"}
    assert "sk-of-a-test" not in (tmp_path / "guidellm.log").read_text(encoding="utf-8")


def test_a_server_that_hangs_ends_the_load_and_all_of_it(tmp_path: Path, tiny_model: Path) -> None:
    point = OPTIONS.points()[0]
    before = set(psutil.Process().children(recursive=True))
    with serving(Script(hangs=True)) as script:
        target = Target(script.url, "a-model", tiny_model, {})
        with pytest.raises(ProcessFailedError, match="did not end within 2 s") as failed:
            apply_load(point, target, tmp_path, 2.0, tmp_path / "guidellm.log")
    assert failed.value.status == "timeout"
    left = set(psutil.Process().children(recursive=True)) - before
    assert [one for one in left if one.status() != psutil.STATUS_ZOMBIE] == []


@pytest.mark.slow
def test_a_load_that_guidellm_refuses_is_told_by_its_log(tmp_path: Path, tiny_model: Path) -> None:
    point = OPTIONS.points()[0]
    target = Target("http://127.0.0.1:9", "a-model", tmp_path / "no tokenizer", {})
    with pytest.raises(ProcessFailedError, match="guidellm ended with exit code 1") as failed:
        apply_load(point, target, tmp_path, 60.0, tmp_path / "guidellm.log")
    assert "no tokenizer" in (failed.value.log_tail or "")
    assert tiny_model.is_dir()


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"concurrency": 3}, {"kind": "concurrent", "streams": [3]}),
        ({"rate": 2.5}, {"kind": "poisson", "rate": [2.5]}),
        ({"rate": 2, "arrival": "constant"}, {"kind": "constant", "rate": [2.0]}),
        ({"concurrency": 1, "seconds": 9, "warmup": 0.2}, {"kind": "concurrent"}),
        ({"rate": 1, "requests": 4, "seconds": 9, "endpoint": "chat"}, {"kind": "poisson"}),
    ],
)
def test_guidellm_takes_what_it_is_told(
    told: dict[str, Any], expected: dict[str, Any], tmp_path: Path
) -> None:
    from guidellm.schemas.benchmark import BenchmarkScenario

    point = LoadOptions.model_validate(told).points()[0]
    target = Target("http://127.0.0.1:9", "a-model", tmp_path, {"ignore_eos": True})
    written = scenario_of(point, target, tmp_path / "report.json", 60.0)
    read = BenchmarkScenario.model_validate(json.loads(json.dumps(written))).spec
    profile = read.profile.model_dump()
    assert {name: profile[name] for name in expected} == expected
    share = point.requests is None
    assert profile["warmup"]["mode"] == ("duration" if share else "requests")
    assert profile["warmup"]["percent" if share else "value"] == point.warmup
    counts = {one.kind: one.model_dump() for one in read.constraints}
    assert ("max_duration" in counts) is (point.seconds is not None)
    assert ("max_requests" in counts) is (point.requests is not None)
    path = "/v1/chat/completions" if point.endpoint == "chat" else "/v1/completions"
    assert read.backend.model_dump()["request_format"] == path
    assert read.backend.model_dump()["follow_redirects"] is False


def test_a_field_that_is_taken_away_is_not_sent(tmp_path: Path) -> None:
    given = {"extra_body": {"ignore_eos": None, "top_k": 1}}
    point = LoadOptions.model_validate(given).points()[0]
    target = Target("http://127.0.0.1:9", "a-model", tmp_path, {"ignore_eos": True})
    written = scenario_of(point, target, tmp_path / "report.json", 60.0)
    assert written["spec"]["backend"]["extras"] == {"body": {"temperature": 0.0, "top_k": 1}}


class TestReport:
    """guidellm's file, as it may be found."""

    def test_fields_of_newer_versions_are_left_alone(self, good: Kept, tmp_path: Path) -> None:
        raw = json.loads(json.dumps(good.raw))
        raw["benchmarks"][0]["metrics"]["new"] = raw["new"] = {"of": "a newer guidellm"}
        path = tmp_path / "guidellm.json"
        path.write_text(json.dumps(raw), encoding="utf-8")
        assert read_report(path) == good.loaded.report

    @pytest.mark.parametrize(
        ("at", "value", "words"),
        [
            ("time_to_first_token_ms", None, "metrics.time_to_first_token_ms"),
            ("request_totals", {"successful": "8"}, "metrics.request_totals.successful"),
        ],
    )
    def test_one_of_another_form_is_refused(
        self, at: str, value: object, words: str, good: Kept, tmp_path: Path
    ) -> None:
        raw = json.loads(json.dumps(good.raw))
        raw["benchmarks"][0]["metrics"][at] = value
        path = tmp_path / "guidellm.json"
        path.write_text(json.dumps(raw), encoding="utf-8")
        with pytest.raises(MeasurementError, match=f"not as expected: benchmarks.0.{words}"):
            read_report(path)

    def test_one_that_is_absent_or_cut_short_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "guidellm.json"
        with pytest.raises(MeasurementError, match="guidellm left no report"):
            read_report(path)
        path.write_text('{"metadata": {"guidel', encoding="utf-8")
        with pytest.raises(MeasurementError, match="not as expected"):
            read_report(path)
