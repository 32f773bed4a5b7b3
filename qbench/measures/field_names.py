"""What other tools and papers call a metric: looked up by its name, and its name by theirs."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any

from qbench.measures import measures

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qbench.core.record import MetricDefinition

_PARAMETER = re.compile(r"\{(\w+)\}")
_UNKNOWN = "N"
"""Stands for a number that is not known, as the field writes it: `ppN`."""


@cache
def definitions() -> Mapping[str, MetricDefinition]:
    """The definitions of all metrics by name, those of plug-ins too."""
    return {one.name: one for each in measures().values() for one in each.metrics}


@cache
def taken_by() -> Mapping[str, frozenset[str]]:
    """The measurements that take each metric, by its name."""
    found: dict[str, set[str]] = {}
    for name, each in measures().items():
        for one in each.metrics:
            found.setdefault(one.name, set()).add(name)
    return {metric: frozenset(names) for metric, names in found.items()}


def field_names(metric: str, params: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """What else a metric is called, with the item's own numbers: `pp512` for 512 prompt tokens.

    None for a metric that has no other name, or is not known.
    """
    definition = definitions().get(metric)
    if definition is None:
        return ()
    known = params or {}
    return tuple(
        _PARAMETER.sub(lambda found: str(known.get(found[1], _UNKNOWN)), name)
        for name in definition.also_called
    )


def metric_called(name: str) -> str | None:
    """The metric that others call so, however it is written; None for none, and for its own name.

    `pp512` is found as `ppN` is.
    """
    if name in definitions():
        return None
    return _by_other_names().get(_plain(name))


@cache
def _by_other_names() -> Mapping[str, str]:
    found: dict[str, str] = {}
    for metric in definitions():
        for name in field_names(metric):
            found.setdefault(_plain(name), metric)
    return found


def _plain(name: str) -> str:
    """Letters and figures alone, in one case; the length of a prompt is none in particular."""
    name = re.sub(r"^(pp|tg)(\d+|N)\b", r"\1n", name.strip())
    return re.sub(r"[\W_]", "", name).casefold()
