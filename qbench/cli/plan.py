"""The command `plan`: what a suite means on a machine. Part of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qbench.cli.shared import Device, FormatName, Only, Output, Rehearse, Results, SuitePath, show

if TYPE_CHECKING:
    from qbench.plan.suite.suite import Suite

EXAMPLES = "Examples: qbench plan suites/ci.yaml | qbench plan suites/mistral.yaml --gpu 24GB"


def plan(
    suite: SuitePath,
    *,
    results: Results = Path("results"),
    device: Device = None,
    only: Only = None,
    gpu: Annotated[
        str | None,
        typer.Option(
            help="Plan for GPUs that are not here: 24GB, 24GiB, t4, a100-40gb, h100, 2xh100."
        ),
    ] = None,
    kinds: Annotated[
        bool, typer.Option("--kinds", help="Also show what the bytes and the peaks are made of.")
    ] = False,
    rehearse: Rehearse = False,
    format_name: FormatName = "text",
    output: Output = None,
) -> None:
    """Show what a suite would measure: on disk, bytes, what fits, how long, what its gate finds."""
    from qbench.plan.plan import make_plan
    from qbench.predict.devices import parse_memory
    from qbench.report.format import Subject
    from qbench.report.formats import find_format
    from qbench.report.plan_page import plan_page

    form = find_format(format_name, "page")
    made = make_plan(
        load(suite, rehearse=rehearse),
        results,
        device=device,
        only=only or (),
        gpu=parse_memory(gpu) if gpu is not None else None,
    )
    show(Subject(lambda: plan_page(made, results, kinds=kinds)), form, output)


def load(path: Path, *, rehearse: bool) -> Suite:
    """The checked suite, or its rehearsal."""
    from qbench.plan.plan import load_checked_suite

    suite = load_checked_suite(path)
    if not rehearse:
        return suite
    from qbench.plan.rehearsal import rehearse as made_of

    return made_of(suite)
