"""The log of a cell: all of its results in one document, with its place in the common store.

The same records give the same document under the same name: nothing of it follows from when, where
or how often it is exported.
"""

from __future__ import annotations

import hashlib
import uuid
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from qbench.compare.items import TASKS
from qbench.report.exports.every_eval_ever.identity import model_info, source_metadata
from qbench.report.exports.every_eval_ever.instances import instances_of
from qbench.report.exports.tree import ExportedFile, as_json, ended, part_of_path, started, strings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.report.exports.chosen import ExportedCell
    from qbench.report.exports.every_eval_ever.identity import Evaluator
    from qbench.report.exports.every_eval_ever.results import Result

SCHEMA_VERSION = "0.3.0"
"""Of the schema that is written: https://github.com/evaleval/every_eval_ever."""
COLLECTION = "qbench"
"""Folder of the store for what one program measured."""


def files_of(
    one: ExportedCell, results: Sequence[Result], named: tuple[str, str], evaluator: Evaluator
) -> list[ExportedFile]:
    """`data/qbench/<developer>/<model>/<uuid>.json`, and `<uuid>_samples.jsonl` of what is held."""
    log = _log(one, results, named, evaluator)
    name = _uuid(log)
    folder = PurePosixPath("data", COLLECTION, *map(part_of_path, named))
    lines = [as_json(line, indent=None) for line in instances_of(results, log)]
    if not lines:
        return [ExportedFile(folder / f"{name}.json", as_json(log))]
    samples = ExportedFile(folder / f"{name}_samples.jsonl", "".join(lines))
    log["detailed_evaluation_results"] = {
        "format": "jsonl",
        "file_path": str(samples.path),
        "hash_algorithm": "sha256",
        "checksum": hashlib.sha256(samples.text.encode()).hexdigest(),
        "total_rows": len(lines),
    }
    return [ExportedFile(folder / f"{name}.json", as_json(log)), samples]


def _log(
    one: ExportedCell, results: Sequence[Result], named: tuple[str, str], evaluator: Evaluator
) -> dict[str, Any]:
    records = [result.record for result in results]
    newest = max(records, key=lambda record: record.started_at)
    begun = min(filter(None, map(started, records)), default=None)
    done = max(filter(None, map(ended, records)), default=None)
    moment = "0" if done is None else str(int(done.timestamp()))
    # What makes it another evaluation of the same model: its precision, tuning, suite and device.
    apart = (COLLECTION, *named, newest.suite, newest.cell.label, newest.environment.device_kind)
    versions = newest.environment.versions
    tasks = any(record.item.measurement in TASKS for record in records)
    return {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": "/".join((*map(part_of_path, apart), moment)),
        **({} if begun is None else {"evaluation_timestamp": str(int(begun.timestamp()))}),
        "retrieved_timestamp": moment,
        "source_metadata": source_metadata(evaluator, newest.suite),
        "eval_library": {
            "name": "qbench",
            "version": newest.environment.qbench,
            "additional_details": strings(
                {
                    "distribution": "qbench-llm",
                    "protocol": newest.protocol,
                    "lm_eval": versions.get("lm-eval") if tasks else None,
                }
            ),
        },
        "model_info": model_info(one, newest, named),
        "evaluation_results": [result.document for result in results],
    }


def _uuid(log: dict[str, Any]) -> str:
    """A name of the form that the store wants, from the contents: no chance is in it."""
    digest = hashlib.sha256(as_json(log).encode()).digest()
    return str(uuid.UUID(bytes=digest[:16], version=4))
