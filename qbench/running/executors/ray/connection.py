"""The way to a Ray cluster: an address, quietly, and errors in words."""

from __future__ import annotations

import logging
import os
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from qbench.core.errors import UsageError
from qbench.core.packages import install_command

if TYPE_CHECKING:
    from collections.abc import Iterator

_CLIENT = "ray://"
_CLIENT_PORT = 10001
_REACH_S = 10.0
_STORE_BYTES = 256 * 2**20
"""For objects of a cluster that is started here, where nothing needs to travel."""
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"""Of this process: nobody is told of the run, and no advice is printed."""


def address_of(on: str, section: str | None) -> str | None:
    """The address that `--on`, else the suite, else `RAY_ADDRESS` gives; None where none does.

    Of a client, with its port. Raises `UsageError` for one that cannot be.
    """
    if on == "ray" or on in {"ray:", _CLIENT}:
        chosen = section or os.environ.get("RAY_ADDRESS") or None
    else:
        chosen = on if on.startswith(_CLIENT) else on.removeprefix("ray:")
    if chosen is None or not chosen.startswith(_CLIENT):
        return chosen
    host, colon, port = chosen.removeprefix(_CLIENT).partition(":")
    if not host or (colon and not port.isdigit()):
        raise UsageError(
            f"the address {chosen!r}: expected ray://HOST:PORT, with the port of Ray's client"
            f" server, {_CLIENT_PORT} unless it was started with another"
        )
    return f"{_CLIENT}{host}:{port or _CLIENT_PORT}"


@contextmanager
def connected(address: str | None) -> Iterator[bool]:
    """Joins the cluster for the block; whether it is joined as a client, from outside.

    Without an address it is the one that this machine is a node of, else one is started here, and
    ended with the block. A process that has joined one already stays in it. Raises `UsageError`.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise UsageError(f"--on ray: Ray is not installed here; {install_command(['ray'])}") from (
            error
        )
    if ray.is_initialized():
        yield bool(ray.util.client.ray.is_connected())
        return
    _join(ray, address)
    try:
        yield address is not None and address.startswith(_CLIENT)
    finally:
        ray.shutdown()


def _join(ray: Any, address: str | None) -> None:
    quiet = {"log_to_driver": False, "configure_logging": False}
    _say_nothing()
    try:
        if address is not None:
            _reach(address)
            ray.init(address=address, **quiet)
            return
        try:
            ray.init(address="auto", **quiet)
        except ConnectionError:  # no cluster here
            # Of workers: as programs that users start have it.
            os.environ.setdefault("RAY_worker_niceness", "0")
            ray.init(
                address="local",
                include_dashboard=False,
                object_store_memory=_STORE_BYTES,
                **quiet,
            )
    # Ray raises many kinds of errors here, of gRPC among them.
    except Exception as error:
        where = address or "a cluster on this machine"
        lines = str(error).strip().splitlines() or [type(error).__name__]
        # Of what Ray's client server answers the last line is the reason.
        first = " ".join(dict.fromkeys((lines[0], lines[-1])))
        raise UsageError(
            f"--on ray: {where} cannot be joined ({first}); expected ray://HOST:{_CLIENT_PORT} of a"
            " cluster's head node, or, on a machine that `ray start` made a node of it, HOST:6379;"
            " the versions of Ray and Python must be those of the cluster, and where it asks for a"
            " token (`ray start` says so), RAY_AUTH_MODE=token must be set here, with that token"
        ) from error


def _reach(address: str) -> None:
    """Raises `OSError` where nothing listens at an address: Ray itself tries for minutes."""
    host, _, port = address.removeprefix(_CLIENT).rpartition(":")
    if port.isdigit():
        with socket.create_connection((host.strip("[]"), int(port)), _REACH_S):
            pass


def _say_nothing() -> None:
    """Keeps Ray from printing: what is lost is told by the run itself."""
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    from ray._private import worker

    # It prints the last lines of the log of each node that is lost, which no setting prevents.
    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = lambda *_, **__: None
