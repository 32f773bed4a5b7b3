"""Runs on a Ray cluster of nodes on this machine: the records of a local run, whatever is lost."""

from __future__ import annotations

import os
import signal
import socket
import time
from typing import TYPE_CHECKING

import pytest

from tests.gpu_standin.machines import with_gpus
from tests.running.ray_nodes import RayNodes, workers
from tests.workplace import Workplace

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from qbench.core.record import Record

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
OWN_CACHES = ("--set", "cluster.ray.cache=own")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ray")


@pytest.fixture(scope="module")
def nodes(base: Path, tiny_model: Path) -> Iterator[RayNodes]:
    with RayNodes(Workplace(base, tiny_model)) as cluster:
        cluster.add("a")
        cluster.add("b")
        yield cluster


@pytest.fixture
def place(workplace: Workplace) -> Workplace:
    return workplace


def figures(record: Record) -> dict[str, float | None]:
    """What is the same wherever it is measured on devices of one kind."""
    if record.item.measurement == "quality":
        return {metric.name: metric.value for metric in record.metrics}
    return {}


def test_two_nodes_leave_the_records_that_this_machine_leaves(
    nodes: RayNodes, place: Workplace
) -> None:
    """Though they share no cache: the reference's states travel to whoever is compared with it."""
    place.write_suite("fp32", "nf4", "int8")
    finished = place.call("run", "suite.yaml", "--on", nodes.on, *OWN_CACHES)
    assert finished.code == 0, finished.output + finished.errors
    there = place.records()
    assert "raylet" not in finished.output + finished.errors
    assert all("--- on node " in text for text in place.logs().values())
    again = place.call("run", "suite.yaml", "--on", nodes.on, *OWN_CACHES)
    assert "0 taken now" in again.output
    (place.folder / "results").rename(place.folder / "there")
    assert place.call("run", "suite.yaml").code == 0
    here = place.records()
    assert {name: one.key for name, one in there.items()} == {
        name: one.key for name, one in here.items()
    }
    assert {one.status for one in there.values()} == {"ok"}
    assert [figures(one) for one in there.values()] == [figures(one) for one in here.values()]
    assert workers(place) == []


def wait_for_record(process: subprocess.Popen[str], place: Workplace, count: int) -> None:
    while process.poll() is None and len(list((place.folder / "results").rglob("*.json"))) < count:
        time.sleep(0.1)


def test_a_node_is_lost_and_the_rest_goes_to_the_other(nodes: RayNodes, place: Workplace) -> None:
    place.write_suite("fp32", "nf4", "int8")
    process = place.start("run", "suite.yaml", "--on", nodes.on, *OWN_CACHES)
    try:
        wait_for_record(process, place, 5)
        nodes.kill("a")
        output, errors = process.communicate(timeout=240)
        assert process.returncode == 0, output + errors
        assert {one.status for one in place.records().values()} == {"ok"}
        assert len(place.records()) == 12
        assert workers(place) == []
    finally:
        process.kill()
        nodes.add("a")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_the_driver_is_lost_and_a_rerun_goes_on(
    nodes: RayNodes, place: Workplace, number: signal.Signals
) -> None:
    place.write_suite("fp32", "nf4", "int8")
    with place.start("run", "suite.yaml", "--on", nodes.on) as process:
        wait_for_record(process, place, 5)
        os.kill(process.pid, number)
        process.communicate(timeout=60)
    assert process.returncode == (-number if number == signal.SIGKILL else 130)
    assert workers(place) == []
    before = place.records()
    assert 0 < len(before) < 12
    finished = place.call("run", "suite.yaml", "--on", nodes.on)
    assert finished.code == 0, finished.output + finished.errors
    after = place.records()
    assert len(after) == 12
    assert {one.status for one in after.values()} == {"ok"}
    assert {name: after[name] for name in before} == before


def test_from_outside_through_rays_client(nodes: RayNodes, place: Workplace) -> None:
    place.write_suite("fp32", "nf4")
    with nodes.client_server(free_port()) as on:
        finished = place.call("run", "suite.yaml", "--on", on, *OWN_CACHES)
    assert finished.code == 0, finished.output + finished.errors
    assert {one.status for one in place.records().values()} == {"ok"}
    assert len(place.records()) == 8
    assert workers(place) == []


def test_devices_of_two_kinds_are_two_columns(nodes: RayNodes, place: Workplace) -> None:
    """GPUs before CPUs unless both are asked for; and nodes that are not alike are refused."""
    place.write_suite("fp32", "nf4")
    there = with_gpus(place, "h100", "h100").environment
    names = ("CUDA_VISIBLE_DEVICES", "GPU_STANDIN", "PYTHONPATH")
    nodes.add("gpus", num_gpus=2, env_vars={name: there[name] for name in names})
    try:
        mixed = place.call("run", "suite.yaml", "--on", nodes.on, "--device", "cpu")
        assert mixed.code == 2
        assert "are not alike" in mixed.errors
        assert "torch" in mixed.errors
        both = ("--set", "cluster.ray.devices=all")
        finished = place.call("run", "suite.yaml", "--on", nodes.on, *OWN_CACHES, *both)
        assert finished.code == 0, finished.output + finished.errors
        records = place.records().values()
        assert len({one.environment.device_kind for one in records}) == 2
        folders = sorted(path.name for path in (place.folder / "results" / "suite").iterdir())
        assert folders == sorted({one.environment.device_kind for one in records})
        unknown = place.call(
            "run", "suite.yaml", "--on", nodes.on, "--set", "cluster.ray.devices=[a100]"
        )
        assert unknown.code == 2
        assert "no such device" in unknown.errors
        assert folders[0] in unknown.errors
    finally:
        nodes.kill("gpus")


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
