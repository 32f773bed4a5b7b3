"""What a suite may write under `gate`, and what it is told when it is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from jsonschema import Draft202012Validator

from qbench.core.errors import SuiteError
from qbench.plan.suite.schema import suite_schema
from qbench.plan.suite.suite import load_suite_text
from tests.compare.gate.rule_section import read_rules
from tests.paired_records import footprint, quality, task

if TYPE_CHECKING:
    from qbench.core.errors import Problem

GOOD: dict[str, Any] = {
    "perplexity": [
        {"max_increase": "1%"},
        {"max_increase": "3 %", "cells": "nf4*", "against": "reference"},
    ],
    "tasks.*": {"max_drop": 0.01, "inconclusive": "pass"},
    "memory.static": {"max_increase": "2%", "ceiling": "50%"},
    "kl": {"max": 0.05, "cells": ["nf4", "fp4"]},
    "accuracy": {"min": 0.5, "items": "cloze"},
}


def problems_of(section: Any) -> tuple[Problem, ...]:
    text = json.dumps({"models": "./m", "gate": section})
    with pytest.raises(SuiteError) as caught:
        load_suite_text(text, "suite.yaml", Path.cwd())
    return caught.value.problems


def test_rules_are_read_with_their_defaults() -> None:
    rules = read_rules(GOOD)
    first, second, tasks, memory, kl, accuracy = rules
    assert first.bound[0] == "max_increase"
    assert (first.bound[1].value, first.bound[1].relative) == (0.01, True)
    assert (first.against, first.inconclusive, first.cells) == ("baseline", "fail", ("*",))
    assert (second.against, second.cells) == ("reference", ("nf4*",))
    assert (tasks.bound[1].value, tasks.bound[1].relative) == (0.01, False)
    assert tasks.inconclusive == "pass"
    assert memory.ceiling is not None
    assert memory.ceiling.value == 0.5
    assert kl.cells == ("nf4", "fp4")
    assert (accuracy.bound[0], accuracy.items) == ("min", ("cloze",))


@pytest.mark.parametrize(
    ("plain", "path", "words"),
    [
        (None, "gate", "nothing"),
        ({}, "gate", "empty mapping"),
        ({"kl": None}, "gate.kl", "nothing"),
        ({"kl": "1%"}, "gate.kl", "write {max_increase: 1%}"),
        ({"kl": []}, "gate.kl", "empty list"),
        ({"kl": {}}, "gate.kl", "without a margin"),
        ({"kl": {"max": 1, "min": 0}}, "gate.kl", "max and min in one rule"),
        ({"kl": {"max": "5%"}}, "gate.kl.max", "metric's own unit"),
        ({"kl": {"max": "0.05"}}, "gate.kl.max", "without quotes"),
        ({"kl": {"max": True}}, "gate.kl.max", "true"),
        ({"kl": {"max": float("nan")}}, "gate.kl.max", "NaN"),
        ({"kl": [{"max": 1}, {"maximum": 1}]}, "gate.kl[1].maximum", "did you mean 'max'?"),
        ({"p": {"max_increase": -1}}, "gate.p.max_increase", "write 1"),
        ({"p": {"max_drop": "100%"}}, "gate.p.max_drop", "less than 100%"),
        ({"p": {"max_drop": 1, "against": "base"}}, "gate.p.against", "'baseline'"),
        ({"p": {"max_drop": 1, "cells": []}}, "gate.p.cells", "a name or pattern"),
        ({"p": {"max_drop": 1, "ceiling": "5%"}}, "gate.p.ceiling", "without %"),
        ({"p": {"max": 1, "ceiling": 5}}, "gate.p.ceiling", "no ceiling"),
    ],
)
def test_a_problem_names_place_and_remedy(plain: Any, path: str, words: str) -> None:
    place, *_ = [one for one in problems_of(plain) if one.place == path]
    assert words in f"{place.found} {place.expected} {place.remedy}"


def test_all_problems_are_told_at_once() -> None:
    problems = problems_of({"a": {"max": "x"}, "b": {"foo": 1, "max": 2}, "c": {"max": 3}})
    assert {one.place for one in problems} == {"gate.a.max", "gate.b.foo"}


def test_a_rule_picks_cells_by_label_name_or_slug() -> None:
    (rule,) = read_rules({"perplexity": {"max_increase": "1%", "cells": "nf4*"}})
    for label, picked in (("nf4", True), ("nf4-dq", True), ("fp4", False)):
        record = quality(label, [600.0] * 30)
        assert rule.picks(record.cell, record.item) is picked


def test_patterns_leave_out_what_the_margin_is_not_about() -> None:
    drop, rise = read_rules({"tasks.*": {"max_drop": 0.01}, "memory.*": {"max_increase": "2%"}})
    scored, sized = task("nf4", [1.0]).item, footprint("nf4", 1).item
    assert drop.matches("accuracy", "higher", scored)
    assert not drop.matches("loss", "lower", scored)
    assert not drop.matches("items", "neither", scored)
    assert not drop.matches("memory.static", "lower", sized)
    assert rise.matches("memory.static", "lower", sized)
    assert not rise.matches("memory.static.predicted", "neither", sized)


def test_a_task_is_named_by_its_measurement_and_item() -> None:
    (rule,) = read_rules({"tasks.cloze": {"max_drop": 0.01}})
    assert rule.matches("accuracy", "higher", task("nf4", [1.0]).item)
    assert not rule.matches("accuracy", "higher", task("nf4", [1.0], slug="other").item)


def test_the_schema_takes_what_is_read() -> None:
    schema = Draft202012Validator(suite_schema())
    assert schema.is_valid({"models": "./m", "gate": GOOD})
    assert not schema.is_valid({"models": "./m", "gate": {"kl": {"maximum": 1}}})
