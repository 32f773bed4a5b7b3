"""`qbench export every-eval-ever`: valid by the store's schema and by what it checks besides."""

from __future__ import annotations

import hashlib
import json
import math
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from jsonschema import Draft7Validator

from qbench.core.spec import Cell, ModelRef, PrecisionRef, TuningRef
from qbench.core.store import read_record
from tests.record_factory import make_failure, make_metric, make_record
from tests.workplace import REPOSITORY, keep

if TYPE_CHECKING:
    from qbench.core.record import Record
    from tests.workplace import Workplace

SCHEMAS = Path(__file__).parents[2] / "data" / "every_eval_ever"
PUBLISHED = REPOSITORY / "results" / "published"
UUID4 = r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"
NAME = re.compile(rf"data/[^/]+/[^/]+/[^/]+/{UUID4}(\.json|_samples\.jsonl)")
ENDS = {"Infinity": math.inf, "-Infinity": -math.inf}


@cache
def validator(name: str) -> Draft7Validator:
    schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text())
    Draft7Validator.check_schema(schema)
    return Draft7Validator(schema)


def exported(place: Workplace, results: str = "results", *arguments: str) -> list[dict[str, Any]]:
    """Exports, and holds every file against the schema and the store's further checks."""
    command = ("export", "every-eval-ever", results, "--to", "out", *arguments)
    done = place.call_here(*command)
    assert done.code == 0, done.errors
    out = place.folder / "out"
    logs = []
    for path in sorted(out.rglob("*.json*")):
        where = path.relative_to(out).as_posix()
        assert NAME.fullmatch(where), where
        if path.suffix == ".json":
            log = json.loads(path.read_text(), parse_constant=pytest.fail)
            check_log(log)
            check_samples(log, path, out)
            logs.append(log)
    assert len({log["evaluation_id"] for log in logs}) == len(logs)
    return logs


def check_log(log: dict[str, Any]) -> None:
    validator("eval").validate(log)
    names = [one["evaluation_result_id"] for one in log["evaluation_results"]]
    assert len(set(names)) == len(names)
    for one in log["evaluation_results"]:
        config, details = one["metric_config"], one["score_details"]
        if "score_type" in config:
            low, high = (ENDS.get(config[end], config[end]) for end in ("min_score", "max_score"))
            assert low <= details["score"] <= high
        else:
            assert config["additional_details"]["bounds_status"] == "unknown"
        interval = details.get("uncertainty", {}).get("confidence_interval")
        if interval:
            assert interval["lower"] <= details["score"] <= interval["upper"]
            assert interval["method"]
        else:
            assert details["details"]["uncertainty"].startswith(("none: ", "not known: "))


def check_samples(log: dict[str, Any], path: Path, out: Path) -> None:
    told = log.get("detailed_evaluation_results")
    beside = path.with_name(f"{path.stem}_samples.jsonl")
    assert (told is not None) == beside.exists()
    if told is None:
        return
    assert out / told["file_path"] == beside
    contents = beside.read_bytes()
    assert told["checksum"] == hashlib.sha256(contents).hexdigest()
    lines = [json.loads(line) for line in contents.splitlines()]
    assert told["total_rows"] == len(lines)
    ids = {one["evaluation_result_id"] for one in log["evaluation_results"]}
    for line in lines:
        validator("instance_level_eval").validate(line)
        assert line["evaluation_id"] == log["evaluation_id"]
        assert line["model_id"] == log["model_info"]["id"]
        assert line["evaluation_result_id"] in ids


def result_of(log: dict[str, Any], name: str) -> dict[str, Any]:
    (found,) = (one for one in log["evaluation_results"] if one["evaluation_result_id"] == name)
    return dict(found)


def of_model(record: Record, kind: str, location: str, **more: Any) -> Record:
    model = ModelRef(name="m", source=location, kind=kind, location=location)  # type: ignore[arg-type]
    cell = Cell(model=model, precision=record.cell.precision, **more)
    return record.model_copy(update={"cell": cell})


def measured(**more: Any) -> Record:
    return make_record("nf4", metrics={"memory.static": 12.0}, **more)


def test_published_records_are_valid_and_tell_their_uncertainty(workplace: Workplace) -> None:
    logs = exported(workplace, str(PUBLISHED / "full"), "--organization", "Lab", "--only", "nf4")
    (log,) = logs
    assert log["model_info"]["id"] == "qbench/tiny-mistral"
    assert log["model_info"]["additional_details"]["precision"] == "nf4"
    assert log["source_metadata"]["source_organization_name"] == "Lab"
    choice = result_of(log, "tasks-stdlib-choice#tasks.stdlib-choice.acc")
    assert choice["evaluation_name"] == "stdlib-choice"
    config = choice["metric_config"]
    assert (config["metric_id"], config["metric_kind"]) == ("accuracy", "accuracy")
    assert (config["min_score"], config["max_score"], config["lower_is_better"]) == (0, 1, False)
    told = choice["score_details"]["uncertainty"]
    assert told["num_samples"] == 400
    assert told["confidence_interval"]["method"] == "exact limits of a share of 400 items"
    assert choice["score_details"]["details"]["reference"] == "fp32"
    perplexity = result_of(log, "quality-stdlib-heldout-w256-default#perplexity")
    told = perplexity["score_details"]["uncertainty"]
    assert told["standard_error"]["method"] == "block bootstrap over windows"
    assert told["num_bootstrap_samples"] == 10_000
    assert perplexity["metric_config"]["max_score"] == "Infinity"
    assert perplexity["metric_config"]["lower_is_better"] is True
    assert str(REPOSITORY) not in json.dumps(log)
    (lines,) = (workplace.folder / "out").rglob("*_samples.jsonl")
    samples = [json.loads(line) for line in lines.read_text().splitlines()]
    scores = [
        one["evaluation"]["score"] for one in samples if "chrf" in one["evaluation_result_id"]
    ]
    assert len(scores) == 16
    assert all(one["input"]["reference"] and one["output"]["raw"] for one in samples)


