"""The simulation of a large matrix: small cases reckoned by hand, and bounds that none can pass."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from qbench.plan.missing import jobs_to_run
from qbench.plan.plan import MAX_RECORDS, RETRIED
from qbench.plan.suite.parts import MAX_CELLS
from qbench.running.executors.side_by_side import dependencies, ranks_of
from tests.workplace import REPOSITORY
from tools.scale.__main__ import app
from tools.scale.calibration import calibration_rows, ratios
from tools.scale.durations import loads_of
from tools.scale.matrix import NODE_GPUS, matrix_plan
from tools.scale.simulation import Cache, Cluster, Load, critical_path, least_s, simulate

if TYPE_CHECKING:
    from pathlib import Path

ALONE: frozenset[int] = frozenset()
QUICK = {"start_s": 0.0, "node_gpus": 2}


def test_a_job_begins_when_what_it_needs_has_ended() -> None:
    """Two GPUs: 3 s and then 4 s that need it on one, 2 s and 1 s on the other."""
    loads = [Load(3.0), Load(4.0), Load(2.0), Load(1.0)]
    needed = [ALONE, frozenset({0}), ALONE, ALONE]
    found = simulate(loads, needed, Cluster(2, **QUICK))
    assert (found.makespan_s, found.gpu_s, found.idle_gpu_s) == (7.0, 10.0, 0.0)
    assert critical_path(loads, needed, Cluster(2, **QUICK)) == [7.0, 4.0, 2.0, 1.0]


def test_what_ranks_lower_begins_first() -> None:
    """One second each but the last: begun last it ends at 1 + 5, begun first at 5."""
    loads = [Load(1.0), Load(1.0), Load(5.0)]
    needed = [ALONE] * 3
    cluster = Cluster(2, **QUICK)
    assert simulate(loads, needed, cluster).makespan_s == 6.0
    assert simulate(loads, needed, cluster, [0.0, 0.0, -1.0]).makespan_s == 5.0


def test_a_job_of_two_gpus_gets_a_node_though_small_ones_wait() -> None:
    """The node empties at 3 s, stays empty for the second's two GPUs until 5 s, then the last."""
    loads = [Load(3.0), Load(2.0, gpus=2), Load(1.0), Load(1.0)]
    needed = [ALONE] * 4
    assert simulate(loads, needed, Cluster(2, **QUICK)).makespan_s == 6.0
    with pytest.raises(ValueError, match="more GPUs than a node has"):
        simulate([Load(1.0, gpus=4)], [ALONE], Cluster(2, **QUICK))


@pytest.mark.parametrize(
    ("cache", "makespan_s", "hub", "shared"),
    [
        # Two nodes of one GPU, a model of 10 bytes, 1 byte a second each way, 1 s of work.
        (
            "shared",
            10 + 20 + 1,
            10,
            20,
        ),  # both read through the one file system, one after the other
        ("nodes", 20 + 10 + 1, 20, 0),  # the second download comes after the first
        ("copies", 10 + 20 + 10 + 1, 10, 20),  # copied to both, then read from each disk
    ],
)
def test_bytes_move_one_after_the_other(
    cache: Cache, makespan_s: float, hub: int, shared: int
) -> None:
    cluster = Cluster(
        2, node_gpus=1, start_s=0.0, hub_rate=1.0, node_rate=1.0, shared_rate=1.0,
        local_rate=1.0, cache=cache,
    )  # fmt: skip
    load = Load(1.0, read_bytes=10, model="a", model_bytes=10)
    found = simulate([load, load], [ALONE, ALONE], cluster)
    assert found.makespan_s == makespan_s
    assert (found.hub_bytes, found.shared_bytes) == (hub, shared)
    there = Cluster(**{**vars(cluster), "hub_rate": None})
    assert simulate([load, load], [ALONE, ALONE], there).hub_bytes == 0


