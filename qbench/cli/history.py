"""The command `history`: metrics over commits and versions. Part of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qbench.cli.shared import Only, Output, Results, show

EXAMPLES = (
    "Examples: qbench history suites/quickstart.yaml"
    " | qbench history quickstart --metric latency.decode --only 'nf4*' --since v1.2"
    " | qbench history quickstart --format html -o history.html"
)


def history(
    suite: Annotated[
        str, typer.Argument(metavar="SUITE", help="The suite's YAML file, or its name.")
    ],
    *,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="Only these metrics, by name or pattern, such as latency.decode or 'kl.*'. May be"
            " given several times. \\[default: the main ones]"
        ),
    ] = None,
    only: Only = None,
    device: Annotated[
        list[str] | None,
        typer.Option(help="Only these devices, by name or kind, such as 'nvidia-*'."),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option(metavar="REV", help="Only from this commit on: a hash, a tag, HEAD~30."),
    ] = None,
    results: Results = Path("results"),
    everything: Annotated[
        bool, typer.Option("--all", help="Every metric and line, not only the main ones.")
    ] = False,
    format_name: Annotated[
        str,
        typer.Option("--format", help="text, markdown, html, json, csv, or what a plug-in adds."),
    ] = "text",
    output: Output = None,
) -> None:
    """Show each metric over the commits that were measured, where it changed and what with.

    Records on the disk, and records and baselines that were committed, are read; git is asked.
    """
    from qbench.compare.history.batches import find_batches
    from qbench.compare.history.history import find_history
    from qbench.report.format import Subject
    from qbench.report.formats import find_format
    from qbench.report.history.page import history_on_screen, history_page
    from qbench.report.history.rows import history_rows

    form = find_format(format_name, "page", "rows")
    name = _name_of(suite)
    found = find_batches(name, results)
    folder = found.repository.root if found.repository else results
    made = find_history(
        name,
        found,
        folder,
        metrics=metric or (),
        only=only or (),
        devices=device or (),
        since=since,
        everything=everything,
    )
    shown = Subject(
        lambda: history_page(made),
        lambda: history_on_screen(made, everything=everything),
        rows=lambda: history_rows(made),
    )
    show(shown, form, output)


def _name_of(suite: str) -> str:
    """The name of a suite, which may be gone by now; that of its file."""
    from qbench.plan.suite.suite import load_suite

    path = Path(suite)
    return load_suite(path).name if path.suffix in {".yaml", ".yml"} else suite
