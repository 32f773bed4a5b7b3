"""What a large matrix costs, on paper: prints the tables of docs/scale.md.

python -m tools.scale                          200 models on 8 to 1,000 GPUs, some minutes
python -m tools.scale --models 5 --gpus 8
"""

from __future__ import annotations

import resource
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from qbench.plan.missing import jobs_to_run
from qbench.plan.plan import RETRIED
from qbench.running.executors.side_by_side import dependencies, ranks_of
from tools.scale.calibration import calibration_rows
from tools.scale.durations import loads_of
from tools.scale.matrix import matrix_plan
from tools.scale.records import driver_s, events_of, files_in_folders, kept_bytes, record_bytes
from tools.scale.simulation import Cache, Cluster, critical_path, least_s, simulate

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from qbench.plan.job import Job
    from qbench.plan.plan import Plan
    from tools.scale.simulation import Load

_HOUR = 3600
_TB = 10**12


app = typer.Typer(add_completion=False)


@app.command()
def main(
    models: Annotated[int, typer.Option(help="Models of the matrix, 30 cells each.")] = 200,
    gpus: Annotated[str, typer.Option(help="Sizes of clusters.")] = "8,64,256,1000",
) -> None:
    """Plans the matrix, simulates its run on clusters of H200s, and prints tables as markdown."""
    sizes = [int(size) for size in gpus.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        begun = time.process_time()
        plan = matrix_plan(models, Path(folder))
        planned_s = time.process_time() - begun
        jobs = jobs_to_run(plan, RETRIED, fresh=False)
        found_s = time.process_time() - begun - planned_s
    loads, needed, ranks = loads_of(jobs), dependencies(jobs), ranks_of(jobs)
    _print("Predicted over measured", ("measurement", "records", "median", "least", "most"),
           calibration_rows())  # fmt: skip
    _print("The matrix", ("", ""), _of_matrix(plan, jobs, planned_s, found_s))
    rows = [_makespans(loads, needed, ranks, size) for size in sizes]
    _print(
        "Hours, and the share of GPU time that is not spent waiting for bytes or work",
        ("GPUs", "at least", *get_args(Cache)),
        rows,
    )
    _print(
        f"What changes it on {sizes[-1]:,} GPUs, with copies",
        ("", "hours", "at least", "TB from the shared file system"),
        _changes(jobs, loads, needed, ranks, sizes[-1]),
    )
    _print(
        f"TB moved on {sizes[-1]:,} GPUs",
        ("cache", "from the hub", "from the shared file system"),
        _moved(loads, needed, ranks, sizes[-1]),
    )
    _print("Kept", ("", ""), _kept(plan, jobs))


def _of_matrix(
    plan: Plan, jobs: Sequence[Job], planned_s: float, found_s: float
) -> list[tuple[str, str]]:
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return [
        ("cells", f"{len(plan.cells):,}"),
        ("of these skipped", f"{sum(cell.skip is not None for cell in plan.cells):,}"),
        ("measurements that can be taken", f"{len(plan.open_tasks):,}"),
        ("jobs", f"{len(jobs):,}"),
        ("of these on all GPUs of a node", f"{sum(_is_spread(job) for job in jobs):,}"),
        ("planning, CPU s", f"{planned_s:.0f}"),
        ("finding what is missing, CPU s", f"{found_s:.1f}"),
        ("memory of the plan, GB", f"{memory / 10**9:.1f}"),
    ]


def _makespans(
    loads: Sequence[Load],
    needed: Sequence[frozenset[int]],
    ranks: Sequence[float],
    gpus: int,
) -> tuple[str, ...]:
    least = _least_s(loads, needed, Cluster(gpus, cache="copies"))
    cells = []
    for cache in get_args(Cache):
        found = simulate(loads, needed, Cluster(gpus, cache=cache), ranks)
        useful = (found.gpu_s - found.idle_gpu_s) / (gpus * found.makespan_s)
        cells.append(f"{found.makespan_s / _HOUR:,.1f} ({useful:.0%})")
    return f"{gpus:,}", f"{least / _HOUR:,.1f}", *cells


def _changes(
    jobs: Sequence[Job],
    loads: Sequence[Load],
    needed: Sequence[frozenset[int]],
    ranks: Sequence[float],
    gpus: int,
) -> list[tuple[str, ...]]:
    """The run as it is, and with one thing changed after the other."""
    cluster = Cluster(gpus, cache="copies")
    there = Cluster(gpus, cache="copies", hub_rate=None)
    fewer = loads_of(jobs, needed_gpus=True)
    tails = [-seconds for seconds in critical_path(loads, needed, cluster)]
    cases: list[tuple[str, Sequence[Load], Cluster, Sequence[float]]] = [
        ("in the suite's order", loads, cluster, [0.0] * len(loads)),
        ("the longest chain of jobs first", loads, cluster, tails),
        ("the largest models first, as a run does", loads, cluster, ranks),
        ("… with all models downloaded before", loads, there, ranks),
        ("… and as few GPUs for a large model as hold it", fewer, there, ranks),
    ]
    rows: list[tuple[str, ...]] = []
    for words, asked, where, order in cases:
        found = simulate(asked, needed, where, order)
        hours = f"{found.makespan_s / _HOUR:,.1f}"
        least = f"{_least_s(asked, needed, where) / _HOUR:,.1f}"
        rows.append((words, hours, least, f"{found.shared_bytes / _TB:,.1f}"))
    return rows


def _moved(
    loads: Sequence[Load],
    needed: Sequence[frozenset[int]],
    ranks: Sequence[float],
    gpus: int,
) -> list[tuple[str, ...]]:
    outcomes = {
        cache: simulate(loads, needed, Cluster(gpus, cache=cache), ranks)
        for cache in get_args(Cache)
    }
    return [
        (cache, f"{found.hub_bytes / _TB:,.1f}", f"{found.shared_bytes / _TB:,.1f}")
        for cache, found in outcomes.items()
    ]


def _kept(plan: Plan, jobs: Sequence[Job]) -> list[tuple[str, str]]:
    count, size = record_bytes(plan)
    folders, most = files_in_folders(plan)
    return [
        *((f"{what}, GB", f"{kept / 10**9:,.0f}") for what, kept in kept_bytes(plan).items()),
        ("records", f"{count:,}"),
        ("records, GB", f"{size / 10**9:.2f}"),
        ("folders of records", f"{folders:,}"),
        ("most records in a folder", f"{most:,}"),
        ("events of all jobs", f"{events_of(plan, len(jobs)):,}"),
        ("CPU of the run's own process for a record, ms", f"{1000 * driver_s():.1f}"),
    ]


def _least_s(loads: Sequence[Load], needed: Sequence[frozenset[int]], cluster: Cluster) -> float:
    """No order is faster: the longest chain, or the work spread evenly over all GPUs."""
    work = sum(load.gpus * least_s(load, cluster) for load in loads) / cluster.gpus
    return max(work, *critical_path(loads, needed, cluster))


def _is_spread(job: Job) -> bool:
    return job.cell.model.device_map is not None


def _print(title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    lines = [f"## {title}", "", _row(heads), _row(["---"] * len(heads)), *map(_row, rows), ""]
    typer.echo("\n".join(lines))


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    app()
