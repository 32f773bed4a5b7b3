"""A baseline: the records of one suite on one device in one small file, to be committed.

It keeps what a comparison reads: metrics, conditions, and the series by window and by item that
pairing needs, each series once however many cells share it. Raw samples, logs and the places of
files on the machine are left out. A name that ends in `.gz` makes a compressed file.

    {"baseline_version": 1, "suite": …, "device": …, "protocol": …, "measured": …,
     "environments": [...], "metrics": {name: [unit, better]}, "series": [[...], ...],
     "records": [{..., "environment": index, "series": {name: index}}, ...]}
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from qbench.compare.comparable import ENERGY_METHOD
from qbench.compare.flips import ANSWERS
from qbench.compare.series import CLUSTERS, ITEM_IDS, ITEMS_OF, WEIGHTS
from qbench.core.binned_windows import BY_METRIC
from qbench.core.errors import StoreError
from qbench.core.files import write_atomically
from qbench.core.record import Environment, Metric, Record
from qbench.core.unchecked import as_list, as_mapping
from qbench.core.untrusted import cleaned, parse_json, read_bounded

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

BASELINE_VERSION = 2
"""Version of the file's form; one of another version is refused."""
LARGEST_PLAIN_BYTES = 256 * 1024
"""A file beyond this is compressed where its name is not given."""
SUFFIXES = (".json", ".json.gz")
"""How the names of baselines end."""
LARGEST_BYTES = 2**30
"""What a baseline may unpack to: beyond it, it is something else, or meant to fill the memory."""
_SERIES_PREFIXES = ("window_", "item_")
_DETAILS = (
    "ids_sha256",
    "task_hash",
    "task_version",
    "clustered_by",
    ITEMS_OF,
    ENERGY_METHOD,
    *BY_METRIC.values(),
)
_TEXT_KEYS = ("name", "source", "fingerprint", "options")
_REMEDY = "`qbench baseline SUITE` makes one"


def render_baseline(records: Sequence[Record]) -> str:
    """The file's text: the same records give the same text, one line a record and a series.

    `records` are the newest of one suite and device.
    """
    pools = _Pools()
    packed = [_pack(record, pools) for record in records]
    first = records[0]
    head: dict[str, Any] = {
        "baseline_version": BASELINE_VERSION,
        "suite": first.suite,
        "device": first.environment.device,
        "protocol": first.protocol,
        "measured": max(record.started_at for record in records),
    }
    lines = [f"{json.dumps(key)}: {_compact(value)}" for key, value in head.items()]
    lines.append(_block("environments", [_compact(one) for one in pools.environments]))
    lines.append(f'"metrics": {_compact(pools.metrics)}')
    lines.append(_block("series", pools.series))
    lines.append(_block("records", [_compact(one) for one in packed]))
    return "{" + ",\n".join(lines) + "}\n"


def write_baseline(path: Path, records: Sequence[Record]) -> Path:
    """Writes the baseline and returns its path, which gets `.gz` where it has no suffix of its own.

    Raises `StoreError` when it cannot be written, or when there are no records to write.
    """
    if any(record.rehearsal for record in records):
        raise StoreError(
            f"{path}: a rehearsal's records are no baseline; `qbench run SUITE` takes real ones"
        )
    if not any(record.status == "ok" for record in records):
        raise StoreError(f"{path}: no record is ok; `qbench run SUITE` first, then the baseline")
    text = render_baseline(records)
    replaced: Path | None = None
    if not path.suffix:
        endings = list(SUFFIXES)
        if len(text.encode()) > LARGEST_PLAIN_BYTES:
            endings.reverse()
        path, replaced = (path.with_name(f"{path.name}{ending}") for ending in endings)
    try:
        if path.suffix == ".gz":
            write_atomically(path, gzip.compress(text.encode(), mtime=0))
        else:
            write_atomically(path, text)
        if replaced is not None:
            replaced.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(
            f"{path}: the baseline cannot be written ({error.strerror}); choose another file"
        ) from error
    return path


def read_baseline(path: Path) -> list[Record]:
    """The records of a baseline, without what it does not keep.

    Raises `StoreError` for a file that is missing, damaged, of a newer version or something else.
    """
    try:
        contents = read_bounded(path, LARGEST_BYTES)
    except FileNotFoundError as error:
        raise StoreError(f"{path}: no such baseline; {_REMEDY}") from error
    except OSError as error:
        raise StoreError(
            f"{path}: the baseline cannot be read ({error.strerror}); name a file that can, or fix"
            " its permissions"
        ) from error
    return parse_baseline(contents, str(path))


def parse_baseline(contents: bytes, path: str) -> list[Record]:
    """The records of a baseline by what its file holds, which need not lie on the disk.

    Raises as `read_baseline` does; `path` is what its messages call the file.
    """
    data = _parse(contents, path)
    version = data.get("baseline_version") if isinstance(data, dict) else None
    if not isinstance(version, int):
        raise StoreError(f"{path}: not a baseline (no baseline_version in it); {_REMEDY}")
    if version > BASELINE_VERSION:
        raise StoreError(
            f"{path}: the baseline is of version {version}, this qbench reads up to"
            f" {BASELINE_VERSION}; upgrade qbench, or make the baseline again"
        )
    if version < BASELINE_VERSION:
        raise StoreError(
            f"{path}: the baseline is of version {version}, which tells no tuned models apart;"
            f" {_REMEDY}"
        )
    try:
        return [_unpack(one, data) for one in data["records"]]
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        reason = "a record in it" if isinstance(error, ValidationError) else repr(error)
        raise StoreError(f"{path}: the baseline is damaged ({reason}); {_REMEDY}") from error


