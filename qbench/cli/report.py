"""The commands `report` and `list`: what there is, shown. Part of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qbench.cli.price_options import Currency, GpuHour, MachineHour, price_given, priced
from qbench.cli.shared import TERMINAL, Device, FormatName, Output, Reports, show

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from qbench.compare.stated import Stated
    from qbench.core.record import Record
    from qbench.core.store import UnreadableFile
    from qbench.report.format import Format

EXAMPLES = (
    "Examples: qbench report | qbench report results/quickstart --format csv --output -"
    " | qbench report results/a results/b | qbench report suite.yaml --gpu-hour 2.49"
)

NONE_THERE = "no records there; `qbench run SUITE` makes some"


def report(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[FOLDER|SUITE]...",
            help="Folders of records, or suites, whose `recommend`, `price` and `co2` then hold;"
            " several make one report, what compares in one table."
            " \\[default: results]",
        ),
    ] = None,
    *,
    format_name: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="markdown, html, csv, json, benchmark-json, text, or what a plug-in adds."
            " \\[default: markdown and html]",
        ),
    ] = None,
    reports: Reports = Path("reports"),
    output: Output = None,
    gpu_hour: GpuHour = None,
    machine_hour: MachineHour = None,
    currency: Currency = None,
    co2_per_kwh: Annotated[
        float | None,
        typer.Option(
            metavar="GRAMS",
            help="Grams of CO₂ that a kilowatt hour emits where this was run: pages then tell those"
            " of tokens and trainings. There is no default.",
        ),
    ] = None,
) -> None:
    """Render records as a table on the terminal and as a file."""
    from qbench.core.errors import StoreError
    from qbench.core.store import tell_unreadable
    from qbench.report.console import say
    from qbench.report.files import by_suite, together
    from qbench.report.formats import TEXT, find_format, formats, report_subject, written_formats

    price = price_given(gpu_hour, machine_hour, currency)
    chosen = written_formats()
    if format_name is not None:
        chosen = [find_format(format_name, "page", "records")]
    elif output is not None:
        alike = [one for one in formats().values() if one.suffix == output.suffix]
        chosen = [one for one in alike if one.takes("page") or one.takes("records")] or chosen
    named = folders or [Path("results")]
    places, stated = _places(named)
    every = any(form.of_records for form in chosen)
    records, unreadable = _read(places, named, every=every)
    stated = emitting(priced(stated, price, records), co2_per_kwh)
    parts = together(records) if len(named) > 1 else by_suite(records)
    if output != TERMINAL:
        for at, part in enumerate(by_suite(records)):
            if at:
                say("")
            show(report_subject(part, stated), TEXT)
    if output is not None and (records or output == TERMINAL):
        show(report_subject(records, stated), chosen[0], output)
    elif output is None:
        write_reports(parts, [form for form in chosen if form is not TEXT], reports, stated)
    if unreadable:
        raise StoreError("\n".join(tell_unreadable(unreadable)))


def emitting(stated: Mapping[str, Stated], co2_per_kwh: float | None) -> dict[str, Stated]:
    """What holds for each suite, with the factor that was given for all of them."""
    from pydantic import ValidationError

    from qbench.compare.co2 import EXPECTED, Co2
    from qbench.core.errors import UsageError

    if co2_per_kwh is None:
        return dict(stated)
    try:
        given = Co2(grams_per_kwh=co2_per_kwh, source="--co2-per-kwh")
    except ValidationError:
        raise UsageError(f"--co2-per-kwh: found {co2_per_kwh:g}; expected {EXPECTED}") from None
    return {suite: one.model_copy(update={"co2": given}) for suite, one in stated.items()}


def _places(named: Sequence[Path]) -> tuple[list[Path], dict[str, Stated]]:
    """The folders that are meant, and what the suites state that were named."""
    from qbench.cli.sides import records_of

    found = [records_of(one) for one in named]
    suites = [suite for _, suite in found if suite is not None]
    return [folder for folder, _ in found], {suite.name: suite.stated for suite in suites}


def _read(
    folders: Sequence[Path], named: Sequence[Path], *, every: bool
) -> tuple[list[Record], list[UnreadableFile]]:
    """The records of all folders, as they were named, each once, and the files that are none.

    Of many records the newest, unless `every` one is wanted. Raises `StoreError` for a folder that
    is not there or holds neither.
    """
    from qbench.cli.sides import of_model
    from qbench.compare.newest import each_once, read_newest
    from qbench.core.errors import StoreError
    from qbench.core.record_files import record_files
    from qbench.core.store import read_folder
    from qbench.plan.suite.model_names import names_model

    several = len(folders) > 1
    if several and not every and not any(names_model(str(where)) for where in named):
        for folder in folders:
            if not record_files(folder):
                raise StoreError(f"{folder}: {NONE_THERE}")
        return read_newest(*folders)
    records: list[Record] = []
    unreadable: list[UnreadableFile] = []
    for folder, where in zip(folders, named, strict=True):
        # Where a model is named among several, its own are told before copies are left out.
        found, refused = (read_folder if several or every else read_newest)(folder)
        if not found and not refused:
            raise StoreError(f"{folder}: {NONE_THERE}")
        records += of_model(found, str(where), folder)
        unreadable += refused
    return each_once(records), unreadable


def list_(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME]",
            help="One precision, method or measurement, in full: its options and other names; or"
            " models: those that plan without a hub; or suites: those that ship with qbench."
            " \\[default: all, a line each]",
        ),
    ] = None,
    *,
    device: Device = None,
    format_name: FormatName = "text",
    output: Output = None,
) -> None:
    """List precisions, methods and measurements, and whether each runs here; or one in full."""
    from qbench.core.environment import detect_environment, find_device, why_not_the_gpu
    from qbench.report.format import Subject
    from qbench.report.formats import find_format, formats
    from qbench.report.known_models import MODELS, known_models_page
    from qbench.report.listed_entry import entry_page
    from qbench.report.listing import listing_page
    from qbench.report.shipped_suites import SUITES, shipped_suites_page

    form = find_format(format_name, "page")
    tables = {MODELS: known_models_page, SUITES: shipped_suites_page}
    if name in tables:
        show(Subject(tables[name]), form, output)
        return
    environment = detect_environment(find_device(device))
    note = why_not_the_gpu(device)
    page = (
        listing_page(environment, formats().values(), note)
        if name is None
        else entry_page(name, environment, note)
    )
    show(Subject(lambda: page), form, output)


def write_reports(
    parts: Iterable[Sequence[Record]],
    chosen: Sequence[Format],
    reports: Path,
    stated: Mapping[str, Stated] | None = None,
) -> list[tuple[Sequence[Record], Path]]:
    """Writes a file of each part in each format, and says so; `stated` is by the suite's name.

    Returns each file's part and path.
    """
    from qbench.report.console import say_where
    from qbench.report.files import write_report
    from qbench.report.formats import report_subject

    written = []
    for part in parts:
        report = report_subject(part, stated)
        for form in chosen:
            path = write_report(report, reports, form)
            say_where(path)
            written.append((part, path))
    return written
