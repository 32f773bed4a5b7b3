"""The command `export mix`: a mix as a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qbench.cli.shared import (  # noqa: TC001 - typer reads them
    Device,
    Results,
    Settings,
    SuitePath,
)

EXAMPLES = (
    "Examples: qbench export mix suites/mixes.yaml mixed-budget=4.5-bits --to my-mix |"
    " qbench run ./my-mix --quick"
)


def mix(
    suite: SuitePath,
    cell: Annotated[
        str, typer.Argument(metavar="CELL", help="The mix: its label in the suite, or its slug.")
    ],
    *,
    to: Annotated[
        Path, typer.Option("--to", metavar="FOLDER", help="The folder to write; it must be new.")
    ],
    results: Results = Path("results"),
    device: Device = None,
    settings: Settings = None,
) -> None:
    """Write a mix as a checkpoint that transformers loads, its codes as they were measured.

    Formats of torchao may stand beside one another, or one of bitsandbytes beside plain layers.
    What was written is loaded again and must give the same logits.
    """
    from qbench.core.units import choose_scale, counted
    from qbench.plan.plan import check_suite, make_plan
    from qbench.plan.suite.from_model import Wishes, read_source
    from qbench.plan.suite.settings import read_settings
    from qbench.report.console import make_console, say
    from qbench.running.exporting import export_mix, job_of_mix

    source = read_source(str(suite), Wishes(), read_settings(settings or ()))
    made = make_plan(check_suite(source), results, device=device)
    job = job_of_mix(made, cell)
    with make_console(stderr=True).status(f"{job.cell.slug}: built, written and loaded again"):
        found = export_mix(job, to)
    held = [f"{counted(count, 'linear layer')} in {label}" for label, count in found.layers.items()]
    size = choose_scale([found.size_bytes], "bytes").with_unit(found.size_bytes)
    say(f"wrote {to}: {', '.join(held)}; {size} of weights, loaded by {found.form}")
