"""The command `export every-eval-ever`: results for the common store of evaluations."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qbench.cli.export.records import (
    Force,
    OfDevice,
    RecordsAt,
    ToFolder,
    read_chosen,
)
from qbench.cli.shared import Only, Results  # noqa: TC001 - typer reads them

EXAMPLES = (
    "Examples: qbench export every-eval-ever results/quickstart --to eee --organization 'My Lab'"
    " | qbench export every-eval-ever suite.yaml --to eee --only 'int4*'"
    " --relationship third_party --developer my-lab"
)


def every_eval_ever(
    records: RecordsAt,
    *,
    to: ToFolder,
    only: Only = None,
    device: OfDevice = None,
    organization: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Who measured, as others know you. \\[default: unknown]"),
    ] = None,
    relationship: Annotated[
        str,
        typer.Option(
            help="What you are to the developer of the model: first_party, third_party,"
            " collaborative or other."
        ),
    ] = "other",
    developer: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Who made the models that no hub names a developer of: local and tuned ones.",
        ),
    ] = None,
    results: Results = Path("results"),
    force: Force = False,
) -> None:
    """Write results with their uncertainty in the form of Every Eval Ever (schema 0.3.0).

    One file a cell, `data/qbench/<developer>/<model>/<uuid>.json`, as its store has them; texts
    that were generated stand beside it in `<uuid>_samples.jsonl`.
    """
    from qbench.cli.export.folder import write_folder
    from qbench.core.errors import UsageError
    from qbench.core.spec import slugify
    from qbench.report.exports.every_eval_ever.files import every_eval_ever_files
    from qbench.report.exports.every_eval_ever.identity import RELATIONSHIPS, UNSTATED, Evaluator

    if relationship not in RELATIONSHIPS:
        raise UsageError(
            f"--relationship: found {relationship!r}; expected one of {', '.join(RELATIONSHIPS)}"
        )
    if developer is not None and slugify(developer) != developer:
        raise UsageError(
            f"--developer: found {developer!r}; expected the name of a folder, of letters, digits,"
            " '.', '_' and '-', such as my-lab"
        )
    evaluator = Evaluator(organization or UNSTATED, relationship, developer)
    chosen = read_chosen(records, only=only or (), device=device, results=results)
    write_folder(to, every_eval_ever_files(chosen, str(records), evaluator), force=force)
