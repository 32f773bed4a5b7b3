"""The command `export checkpoint`: the model of a cell as a folder that other programs load."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qbench.cli.shared import (  # noqa: TC001 - typer reads them
    Device,
    Results,
    Settings,
    SuitePath,
)

if TYPE_CHECKING:
    from qbench.core.record import Record
    from qbench.core.spec import Cell
    from qbench.plan.cells import PlannedCell
    from qbench.plan.plan import Plan
    from qbench.precisions.writing.form import WrittenFolder
    from qbench.report.exports.chosen import ExportedCell

EXAMPLES = (
    "Examples: qbench export checkpoint quickstart nf4 --to my-nf4 |"
    " qbench export checkpoint my-suite.yaml qlora-nf4--merged --to my-merged |"
    " qbench export checkpoint formats int8-wo --form torchao --to my-int8 |"
    " qbench run ./my-nf4 --measure quality,footprint"
)


def checkpoint(
    suite: SuitePath,
    cell: Annotated[
        str, typer.Argument(metavar="CELL", help="Its label in the suite, or its slug.")
    ],
    *,
    to: Annotated[
        Path, typer.Option("--to", metavar="FOLDER", help="The folder to write; it must be new.")
    ],
    form: Annotated[
        str | None,
        typer.Option(
            help="Another form than its precision's first: torchao, compressed-tensors, or numbers,"
            " plain ones in the place of codes."
        ),
    ] = None,
    results: Results = Path("results"),
    device: Device = None,
    settings: Settings = None,
) -> None:
    """Write the model of a cell as a checkpoint that transformers, PEFT or vLLM load.

    Tuned, merged or quantized: the codes are written as they were measured. What was written is
    loaded again and must give the same logits. A card tells how it was made and what it measured.
    """
    from qbench.core.units import choose_scale, counted
    from qbench.plan.plan import check_suite, make_plan
    from qbench.plan.suite.from_model import Wishes, read_source
    from qbench.plan.suite.settings import read_settings
    from qbench.report.console import make_console, say
    from qbench.running.exporting import cell_to_export, export_checkpoint

    source = read_source(str(suite), Wishes(), read_settings(settings or ()))
    plan = make_plan(check_suite(source), results, device=device)
    planned = cell_to_export(plan, cell)
    words = ["qbench", "export", "checkpoint", str(suite), cell, "--to", str(to)]
    words += ["--form", form] if form else []
    words += [word for one in settings or () for word in ("--set", one)]
    with make_console(stderr=True).status(f"{planned.cell.slug}: built, written and loaded again"):
        found = export_checkpoint(
            plan,
            planned,
            to,
            form=form,
            card=lambda made: _card(plan, planned, made, str(suite), to, shlex.join(words)),
        )
    held = [f"{counted(count, 'linear layer')} in {label}" for label, count in found.layers.items()]
    size = choose_scale([found.size_bytes], "bytes").with_unit(found.size_bytes)
    say(f"wrote {to}: {', '.join(held)}; {size} of weights as {found.form.name}")
    same = "the same logits, bit for bit"
    off = f"logits that differ by {found.difference:.2g} of their norm: {found.form.inexact}"
    say(f"loaded again by {found.form.library} it gives {same if found.difference == 0 else off}")


def _card(
    plan: Plan, planned: PlannedCell, made: WrittenFolder, source: str, to: Path, command: str
) -> str:
    """The folder's README.md: with the records of the cell, where there are any.

    `source` is the suite, as it was given.
    """
    from qbench.report.exports.checkpoint_card import Making, checkpoint_card

    cell = planned.cell
    training = next(
        (one for one in plan.every if cell.tuning and one.cell.training == cell.tuning), None
    )
    tasks = [] if training is None else [one for one in training.tasks if one.item.params]
    records = [record for one in tasks if (record := plan.records.record(one)) is not None]
    steps = next((one.details["steps"] for one in records if "steps" in one.details), None)
    making = Making(
        suite=plan.suite.name,
        source=source,
        cell=planned.held,
        model=planned.model,
        command=command,
        folder=str(to),
        base_cell=_base_of(plan, cell),
        environment=plan.environment,
        written=made,
        training=next((one.item.params for one in tasks if "data" in one.item.params), None),
        steps=steps,
    )
    return checkpoint_card(making, _measured(plan, planned))


def _base_of(plan: Plan, cell: Cell) -> str | None:
    """The slug of the untuned cell that is held in the same; None where the suite has none."""
    same = (cell.model.source, cell.precision, None, None)
    cells = (one.cell for one in plan.every)
    return next(
        (
            one.slug
            for one in cells
            if (one.model.source, one.precision, one.tuning, one.kv_cache) == same
        ),
        None,
    )


def _measured(plan: Plan, planned: PlannedCell) -> ExportedCell | None:
    """The cell with its records on disk, beside its reference; None where nothing was measured."""
    from qbench.report.exports.chosen import choose, one_cell

    def of(cell: PlannedCell) -> list[Record]:
        found = (plan.records.record(task) for task in cell.tasks)
        return [record for record in found if record is not None]

    own = of(planned)
    if not any(record.status == "ok" for record in own):
        return None
    others = [record for one in plan.every if one is not planned for record in of(one)]
    chosen = choose([*own, *others], f"the records of suite {plan.suite.name}")
    return one_cell(chosen, planned.cell.slug, f"suite {plan.suite.name}")
