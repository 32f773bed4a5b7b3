"""Looks for what may have caused the failures of a gate. Part of the command line."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from qbench.compare.gate.bisect import bisect_lines, cells_to_bisect
from qbench.compare.gate.suspects import find_suspects
from qbench.compare.history.batches import find_batches
from qbench.core.errors import StoreError, UsageError
from qbench.core.git import repository_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.cli.sides import Side
    from qbench.compare.gate.gate import GateOutcome
    from qbench.core.record import Record


def with_suspects(
    outcome: GateOutcome,
    records: Sequence[Record],
    old: Side | None,
    results: Path,
    name: str,
    suite: Sequence[str],
) -> GateOutcome:
    """The outcome with what may have caused its failures, where it has any.

    `name` is the suite's, and `suite` what the command line said of it: its file, `--set`,
    `--device` and `--only`.
    """
    if old is None or not outcome.exit_code:
        return outcome
    history: list[Record] = []
    with suppress(StoreError):  # there is nothing else, on the disk or committed
        history = [one for batch in find_batches(name, results).every for one in batch.records]
    folder = Path.cwd()
    suspects = find_suspects(outcome, records, old.records, history, folder)
    if suspects is not None and old.against is not None and suspects.span.commits:
        few = () if "--only" in suite else cells_to_bisect(outcome, records)
        named = [*suite, *(word for slug in few for word in ("--only", slug))]
        with suppress(UsageError):  # git cannot tell the lines: the gate failed all the same
            lines = bisect_lines(suspects.span, old.against, repository_of(folder), named, folder)
            suspects = replace(suspects, bisect=lines)
    return replace(outcome, suspects=suspects)
