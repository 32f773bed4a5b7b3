"""Scores by length, as RULER's tasks have them: each item counts under its own length alone.

Such a task names a metric for each length, `4096` and so on, and gives -1 where a length has no
item; -1 is no score, and is kept out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.measures.tasks.fit import LENGTHS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_LENGTH = "max_length"
"""Of a document: the length that it was made for."""


def lengths_asked(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The lengths that a task made its items for, by its configuration's metadata."""
    asked = (config.get("metadata") or {}).get(LENGTHS) or ()
    return tuple(str(one) for one in asked)


def has_lengths(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a task's items are scored by their length, by lm-eval's samples of it."""
    return bool(rows) and all(
        isinstance(row["doc"], dict) and str(row["doc"].get(_LENGTH)) in row["metrics"]
        for row in rows
    )


def counts_under(row: Mapping[str, Any], metric: str) -> bool:
    """Whether an item counts under a metric; all do under one that is no length."""
    return not metric.isdecimal() or str(row["doc"].get(_LENGTH)) == metric


def direction_of(metric: str, directions: Mapping[str, Any]) -> Any:
    """Which way a metric is better, as a task says: of a length that it does not list as of others.

    RULER's tasks list the lengths from 4096 to 131072 alone.
    """
    if metric in directions or not metric.isdecimal():
        return directions.get(metric)
    of_lengths = {value for name, value in directions.items() if name.isdecimal()}
    return of_lengths.pop() if len(of_lengths) == 1 else None
