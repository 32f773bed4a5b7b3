"""What a record keeps of each item of a task, as the lines of lm-eval's `samples_….jsonl`.

A record holds each item's scores and answer, not the prompt or what was written: those are null.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.compare.items import task_of
from qbench.core.unchecked import as_list, as_mapping
from qbench.report.exports.lm_eval.runs import scores_of

if TYPE_CHECKING:
    from qbench.core.record import Record

_NOT_HELD = ("doc", "target", "arguments", "resps", "filtered_resps")
_HASHES = ("doc_hash", "prompt_hash", "target_hash")


def samples_of(record: Record) -> dict[str, list[dict[str, Any]]]:
    """By task, a line for each item and filter; nothing where the record holds no items."""
    ids = [str(one) for one in as_list(record.details.get("item_ids"))]
    lines: dict[tuple[str, int], dict[str, Any]] = {}
    for score, _ in scores_of(record):
        values = record.series.get(f"item_{score.short}")
        if values is None:
            continue
        # Of a score that not all items count under, the places of those that do.
        told = as_mapping(record.details.get("items_of")).get(score.short)
        places = range(len(ids)) if told is None else as_list(told)
        answers = as_list(as_mapping(record.details.get("answers")).get(score.short))
        if len(places) != len(values):
            continue
        for at, (place, value) in enumerate(zip(places, values, strict=True)):
            if not isinstance(place, int) or not 0 <= place < len(ids):
                continue
            line = lines.setdefault((score.filter, place), _line(ids[place], score.filter))
            line["metrics"].append(score.metric)
            line[score.metric] = value
            if len(answers) == len(values):
                line["qbench"]["answers"][score.metric] = answers[at]
    found: dict[str, list[dict[str, Any]]] = {}
    for (_, place), line in sorted(lines.items()):
        found.setdefault(_task_of_item(ids[place], record), []).append(line)
    return found


def _line(item_id: str, chosen: str) -> dict[str, Any]:
    """An item of the id `place:hash`, with its task before that where it is a group's."""
    place, _, start = item_id.rpartition(":")
    number = place.rpartition(":")[2]
    return {
        "doc_id": int(number) if number.isdecimal() else None,
        **dict.fromkeys(_NOT_HELD),
        "filter": chosen,
        "metrics": [],
        **dict.fromkeys(_HASHES),
        "qbench": {"doc_hash_begins": start, "answers": {}},
    }


def _task_of_item(item_id: str, record: Record) -> str:
    task, colon, _ = item_id.rpartition(":")[0].rpartition(":")
    return task if colon else task_of(record)
