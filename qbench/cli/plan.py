"""The command `plan`: what a suite means on a machine. Part of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from qbench.cli.shared import (
    Device,
    FormatName,
    Only,
    Output,
    Rehearse,
    Results,
    Settings,
    ShardOf,
    show,
)
from qbench.cli.source import (
    KvCaches,
    Measure,
    Name,
    Precisions,
    Quick,
    Reference,
    SuiteOrModel,
    Tasks,
    find_source,
    load,
)

EXAMPLES = (
    "Examples: qbench plan suites/ci.yaml | qbench plan suites/mistral.yaml --gpu 24GB |"
    " qbench plan suites/full.yaml --shard 2/5 |"
    " qbench plan ./my-model --precisions bf16,nf4 --measure quality"
)


def plan(
    suite: SuiteOrModel,
    *,
    results: Results = Path("results"),
    device: Device = None,
    only: Only = None,
    shard: ShardOf = None,
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
    settings: Settings = None,
    precisions: Precisions = None,
    measure: Measure = None,
    tasks: Tasks = None,
    kv_cache: KvCaches = None,
    reference: Reference = None,
    name: Name = None,
    quick: Quick = False,
    format_name: FormatName = "text",
    output: Output = None,
) -> None:
    """Show what a suite would measure: on disk, bytes, what fits, how long, what its gate finds."""
    from qbench.plan.plan import make_plan
    from qbench.plan.shards import parse_shard
    from qbench.predict.devices import parse_memory
    from qbench.report.format import Subject
    from qbench.report.formats import find_format
    from qbench.report.plan_page import plan_page

    form = find_format(format_name, "page")
    part = None if shard is None else parse_shard(shard)
    planned_for = parse_memory(gpu) if gpu is not None else None
    source = find_source(
        suite,
        settings,
        precisions=precisions,
        measure=measure,
        tasks=tasks,
        kv_cache=kv_cache,
        reference=reference,
        name=name,
        quick=quick,
        device=device,
        gpu=planned_for,
    )
    made = make_plan(
        load(source, rehearse=rehearse),
        results,
        device=device,
        only=only or (),
        shard=part,
        gpu=planned_for,
    )
    show(Subject(lambda: plan_page(made, results, kinds=kinds)), form, output)
