"""What comes out: the record that one measurement of one cell leaves behind.

The record is the only thing that report, compare and gate see.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, StringConstraints

from qbench.core.spec import Cell, Frozen, Item

SCHEMA_VERSION = 1
"""Version of the record's form. A file of a newer version is refused, never overwritten."""

PROTOCOL_VERSION = "2"
"""Version of how the numbers are obtained. Numbers of two protocols never share a column.

2: rows of CSV and JSON data keep the characters of their file, an example has the token ids of its
whole text, packed examples do not attend to each other, a layer is verified after a first forward
pass, fp32 is never TF32, and a decode step is compared with the bandwidth of reading.
"""

Status = Literal["ok", "skipped", "oom", "timeout", "nan", "crash", "error"]
STATUSES: tuple[Status, ...] = ("ok", "skipped", "oom", "timeout", "nan", "crash", "error")
Better = Literal["lower", "higher", "neither"]
VariesBy = Literal["nothing", "sample", "process"]
"""What would make a number another one, were it taken again: nothing; other windows or items;
another process."""

_EXACT_UNITS = ("B", "FLOP")
_PROCESS_UNITS = ("s", "tokens/s", "J", "B/s", "FLOP/s")
FolderName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._=-]*$")]
"""Letters, digits, `.`, `_`, `=` and `-`: names no place outside the folder it is put in."""


class MetricDefinition(Frozen):
    """What a metric means: stands once, in the module that measures it."""

    name: str
    unit: str
    """`B`, `s`, `tokens/s`, `bit`, `1` for a plain number or a share."""
    better: Better
    title: str
    """A few words for tables."""
    formula: str
    """How it is computed, and the source of the formula."""
    varies_by: VariesBy | None = None
    """None for what is usual of its unit: see `usual_variation`."""
    also_called: tuple[str, ...] = ()
    """What other tools and papers call it, where that differs from title and name. `{name}` stands
    for a parameter of the item: `pp{prompt_tokens}` is `pp512` for a prompt of 512 tokens."""


class Metric(Frozen):
    """One number of a record."""

    name: str
    unit: str
    better: Better
    value: float | None
    reason: str | None = None
    """Why there is no value; set if and only if `value` is None."""
    samples: tuple[float, ...] | None = None
    """The raw samples that the value was computed from, in the order they were taken."""
    varies_by: VariesBy | None = None
    """As it is defined; None in records of before it was kept, and of plug-ins that leave it."""


class Environment(Frozen):
    """The conditions a record was taken under."""

    qbench: str
    python: str
    platform: str
    """Operating system and machine type, such as `Linux-x86_64`."""
    device: str
    """Readable device name with its cores or memory: `Intel Xeon (2 cores)`, `NVIDIA H200`."""
    device_kind: FolderName
    """The device as a folder name: `cpu-intel-xeon-2c`, `nvidia-h200`. Never a host name."""
    device_type: Literal["cpu", "cuda"]
    device_memory_bytes: int | None
    """Total memory of the device (of the machine or its container, for a CPU)."""
    gpus_memory_bytes: tuple[int, ...] = ()
    """Of each GPU that torch sees, which a model with `device_map` is laid over; empty where it is
    not known."""
    capability: tuple[int, int] | None = None
    """CUDA's compute capability of the device, such as (9, 0); None where it is not known."""
    threads: int | None = None
    """Compute threads that torch used; set by the worker."""
    versions: dict[str, str | None] = Field(default_factory=dict)
    """Of the packages that decide the numbers; None for one that is not installed."""
    git_revision: str | None = None
    """Commit of the folder the run was started in, `+` behind it when there were changes."""
    cpu_features: tuple[str, ...] = ()
    """Instruction sets that choose kernels: `avx2`, `avx512f`, `avx512_bf16`, `amx_bf16`."""
    fp32_products: str | None = None
    """torch's precision of fp32 products: `highest` is fp32 itself, no TF32; set by the worker."""
    driver: str | None = None
    """Version of the GPU's driver."""
    cuda: str | None = None
    """Version of CUDA that torch was built for; set by the worker, as the next."""
    cudnn: str | None = None
    variables: dict[str, str] = Field(default_factory=dict)
    """Environment variables that change numbers, memory or speed, where they are set; in older
    records those of GPUs alone."""


class Record(Frozen):
    """One measurement of one cell: status, metrics, raw series, conditions and times."""

    schema_version: int = SCHEMA_VERSION
    protocol: str = PROTOCOL_VERSION
    key: str
    """`content_key(identity)`."""
    identity: dict[str, Any]
    """Everything that decides the numbers; see `qbench.plan.plan`."""
    suite: str
    cell: Cell
    item: Item
    reference: bool
    """Whether this cell is what the suite compares the others of its model with."""
    rehearsal: tuple[str, ...] = ()
    """What a rehearsal replaced and shortened; empty for a real record. A rehearsal's numbers are
    those of its replacements: they are never compared with real ones."""
    status: Status
    reason: str | None = None
    """Why the status is not `ok`."""
    phase: str | None = None
    """What was running when it failed: `load`, `verify`, `measure` …"""
    log_tail: str | None = None
    """The last lines of the worker's log, when it failed."""
    warnings: tuple[str, ...] = ()
    """What a reader must know to use the numbers, each with its remedy."""
    metrics: tuple[Metric, ...] = ()
    series: dict[str, list[float]] = Field(default_factory=dict)
    """Raw rows kept for paired statistics, such as the summed loss of each window."""
    details: dict[str, Any] = Field(default_factory=dict)
    """What was really loaded and done, such as the modules left out of quantization."""
    environment: Environment
    started_at: str
    """ISO 8601, UTC."""
    duration_s: float | None = None
    _older: int = PrivateAttr(default=0)

    @property
    def older(self) -> int:
        """How many older records of the same thing it stands for, which were left unread."""
        return self._older

    def standing_for(self, older: int) -> Record:
        """The same record, in the place of so many older ones too."""
        if not older:
            return self
        made = self.model_copy()
        made._older = older  # noqa: SLF001 (a copy of its own)
        return made

    def metric(self, name: str) -> Metric | None:
        """The metric of that name, or None if this record has none."""
        return next((metric for metric in self.metrics if metric.name == name), None)

    def value(self, name: str) -> float | None:
        """The metric's value; None if there is no such metric or it has no value."""
        metric = self.metric(name)
        return None if metric is None else metric.value


def usual_variation(unit: str) -> VariesBy:
    """Bytes and operations vary by nothing, times and rates by process, all else by sample."""
    if unit in _EXACT_UNITS:
        return "nothing"
    return "process" if unit in _PROCESS_UNITS else "sample"


def content_key(identity: dict[str, Any]) -> str:
    """First 16 hexadecimal digits of the sha256 of the identity as canonical JSON."""
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def identity_changes(new: dict[str, Any], old: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Both values of what differs between two identities, new and old, by its dotted name.

    What one of them does not have is None.
    """
    found: dict[str, tuple[Any, Any]] = {}
    for name in {**new, **old}:
        mine, other = new.get(name), old.get(name)
        if isinstance(mine, dict) and isinstance(other, dict):
            inner = identity_changes(mine, other).items()
            found.update({f"{name}.{part}": values for part, values in inner})
        elif mine != other:
            found[name] = (mine, other)
    return found
