"""`export hub`: files for leaderboards, held against the owner's classes, and sent to a hub."""

from __future__ import annotations

import os
import pty
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries

from qbench.core.store import read_record
from qbench.report.exports.model_card import BEGIN
from tests.cli.export.hub_server import COMMIT, TOKEN, Hub, Refusal, serving
from tests.record_factory import make_failure
from tests.workplace import QBENCH, REPOSITORY, Workplace, keep

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qbench.core.record import Record

PUBLISHED = REPOSITORY / "results" / "published" / "full" / "cpu-intel-xeon-2c"
REVISION = "e53f048856ff4f594e959d75785d2c2d37b678ee"
GSM8K = {"hub": True, "path": "openai/gsm8k", "name": "main", "split": "test", "revision": REVISION}
EVAL_YAML = """\
name: GSM8K
evaluation_framework: inspect-ai
tasks:
  - {id: gsm8k, config: main, split: test}
  - {id: gsm8k-socratic, config: socratic, split: test}
"""
FILE = ".eval_results/qbench-tasks-gsm8k-exact_match-strict-match.yaml"
PUSH = ("--push", "me/my-model")


def of_gsm8k(record: Record, **details: Any) -> Record:
    """A record of the bundled completion as one of gsm8k: the items and scores are real ones."""
    (metric,) = record.metrics
    made = metric.model_copy(update={"name": "tasks.gsm8k.exact_match@strict-match"})
    other = metric.model_copy(update={"name": "tasks.gsm8k.exact_match@flexible-extract"})
    scores = record.series["item_exact_match"]
    task = {"name": "gsm8k", "location": None, "fingerprint": "0" * 64}
    item = record.item.model_copy(
        update={"slug": "gsm8k", "params": {**record.item.params, "task": task}}
    )
    return record.model_copy(
        update={
            "item": item,
            "metrics": (made, other),
            "series": {
                "item_exact_match@strict-match": scores,
                "item_exact_match@flexible-extract": scores,
            },
            "details": {**record.details, "data": {"gsm8k": GSM8K}, "few_shot": 5, **details},
        }
    )


def write_records(place: Workplace, **details: Any) -> None:
    """Records of nf4 and its reference below `results/full`, one task of the Hub among them."""
    for name in ("tiny-mistral--nf4", "tiny-mistral--fp32"):
        for path in (PUBLISHED / name).glob("*.json"):
            record = read_record(path)
            assert record is not None
            if record.item.measurement not in ("footprint", "quality", "tasks"):
                continue
            keep(place.folder / "results", record)
            if record.item.slug == "stdlib-completion":
                keep(place.folder / "results", of_gsm8k(record, **details))


@pytest.fixture
def hub() -> Iterator[Hub]:
    """A hub with an empty repository, and a dataset that is a benchmark."""
    files = {"me/my-model": {}, "datasets/openai/gsm8k": {"eval.yaml": EVAL_YAML}}
    with serving(Hub(files)) as found:
        yield found


@pytest.fixture
def place(tmp_path: Path, hub: Hub) -> Workplace:
    made = Workplace(tmp_path, Path("bundled:tiny-mistral"))
    write_records(made)
    return made.with_environment(HF_ENDPOINT=hub.url, HF_TOKEN=TOKEN)


def call(place: Workplace, *more: str) -> Any:
    return place.call_here("export", "hub", "results/full", "nf4", *more)


def entry(text: str) -> Any:
    (found,) = parse_eval_result_entries(yaml.safe_load(text))
    return found


def value_of(place: Workplace) -> float:
    found = [one for one in place.records().values() if one.item.slug == "gsm8k"]
    value = next(one for one in found if one.cell.label == "nf4").metrics[0].value
    assert value is not None
    return value


# ---------------------------------------------------------------- files


def test_a_file_reads_back_as_the_entry_that_it_holds(place: Workplace, hub: Hub) -> None:
    done = call(place, "--to", "out", "--task-id", "gsm8k=gsm8k", "--source", "https://x.org/r")
    assert done.code == 0, done.errors
    found = entry((place.folder / "out" / FILE).read_text())
    assert (found.dataset_id, found.task_id, found.dataset_revision) == (
        "openai/gsm8k",
        "gsm8k",
        REVISION,
    )
    assert found.value == value_of(place)
    assert found.verify_token is None
    assert (found.source_url, found.source_name) == ("https://x.org/r", "qbench")
    assert found.date.startswith("2026-")
    for words in ("a share, from 0 to 1", "5-shot", "lm-eval 0.4.13", "95 % interval", "nf4"):
        assert words in found.notes
    assert hub.asked == []


