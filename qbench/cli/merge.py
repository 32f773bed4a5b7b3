"""The command `merge`: folders of results become one. Part of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qbench.cli.shared import FormatName, Output, Settings, show

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.merge.choice import Prefer
    from qbench.compare.merge.merge import Merged
    from qbench.compare.merge.missing import Asked, Completeness

EXAMPLES = (
    "Examples: qbench merge shard-1 shard-2 --suite my-suite.yaml |"
    " qbench merge results ../other/results --to both --dry-run"
)
_PREFERENCES: dict[str, Prefer] = {"first": "first", "newest": "newest"}


def merge(
    folders: Annotated[
        list[Path], typer.Argument(metavar="FOLDER...", help="Folders of results to join.")
    ],
    *,
    to: Annotated[Path, typer.Option(help="Folder to join them into; may be one of them.")] = Path(
        "results"
    ),
    suite: Annotated[
        list[Path] | None,
        typer.Option(
            help="A suite: says what of it has no record, and exits with 1 where something has"
            " none. May be given several times."
        ),
    ] = None,
    settings: Settings = None,
    prefer: Annotated[
        str | None,
        typer.Option(
            help="Of records whose figures should be equal and are not, keep the newest, or that of"
            " the folder named first. \\[default: neither, and exit with 1]"
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say it, and write nothing.")] = False,
    format_name: FormatName = "text",
    output: Output = None,
) -> None:
    """Join folders of results, such as those of shards, find clashes, and say what is missing."""
    from qbench.compare.merge.merge import merge_results
    from qbench.compare.merge.missing import completeness
    from qbench.core.errors import UsageError
    from qbench.report.format import Subject
    from qbench.report.formats import find_format
    from qbench.report.merge_page import merge_on_screen, merge_page, merge_rows

    form = find_format(format_name, "page", "rows")
    if prefer is not None and prefer not in _PREFERENCES:
        raise UsageError(
            f"--prefer: found {prefer!r}; expected first, for the record of the folder that was"
            " named first, or newest"
        )
    if settings and not suite:
        raise UsageError(
            f"--set: found {settings[0]!r} without --suite; expected the suite's file too, whose"
            " values it replaces; name it, or leave --set out"
        )
    # Before anything is joined: what is wrong with a suite is told at once.
    asked = [(file, *_asked_for(file, settings or (), to)) for file in suite or ()]
    merged = merge_results(folders, to, prefer=_PREFERENCES.get(prefer or ""), dry_run=dry_run)
    suites = [
        one
        for file, name, expected in asked
        for one in completeness(name, str(file), expected, merged)
    ]
    shown = Subject(
        lambda: merge_page(merged, suites),
        lambda: merge_on_screen(merged, suites),
        rows=lambda: merge_rows(merged, suites),
    )
    show(shown, form, output)
    raise typer.Exit(_exit_code(merged, suites))


def _asked_for(file: Path, settings: Sequence[str], results: Path) -> tuple[str, list[Asked]]:
    """The name of a suite, and all that it asks for."""
    from qbench.compare.merge.missing import Asked
    from qbench.compare.merge.takes import meant_by
    from qbench.core.record import PROTOCOL_VERSION
    from qbench.plan.plan import expected_tasks
    from qbench.plan.suite.settings import read_settings
    from qbench.plan.suite.suite import load_suite

    loaded = load_suite(file, read_settings(settings))
    return loaded.name, [
        Asked(cell, task.item, meant_by(task.identity, PROTOCOL_VERSION))
        for cell, task in expected_tasks(loaded, results)
    ]


def _exit_code(merged: Merged, suites: list[Completeness]) -> int:
    """1 where something is not in the joined folder that should be, or may not be what it says."""
    lacking = any(one.missing for one in suites)
    return 1 if merged.undecided or merged.refused or lacking else 0
