"""The command `claims`: what papers claim, held against records. Part of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qbench.cli.shared import Output, Results, show

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.core.record import Record

EXAMPLES = (
    "Examples: qbench claims results/published | qbench claims suites/claims.yaml |"
    " qbench claims results --suite claims --format markdown -o claims.md |"
    " qbench claims results --claims my-claims.yaml"
)


def claims(
    where: Annotated[
        str,
        typer.Argument(
            metavar="[RESULTS|SUITE]", help="A folder of records, or a suite that was run."
        ),
    ] = "results",
    *,
    suite: Annotated[
        list[str] | None,
        typer.Option(help="Only the records of this suite. May be given several times."),
    ] = None,
    ledger: Annotated[
        Path | None,
        typer.Option(
            "--claims",
            metavar="FILE",
            help="A YAML file of claims of your own. \\[default: those that ship with qbench]",
        ),
    ] = None,
    results: Results = Path("results"),
    format_name: Annotated[
        str,
        typer.Option("--format", help="text, markdown, html, json, csv, or what a plug-in adds."),
    ] = "text",
    output: Output = None,
) -> None:
    """Say which claims of papers and sources hold in the records, and which do not."""
    from qbench.compare.selection import select
    from qbench.plan.claims import BUNDLED, read_claims
    from qbench.report.claims import claims_on_screen, claims_page, hold_against
    from qbench.report.claims_data import claims_rows
    from qbench.report.files import by_suite
    from qbench.report.format import Subject
    from qbench.report.formats import find_format
    from qbench.report.summary import passed_over

    form = find_format(format_name, "page", "rows")
    known = read_claims(ledger or BUNDLED)
    # Each suite by itself: of one the newest records may be of an older protocol than another's.
    parts = [select(part) for part in by_suite(_records(where, results, suite or ()))]
    held = hold_against(known, [table for part in parts for table in part.tables])
    notes = list(dict.fromkeys(note for part in parts for note in passed_over(part)))
    shown = Subject(
        lambda: claims_page(known, held, notes),
        lambda: claims_on_screen(known, held, notes),
        rows=lambda: claims_rows(held),
    )
    show(shown, form, output)


def _records(where: str, results: Path, suites: Sequence[str]) -> list[Record]:
    """The real records of a folder or a suite, of the suites that are named alone."""
    from qbench.cli.sides import of_model, records_of, without_rehearsals
    from qbench.compare.newest import read_newest
    from qbench.core.errors import StoreError, UsageError
    from qbench.core.names import what_there_is
    from qbench.core.store import tell_unreadable
    from qbench.core.untrusted import as_message
    from qbench.report.console import tell

    folder, _ = records_of(Path(where), results)
    found, unreadable = read_newest(folder)
    for note in tell_unreadable(unreadable):
        tell(f"note: {as_message(note)}\n", stderr=True)
    records = without_rehearsals(of_model(found, where, folder), str(folder))
    if not records:
        raise StoreError(f"{folder}: no records there; `qbench run suites/claims.yaml` makes some")
    there = dict.fromkeys(record.suite for record in records)
    for name in suites:
        if name not in there:
            raise UsageError(
                f"--suite: found no record of {name!r} in {folder}; {what_there_is(name, there)}"
            )
    return [record for record in records if not suites or record.suite in suites]