def test_what_no_leaderboard_takes_is_said_with_its_reason(place: Workplace) -> None:
    done = call(place, "--to", "out", "--task-id", "gsm8k=gsm8k")
    assert "quality stdlib-heldout-w256-default perplexity: no leaderboard" in done.errors
    assert "tasks stdlib-choice acc: its data is no dataset of the Hub" in done.errors
    assert "exact_match@flexible-extract: a leaderboard has one value a task" in done.errors
    assert len(list((place.folder / "out").rglob("*.yaml"))) == 1


def test_what_files_and_card_leave_out_is_told_once(place: Workplace) -> None:
    keep(place.folder / "failed", make_failure("nf4", "tasks", "oom", "no room", slug="sums"))
    done = place.call_here("export", "hub", "failed", "nf4", "--to", "out", "--card")
    assert done.code == 0, done.errors
    assert done.errors.count("- tasks sums: oom: no room") == 1


def test_metrics_that_are_asked_for_and_percentages(place: Workplace) -> None:
    done = call(
        place, "--to", "out", "--task-id", "gsm8k=gsm8k", "--metric", "*@flexible*", "--percent"
    )
    assert done.code == 0, done.errors
    (file,) = (place.folder / "out").rglob("*.yaml")
    assert "flexible-extract" in file.name
    found = entry(file.read_text())
    assert found.value == pytest.approx(100 * value_of(place))
    assert "in percent" in found.notes


def test_a_task_of_some_items_is_no_score_of_the_whole(place: Workplace) -> None:
    write_records(place, items=400, items_in_all=1319)
    done = call(place, "--to", "out", "--task-id", "gsm8k=gsm8k")
    assert done.code == 2
    assert "taken on 400 of 1319 items" in done.errors
    assert "found no score" in done.errors


def test_a_warning_stands_in_the_notes_and_is_told(place: Workplace) -> None:
    (path,) = (place.folder / "results").rglob("tiny-mistral--nf4/tasks-gsm8k-*.json")
    record = read_record(path)
    assert record is not None
    warned = record.model_copy(update={"warnings": ("the device was busy",)})
    keep(place.folder / "results", warned)
    done = call(place, "--to", "out", "--task-id", "gsm8k=gsm8k")
    assert "exported with a warning: the device was busy" in done.errors
    assert entry((place.folder / "out" / FILE).read_text()).notes.endswith("the device was busy")


def test_a_task_whose_name_on_the_leaderboard_nobody_said(place: Workplace) -> None:
    done = call(place, "--to", "out")
    assert done.code == 2
    assert "--task-id gsm8k=ID says it" in done.errors


def test_a_file_that_is_there_stays_without_force(place: Workplace) -> None:
    asked = ("--to", "out", "--task-id", "gsm8k=gsm8k")
    assert call(place, *asked).code == 0
    again = call(place, *asked)
    assert again.code == 2
    assert "--force replaces it" in again.errors
    assert call(place, *asked, "--force").code == 0


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ((), "--to: found neither it nor --push"),
        (("--to", "out", "--dry-run"), "--dry-run: found no --push"),
        (("--to", "out", "--task-id", "gsm8k"), "expected TASK=ID"),
        (("--to", "results/full/x.json"), "found no score"),
        (("--push", "no name"), "expected OWNER/NAME"),
    ],
)
def test_usage(place: Workplace, more: tuple[str, ...], told: str) -> None:
    done = call(place, *more)
    assert done.code == 2
    assert told in done.errors


# ---------------------------------------------------------------- sending


def test_a_dry_run_shows_all_and_sends_nothing(place: Workplace, hub: Hub) -> None:
    hub.files["me/my-model"]["README.md"] = "---\nlicense: mit\n---\n\n# Mine\n\nOf my own.\n"
    done = call(place, *PUSH, "--card", "--dry-run")
    assert done.code == 0, done.errors
    assert hub.sent == []
    assert hub.commits == []
    assert f"me/my-model: {FILE}" in done.output
    assert "new" in done.output
    assert "README.md" in done.output
    assert f"+{BEGIN}" in done.output
    assert "+  value:" in done.output
    assert "nothing was sent" in done.output
    assert TOKEN not in done.output + done.errors


def test_a_commit_holds_what_was_shown(place: Workplace, hub: Hub) -> None:
    hub.files["me/my-model"]["README.md"] = "---\nlicense: mit\n---\n\n# Mine\n\nOf my own.\n"
    done = call(place, *PUSH, "--card", "--yes")
    assert done.code == 0, done.errors
    (commit,) = hub.commits
    assert commit["repository"] == "me/my-model"
    assert not commit["pull"]
    assert commit["lines"][0]["value"]["parentCommit"] == COMMIT
    files = hub.files["me/my-model"]
    found = entry(files[FILE])
    assert found.task_id == "gsm8k"  # by the configuration in eval.yaml
    card = ModelCard(files["README.md"])
    assert card.data.license == "mit"
    assert "Of my own." in card.text
    assert BEGIN in card.text
    assert hub.tokens == {f"Bearer {TOKEN}"}
    assert TOKEN not in done.output + done.errors
    again = call(place, *PUSH, "--card", "--yes")
    assert "nothing was sent" in again.output
    assert len(hub.commits) == 1


