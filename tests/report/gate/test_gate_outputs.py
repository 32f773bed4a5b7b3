"""What CI systems read of a gate: JUnit XML, a step summary, annotations; and the terminal's."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import pytest

from qbench.compare.estimates.bootstrap import Sampling
from qbench.compare.gate.gate import run_gate
from qbench.report.format import Gated
from qbench.report.gate import github_markdown, junit, workflow_commands
from qbench.report.gate.page import gate_on_screen, gate_page
from qbench.report.markdown import render as as_markdown
from tests.compare.gate.rule_section import read_rules
from tests.pages import on_terminal
from tests.paired_records import footprint, latency, losses, quality
from tests.record_factory import make_environment, make_failure

if TYPE_CHECKING:
    from qbench.compare.gate.gate import GateOutcome

RULES = {
    "perplexity": {"max_increase": "1%"},
    "memory.static": {"max_increase": "2%", "ceiling": "50%"},
    "latency.decode": {"max_increase": "10%"},
}


@pytest.fixture(scope="module")
def outcome() -> GateOutcome:
    """One check of each kind: holds, improved, broken, missing, incomparable, not applicable."""
    other = make_environment(device="Other", device_kind="cpu-other", git_revision="fff")
    reason = "died | of `this`\x1b[31m,\nand <that> & 100%: all"
    params = {"text": {"fingerprint": "bb"}, "window": 256, "batch": 4}
    new = [
        quality("fp32", losses(0.0, seed=2), environment=other),
        quality("fp4", losses(0.05, seed=3), environment=other),
        quality("nf4", losses(0.0, seed=4), params=params, environment=other),
        make_failure("int8", "footprint", "crash", reason, slug="model", environment=other),
        footprint("nf4", 100, environment=other),
        *latency("nf4", [0.01] * 5, environment=other),
    ]
    old = [
        *(quality(label, losses(0.0)) for label in ("fp32", "fp4", "nf4")),
        *(footprint(label, 1000) for label in ("int8", "nf4")),
        *latency("nf4", [0.01] * 5),
    ]
    return run_gate(read_rules(RULES), new, old, sampling=Sampling(resamples=1000))


def test_the_outcome_has_every_kind(outcome: GateOutcome) -> None:
    assert dict(outcome.counts) == {
        "holds": 1,
        "broken": 1,
        "incomparable": 1,
        "missing": 1,
        "improved": 1,
        "not applicable": 1,
    }
    assert outcome.exit_code == 1


def test_junit_counts_and_names_every_check(outcome: GateOutcome) -> None:
    top = ET.fromstring(junit.render(Gated(outcome, "quickstart", "suites/a,b.yaml")).encode())
    (suite,) = top.findall("testsuite")
    counts = {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped")}
    assert counts == {"tests": "6", "failures": "2", "errors": "1", "skipped": "1"}
    cases = suite.findall("testcase")
    names = {(case.get("classname"), case.get("name")) for case in cases}
    assert len(names) == 6
    kinds = {case.get("classname"): [child.tag for child in case] for case in cases}
    assert kinds["tiny-mistral.fp4.quality"] == ["failure"]
    assert kinds["tiny-mistral.nf4.quality"] == ["error"]
    assert kinds["tiny-mistral.nf4.latency"] == ["skipped"]
    assert kinds["tiny-mistral.fp32.quality"] == ["system-out"]
    (failure,) = (case.find("failure") for case in cases if "int8" in str(case.get("classname")))
    assert failure is not None
    assert "and <that> & 100%: all" in str(failure.get("message")).replace("\n", " ")


def test_the_step_summary_shows_what_is_wrong_first(outcome: GateOutcome) -> None:
    text = github_markdown.render(Gated(outcome, "quickstart", "a.yaml"))
    assert text.startswith("## ❌ qbench gate")
    wrong, right = text.split("<details>")
    for words in ("broken", "missing", "incomparable", "too good", "git revision"):
        assert words in wrong
    assert "improved" in right
    assert "not applicable" in right
    widths = {line.count(" | ") for line in wrong.splitlines() if "| ❌" in line}
    assert widths == {4}  # nothing in a cell breaks the table
    assert "Holm" in text


def many(outcome: GateOutcome, times: int) -> Gated:
    """The same checks and conditions as often as that."""
    more = replace(outcome, checks=outcome.checks * times, conditions=outcome.conditions * times)
    return Gated(more, "quickstart", "a.yaml")


def test_a_summary_that_github_would_refuse_shows_the_first_and_counts_the_rest(
    outcome: GateOutcome,
) -> None:
    gated = many(outcome, 2000)
    assert len(as_markdown(gate_page(gated.outcome)).encode()) > 2**20
    text = github_markdown.render(gated)
    assert len(text.encode()) < 2**20
    assert "gate failed" in text
    assert text.count("| ❌ ") + text.count("| ⛔ ") == 100
    assert "5900 of what does not hold" in text
    assert "6000 that hold or do not apply" in text


@pytest.mark.parametrize("times", [1, 30, 300])
def test_a_comment_fits_on_a_pull_request(outcome: GateOutcome, times: int) -> None:
    text = github_markdown.render_comment(many(outcome, times))
    assert len(text) <= 60_000
    assert text.startswith("### ❌ qbench gate: quickstart\n")
    assert "gate failed" in text
    assert "broken" in text
    assert ("<details>" in text) == (times <= 30)
    assert ("Left out" in text) == (times > 30)


def test_of_checks_too_long_for_a_comment_the_answer_is_left(outcome: GateOutcome) -> None:
    (broken,) = [check for check in outcome.checks if check.verdict.name == "broken"]
    long = replace(broken, verdict=replace(broken.verdict, reason="long " * 20_000))
    text = github_markdown.render_comment(Gated(replace(outcome, checks=(long,)), "q", "a.yaml"))
    assert len(text) <= 60_000
    assert "gate failed" in text
    assert "1 of what does not hold" in text


def test_a_comment_notifies_nobody(outcome: GateOutcome) -> None:
    (broken,) = [check for check in outcome.checks if check.verdict.name == "broken"]
    named = replace(broken, verdict=replace(broken.verdict, reason="as @octocat said, me@home"))
    text = github_markdown.render_comment(Gated(replace(outcome, checks=(named,)), "q", "a.yaml"))
    assert "@octocat" not in text
    assert "@\u200boctocat" in text
    assert "me@home" in text


def test_annotations_are_one_line_each_and_escaped(outcome: GateOutcome) -> None:
    lines = workflow_commands.render(Gated(outcome, "quickstart", "suites/a,b.yaml")).splitlines()
    assert [line.split(" ")[0] for line in lines] == ["::error"] * 3 + ["::warning"]
    assert all("file=suites/a%2Cb.yaml,title=" in line for line in lines)
    crash = next(line for line in lines if "int8" in line)
    assert "100%25: all" in crash
    assert "%0A" in crash
    title = crash.split("title=")[1].split("::")[0]
    assert title == "int8%3A memory.static on model"


def test_more_annotations_than_github_shows_end_in_their_number(outcome: GateOutcome) -> None:
    many = type(outcome)(outcome.checks * 5, (), outcome.sampling)
    lines = workflow_commands.render(Gated(many, "quickstart", "a.yaml")).splitlines()
    errors = [line for line in lines if line.startswith("::error")]
    assert len(errors) == 10
    assert errors[-1].endswith("6 more: see the job's summary")


def test_the_terminal_shows_every_rule_and_the_answer_last(outcome: GateOutcome) -> None:
    text = on_terminal(gate_on_screen(outcome), 300)
    assert text.strip().splitlines()[-1].startswith("gate failed")
    for check in outcome.checks:
        assert check.name in text
        assert check.allowed in text
