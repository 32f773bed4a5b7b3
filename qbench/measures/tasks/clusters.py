"""Which items of a task belong together, such as questions on one passage: for their intervals.

Items that share a passage are right or wrong together more often than others, so that they tell
less of a model than as many passages would (Miller, Adding Error Bars to Evals, 2024).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from qbench.core.errors import MeasurementError
from qbench.core.names import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

PASSAGES = (
    "passage_id",
    "story_id",
    "article_id",
    "paragraph_id",
    "passage",
    "flores_passage",
    "story",
    "article",
    "paragraph",
    "context",
)
"""Fields of lm-eval's documents that hold what several questions are about, looked for in order."""
BY_TASK, BY_ITEM = "task", "item"
"""Words for a suite: each task of a group is one cluster; each item is."""
FEWEST_TASKS = 20
"""Tasks of a group, such as the 57 of MMLU, from which each is a cluster unless the suite says how;
fewer are what the score is about, not a sample of such tasks."""


def item_clusters(
    documents: Mapping[str, Sequence[Any]], field: str | None
) -> tuple[list[int], str] | None:
    """Each item's cluster, numbered as they come, and what they share; None where none share it.

    `documents` are those of the items, by task. `field` is what the suite names: a field of theirs,
    `task` or `item`; None for a field that is known to hold passages. Raises `MeasurementError` for
    a field that a document does not have.
    """
    if field == BY_ITEM:
        return None
    if field is None:
        return _known(documents) or _of_tasks(documents, FEWEST_TASKS)
    if field == BY_TASK and not _all_have(documents, BY_TASK):
        return _of_tasks(documents, 2)
    for task, own in documents.items():
        for document in own:
            check_field(task, document, field)
    return _numbered(((task, one[field]) for task, own in documents.items() for one in own), field)


def check_field(task: str, document: Any, field: str | None) -> None:
    """Raises `MeasurementError` where a document does not have the field that a suite names."""
    if field in (None, BY_TASK, BY_ITEM):
        return
    fields = list(document) if isinstance(document, Mapping) else []
    if field not in fields:
        near = did_you_mean(str(field), fields)
        raise MeasurementError(
            f"task {task}: cluster: found {field}, which its documents do not have; expected one of"
            f" {', '.join(map(str, fields)) or 'no field'}, {BY_TASK} or {BY_ITEM}"
            f"{f'; {near}' if near else ''}"
        )


def _known(documents: Mapping[str, Sequence[Any]]) -> tuple[list[int], str] | None:
    """By the first field of each task that is known to hold passages, and of which some recur."""
    marks: list[tuple[object, ...]] = []
    shared: dict[str, None] = {}
    for task, own in documents.items():
        field = next((name for name in PASSAGES if _recurs(own, name)), None)
        if field is not None:
            shared[field] = None
        marks += [(task, at if field is None else one[field]) for at, one in enumerate(own)]
    return _numbered(marks, ", ".join(shared)) if shared else None


def _recurs(documents: Sequence[Any], field: str) -> bool:
    if not all(isinstance(one, Mapping) and one.get(field) for one in documents):
        return False
    return 1 < len({_mark(one[field]) for one in documents}) < len(documents)


def _all_have(documents: Mapping[str, Sequence[Any]], field: str) -> bool:
    every = [one for own in documents.values() for one in own]
    return all(isinstance(one, Mapping) and field in one for one in every)


def _of_tasks(documents: Mapping[str, Sequence[Any]], fewest: int) -> tuple[list[int], str] | None:
    if len(documents) < fewest:
        return None
    return _numbered(((task,) for task, own in documents.items() for _ in own), BY_TASK)


def _numbered(marks: Iterable[tuple[object, ...]], shared: str) -> tuple[list[int], str] | None:
    places: dict[str, int] = {}
    found = [places.setdefault(_mark(mark), len(places)) for mark in marks]
    return (found, shared) if len(places) < len(found) else None


def _mark(value: object) -> str:
    return json.dumps(value, sort_keys=True, default=str)
