"""The bundled tasks are what their text and their rules give, and can be solved."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from qbench.measures.tasks.index import BUNDLED_TASKS_FOLDER, bundled_tasks
from qbench.sources.bundled import BUNDLED_FOLDER, bundled_texts
from tools.bundled.build_tasks import choice_items, completion_items, main

if TYPE_CHECKING:
    from pathlib import Path

    from tokenizers import Tokenizer

TASKS = ("stdlib-choice", "stdlib-completion")
CONTEXT_TOKENS = 512
FUNCTION = """\
def total_{0}(values, start):
    result_{0} = start * {0}
    for each_value in values:
        checked_{0} = check(each_value)
        result_{0} += checked_{0}
    print('done with', {0}, 'now')
    return result_{0}
"""


def rows_of(task: str) -> list[dict[str, Any]]:
    lines = (BUNDLED_TASKS_FOLDER / f"{task}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def text() -> str:
    return bundled_texts()["stdlib-heldout"].read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(BUNDLED_FOLDER / "tiny-mistral" / "tokenizer.json"))


def test_they_are_found_by_name() -> None:
    assert tuple(bundled_tasks()) == TASKS


def test_they_are_what_the_script_makes_of_the_text(tmp_path: Path) -> None:
    main(["--out", str(tmp_path)])
    for task in TASKS:
        made, kept = (folder / f"{task}.jsonl" for folder in (tmp_path, BUNDLED_TASKS_FOLDER))
        assert made.read_bytes() == kept.read_bytes()


@pytest.mark.parametrize("task", TASKS)
def test_there_are_enough_items_and_no_two_are_alike(task: str) -> None:
    rows = rows_of(task)
    assert len(rows) >= 400
    assert len({row["context"] for row in rows}) == len(rows)


def test_they_are_small() -> None:
    files = [path for path in BUNDLED_TASKS_FOLDER.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 1_000_000


@pytest.mark.parametrize("task", TASKS)
def test_chance_is_stated_for_every_metric(task: str) -> None:
    class Loader(yaml.SafeLoader):
        """With lm-eval's own tag."""

    Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))
    path = BUNDLED_TASKS_FOLDER / f"{task}.yaml"
    config = yaml.load(path.read_text(encoding="utf-8"), Loader)
    metrics = {metric["metric"] for metric in config["metric_list"]}
    assert set(config["metadata"]["chance"]) == metrics


def test_a_choice_is_the_next_line_or_one_from_elsewhere(text: str) -> None:
    lines = text.split("\n")
    places: dict[str, list[int]] = {}
    for number, line in enumerate(lines):
        places.setdefault(line, []).append(number)
    for row in rows_of("stdlib-choice"):
        number = row["line"] - 1
        right = row["choices"][row["answer"]]
        assert lines[number] == right
        context = row["context"].split("\n")
        assert lines[number - len(context) : number] == context
        assert len(set(row["choices"])) == 4
        indentation = len(right) - len(right.lstrip())
        for wrong in set(row["choices"]) - {right}:
            assert len(wrong) - len(wrong.lstrip()) == indentation
            assert any(abs(place - number) > 60 for place in places[wrong])
            assert wrong not in context


def test_the_right_choice_stands_anywhere() -> None:
    answers = Counter(row["answer"] for row in rows_of("stdlib-choice"))
    # 100 of 400 are expected at each place, with a standard deviation of 8.7.
    assert set(answers) == {0, 1, 2, 3}
    assert all(70 <= times <= 130 for times in answers.values())


def test_a_name_to_complete_comes_next_and_was_seen_before(text: str) -> None:
    lines = text.split("\n")
    for row in rows_of("stdlib-completion"):
        start = row["context"].rpartition("\n")[2]
        line = lines[row["line"] - 1]
        assert line.startswith(start)
        rest = line[len(start) :].removeprefix(" ")
        assert rest.startswith(row["name"])
        assert not rest[len(row["name"]) :][:1].isidentifier()
        assert row["name"] in row["context"].rpartition("\n")[0]
        assert row["name"] not in start.replace("(", " ").replace(".", " ").split()


def test_items_fit_the_bundled_model(tokenizer: Tokenizer) -> None:
    for row in rows_of("stdlib-choice"):
        longest = max(len(tokenizer.encode(f"{row['context']}\n{c}")) for c in row["choices"])
        assert longest <= CONTEXT_TOKENS
    for row in rows_of("stdlib-completion"):
        name = tokenizer.encode(f" {row['name']}", add_special_tokens=False)
        assert len(name) <= 8, "the task lets the model write 8 tokens"
        assert len(tokenizer.encode(row["context"])) + 8 <= CONTEXT_TOKENS


def test_what_is_asked_does_not_run_into_the_context(tokenizer: Tokenizer) -> None:
    """The tokens of context and answer together begin with those of the context."""
    for row in rows_of("stdlib-choice"):
        context = tokenizer.encode(row["context"]).ids
        for choice in row["choices"]:
            together = tokenizer.encode(f"{row['context']}\n{choice}").ids
            assert together[: len(context)] == context
    for row in rows_of("stdlib-completion"):
        context = tokenizer.encode(row["context"]).ids
        space = "" if row["context"].endswith((".", "(", "[", "{", "*", "@", "-", "=")) else " "
        together = tokenizer.encode(f"{row['context']}{space}{row['name']}").ids
        assert together[: len(context)] == context


def test_the_rules_hold_for_any_text() -> None:
    made = "\n".join(FUNCTION.format(number) for number in range(30))
    choices, completions = choice_items(made, 20), completion_items(made, 20)
    assert len(choices) == len(completions) == 20
    assert choice_items(made, 20) == choices
    lines = made.split("\n")
    assert all(row["choices"][row["answer"]] == lines[row["line"] - 1] for row in choices)
    assert all(row["name"] in lines[row["line"] - 1] for row in completions)
    assert choice_items("x = 1\n") == completion_items("x = 1\n") == []
