"""What a run leaves, and what each piece of it costs the process that watches all jobs."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from qbench.core.store import read_folder, write_record
from qbench.plan.estimate import Estimate, Left
from qbench.plan.job import Task
from qbench.plan.needs import disk_needs
from qbench.plan.records import RecordsOnDisk
from qbench.predict.model_config import decoder_of
from tools.scale.durations import BYTES_A_TOKEN, TEXT_BYTES

if TYPE_CHECKING:
    from qbench.core.record import Record
    from qbench.plan.plan import Plan

_PUBLISHED = Path(__file__).parents[2] / "results" / "published"
_EVENTS_BESIDE = 6
"""Events of a job beside those of its items: its phases, and its worker's begin and end."""
_EVENTS_OF_ITEM = 2
"""Its begin, and its record; how far it is comes besides, once a second at most."""


def record_bytes(plan: Plan) -> tuple[int, int]:
    """Records that a plan leaves and their bytes, each as large as the published ones like it."""
    sizes: dict[str, list[int]] = {}
    for path in _PUBLISHED.rglob("*.json"):
        sizes.setdefault(path.name.partition("-")[0], []).append(path.stat().st_size)
    means = {name: sum(each) / len(each) for name, each in sizes.items()}
    of_any = sum(means.values()) / len(means)
    counts = Counter(task.item.measurement for task in plan.tasks)
    return counts.total(), round(
        sum(count * means.get(name, of_any) for name, count in counts.items())
    )


def files_in_folders(plan: Plan) -> tuple[int, int]:
    """Folders of cells, and the most records in one."""
    counts = Counter(Path(task.path).parent for task in plan.tasks)
    return len(counts), max(counts.values())


def kept_bytes(plan: Plan) -> dict[str, int]:
    """What lies in the shared cache in the end, by what it is."""
    found = {need.what: need.bytes for need in disk_needs(plan) if need.is_cache}
    tokens = round(TEXT_BYTES / BYTES_A_TOKEN)
    shapes = {cell.model.ref.name: decoder_of(cell.model)[0] for cell in plan.cells}
    states = sum(2 * shape.hidden * tokens for shape in shapes.values() if shape is not None)
    return found | {"reference states of the text": states}


def events_of(plan: Plan, jobs: int) -> int:
    """What the watching process hears."""
    return _EVENTS_BESIDE * jobs + _EVENTS_OF_ITEM * len(plan.open_tasks)


def driver_s(records: int = 200) -> float:
    """CPU seconds of the watching process for a record, on this machine.

    It is written, read and checked, and the time left is reckoned, as where no folder is shared.
    Time in which a disk is waited for is not counted.
    """
    some = read_folder(_PUBLISHED / "quickstart")[0]
    left = Left(Estimate())
    with tempfile.TemporaryDirectory() as folder:
        on_disk = RecordsOnDisk()
        begun = time.process_time()
        for at in range(records):
            _take(some[at % len(some)], Path(folder) / str(at), on_disk, left)
        return (time.process_time() - begun) / records


def _take(record: Record, folder: Path, on_disk: RecordsOnDisk, left: Left) -> None:
    path = folder / f"{record.item.measurement}-{record.key}.json"
    write_record(path, record)
    task = Task(item=record.item, key=record.key, identity=record.identity, path=str(path))
    read = on_disk.record(task)
    if read is None:
        raise FileNotFoundError(path)
    left.recorded(read)
