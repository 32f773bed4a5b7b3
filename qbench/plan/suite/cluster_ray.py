"""What the jobs of a suite ask of a Ray cluster: `cluster.ray`. Nothing of it is in a key."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from qbench.core.reading import STRICT, NotNull, OneOrMore, expects
from qbench.core.spec import Frozen

ALL = "all"


class RaySection(Frozen):
    """What jobs ask of Ray, with `--on ray`."""

    model_config = STRICT | ConfigDict(
        json_schema_extra={"errorMessage": "a mapping such as {devices: [nvidia-h100-80gb-hbm3]}"}
    )

    address: Annotated[
        str | None, NotNull(), expects("an address such as ray://head:10001", pattern=r"^\S+$")
    ] = None
    """The cluster, such as `ray://head:10001`, or `head:6379` on a machine that is one of its
    nodes. Unless given, here or after `--on`, the one that `RAY_ADDRESS` names or this machine is
    a node of; else one is started on this machine."""
    devices: Annotated[
        tuple[Annotated[str, expects("the name of a device", pattern=r"^\S.*$")], ...],
        OneOrMore("one device", "add one, or remove the line"),
    ] = Field((), examples=[["nvidia-h100-80gb-hbm3"]])
    """Devices to measure on, each in a column of its own, as folders of results name them, or
    `all`. It is needed where the cluster has GPUs of several models, or, without GPUs, several
    CPUs."""
    gpus: Annotated[
        int | None, NotNull(), expects("a number of GPUs from 1 to 64", ge=1, le=64)
    ] = None
    """GPUs of a job whose model has `device_map`; unless given, as many as the largest such model
    is predicted to need, or all that its node has where that is not known. Other jobs get one."""
    at_once: Annotated[
        int | None, NotNull(), expects("a number of jobs from 1 to 10000", ge=1, le=10_000)
    ] = None
    """Jobs at once on each kind of device; as many as there are GPUs, or nodes without one, unless
    given. With more of them the cluster's autoscaler is asked for more nodes."""
    patience_s: Annotated[float, expects("a positive number of seconds", gt=0)] = 1800.0
    """Seconds without any node of a job's kind after which the run ends; a node that was lost may
    come back, or be replaced, meanwhile."""
    cache: Literal["shared", "own"] = "shared"
    """Whether nodes use the driver's cache folder where they see it, or each its `own`. Where they
    do not see it, what one job makes for others travels through Ray."""
