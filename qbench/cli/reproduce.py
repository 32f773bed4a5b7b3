"""The command `reproduce`: what makes the same measurement again. Part of the command line."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qbench.cli.shared import Device, FormatName, Only, Output, Results, show

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.core.page import Page
    from qbench.core.record import Record
    from qbench.plan.reproduction import Reproduction

EXAMPLES = (
    "Examples: qbench reproduce results/quickstart --to again && bash again/reproduce.sh |"
    " qbench reproduce results/quickstart/DEVICE/CELL/RECORD.json --to again |"
    " qbench reproduce report.html --only 'nf4*' --check"
)


def reproduce(
    where: Annotated[
        str,
        typer.Argument(
            metavar="RECORD|REPORT",
            help="A record's file, a baseline, a folder of records, or a report that qbench wrote:"
            " JSON, HTML, markdown, CSV.",
        ),
    ],
    *,
    to: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="The folder to write; it must be new or empty."),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(help="Write nothing; exit with 1 if records would have other keys here."),
    ] = False,
    suite: Annotated[
        str | None, typer.Option(help="Only the records of this suite, where there are several.")
    ] = None,
    measured_on: Annotated[
        str | None,
        typer.Option(metavar="DEVICE", help="Only those of this device, such as nvidia-h200."),
    ] = None,
    only: Only = None,
    trust_code: Annotated[
        bool,
        typer.Option(
            help="Let the suite run Python and commands that did not come with qbench, where the"
            " records had them. Read them first."
        ),
    ] = False,
    results: Results = Path("results"),
    device: Device = None,
    format_name: FormatName = "text",
    output: Output = None,
) -> None:
    """Write the suite, the versions and the commands that measure records again, and what differs.

    Nothing is measured: the suite is planned, under the records' conditions and under those here.
    """
    from qbench.cli.reproduced import choose, read_given
    from qbench.core.errors import UsageError
    from qbench.plan.reproduction import reproduce as hold_against
    from qbench.plan.suite.from_records import restate
    from qbench.report.console import say
    from qbench.report.format import Subject
    from qbench.report.formats import find_format
    from qbench.report.reproduction import (
        reproduction_on_screen,
        reproduction_page,
    )
    from qbench.report.reproduction_files import SCRIPT, suite_text

    form = find_format(format_name, "page")
    if (to is None) is not check:
        raise UsageError(
            "reproduce: expected --to FOLDER, which is written, or --check, which writes nothing;"
            f" found {'both' if check else 'neither'}"
        )
    if to is not None:
        _check_new(to)
    given = choose(
        read_given(where, results), where, suite=suite, measured_on=measured_on, only=only or ()
    )
    base = (to or Path.cwd()).absolute()
    made = [
        hold_against(one, suite_text(one, trust_code=trust_code), base, device=device)
        for one in restate(given.records, given.known)
    ]
    prevents = _prevents(made, base)
    compared = given.has_numbers and _have_figures(given.records)
    page = reproduction_page(made, given.notes, prevents, compared=compared)
    if to is not None:
        _write(to, made, page, given.records if compared else ())
    show(
        Subject(lambda: page, lambda: reproduction_on_screen(made, given.notes, prevents)),
        form,
        output,
    )
    if to is not None and form.on_screen:
        say(f"wrote {to}; next: bash {shlex.quote(str(to / SCRIPT))}")
    same = all(each.same_key for one in made for each in one.every)
    raise typer.Exit(1 if check and not same else 0)


def _check_new(folder: Path) -> None:
    """Raises `UsageError` for what is no folder, or holds something."""
    from qbench.core.errors import UsageError

    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(
            f"--to {folder}: is there already, and not empty; expected a new folder: name another"
        )


def _prevents(made: Sequence[Reproduction], results: Path) -> list[str]:
    """What would stand in the way of the runs here, each with its remedy."""
    from qbench.core.errors import UsageError
    from qbench.running.preflight.check import problems

    found: dict[str, None] = {}
    for one in made:
        if one.plan is None:
            continue
        wanted = {each.task.key for each in one.every if each.task is not None}
        jobs = one.plan.jobs(lambda task, wanted=wanted: task.key in wanted)  # type: ignore[misc]
        try:
            found |= dict.fromkeys(map(str, problems(one.plan, jobs, results)))
        except UsageError as error:  # no torch: nothing can run here, and all else is told
            found[str(error)] = None
    return list(found)


def _have_figures(records: Sequence[Record]) -> bool:
    """Whether a comparison can be made with them."""
    real = not any(record.rehearsal for record in records)
    return real and any(record.status == "ok" for record in records)


def _write(
    folder: Path, made: Sequence[Reproduction], page: Page, compared: Sequence[Record]
) -> None:
    """Writes all files or none; raises `StoreError` where they cannot be written."""
    from qbench.core.errors import StoreError
    from qbench.core.files import waiting_folder

    try:
        with waiting_folder(folder.absolute()) as waiting:
            _write_files(waiting, made, page, compared)
            waiting.chmod(0o755)
            waiting.rename(folder)  # an empty folder that is there gives way
    except OSError as error:
        raise StoreError(
            f"--to {folder}: cannot be written ({error.strerror or error}); name another folder"
        ) from error


def _write_files(
    folder: Path, made: Sequence[Reproduction], page: Page, compared: Sequence[Record]
) -> None:
    """Writes the files; raises `OSError` or `StoreError` where they cannot be written."""
    from qbench.cli.shared import write_file
    from qbench.compare.baseline import write_baseline
    from qbench.report.markdown import render
    from qbench.report.reproduction_files import (
        CONSTRAINTS,
        MEASURED,
        SCRIPT,
        constraints_text,
        script_text,
        suite_name,
    )

    records = [record for one in made for record in one.restated.records]
    for at, one in enumerate(made):
        write_file(folder / suite_name(at), one.text)
    write_file(folder / CONSTRAINTS, constraints_text(records))
    write_file(folder / "README.md", render(page))
    if compared:
        write_baseline(folder / MEASURED, compared)
    script = folder / SCRIPT
    write_file(script, script_text(made, compared=bool(compared)))
    script.chmod(0o755)
