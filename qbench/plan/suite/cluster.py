"""The section `cluster` of a suite: what its jobs ask of a cluster that runs them.

It says where and how long jobs run, never what they measure: nothing of it is in a key.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, NamedTuple

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, WithJsonSchema

from qbench.core.aliases import Also
from qbench.core.quantities import bytes_of
from qbench.core.reading import STRICT, InvalidValueError, NotNull, OneOrMore, expects
from qbench.core.spec import Frozen
from qbench.plan.suite.cluster_ray import RaySection

MINUTES = "minutes, or a time as sbatch reads it, such as 4:00:00 or 2-00:00:00"
GPU = "GPUs of one type, such as h100 or h100:4, or a number of them"
MEMORY = "a size such as 64GiB, or 64G as sbatch reads it"
MOST_MINUTES = 366 * 24 * 60
_TIMES = (
    r"(?P<m>\d+)(:(?P<s>[0-5]?\d))?",
    r"(?P<h>\d+):(?P<m>[0-5]?\d):(?P<s>[0-5]?\d)",
    r"(?P<d>\d+)-(?P<h>\d+)(:(?P<m>[0-5]?\d)(:(?P<s>[0-5]?\d))?)?",
)
"""As sbatch reads `--time`."""
_GPU = (
    r"(?:gpu:)?"
    r"(?:(?P<type>[A-Za-z][A-Za-z0-9_.-]*)(?::(?P<of_it>[1-9]\d{0,2}))?|(?P<count>[1-9]\d{0,2}))"
)
"""Its first word is how `--gres` begins."""
_SBATCH_SIZE = re.compile(r"(\d+)([KMGT])", re.IGNORECASE)
_NOT_ZERO = r"(?![0:-]+$)"


def minutes_of(value: object) -> int:
    """Whole minutes of a time as sbatch reads it, a begun one counted; `InvalidValueError` else."""
    text = _as_text(value)
    found = next(filter(None, (re.fullmatch(one, text, re.ASCII) for one in _TIMES)), None)
    if found is None or len(text) >= 20:
        raise InvalidValueError(MINUTES)
    read = {name: int(digits or 0) for name, digits in found.groupdict().items()}
    hours = 24 * read.get("d", 0) + read.get("h", 0)
    minutes = 60 * hours + math.ceil((60 * read["m"] + read.get("s", 0)) / 60)
    if not 0 < minutes <= MOST_MINUTES:
        raise InvalidValueError(MINUTES)
    return minutes


def _as_text(value: object) -> str:
    """A text, or a whole number as YAML reads it; nothing of anything else."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return str(value) if whole or isinstance(value, str) else ""


class GpuRequest(NamedTuple):
    """GPUs that a kind of job asks for."""

    kind: str | None
    """As the cluster calls it, such as `h100`; None for any."""
    each: int | None
    """What a model that is laid over several takes; None for as many as it needs."""

    def __str__(self) -> str:
        """As in a suite."""
        return ":".join(str(part) for part in self if part is not None) or "1"


def gpu_request(text: str) -> GpuRequest:
    """Reads `h100`, `h100:4` or `4`; raises `InvalidValueError` for anything else."""
    found = re.fullmatch(_GPU, text, re.ASCII)
    if found is None:
        raise InvalidValueError(GPU)
    count = found["of_it"] or found["count"]
    return GpuRequest(found["type"], int(count) if count else None)


def _check_gpu(value: object) -> str:
    """A request in the one form in which it is kept."""
    return str(gpu_request(_as_text(value)))


def _check_types(value: tuple[str, ...]) -> tuple[str, ...]:
    types = [gpu_request(one).kind for one in value]
    for at, kind in enumerate(types):
        if kind in types[:at]:
            found = f"{kind or 'GPUs of any type'} twice"
            raise InvalidValueError("each type once", found, "remove one of them")
    return value


def _check_memory(value: object) -> int:
    """Mebibytes of a size; sbatch's G and M are powers of 1024."""
    plain = isinstance(value, int) and not isinstance(value, bool) and value > 0
    text = value.strip() if isinstance(value, str) else ""
    of_sbatch = _SBATCH_SIZE.fullmatch(text)
    size = bytes_of(f"{text}iB" if of_sbatch else text)
    if size is None or not 2**20 <= size <= 2**50:
        raise InvalidValueError(MEMORY, remedy=f"write {value}G or {value}M" if plain else None)
    return math.ceil(size / 2**20)


def _word(expected: str, pattern: str = r"[A-Za-z0-9_.@+-]+") -> Any:
    """Of a field that sbatch takes as it stands: one line, without what a shell reads."""
    return expects(expected, pattern=f"^{pattern}$", max_length=200)


