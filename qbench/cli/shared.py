"""What commands share: arguments, and how they show what they found. Part of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from qbench.report.format import Format, Subject

SuitePath = Annotated[
    Path,
    typer.Argument(
        metavar="SUITE", help="The suite's YAML file, or the name of one that ships with qbench."
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A value in place of the suite's, such as measure.latency.repeats=1. May be given"
        " several times.",
    ),
]
Results = Annotated[Path, typer.Option(help="Folder of the records.")]
Reports = Annotated[Path, typer.Option(help="Folder that reports are written to.")]
Device = Annotated[
    str | None, typer.Option(help="auto, cpu, cuda or cuda:N. \\[default: first GPU, else cpu]")
]
Only = Annotated[
    list[str] | None,
    typer.Option(help="Only cells that match, such as 'nf4*'. May be given several times."),
]

ShardOf = Annotated[
    str | None,
    typer.Option(
        "--shard",
        metavar="NUMBER/COUNT",
        help="Only this part of the cells, such as 2/5: `qbench merge` joins the results of all.",
    ),
]
Rehearse = Annotated[
    bool, typer.Option(help="Take the bundled model and a little data instead, in minutes.")
]
TRACK = "--track"
Track = Annotated[
    list[str] | None,
    typer.Option(
        TRACK,
        envvar="QBENCH_TRACK",
        metavar="TRACKER",
        help="Send each record as it is taken to mlflow, wandb or trackio. May be given several"
        " times, or with commas. Without it nothing is sent.",
    ),
]
FormatName = Annotated[
    str, typer.Option("--format", help="text, markdown, html, json, or what a plug-in adds.")
]
Output = Annotated[
    Path | None, typer.Option("-o", "--output", help="The file to write; - for the terminal.")
]
TERMINAL = Path("-")


def show(subject: Subject, form: Format, output: Path | None = None) -> None:
    """Prints the subject, or writes it to a file and says so.

    Raises `StoreError` for a file that cannot be written.
    """
    from qbench.report.console import make_console, say, tell, tell_bytes
    from qbench.report.formats import TEXT
    from qbench.report.terminal import render

    if output is not None and output != TERMINAL:
        what = None if subject.records is None else "the report"
        write_file(output, form.render(subject), what=what)
        say(f"wrote {output}")
    elif form is TEXT:
        make_console().print(render(form.page_of(subject)))
    else:
        found = form.render(subject)
        if isinstance(found, bytes):
            tell_bytes(found)
        elif form.commands:
            typer.echo(found, nl=False)
        else:
            tell(found)


def write_file(
    path: Path, contents: str | bytes, *, append: bool = False, what: str | None = None
) -> None:
    """Writes a file whole, or at the end of what it holds; `what` says that it is the report.

    Raises `StoreError`. Whatever was measured is on the disk by then.
    """
    from qbench.core.errors import StoreError
    from qbench.core.files import write_atomically

    try:
        if append:
            with path.open("ab") as file:
                file.write(contents.encode() if isinstance(contents, str) else contents)
        else:
            write_atomically(path, contents)
    except OSError as error:
        which, safe = (f"{what} ", "the records are safe: ") if what else ("", "")
        raise StoreError(
            f"{path}: {which}cannot be written ({error.strerror}); {safe}name another file, in a"
            " folder that can be written"
        ) from error
