"""The composite action: its file, and its steps on records that are there already."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest

from qbench.report.gate.github_markdown import LARGEST_COMMENT
from tests.composite import read_action
from tests.paired_records import losses, quality
from tests.tools.conftest import pull_request
from tests.workplace import REPOSITORY, keep

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.composite import Composite
    from tests.tools.github_api import Comments
    from tests.workplace import Workplace

    Job = Callable[..., Composite]

PINNED = re.compile(r"[\w-]+(/[\w-]+)+@[0-9a-f]{40}")
PYTHON = """#!/bin/sh
echo "$@" >> '{calls}'
if [ "$2" = venv ]; then mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; fi
"""
"""Notes what it is asked for; one that is installed beside it is the same."""
ODD = 'it\'s a "suite" $(touch pwned) `touch pwned` *.yaml'
SUITE = """\
name: quickstart
models: [{model}]
precisions: [fp32, nf4]
measure: [footprint]
gate: {{perplexity: {{max_increase: 1%, against: reference}}}}
"""
COMMENT = ("Comment on the pull request",)
GATE = ("gate", "upload", *COMMENT)


def write(place: Workplace, *, worse_by: float, name: str = "suite.yaml") -> str:
    """A suite, and records of two cells, the second of which has a larger loss by that."""
    place.write(name, SUITE.format(model=place.model))
    keep(place.folder / "results", quality("fp32", losses(0.0)))
    keep(place.folder / "results", quality("nf4", losses(worse_by, seed=3)))
    return name


def prepared(job: Composite) -> Composite:
    """With the Python that has qbench, as the step of the installation tells it."""
    job.outputs_of_others = {**job.outputs_of_others, "install": {"python": sys.executable}}
    return job


def gated(job: Composite, comment: str) -> Composite:
    """After a gate that wrote that for the comment."""
    path = job.temporary / "gate.md"
    path.write_text(comment + "\n", encoding="utf-8")
    outputs = {"folder": str(job.temporary), "comment": str(path)}
    job.outputs_of_others = {**prepared(job).outputs_of_others, "gate": outputs}
    return job


def test_no_text_of_others_reaches_a_script_and_what_is_used_is_pinned() -> None:
    for step in read_action()["runs"]["steps"]:
        assert "${{" not in step.get("run", "")
        assert "run" in step or PINNED.fullmatch(step["uses"])


@pytest.mark.parametrize(("extras", "asked"), [("", ""), ("gguf, hqq", "[gguf,hqq]")])
def test_qbench_is_installed_from_the_checkout_in_the_tested_versions(
    job: Job, place: Workplace, extras: str, asked: str
) -> None:
    calls = place.folder / "calls"
    called = place.write("python3", PYTHON.format(calls=calls))
    called.chmod(0o755)
    used = job()
    path = f"{place.folder}:{used.environment['PATH']}"
    used.environment = {**used.environment, "PATH": path}
    assert used.call(("Python", "install"), suite="any", extras=extras, python_version="3.12")
    assert used.steps["Python"].given == {"python-version": "3.12"}
    made = used.temporary / "qbench-venv"
    assert used.outputs["python"] == str(made / "bin" / "python")
    venv, torch, pip = calls.read_text("utf-8").splitlines()
    assert venv == f"-m venv {made}"
    assert torch.startswith("- ")  # asks whether the tested torch is there, which it says
    assert pip.endswith(f" --constraint {REPOSITORY}/constraints.txt {REPOSITORY}{asked}")


def test_a_regression_is_kept_and_told_before_it_fails(
    job: Job, place: Workplace, comments: Comments
) -> None:
    used = prepared(job())
    assert not used.call(GATE, suite=write(place, worse_by=0.05, name=ODD), artifact="night: 1")
    gate, upload = used.steps["gate"], used.steps["upload"]
    assert (gate.code, gate.outcome, upload.outcome) == (1, "failure", "success")
    assert used.outputs["verdict"] == "regression"
    assert used.outputs["exit-code"] == "1"
    assert used.outputs["summary"].startswith("gate failed")
    assert used.outputs["artifact-url"].endswith("/artifacts/5")
    assert "::error file=" in gate.log
    assert used.summary.startswith("## ❌ qbench gate")

    kept = Path(upload.given["path"])
    assert upload.given["name"] == "night: 1"
    assert Path(used.outputs["page"]).read_text("utf-8").lower().startswith("<!doctype html>")
    assert json.loads(Path(used.outputs["json"]).read_text("utf-8"))["exit_code"] == 1
    assert ET.parse(used.outputs["junit"]).getroot().get("failures") == "1"
    assert {Path(used.outputs[name]).parent for name in ("page", "json", "junit")} == {kept}
    assert len(list((kept / "results" / "quickstart").rglob("*.json"))) == 2
    assert not (place.folder / "pwned").exists()

    (body,) = comments.bodies.values()
    assert body.startswith("<!-- qbench action: night%3A%201 -->\n### ❌ qbench gate: quickstart\n")
    assert "broken" in body
    assert "](https://github.com/someone/models/artifacts/5)" in body
    assert "](https://github.com/someone/models/actions/runs/99)" in body
    assert f"commit {'a' * 40}" in body


def test_the_next_push_writes_the_same_comment_anew(job: Job, comments: Comments) -> None:
    comments.bodies = {number: f"talk {number}" for number in range(1, 151)}
    comments.bodies[151] = "> <!-- qbench action: qbench -->\nquoted"
    assert gated(job(), "### ❌ first").call(COMMENT, suite="any")
    assert gated(job(event=pull_request(commit="b" * 40)), "### ✅ then").call(COMMENT, suite="any")
    assert len(comments.bodies) == 152
    assert comments.bodies[152].startswith("<!-- qbench action: qbench -->\n### ✅ then\n")
    assert "b" * 40 in comments.bodies[152]
    methods = [asked.split()[0] for asked in comments.asked]
    assert methods == ["GET", "GET", "POST", "GET", "GET", "PATCH"]

    assert gated(job(), "### ✅ other").call(COMMENT, suite="any", artifact="other")
    assert len(comments.bodies) == 153  # another name, another comment
    assert comments.bodies[152].startswith("<!-- qbench action: qbench -->\n### ✅ then\n")


def test_a_strangers_comment_with_the_mark_is_left_alone(job: Job, comments: Comments) -> None:
    mark = "<!-- qbench action: qbench -->"
    comments.bodies, comments.strangers = {1: f"{mark}\n### ✅ fine, says a stranger"}, {1}
    assert gated(job(), "### ❌ first").call(COMMENT, suite="any")
    assert gated(job(), "### ❌ then").call(COMMENT, suite="any")
    assert comments.bodies[1].endswith("says a stranger")
    assert list(comments.bodies) == [1, 2]
    assert comments.bodies[2].startswith(f"{mark}\n### ❌ then")


def test_the_longest_comment_of_a_gate_is_taken(job: Job, comments: Comments) -> None:
    used = gated(job(), "x" * LARGEST_COMMENT)
    assert used.call(COMMENT, suite="any", artifact="name " * 20)
    assert len(comments.bodies) == 1, used.log


@pytest.mark.slow
def test_a_regression_may_be_forgiven(job: Job, place: Workplace) -> None:
    used = prepared(job())
    suite = write(place, worse_by=0.05)
    assert used.call(GATE, suite=suite, fail_on_regression="false", comment="false")
    assert used.outputs["verdict"] == "regression"
    assert "::warning title=qbench action::A regression" in used.log
    assert used.steps["Comment on the pull request"].outcome == "skipped"


@pytest.mark.slow
def test_what_cannot_be_gated_is_not_forgiven(
    job: Job, place: Workplace, comments: Comments
) -> None:
    used = prepared(job())
    suite = write(place, worse_by=0.0)
    given = {"suite": suite, "baseline": "none.json.gz", "fail_on_regression": "false"}
    assert not used.call(GATE, **given)
    assert used.steps["gate"].code == 2
    assert (used.outputs["verdict"], used.outputs["page"]) == ("failed", "")
    assert used.steps["upload"].outcome == "success"  # the records are kept
    (body,) = comments.bodies.values()
    assert "came to no verdict" in body


@pytest.mark.slow
def test_the_first_baseline_is_proposed(job: Job, place: Workplace, comments: Comments) -> None:
    used = prepared(job())
    given = {"suite": write(place, worse_by=0.0), "baseline": "old/suite-cpu.json.gz"}
    assert used.call(GATE, **given, propose_baseline="true")
    assert used.outputs["verdict"] == "no-baseline"
    made = Path(used.steps["upload"].given["path"]) / "suite-cpu.json.gz"
    assert "take suite-cpu.json.gz from the artifact qbench" in used.summary
    assert "::warning title=qbench action::There is no baseline yet" in used.log
    assert "commit it as old/suite-cpu.json.gz" in comments.bodies[1]

    (place.folder / "old").mkdir()
    made.rename(place.folder / "old" / made.name)
    assert used.call(GATE, **given, propose_baseline="true")
    assert used.outputs["verdict"] == "passed"


@pytest.mark.slow
def test_a_proposed_baseline_is_of_the_suite_as_it_was_set(job: Job, place: Workplace) -> None:
    suite = write(place, worse_by=0.0, name="named otherwise.yaml")
    text = (place.folder / suite).read_text("utf-8").replace("name: quickstart\n", "")
    (place.folder / suite).write_text(text, encoding="utf-8")
    used = prepared(job())
    given = {"suite": suite, "settings": "name=quickstart", "propose_baseline": "true"}
    assert used.call(GATE, **given, baseline="old"), used.log
    made = Path(used.steps["upload"].given["path"]) / "quickstart.json.gz"
    assert made.is_file()
    assert "commit it as old/quickstart.json.gz" in used.summary

    (place.folder / "old").mkdir()
    made.rename(place.folder / "old" / made.name)
    assert used.call(GATE, **given, baseline="old"), used.log
    assert used.outputs["verdict"] == "passed"


@pytest.mark.slow
def test_links_folders_and_pipes_among_the_records_do_not_stop_the_gate(
    job: Job, place: Workplace
) -> None:
    suite = write(place, worse_by=0.0)
    records = place.folder / "results" / "quickstart"
    (records / "dangling").symlink_to("nowhere")
    (records / "out.json").symlink_to(place.write("secret", "a key"))
    os.mkfifo(records / "pipe")
    (place.folder / "reports" / "quickstart-old").mkdir(parents=True)
    used = prepared(job())
    assert used.call(GATE, suite=suite), used.log
    assert used.outputs["verdict"] == "passed"
    assert "::warning title=qbench action::Not all records and reports are in" in used.log
    kept = Path(used.steps["upload"].given["path"])
    assert len(list((kept / "results" / "quickstart").rglob("*--*/*.json"))) == 2
    assert not [path for path in kept.rglob("*") if path.is_symlink()]
    assert not [path for path in kept.rglob("*.json") if path.name == "out.json"]


def test_a_folder_named_qbench_is_not_taken_for_what_is_installed(
    job: Job, place: Workplace
) -> None:
    (place.folder / "qbench").mkdir()
    place.write("qbench/__init__.py", "")
    place.write("qbench/__main__.py", "")
    used = job()
    used.environment = {**used.environment, "PYTHONPATH": ""}
    assert not used.call(("install",), suite="any", python="/usr/bin/python3")
    assert "found /usr/bin/python3, which does not run qbench" in used.log


def test_no_line_of_an_input_becomes_an_output_of_its_own(job: Job, place: Workplace) -> None:
    odd = place.write("py\npython=sh", "#!/bin/sh\n")
    odd.chmod(0o755)
    used = job()
    assert not used.call(("install",), suite="any", python="./py\npython=sh")
    assert used.steps["install"].outputs == {}
    assert "\npython=" not in used.log


def test_no_token_of_the_hub_is_kept_in_a_cache(job: Job) -> None:
    used = job()
    (cache,) = [one["name"] for one in read_action()["runs"]["steps"] if "cache@" in str(one)]
    used.environment = {**used.environment, "HF_HOME": "/models", "QBENCH_CACHE": "/mine"}
    assert used.call((cache,), suite="any")
    assert used.steps[cache].given["path"].split() == ["/models/hub", "/models/datasets", "/mine"]


@pytest.mark.parametrize(
    ("event", "told"),
    [
        ({"ref": "refs/heads/main"}, "::notice title=qbench action::No comment: this is no run"),
        (pull_request("fork/models"), "No comment: the token of a pull request from a fork"),
        (pull_request(None), "No comment: the token of a pull request from a fork"),
    ],
)
def test_nothing_is_asked_of_github_without_a_request_of_the_repository_itself(
    job: Job, comments: Comments, event: dict[str, Any], told: str
) -> None:
    used = gated(job(event=event), "### ✅ fine")
    assert used.call(COMMENT, suite="any")
    assert told in used.log
    assert comments.asked == []


@pytest.mark.parametrize(
    ("status", "location", "told"),
    [
        (403, "", "answered 403 Forbidden. The job needs `permissions: {pull-requests: write}`."),
        (500, "", "answered 500 Internal Server Error."),
        (302, "/elsewhere", "answered 302 Found."),
        (200, "", "answered what is no list of comments."),
    ],
)
def test_a_comment_that_is_refused_fails_nothing(
    job: Job, comments: Comments, status: int, location: str, told: str
) -> None:
    comments.status, comments.location = status, location
    used = gated(job(), "### ✅ fine")
    assert used.call(COMMENT, suite="any")
    assert f"::warning title=qbench action::No comment: {comments.url}" in used.log
    assert told in used.log
    assert len(comments.asked) == 1  # a token is not sent on


def test_an_answer_of_another_form_fails_nothing(
    job: Job, comments: Comments, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comments, "answer", lambda *_: (200, [{"id": 1}]))
    used = gated(job(), "### ✅ fine")
    assert used.call(COMMENT, suite="any")
    assert f"No comment: {comments.url} answered what is no comment (KeyError" in used.log


def test_a_comment_that_reaches_nobody_fails_nothing(job: Job) -> None:
    used = gated(job(), "### ✅ fine")
    used.environment = {**used.environment, "GITHUB_API_URL": "http://127.0.0.1:9"}
    assert used.call(COMMENT, suite="any")
    assert "::warning title=qbench action::No comment: http://127.0.0.1:9" in used.log


@pytest.mark.slow
def test_the_records_of_a_commit_are_what_is_held_against(job: Job, place: Workplace) -> None:
    suite = write(place, worse_by=0.0)
    rules = SUITE.replace(", against: reference", "").format(model=place.model)
    (place.folder / suite).write_text(rules, encoding="utf-8")
    assert place.call_here("baseline", suite).code == 0
    for command in (["init", "-q"], ["add", "-f", "results/baselines"], ["commit", "-qm", "One"]):
        name = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *name, *command], cwd=place.folder, check=True)
    shutil.rmtree(place.folder / "results" / "baselines")
    write(place, worse_by=0.05)
    (place.folder / suite).write_text(rules, encoding="utf-8")
    used = prepared(job())
    assert not used.call(GATE, suite=suite, baseline_from_git="HEAD")
    assert used.outputs["verdict"] == "regression"
    assert not used.call(GATE, suite=suite, against="HEAD~7", propose_baseline="true")
    assert (used.outputs["verdict"], used.steps["gate"].code) == ("failed", 2)
    assert "HEAD~7" in used.steps["gate"].log


@pytest.mark.slow
def test_lists_have_an_entry_a_line_and_nothing_passes_a_shell(job: Job, place: Workplace) -> None:
    write(place, worse_by=0.0, name=ODD)
    used = prepared(job())
    assert used.call(
        ("run",),
        suite=ODD,
        only="nf4*\n\n  fp32  \n",
        settings="name=other\n\ngate.perplexity.max_increase=2%\n",
        run_arguments="--print-suite\n",
    )
    assert "name: other" in used.log
    assert "max_increase: 2%" in used.log
    assert not (place.folder / "pwned").exists()


@pytest.mark.slow
def test_what_is_neither_true_nor_false_is_told_before_anything_is_measured(
    job: Job, place: Workplace
) -> None:
    used = prepared(job())
    suite = write(place, worse_by=0.0)
    assert not used.call(("run", *GATE), suite=suite, fail_on_regression="no")
    assert "fail-on-regression: found 'no'; expected true or false" in used.log
    assert used.steps["run"].code == 2
    assert used.steps["upload"].outcome == "skipped"