def test_another_value_on_the_same_leaderboard_is_told(place: Workplace, hub: Hub) -> None:
    theirs = "- dataset: {id: openai/gsm8k, task_id: gsm8k}\n  value: 57.2\n"
    hub.files["me/my-model"] |= {
        ".eval_results/gsm8k.yaml": theirs,
        ".eval_results/other.yaml": theirs.replace("task_id: gsm8k", "task_id: other"),
        ".eval_results/broken.yaml": "- dataset: {}\n",
    }
    done = call(place, *PUSH, "--dry-run")
    assert done.code == 0, done.errors
    assert ".eval_results/gsm8k.yaml: holds 57.2 of the same gsm8k of openai/gsm8k" in done.errors
    assert ".eval_results/broken.yaml: cannot be read (KeyError); it stays" in done.errors
    assert "other.yaml" not in done.errors


def test_a_pull_request(place: Workplace, hub: Hub) -> None:
    done = call(place, *PUSH, "--pull-request", "--yes")
    assert done.code == 0, done.errors
    assert hub.commits[0]["pull"]
    assert "/discussions/1" in done.output


def test_without_a_terminal_nothing_is_sent_unless_told(place: Workplace, hub: Hub) -> None:
    done = call(place, *PUSH)
    assert done.code == 2
    assert "expected --yes" in done.errors
    assert hub.sent == []


@pytest.mark.slow
@pytest.mark.parametrize(("typed", "count"), [("n\n", 0), ("y\n", 1)])
def test_at_a_terminal_it_asks(place: Workplace, hub: Hub, typed: str, count: int) -> None:
    ours, theirs = pty.openpty()
    try:
        os.write(ours, typed.encode())
        done = subprocess.run(
            [str(QBENCH), "export", "hub", "results/full", "nf4", *PUSH],
            cwd=place.folder,
            env=place.environment,
            stdin=theirs,
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 0, done.stderr
    assert "commit with 1 of these files to me/my-model?" in done.stdout
    assert len(hub.commits) == count


def test_without_a_token(place: Workplace, hub: Hub) -> None:
    done = call(place.with_environment(HF_TOKEN=""), *PUSH, "--yes")
    assert done.code == 2
    assert "found no token of the hub" in done.errors
    assert hub.sent == []


@pytest.mark.parametrize(
    ("asked", "refusal", "told"),
    [
        ("GET /api/models", Refusal(404, "RepoNotFound"), "(HTTP 404): there is none of that name"),
        ("GET /api/models", Refusal(401), "(HTTP 401)"),
        ("GET /api/models", Refusal(403, "GatedRepo"), "grants access one by one"),
        ("POST /api/models/me/my-model/commit", Refusal(403), "the token may not do this"),
        ("POST /api/models/me/my-model/commit", Refusal(412), "changed at the same time"),
        ("POST /api/models/me/my-model/commit", Refusal(500), "(HTTP 500): try again later"),
    ],
)
def test_what_the_hub_refuses_is_one_line(
    place: Workplace, hub: Hub, asked: str, refusal: Refusal, told: str
) -> None:
    hub.refuses[asked] = refusal
    done = call(place, *PUSH, "--yes")
    assert done.code == 2
    (line,) = [one for one in done.errors.splitlines() if one.startswith("qbench:")]
    assert told in line
    assert TOKEN not in done.output + done.errors
    assert hub.commits == []


def test_no_network(place: Workplace) -> None:
    done = call(place.with_environment(HF_ENDPOINT="http://127.0.0.1:9"), *PUSH, "--dry-run")
    assert done.code == 2
    assert "the hub cannot be reached" in done.errors


def test_a_dataset_that_is_no_benchmark(place: Workplace, hub: Hub) -> None:
    hub.files["datasets/openai/gsm8k"].clear()
    done = call(place, *PUSH, "--dry-run")
    assert done.code == 2
    assert "its eval.yaml, which a benchmark of the Hub has, was not read" in done.errors


def test_a_name_that_the_benchmark_does_not_have(place: Workplace) -> None:
    done = call(place, *PUSH, "--dry-run", "--task-id", "gsm8k=main")
    assert done.code == 2
    assert "found no such task of openai/gsm8k; there is gsm8k, gsm8k-socratic" in done.errors
