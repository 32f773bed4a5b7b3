"""What nodes must have in common, and what a cluster without the device that is asked for says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from qbench.core.environment import detect_environment
from qbench.running.executors.ray.alike import unlikeness
from qbench.running.executors.ray.node import Look
from qbench.running.executors.ray.nodes import Node, SeenNode
from tests.running.ray_nodes import RayNodes

if TYPE_CHECKING:
    from tests.workplace import Workplace


def test_a_cluster_without_gpus_is_joined_and_says_so(workplace: Workplace) -> None:
    workplace.write_suite("fp32")
    with RayNodes(workplace) as nodes:
        done = workplace.call("run", "suite.yaml", "--on", nodes.on, "--device", "cuda")
    assert done.code == 2
    assert "the cluster has no node with GPUs" in done.errors
    assert done.output == ""


@pytest.mark.slow
def test_a_node_that_lacks_a_package_of_qbench_is_told_by_it(workplace: Workplace) -> None:
    workplace.write_suite("fp32")
    lacking = workplace.folder / "lacking" / "qbench"
    lacking.mkdir(parents=True)
    (lacking / "__init__.py").write_text("import a_package_that_is_not_there\n", encoding="utf-8")
    with RayNodes(workplace) as nodes:
        nodes.add("bare", env_vars={"PYTHONPATH": str(lacking.parent)})
        done = workplace.call("run", "suite.yaml", "--on", nodes.on)
    assert done.code == 2, done.output + done.errors
    assert "qbench cannot run there (ModuleNotFoundError: No module named" in done.errors
    assert "a_package_that_is_not_there" in done.errors
    assert "install it on all nodes" in done.errors


def test_nodes_that_are_not_alike_are_told_by_what_differs() -> None:
    environment = detect_environment("cpu")
    node = Node("id", {"CPU": 2.0})

    def seen(keys: str = "keys", threads: int = 2, **changes: object) -> SeenNode:
        changed = environment.model_copy(update=changes)
        return SeenNode(node, Look("host", changed, threads, keys, sees_cache=False))

    assert unlikeness(seen(), seen()) == ""
    assert unlikeness(seen(), seen(gpus_memory_bytes=(1, 1))) == ""
    other = {**environment.versions, "torch": "1.0"}
    assert "torch" in unlikeness(seen(), seen(versions=other, keys="others"))
    assert "OMP_NUM_THREADS" in unlikeness(seen(), seen(threads=1, keys="others"))
    assert unlikeness(seen(device_type="cuda"), seen(device_type="cuda", threads=1)) == ""
    assert "other contents" in unlikeness(seen(), seen(keys="others"))
    few, many = seen(gpus_memory_bytes=(1, 1)), seen("others", gpus_memory_bytes=(1, 1, 1, 1))
    assert "over 2 GPUs there, over 4 here" in unlikeness(few, many)