def test_no_run_is_faster_than_its_bounds() -> None:
    draw = random.Random(0)
    for _ in range(40):
        loads = [
            Load(draw.uniform(1, 50), draw.randrange(9) * 10**9, f"m{draw.randrange(4)}", 10**10,
                 gpus=draw.choice((1, 1, 2)))
            for _ in range(30)
        ]  # fmt: skip
        needed = [frozenset(draw.sample(range(at), min(at, draw.randrange(3)))) for at in range(30)]
        cluster = Cluster(
            draw.choice((2, 6, 16)), node_gpus=2, cache=draw.choice(("shared", "nodes", "copies"))
        )
        ranks = [draw.random() for _ in loads]
        found = simulate(loads, needed, cluster, ranks)
        work = sum(load.gpus * least_s(load, cluster) for load in loads)
        most = max(critical_path(loads, needed, cluster))
        assert found.makespan_s >= max(most, work / cluster.gpus) - 1e-6
        assert found.gpu_s == pytest.approx(work + found.idle_gpu_s)
        assert found.idle_gpu_s >= -1e-6
        assert found.gpu_s <= cluster.gpus * found.makespan_s + 1e-6


def test_the_planner_lays_out_thirty_cells_a_model(tmp_path: Path) -> None:
    plan = matrix_plan(2, tmp_path)
    assert len(plan.cells) == 60
    jobs = jobs_to_run(plan, RETRIED, fresh=False)
    loads, needed = loads_of(jobs), dependencies(jobs)
    trainings = [at for at, job in enumerate(jobs) if job.cell.is_training]
    assert len(trainings) == 8
    # Each is waited for by what serves it, attached and merged.
    assert all(sum(at in earlier for earlier in needed) >= 2 for at in trainings)
    reference = {at for at, job in enumerate(jobs) if job.reference}
    waiting = [bool(reference & earlier) for earlier in needed]
    assert any(waiting)
    assert all(load.busy_s > 0 and load.read_bytes >= load.model_bytes > 0 for load in loads)
    found = simulate(loads, needed, Cluster(8), ranks_of(jobs))
    models = {load.model: load.model_bytes for load in loads}
    assert found.hub_bytes == sum(models.values())


def test_large_models_take_a_node_or_as_many_gpus_as_hold_them(tmp_path: Path) -> None:
    job = matrix_plan(1, tmp_path).jobs(lambda _: True)[0]
    spread = job.cell.model.model_copy(update={"device_map": "auto"})
    large = job.model_copy(
        update={
            "cell": job.cell.model_copy(update={"model": spread}),
            "model": job.model.model_copy(update={"disk_bytes": 141 * 10**9}),
        }
    )
    assert loads_of([job, large])[0].gpus == 1
    assert loads_of([job, large])[1].gpus == NODE_GPUS
    # Of 150 GB a GPU three quarters, 112 GB, are taken for weights.
    assert loads_of([large], needed_gpus=True)[0].gpus == 2


def test_durations_are_those_of_the_published_records_within_a_factor_of_two() -> None:
    found = ratios()
    assert {"latency", "memory", "training"} <= found.keys()
    for name in ("latency", "memory", "training"):
        middle = sorted(found[name])[len(found[name]) // 2]
        assert 0.75 < middle < 1.33
        assert all(0.4 < ratio < 2 for ratio in found[name])


def test_the_tables_are_printed() -> None:
    result = CliRunner().invoke(app, ["--models", "2", "--gpus", "8,16"])
    assert result.exit_code == 0, result.output
    assert "| cells | 60 |" in result.output
    assert "| 8 | " in result.output
    assert "the largest models first" in result.output


def test_the_page_tells_what_the_simulation_assumes() -> None:
    page = (REPOSITORY / "docs" / "scale.md").read_text(encoding="utf-8")
    text = " ".join(page.split())
    cluster = Cluster(8)
    assert cluster.hub_rate is not None
    assert f"| {8 * cluster.hub_rate / 1e9:.0f} Gbit/s for all nodes together |" in text
    assert (
        f"| {cluster.shared_rate / 1e9:.0f} GB/s in all, {cluster.node_rate / 1e9:g} GB/s" in text
    )
    assert f"own disk | {cluster.local_rate / 1e9:.0f} GB/s |" in text
    assert f"worker's start | {cluster.start_s:.0f} s |" in text
    assert f"{MAX_CELLS:,} cells and a million measurements" in text
    assert MAX_RECORDS == 1_000_000
    for row in calibration_rows():
        assert f"| {' | '.join(row)} |" in text
