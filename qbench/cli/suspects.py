"""Looks for what may have caused the failures of a gate. Part of the command line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from qbench.compare.gate.bisect import bisect_lines, cells_to_bisect
from qbench.compare.gate.suspects import find_suspects
from qbench.core.git import repository_of
from qbench.core.store import read_folder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.cli.sides import Side
    from qbench.compare.gate.gate import GateOutcome
    from qbench.core.record import Record


def with_suspects(
    outcome: GateOutcome,
    records: Sequence[Record],
    old: Side | None,
    measured: Path,
    suite: Sequence[str],
) -> GateOutcome:
    """The outcome with what may have caused its failures, where it has any.

    `measured` is the folder of all that was measured of the suite, and `suite` what the command
    line said of it: its file, `--set`, `--device` and `--only`.
    """
    if old is None or not outcome.exit_code:
        return outcome
    history = read_folder(measured)[0] if measured.is_dir() else []
    real = [one for one in history if not one.rehearsal]
    folder = Path.cwd()
    suspects = find_suspects(outcome, records, old.records, real, folder)
    if suspects is not None and old.against is not None and suspects.span.commits:
        few = () if "--only" in suite else cells_to_bisect(outcome, records)
        named = [*suite, *(word for slug in few for word in ("--only", slug))]
        lines = bisect_lines(suspects.span, old.against, repository_of(folder), named, folder)
        suspects = replace(suspects, bisect=lines)
    return replace(outcome, suspects=suspects)
