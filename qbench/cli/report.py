"""The commands `report` and `list`: what there is, shown. Part of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qbench.cli.shared import TERMINAL, Device, FormatName, Output, Reports, show

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from qbench.compare.recommend.budget import Budget
    from qbench.core.record import Record
    from qbench.report.format import Format

EXAMPLES = "Examples: qbench report | qbench report results/quickstart --format csv --output -"


def report(
    folder: Annotated[Path, typer.Argument(metavar="[FOLDER]", help="A folder of records.")] = Path(
        "results"
    ),
    *,
    format_name: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="markdown, html, csv, json, benchmark-json, text, or what a plug-in adds."
            " [default: markdown and html]",
        ),
    ] = None,
    reports: Reports = Path("reports"),
    output: Output = None,
) -> None:
    """Render records as a table on the terminal and as a file."""
    from qbench.core.errors import StoreError
    from qbench.core.store import read_folder, tell_unreadable
    from qbench.report.files import by_suite
    from qbench.report.formats import TEXT, find_format, report_subject, written_formats

    chosen = written_formats()
    if format_name is not None:
        chosen = [find_format(format_name, "page", "records")]
    records, unreadable = read_folder(folder)
    if not records and not unreadable:
        raise StoreError(f"{folder}: no records there; `qbench run SUITE` makes some")
    parts = by_suite(records)
    if output != TERMINAL:
        for part in parts:
            show(report_subject(part), TEXT)
    if output is not None and (records or output == TERMINAL):
        show(report_subject(records), chosen[0], output)
    elif output is None:
        write_reports(parts, [form for form in chosen if form is not TEXT], reports)
    if unreadable:
        raise StoreError("\n".join(tell_unreadable(unreadable)))


def list_(
    *, device: Device = None, format_name: FormatName = "text", output: Output = None
) -> None:
    """List precisions, methods and measurements, what each needs, and whether it runs here."""
    from qbench.core.environment import detect_environment, find_device, why_not_the_gpu
    from qbench.report.format import Subject
    from qbench.report.formats import find_format, formats
    from qbench.report.listing import listing_page

    form = find_format(format_name, "page")
    environment = detect_environment(find_device(device))
    note = why_not_the_gpu(device)
    show(Subject(lambda: listing_page(environment, formats().values(), note)), form, output)


def write_reports(
    parts: Iterable[Sequence[Record]],
    chosen: Sequence[Format],
    reports: Path,
    budgets: Mapping[str, Budget] | None = None,
) -> None:
    """Writes a file of each part in each format; `budgets` are what each suite allows, by name."""
    from qbench.report.console import say_where
    from qbench.report.files import write_report

    for form in chosen:
        for part in parts:
            say_where(write_report(part, reports, form, budgets))
