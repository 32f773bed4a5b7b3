"""The command `export parquet`: rows of records with their types, and values by item."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qbench.cli.export.records import Force, RecordsAt, ToFile, check_target
from qbench.cli.shared import Results, write_file

EXAMPLES = (
    "Examples: qbench export parquet results --to all.parquet | qbench export parquet"
    " results/quickstart --to rows.parquet --items items.parquet"
)


def parquet(
    records: RecordsAt,
    *,
    to: ToFile,
    items: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="A second file: a row for each value that records keep of items and windows.",
        ),
    ] = None,
    results: Results = Path("results"),
    force: Force = False,
) -> None:
    """Write all records as a Parquet file, one row a metric, as `qbench.load_results` gives them.

    Older records, failures, several devices and rehearsals too: a column tells each apart.
    """
    from qbench.cli.report import NONE_THERE
    from qbench.cli.sides import folder_of, of_model
    from qbench.core.errors import StoreError, UsageError
    from qbench.core.store import read_folder, tell_unreadable
    from qbench.core.units import counted
    from qbench.report.console import say
    from qbench.report.exports.parquet import items_parquet, rows_parquet

    check_target(to, force=force)
    if items is not None:
        check_target(items, force=force, option="--items")
        if items.absolute() == to.absolute():
            raise UsageError(f"--items {items}: found the file of --to; expected another")
    folder, _ = folder_of(records, results)
    every, unreadable = read_folder(folder)
    for note in tell_unreadable(unreadable):
        say(f"- {note}", stderr=True)
    found = of_model(every, str(records), folder)
    if not found:
        raise StoreError(f"{records}: {NONE_THERE}")
    by_item = None if items is None else items_parquet(found)
    if items is not None and by_item is None:
        raise UsageError(f"--items {items}: {records} holds no values by item; leave it out")
    rehearsed = sum(bool(record.rehearsal) for record in found)
    write_file(to, rows_parquet(found))
    if items is not None and by_item is not None:
        write_file(items, by_item)
    if rehearsed:
        told = f"{counted(rehearsed, 'record')} of a rehearsal: see the column rehearsal"
        say(f"- {told}", stderr=True)
    beside = "" if items is None else f", and their values by item to {items}"
    say(f"wrote {counted(len(found), 'record')} to {to}{beside}")