@pytest.mark.slow
@pytest.mark.parametrize(
    "suite", sorted(path.name for path in PUBLISHED.iterdir() if path.is_dir())
)
def test_all_published_records_are_valid(workplace: Workplace, suite: str) -> None:
    if suite == "mistral-shape":  # random weights
        done = workplace.call_here("export", "every-eval-ever", str(PUBLISHED / suite), "--to", "x")
        assert done.code == 2
        assert "its weights are random" in done.errors
    else:
        assert exported(workplace, str(PUBLISHED / suite), "--device", "cpu*")


def test_twice_is_the_same(workplace: Workplace) -> None:
    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in (workplace.folder / "out").rglob("*.json*")}

    keep(workplace.folder / "results", measured())
    exported(workplace)
    before = files()
    again = workplace.call_here("export", "every-eval-ever", "results", "--to", "out")
    assert again.code == 2
    assert "is there already; name another folder, or --force replaces them" in again.errors
    exported(workplace, "results", "--force")
    assert files() == before


def test_what_has_no_value_or_direction_is_left_out_with_the_reason(workplace: Workplace) -> None:
    metrics = {
        "memory.static": 12.0,
        "load_time": None,
        "weights": 3.0,
        "bits_per_weight.model": -1.0,
    }
    for record in (
        make_record("nf4", metrics=metrics, more_metrics=(make_metric("disk_bytes", math.inf),)),
        make_failure("nf4", "memory", "oom", "out of memory", slug="b1"),
    ):
        keep(workplace.folder / "results", record)
    done = workplace.call_here("export", "every-eval-ever", "results", "--to", "out", "--force")
    assert "left out: 1 figure: could not be taken" in done.errors
    assert "left out: 1 figure: neither lower nor higher is better" in done.errors
    assert "left out: 1 figure: oom: out of memory" in done.errors
    assert "the files say 'unknown'; say it with --organization" in done.errors
    (log,) = exported(workplace, "results", "--force")
    names = [one["metric_config"]["metric_name"] for one in log["evaluation_results"]]
    assert names == ["memory.static", "bits_per_weight.model"]
    # A value beyond the bounds that such a metric has: they are not claimed.
    assert "min_score" not in log["evaluation_results"][1]["metric_config"]


def test_models_by_who_made_them(workplace: Workplace) -> None:
    tuned = TuningRef(
        label="lora", arm="lora", method="lora", precision=PrecisionRef(label="bf16", name="bf16")
    )
    hub = of_model(measured(suite="hub"), "hub", "mistralai/Mistral-7B-v0.1")
    own = of_model(measured(suite="own"), "folder", "/home/someone/models/m")
    adapted = of_model(
        measured(suite="hub", params={"tuned": True}),
        "hub",
        "mistralai/Mistral-7B-v0.1",
        tuning=tuned,
        deploy="merged",
    )
    for record in (hub, own, adapted):
        keep(workplace.folder / "results", record)
    (log,) = exported(workplace, "results/hub")
    assert log["model_info"]["id"] == "mistralai/Mistral-7B-v0.1"
    refused = workplace.call_here("export", "every-eval-ever", "results/own", "--to", "out")
    assert refused.code == 2
    assert "nothing says who made the model; say it with --developer NAME" in refused.errors
    ids = {
        log["model_info"]["id"]
        for suite in ("hub", "own")
        for log in exported(workplace, f"results/{suite}", "--developer", "my-lab", "--force")
    }
    assert ids == {"mistralai/Mistral-7B-v0.1", "my-lab/m--lora", "my-lab/m"}
    assert "someone" not in "".join(
        path.read_text() for path in workplace.folder.rglob("*-*.json") if "out" in path.parts
    )


def test_names_that_lead_elsewhere_stay_in_the_folder(workplace: Workplace) -> None:
    keep(workplace.folder / "results", of_model(measured(), "hub", "../../../etc"))
    (log,) = exported(workplace)
    validator("eval").validate(log)
    assert not list(workplace.folder.glob("*/etc"))


def test_samples_of_a_strange_form_are_left_out(workplace: Workplace) -> None:
    for path in (PUBLISHED / "full").rglob("tiny-mistral--nf4/generation-*.json"):
        record = read_record(path)
        assert record is not None
        counts = [{"not": "a number"} for _ in record.details["prompt_tokens"]]
        changed = {"details": {**record.details, "prompt_tokens": counts}}
        keep(workplace.folder / "results", record.model_copy(update=changed))
    (log,) = exported(workplace)
    assert "detailed_evaluation_results" not in log


def test_bad_options(workplace: Workplace) -> None:
    def refused(*arguments: str) -> str:
        command = ("export", "every-eval-ever", "results", "--to", "out", *arguments)
        done = workplace.call_here(*command)
        assert done.code == 2
        return done.errors

    keep(workplace.folder / "results", measured())
    assert "expected one of first_party, third_party" in refused("--relationship", "friend")
    assert "expected the name of a folder" in refused("--developer", "../x")
    keep(workplace.folder / "results", measured(suite="other", rehearsal=("one item",)))
    exported(workplace)
    assert not any(
        "other" in log["evaluation_id"] for log in exported(workplace, "results", "--force")
    )
