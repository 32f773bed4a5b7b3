"""What is kept of a task's answers: what lm-eval's own code takes for the answer, and no guess."""

from __future__ import annotations

import random
from typing import Any

import pytest

from qbench.measures.tasks.answers import item_answers

WORDS = ["a", "several words", "übergroß", "one"]


def row(likelihoods: list[float], target: object, **scores: float) -> dict[str, Any]:
    return {
        "filtered_resps": [(one, False) for one in likelihoods],
        "arguments": [("prompt", f" {word}") for word in WORDS],
        "target": target,
        **scores,
    }


def rows(metric: str, count: int = 50) -> tuple[list[dict[str, Any]], list[int]]:
    """Rows as lm-eval makes them, with the answers that its formulas give in numpy."""
    import numpy as np

    drawn = random.Random(5)
    sizes = {
        "acc": np.ones(len(WORDS)),
        "acc_norm": np.array([float(len(word)) for word in WORDS]),
        "acc_bytes": np.array([float(len(word.encode())) for word in WORDS]),
    }[metric]
    made, picked = [], []
    for _ in range(count):
        likelihoods = [drawn.uniform(-9, -1) * len(word) ** 0.7 for word in WORDS]
        picked.append(int(np.argmax(np.array(likelihoods) / sizes)))
        target = drawn.randrange(len(WORDS))
        made.append(row(likelihoods, target, **{metric: float(picked[-1] == target)}))
    return made, picked


CHOICE = {"output_type": "multiple_choice", "target_delimiter": " "}


@pytest.mark.parametrize("metric", ["acc", "acc_norm", "acc_bytes"])
def test_the_choice_that_is_picked(metric: str) -> None:
    made, picked = rows(metric)
    assert len(set(picked)) > 1
    assert item_answers(CHOICE, made, metric) == picked


def test_choices_of_mutual_information_follow_once_more_without_a_prompt() -> None:
    made = row([-3.0, -1.0, -2.0, -5.0, 0.0, 0.0, 0.0, 0.0], 1, acc=1.0)
    made["arguments"] += [("", f" {word}") for word in WORDS]
    assert item_answers(CHOICE, [made], "acc") == [1]


def test_choices_that_stand_in_the_prompts() -> None:
    made = row([-3.0, -1.0], "same", acc=1.0, acc_norm=1.0)
    made["arguments"] = [(f"prompt {word}", " same") for word in WORDS[:2]]
    assert item_answers(CHOICE, [made], "acc") == [1]
    assert item_answers(CHOICE, [made], "acc_norm") is None


def test_what_is_not_what_the_score_says_is_not_kept() -> None:
    made, _ = rows("acc")
    made[7]["acc"] = 1 - made[7]["acc"]
    assert item_answers(CHOICE, made, "acc") is None


@pytest.mark.parametrize(
    ("kind", "metric"),
    [("multiple_choice", "brier_score"), ("loglikelihood", "acc"), ("other", "acc")],
)
def test_what_has_no_answer(kind: str, metric: str) -> None:
    made, _ = rows("acc", 3)
    assert item_answers({"output_type": kind}, made, metric) is None


def test_texts_are_told_apart_by_what_the_filter_leaves() -> None:
    made = [{"filtered_resps": [text]} for text in ("yes", "no", "yes")]
    first, second, third = (
        item_answers({"output_type": "generate_until"}, made, "exact_match") or ()
    )
    assert first == third != second
