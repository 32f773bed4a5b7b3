"""Which items of a task belong together."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from qbench.core.errors import MeasurementError
from qbench.measures.tasks.clusters import item_clusters
from qbench.measures.tasks.options import TasksOptions

QUESTIONS = [
    {"passage": f"text {at // 3}", "question": f"q {at}", "book": at % 2} for at in range(9)
]


def test_questions_on_one_passage_belong_together() -> None:
    assert item_clusters({"drop": QUESTIONS}, None) == ([0, 0, 0, 1, 1, 1, 2, 2, 2], "passage")


def test_the_suite_names_another_field_or_none() -> None:
    assert item_clusters({"drop": QUESTIONS}, "book") == ([0, 1] * 4 + [0], "book")
    assert item_clusters({"drop": QUESTIONS}, "item") is None
    assert item_clusters({"drop": QUESTIONS}, "question") is None  # each its own


@pytest.mark.parametrize("field", ["passage", "paragraph"])
def test_a_text_that_none_or_all_share_makes_no_groups(field: str) -> None:
    alone = [{field: f"text {at}"} for at in range(5)]
    assert item_clusters({"one": alone}, None) is None
    assert item_clusters({"one": [{field: "the same"}] * 5}, None) is None


def test_the_same_field_of_two_tasks_is_not_the_same_passage() -> None:
    found = item_clusters({"a": QUESTIONS[:3], "b": QUESTIONS[:3]}, "passage")
    assert found == ([0, 0, 0, 1, 1, 1], "passage")
    mixed: dict[str, list[Any]] = {"a": QUESTIONS[:6], "b": [{"question": "x"}, {"question": "y"}]}
    assert item_clusters(mixed, None) == ([0, 0, 0, 1, 1, 1, 2, 3], "passage")


def test_tasks_of_a_group_are_clusters_where_they_are_many_or_the_suite_says_so() -> None:
    few = {f"task-{at}": [{"q": 1}, {"q": 2}] for at in range(3)}
    many = {f"task-{at}": [{"q": 1}, {"q": 2}] for at in range(57)}
    assert item_clusters(few, None) is None
    assert item_clusters(few, "task") == ([0, 0, 1, 1, 2, 2], "task")
    found = item_clusters(many, None)
    assert found is not None
    assert (found[0][:4], max(found[0]), found[1]) == ([0, 0, 1, 1], 56, "task")
    assert item_clusters(many, "item") is None


def test_a_field_that_there_is_not_is_told_with_those_that_there_are() -> None:
    with pytest.raises(MeasurementError) as caught:
        item_clusters({"drop": QUESTIONS}, "pasage")
    assert str(caught.value) == (
        "task drop: cluster: found pasage, which its documents do not have; expected one of"
        " passage, question, book, task or item; did you mean 'passage'?"
    )


@pytest.mark.parametrize("value", [3, ["passage"], {"race": 3}, ""])
def test_a_cluster_that_is_no_field_is_refused(value: Any) -> None:
    with pytest.raises(ValidationError, match="a field of the documents such as passage_id, or"):
        TasksOptions(cluster=value)


def test_a_suite_names_a_field_for_all_tasks_or_by_the_task() -> None:
    assert TasksOptions(cluster="article").cluster == "article"
    assert TasksOptions(cluster={"race": "article"}).cluster == {"race": "article"}
