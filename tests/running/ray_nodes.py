"""A Ray cluster on this machine: nodes that come and go, for tests."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Self

import psutil

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.workplace import Workplace

STORE_BYTES = 80 * 2**20


class RayNodes:
    """A head on which no job runs, and nodes that are added; a context manager."""

    def __init__(self, place: Workplace) -> None:
        from ray.cluster_utils import Cluster

        self._place = place
        self._cluster: Any = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0,
                "object_store_memory": STORE_BYTES,
                "include_dashboard": False,
            },
        )
        self._nodes: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._cluster.shutdown()

    @property
    def on(self) -> str:
        """What `--on` says."""
        return f"ray:{self._cluster.address}"

    def add(self, name: str, **options: Any) -> None:
        """Adds a node with two cores, with its own cache, locks and temporary files."""
        folder = self._place.folder / name
        folder.mkdir(exist_ok=True)
        own = {
            "QBENCH_CACHE": str(folder / "cache"),
            "QBENCH_LOCKS": str(folder / "locks"),
            "TMPDIR": str(folder),
            **options.pop("env_vars", {}),
        }
        self._nodes[name] = self._cluster.add_node(
            **{"num_cpus": 2, "object_store_memory": STORE_BYTES, **options},
            env_vars={**self._place.environment, **own},
        )

    @contextmanager
    def client_server(self, port: int) -> Iterator[str]:
        """What `--on` says from outside of the cluster."""
        command = [sys.executable, "-m", "ray.util.client.server", "--mode", "proxy"]
        at = ["--host", "127.0.0.1", "--port", str(port), "--address", self._cluster.address]
        with subprocess.Popen(
            [*command, *at], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as server:
            try:
                _wait_for(port)
                yield f"ray://127.0.0.1:{port}"
            finally:
                server.terminate()

    def kill(self, name: str) -> None:
        """Takes a node away with all its processes, as when its machine is lost."""
        self._cluster.remove_node(self._nodes.pop(name), allow_graceful=False)


def _wait_for(port: int, within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        time.sleep(0.5)


def workers(place: Workplace, within_s: float = 10.0) -> list[str]:
    """Fork servers and their workers that are left below a place, once they had time to end."""
    deadline = time.monotonic() + within_s
    while True:
        found = []
        for process in psutil.process_iter():
            try:
                command = " ".join(process.cmdline())
                if "fork_server" in command and str(place.folder) in str(process.environ()):
                    found.append(f"{process.pid}: {command}")
            except psutil.Error:
                continue
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.2)
