"""The command `explain`: how a precision holds numbers. Part of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qbench.cli.shared import FormatName, Output, show


def explain(
    precision: Annotated[
        str, typer.Argument(metavar="PRECISION", help="Such as nf4; see `qbench list`.")
    ],
    *,
    model: Annotated[
        str, typer.Option(help="bundled:<name>, a folder, or a hub id that is downloaded.")
    ] = "bundled:tiny-mistral",
    tensor: Annotated[
        str | None,
        typer.Option(help="Name of a tensor in its files; an MLP's first weight unless given."),
    ] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="An option of the precision, as in a suite. May be given several times.",
        ),
    ] = None,
    format_name: FormatName = "text",
    output: Output = None,
) -> None:
    """Show how a precision holds numbers, and the error it makes on a real tensor."""
    import logging

    from qbench.cli.explain_options import read_assignments
    from qbench.precisions.explain.explain import check_precision
    from qbench.precisions.explain.explain import explain as explain_precision
    from qbench.report.format import Subject
    from qbench.report.formats import find_format
    from qbench.running.executors.preload import prepare_process

    form = find_format(format_name, "page")
    prepare_process()
    # On import they warn of kernels that are missing, and of themselves.
    for library in ("bitsandbytes", "torchao", "torch.utils._pytree"):
        logging.getLogger(library).setLevel(logging.ERROR)
    precision = check_precision(precision)
    chosen = read_assignments(precision, assignments or ())
    made = explain_precision(precision, model, tensor, options=chosen, base=Path.cwd())
    show(Subject(lambda: made), form, output)
