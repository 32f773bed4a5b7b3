"""The command `export tracker`: records that are there already, sent to trackers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qbench.cli.shared import Track  # noqa: TC001 - typer reads it

if TYPE_CHECKING:
    from qbench.core.store import UnreadableFile

EXAMPLES = (
    "Examples: qbench export tracker results/quickstart --track mlflow |"
    " WANDB_MODE=offline qbench export tracker results --track wandb,trackio"
)


def tracker(
    folder: Annotated[
        Path, typer.Argument(metavar="[RESULTS]", help="A folder of records.")
    ] = Path("results"),
    *,
    track: Track = None,
) -> None:
    """Send records that are on disk to a tracker, as `qbench run --track` does; nothing twice."""
    from tempfile import TemporaryDirectory

    from qbench.cli.report import NONE_THERE
    from qbench.cli.shared import TRACK
    from qbench.cli.tracking import Trackers
    from qbench.core.errors import StoreError, UsageError
    from qbench.core.record_files import paths_of, record_files
    from qbench.core.store import read_or_note, tell_unreadable
    from qbench.report.console import say
    from qbench.report.files import by_suite, write_report
    from qbench.report.formats import find_format, report_subject
    from qbench.report.trackers.trackers import TRACKERS, parse_trackers

    if not parse_trackers(track or (), TRACK):
        raise UsageError(f"export tracker: found no {TRACK}; expected one of {', '.join(TRACKERS)}")
    unreadable: list[UnreadableFile] = []
    read = {path: read_or_note(path, unreadable) for path in paths_of(record_files(folder))}
    found = {path: record for path, record in read.items() if record is not None}
    if not found and not unreadable:
        raise StoreError(f"{folder}: {NONE_THERE}")
    html = find_format("html", "page")
    with TemporaryDirectory() as scratch, Trackers(track, say, say) as trackers:
        # Cell by cell: each time that a run is opened again it is read.
        for path in sorted(found, key=lambda path: (path.parent, found[path].started_at)):
            trackers.add(path.absolute())
        parts = by_suite(list(found.values()))
        pages = [write_report(report_subject(part), Path(scratch), html) for part in parts]
        trackers.report(zip(parts, pages, strict=True))
    if unreadable:
        raise StoreError("\n".join(tell_unreadable(unreadable)))
    raise typer.Exit(0 if trackers.complete else 1)
