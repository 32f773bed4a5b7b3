"""How commands show what they found: on the terminal or in a format. Part of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from qbench.report.format import Format, Subject

FormatName = Annotated[
    str, typer.Option("--format", help="text, markdown, json, or what a plug-in adds.")
]
Output = Annotated[
    Path | None, typer.Option("-o", "--output", help="The file to write; - for the terminal.")
]
TERMINAL = Path("-")


def show(subject: Subject, form: Format, output: Path | None = None) -> None:
    """Prints the subject, or writes it to a file and says so.

    Raises `UsageError` for a file that cannot be written.
    """
    from qbench.atomic import write_atomically
    from qbench.errors import UsageError
    from qbench.report import TEXT
    from qbench.report.console import make_console, say, tell, tell_bytes
    from qbench.report.terminal import render

    if output is not None and output != TERMINAL:
        try:
            write_atomically(output, form.render(subject))
        except OSError as error:
            raise UsageError(f"{output}: cannot be written ({error.strerror})") from error
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
