"""The command `export card`: a model card of what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qbench.cli.export.records import (  # noqa: TC001 - typer reads them
    CellName,
    OfDevice,
    RecordsAt,
)
from qbench.cli.shared import Results  # noqa: TC001 - typer reads it

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.report.exports.chosen import ExportedCell

EXAMPLES = (
    "Examples: qbench export card results/quickstart nf4 --to README.md"
    " | qbench export card suite.yaml lora-bf16--merged --to my-model/README.md"
)


def card(
    where: RecordsAt,
    cell: CellName = None,
    *,
    to: Annotated[
        Path,
        typer.Option(
            "--to", metavar="FILE", help="The card; one that is there keeps all else that it says."
        ),
    ],
    device: OfDevice = None,
    results: Results = Path("results"),
    force: Annotated[
        bool,
        typer.Option("--force", help="Replace values of the same results in a card's metadata."),
    ] = False,
) -> None:
    """Write a model card: metadata with results for the Hub, and a table for readers.

    In a card that is there, what was measured is put between `<!-- qbench -->` and
    `<!-- /qbench -->`, or at the end.
    """
    from qbench.cli.export.records import read_chosen
    from qbench.cli.shared import write_file
    from qbench.report.console import say
    from qbench.report.exports.chosen import one_cell

    exported = one_cell(read_chosen(where, device=device, results=results), cell, str(where))
    text, told = card_text(to, exported, force=force)
    write_file(to, text)
    say_each(told)
    say(f"wrote {to}: what was measured of {exported.cell.slug} on {exported.table.device}")


def card_text(to: Path | None, exported: ExportedCell, *, force: bool) -> tuple[str, list[str]]:
    """The card for a place, that which is there included, and what to say of it.

    Raises `UsageError` where what is there cannot be read, or holds other values of the same.
    """
    from qbench.core.errors import UsageError
    from qbench.report.exports.model_card import model_card

    if to is None or not to.exists():
        made = model_card(exported)
        return str(made.card), [*map(str, made.left_out)]
    try:
        there = to.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise UsageError(f"{to}: cannot be read ({reason}); name another file") from error
    return merged(there, exported, str(to), force=force)


def merged(there: str, exported: ExportedCell, where: str, *, force: bool) -> tuple[str, list[str]]:
    """A card that is there with what was measured, and what to say of it; raises as above."""
    from qbench.report.exports.card_file import merge_card

    made = merge_card(there, exported, where, force=force)
    return made.text, [*made.told, *map(str, made.left_out)]


def say_each(lines: Sequence[str]) -> None:
    """What is not in an export, and why, on standard error."""
    from qbench.report.console import say

    for line in lines:
        say(f"- {line}", stderr=True)
