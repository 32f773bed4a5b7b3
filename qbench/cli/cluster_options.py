"""Options of `qbench run` about a cluster, which stand for keys of the suite's `cluster`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from qbench.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

On = Annotated[
    str | None,
    typer.Option(
        help="Where the jobs run, if not on this machine: ray, ray://address, slurm, or"
        " slurm:local, which runs here, as processes, what it would give to Slurm.",
    ),
]
Partition = Annotated[str | None, typer.Option(help="Slurm's partition, with --on slurm.")]
TimeLimit = Annotated[
    str | None,
    typer.Option(
        help="Time limit of a Slurm job, with --on slurm: minutes, 4:00:00 or 2-00:00:00."
    ),
]


def with_slurm_options(
    settings: Iterable[str] | None, on: str | None, **given: str | None
) -> list[str]:
    """The settings, with a key of `cluster.slurm` for each option that was given.

    Raises `UsageError` for options that mean nothing where the jobs are to run.
    """
    options = {name: value for name, value in given.items() if value is not None}
    if options and (on or "").partition(":")[0] != "slurm":
        name = next(iter(options))
        raise UsageError(
            f"found --{name} without --on slurm, where alone it means something; add --on slurm,"
            f" or leave --{name} out"
        )
    return [
        *(settings or ()),
        *(f"cluster.slurm.{name}={json.dumps(value)}" for name, value in options.items()),
    ]
