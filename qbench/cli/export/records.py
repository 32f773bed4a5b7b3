"""What the exports of records share: arguments and options, what they read, where they write."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.report.exports.chosen import Chosen

RecordsAt = Annotated[
    Path,
    typer.Argument(
        metavar="RESULTS",
        help="A folder of records, a suite, or a model that ran without one.",
    ),
]
CellName = Annotated[
    str | None,
    typer.Argument(
        metavar="[CELL]",
        help="The cell, by its label or slug. \\[default: the only one there is]",
    ),
]
OfDevice = Annotated[
    str | None,
    typer.Option(
        "--device",
        help="Only records of this device, by name or kind, such as 'nvidia-*'; needed where those"
        " of several lie together.",
    ),
]
ToFile = Annotated[Path, typer.Option("--to", metavar="FILE", help="The file to write.")]
ToFolder = Annotated[
    Path, typer.Option("--to", metavar="FOLDER", help="The folder to write files into.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace files that are there already.")]


def read_chosen(
    where: Path,
    *,
    only: Sequence[str] = (),
    device: str | None = None,
    results: Path = Path("results"),
) -> Chosen:
    """The cells to export of what was named, told on standard error what was passed over.

    `only` are patterns of cells, and `results` is where a suite's or a model's records lie. Raises
    `UsageError`.
    """
    from qbench.cli.sides import folder_of, of_model
    from qbench.compare.newest import read_newest
    from qbench.core.store import tell_unreadable
    from qbench.report.console import say
    from qbench.report.exports.chosen import choose

    folder, _ = folder_of(where, results)
    records, unreadable = read_newest(folder)
    own = of_model(records, str(where), folder)
    for note in tell_unreadable(unreadable):
        say(f"{where}: {note}", stderr=True)
    chosen = choose(own, str(where), only=only, device=device)
    for note in chosen.notes:
        say(f"{where}: {note}", stderr=True)
    return chosen


def check_target(to: Path, *, force: bool, option: str = "--to") -> None:
    """Raises `UsageError` for a file that is there and that nobody asked to replace."""
    from qbench.core.errors import UsageError

    if to.is_dir():
        raise UsageError(
            f"{option} {to}: found a folder; expected a file's name, such as {to}/FILE"
        )
    if to.exists() and not force:
        raise UsageError(
            f"{option} {to}: is there already; name another file, or --force replaces it"
        )
