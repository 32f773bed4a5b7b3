"""How the arms were trained: what all share in a line, what differs in a table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.compare.items import describe_params
from qbench.core.page import Column, Figure, Row, Table
from qbench.core.unchecked import as_list
from qbench.report.figures import NOT_MEASURED

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.tuned.arms import Arm


def shared_options(arms: Sequence[Arm]) -> str:
    """The options with one value in all arms, as `key=value`."""
    options = [arm.tuning.options for arm in arms]
    shared = {
        key: value
        for key, value in options[0].items()
        if all(key in each and each[key] == value for each in options)
    }
    return describe_params(shared)


def describe_data(arms: Sequence[Arm]) -> str:
    """What was tuned on, with the options that decide its splits; empty where no record says."""
    records = [record for arm in arms for cell in arm.trainings for record in cell.records]
    found = [data for one in records if isinstance(data := one.item.params.get("data"), dict)]
    named = {str(data.get("name")): data.get("options") for data in found}
    return "; ".join(
        f"{name} ({describe_params(options)})" if isinstance(options, dict) else name
        for name, options in named.items()
    )


def options_table(arms: Sequence[Arm]) -> Table:
    """The options that differ between arms, and the layers that have an adapter."""
    options = [arm.tuning.options for arm in arms]
    keys = dict.fromkeys(key for each in options for key in each)
    differing = [
        key
        for key in keys
        if any(key not in each or each[key] != options[0].get(key) for each in options)
    ]
    columns = (
        *(Column(key, key.replace("_", " "), "text") for key in differing),
        Column("adapters_on", "adapters on", "text"),
    )
    rows = tuple(
        Row(
            arm.name,
            reference=False,
            figures=(
                *(_option(arm.tuning.options, key) for key in differing),
                Figure(word=_adapted(arm)),
            ),
        )
        for arm in arms
    )
    return Table("How the arms were trained", "arm", columns, rows)


def _option(options: dict[str, Any], key: str) -> Figure:
    if key not in options:
        return Figure(word=NOT_MEASURED)
    return Figure(word=describe_params({key: options[key]}).partition("=")[2])


def _adapted(arm: Arm) -> str:
    records = [record for cell in arm.trainings for record in cell.records]
    named = (as_list(one.details.get("adapters_on")) for one in records)
    return ", ".join(map(str, next(filter(None, named), []))) or NOT_MEASURED