class _Pools:
    """What several records share, each kept once."""

    def __init__(self) -> None:
        self.environments: list[dict[str, Any]] = []
        self.metrics: dict[str, list[str]] = {}
        self.series: list[str] = []
        self._places: dict[str, int] = {}

    def environment(self, environment: Environment) -> int:
        """Index of the environment."""
        dumped = environment.model_dump(mode="json")
        if dumped not in self.environments:
            self.environments.append(dumped)
        return self.environments.index(dumped)

    def add_series(self, values: Sequence[Any]) -> int:
        """Index of the series; whole numbers are written without a point."""
        plain = [int(v) if isinstance(v, float) and v.is_integer() else v for v in values]
        text = _compact(plain)
        if text not in self._places:
            self._places[text] = len(self.series)
            self.series.append(text)
        return self._places[text]


def _pack(record: Record, pools: _Pools) -> dict[str, Any]:
    pools.metrics.update({one.name: [one.unit, one.better] for one in record.metrics})
    params = dict(record.item.params)
    for name, value in params.items():
        if isinstance(value, dict) and {"fingerprint", "location"} & value.keys():
            params[name] = {key: value[key] for key in _TEXT_KEYS if key in value}
    model = record.cell.model
    # Its source is enough: where it lies is a matter of each machine.
    cell = record.cell.model_copy(
        update={"model": model.model_copy(update={"location": model.source})}
    )
    details = {key: record.details[key] for key in _DETAILS if record.details.get(key) is not None}
    packed: dict[str, Any] = {
        "key": record.key,
        "protocol": record.protocol,
        "suite": record.suite,
        "cell": cell.model_dump(mode="json"),
        "identity": {"model": record.identity.get("model")},
        "item": {**record.item.model_dump(mode="json"), "params": params},
        "reference": record.reference,
        "status": record.status,
        "reason": record.reason,
        "started_at": record.started_at,
        "environment": pools.environment(record.environment),
        "values": {one.name: one.value for one in record.metrics},
        "no_value": {one.name: one.reason for one in record.metrics if one.value is None},
        "series": {
            name: pools.add_series(values)
            for name, values in record.series.items()
            if name.startswith(_SERIES_PREFIXES) or name == WEIGHTS
        },
        "details": details,
    }
    if ITEM_IDS in record.details:
        packed["item_ids"] = pools.add_series(record.details[ITEM_IDS])
    if CLUSTERS in record.details:
        packed["clusters"] = pools.add_series(as_list(record.details[CLUSTERS]))
    if answers := as_mapping(record.details.get(ANSWERS)):
        packed["answers"] = {
            score: pools.add_series(as_list(given)) for score, given in answers.items()
        }
    return packed


def _unpack(packed: dict[str, Any], data: dict[str, Any]) -> Record:
    metrics = []
    for name, value in packed["values"].items():
        unit, better = data["metrics"][name]
        reason = packed["no_value"].get(name)
        metrics.append(Metric(name=name, unit=unit, better=better, value=value, reason=reason))
    details = dict(packed["details"])
    if "item_ids" in packed:
        details[ITEM_IDS] = data["series"][packed["item_ids"]]
    if "clusters" in packed:
        details[CLUSTERS] = data["series"][packed["clusters"]]
    if "answers" in packed:
        details[ANSWERS] = {name: data["series"][at] for name, at in packed["answers"].items()}
    return Record.model_validate(
        {
            "key": packed["key"],
            "protocol": packed["protocol"],
            "identity": packed["identity"],
            "suite": packed["suite"],
            "cell": packed["cell"],
            "item": packed["item"],
            "reference": packed["reference"],
            "status": packed["status"],
            "reason": packed["reason"],
            "metrics": metrics,
            "series": {name: data["series"][at] for name, at in packed["series"].items()},
            "details": details,
            "environment": data["environments"][packed["environment"]],
            "started_at": packed["started_at"],
        }
    )


def _parse(contents: bytes, path: str) -> Any:
    try:
        plain = _unpacked(contents) if contents[:2] == b"\x1f\x8b" else contents
        return cleaned(parse_json(plain))
    except (EOFError, ValueError, gzip.BadGzipFile, zlib.error) as error:
        raise StoreError(f"{path}: the baseline is cut short or damaged; {_REMEDY}") from error


def _unpacked(content: bytes) -> bytes:
    with gzip.open(io.BytesIO(content)) as file:
        unpacked = file.read(LARGEST_BYTES + 1)
    if len(unpacked) > LARGEST_BYTES:
        raise ValueError("it unpacks to more than a baseline holds")
    return unpacked


def _compact(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _block(name: str, lines: Sequence[str]) -> str:
    return f'"{name}": [\n' + ",\n".join(lines) + "\n]"
