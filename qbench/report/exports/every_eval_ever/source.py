"""The data that a measurement read, as the schema wants it told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.compare.items import TASKS, task_of
from qbench.core.unchecked import as_mapping
from qbench.report.exports.hub_scores import data_of_task, data_of_text
from qbench.report.exports.tree import strings

if TYPE_CHECKING:
    from qbench.core.record import Record
    from qbench.report.exports.hub_scores import ScoredData


def source_data(record: Record) -> dict[str, Any]:
    """A data set of the hub, or another by its name and the digest of what was read of it."""
    params = record.item.params
    if record.item.measurement in TASKS:
        task = task_of(record)
        data, unknown = data_of_task(record, task)
        return _told(data, task, unknown)
    text = as_mapping(params.get("text"))
    if text:
        data, unknown = data_of_text(text)
        return _told(data, str(text.get("name") or record.item.slug), unknown)
    tuned_on = as_mapping(params.get("data"))
    if tuned_on:
        return _of_tuning(tuned_on)
    return _other(
        f"qbench-{record.item.measurement}", {"data": "none is read: the measurement needs none"}
    )


def _told(data: ScoredData | None, name: str, unknown: str) -> dict[str, Any]:
    if data is None:
        return _other(name, {"data": f"not known: {unknown}"})
    details = {"config": data.config, "revision": data.revision}
    if data.on_hub:
        return _of_hub(name, data.id, data.split, details)
    return _other(data.id, {**details, "split": data.split})


def _of_tuning(data: dict[str, Any]) -> dict[str, Any]:
    """The split that nothing was trained on, of the data that was tuned on."""
    options = as_mapping(data.get("options"))
    name = str(data.get("name") or "data")
    details = {"fingerprint": data.get("fingerprint"), "revision": data.get("revision")}
    if data.get("kind") == "hub" and data.get("location"):
        split = options.get("split")
        return _of_hub(name, str(data["location"]), split and str(split), details)
    return _other(name, details)


def _of_hub(name: str, repo: str, split: str | None, details: dict[str, Any]) -> dict[str, Any]:
    return {
        "dataset_name": name,
        "source_type": "hf_dataset",
        "hf_repo": repo,
        **({} if split is None else {"hf_split": split}),
        "additional_details": strings(details),
    }


def _other(name: str, details: dict[str, Any]) -> dict[str, Any]:
    return {
        "dataset_name": name,
        "source_type": "other",
        "additional_details": strings(details),
    }
