"""Lines for a shell by which `git bisect` finds the commit that a gate fails at."""

from __future__ import annotations

import os
import shlex
from typing import TYPE_CHECKING

from qbench.compare.compare import CellName
from qbench.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from qbench.compare.gate.against import Against
    from qbench.compare.gate.gate import GateOutcome
    from qbench.compare.span import Span
    from qbench.core.git import Repository
    from qbench.core.record import Record

_MEASURES = """\
r=$(mktemp -d)
qbench run {run}
qbench gate {gate}
c=$?
rm -r "$r"
[ $c -lt 2 ] || c=125
exit $c"""
"""Measures a commit in a folder of its own, so that nothing older is taken for it, and tells git
good, bad, or that it cannot be told there."""
_NEXT = " \\\n  "
"""Each option has a line of its own: a terminal would break longer ones where no shell may."""


def bisect_lines(
    span: Span,
    against: Against,
    repository: Repository,
    suite: Sequence[str],
    folder: Path,
) -> tuple[str, ...]:
    """What to type in a folder of the repository; nothing where fewer than two commits differ.

    `suite` is what the command line said of the suite: its file, `--set`, `--device`, `--only`.
    """
    start = span.start
    if start is None:
        return ()
    place = '--results "$r"'
    named = [shlex.join(suite[:1]), *map(shlex.join, zip(suite[1::2], suite[2::2], strict=True))]
    old = _old_side(against, repository, folder)
    judged = map(shlex.join, zip(old[::2], old[1::2], strict=True))
    script = _MEASURES.format(
        run=_NEXT.join([*named, place, '--reports "$r"', "--quiet"]),
        gate=_NEXT.join([*named, place, *judged]),
    )
    below = repository.inside(folder)
    if below != ".":
        script = f"cd {shlex.quote(below)} || exit 125\n{script}"
    quoted = shlex.quote(f"\n{script}")
    return (
        *([] if below == "." else [f"cd {shlex.quote(os.path.relpath(repository.root, folder))}"]),
        start,
        f"git bisect run sh -c {quoted}",
        "git bisect reset",
    )


def cells_to_bisect(outcome: GateOutcome, records: Sequence[Record]) -> tuple[str, ...]:
    """The slugs of the cells that fail, with their references; none where that is every cell.

    None too where a failure is of no single cell that was measured.
    """
    failed = {check.cell for check in outcome.checks if check.state in {"fail", "error"}}
    models = {cell.model for cell in failed if cell is not None}
    known = {CellName(one.cell.model.name, one.cell.label): one.cell.slug for one in records}
    if not failed <= known.keys():
        return ()
    needed = dict.fromkeys(
        one.cell.slug
        for one in records
        if CellName(one.cell.model.name, one.cell.label) in failed
        or (one.reference and one.cell.model.name in models)
    )
    return () if set(needed) == set(known.values()) else tuple(needed)


def _old_side(against: Against, repository: Repository, folder: Path) -> list[str]:
    """The same old side at every commit that is checked out."""
    if against.commit is not None:
        if against.committed:
            return ["--baseline", f"{against.commit.short}:{against.path}"]
        return ["--against", against.commit.short, "--baseline", against.path]
    try:
        path = repository.inside(folder / against.path)
    except UsageError:  # it lies elsewhere, and stays as it is
        return ["--baseline", against.path]
    head = repository.commit("HEAD")
    tracked = repository.files(head.hash, path)
    return ["--baseline", f"{head.short}:{path}" if tracked else against.path]