_TIME_PATTERN = "|".join(re.sub(r"\?P<\w+>", "", one) for one in _TIMES)
_TIME_SCHEMA = {
    "anyOf": [
        {"type": "integer", "minimum": 1, "maximum": MOST_MINUTES},
        {"type": "string", "pattern": f"^{_NOT_ZERO}({_TIME_PATTERN})$"},
    ],
    "errorMessage": MINUTES,
}
_GPU_SCHEMA = {
    "anyOf": [
        {"type": "integer", "minimum": 1, "maximum": 999},
        {"type": "string", "pattern": f"^{re.sub(r'[?]P<[a-z_]+>', '', _GPU)}$"},
    ],
    "errorMessage": GPU,
}
_MEMORY_SCHEMA = {
    "type": "string",
    "pattern": r"^\s*\+?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*([kKmMgGtT]([iI]?[bB])?|[bB])\s*$",
    "errorMessage": MEMORY,
}


class SlurmSection(Frozen):
    """What jobs ask of Slurm, with `--on slurm`."""

    model_config = STRICT | ConfigDict(
        json_schema_extra={"errorMessage": "a mapping such as {partition: gpu, gpus: h100}"}
    )

    partition: Annotated[
        str | None, NotNull(), _word("names of partitions", r"[A-Za-z0-9_.,@+-]+")
    ] = None
    """The partition, or several with commas; Slurm's default unless given."""
    time: Annotated[
        int | None,
        BeforeValidator(minutes_of),
        WithJsonSchema(_TIME_SCHEMA),
        NotNull(),
        Also("timeout_min"),
    ] = None
    """The time limit of a job: minutes, `h:mm:ss` or `d-hh:mm:ss`. Unless given, `timeout_s` and a
    quarter of an hour for what comes before."""
    gpus: Annotated[
        tuple[
            Annotated[
                str,
                BeforeValidator(_check_gpu, json_schema_input_type=str),
                WithJsonSchema(_GPU_SCHEMA),
            ],
            ...,
        ],
        AfterValidator(_check_types),
        OneOrMore("one type of GPU", "add one, or remove the line to compute on CPUs"),
        Also("gres", "gpus_per_node"),
    ] = Field((), examples=[["h100", "a100"]])
    """The type of GPU, such as `h100`; several are measured each in a column of its own. A job gets
    one, and a model with `device_map` as many as its predicted peak needs, or those of `h100:4`.
    Jobs compute on CPUs unless it is given."""
    account: Annotated[str | None, NotNull(), _word("the name of an account")] = None
    """What the jobs are charged to."""
    qos: Annotated[str | None, NotNull(), _word("the name of a quality of service")] = None
    """The quality of service."""
    constraint: Annotated[
        str | None,
        NotNull(),
        _word("features of nodes, such as avx512|amx", r"[A-Za-z0-9_.:=,&|()\[\]*!-]+"),
    ] = None
    """Features that nodes must have. All nodes of a column must have the same device."""
    cpus: Annotated[
        int | None,
        NotNull(),
        Also("cpus_per_task"),
        expects("a number of cores from 1", ge=1, le=10_000),
    ] = None
    """Cores of a job. Unless given, those of the whole node on CPUs, else what Slurm gives."""
    memory: Annotated[
        int | None,
        BeforeValidator(_check_memory),
        WithJsonSchema(_MEMORY_SCHEMA),
        NotNull(),
        Also("mem"),
    ] = None
    """Main memory of a job, such as `64GiB` or sbatch's `64G`; what Slurm gives unless given."""
    exclusive: Annotated[bool | None, NotNull()] = None
    """Whether a job has its node for itself. Unless given, on CPUs alone, where jobs beside each
    other would disturb each other's times."""
    at_once: Annotated[
        int | None,
        NotNull(),
        Also("array_parallelism"),
        expects("a number of jobs from 1 to 1000", ge=1, le=1000),
    ] = None
    """The most jobs that are queued or run at once; 64 unless given."""
    setup: Annotated[
        tuple[Annotated[str, expects("a line of shell", pattern=r"\S")], ...],
        OneOrMore("one line of shell", "add one, or remove the line"),
    ] = Field((), examples=[["module load cuda"]])
    """Lines of shell before each job, such as `module load cuda`; only with `trust_code`."""


class ClusterSection(Frozen):
    """What the suite's jobs ask of a cluster, for `qbench run --on`."""

    model_config = STRICT | ConfigDict(
        json_schema_extra={"errorMessage": "a mapping such as {slurm: {partition: gpu}}"}
    )

    slurm: Annotated[SlurmSection | None, NotNull()] = None
    """What jobs ask of Slurm."""
    ray: Annotated[RaySection | None, NotNull()] = None
    """What jobs ask of Ray."""
