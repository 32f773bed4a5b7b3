"""A cell's scores in the terms of a model hub: a dataset, a metric and a value each.

What cannot be told in these terms is left out, with the reason: nothing is made up.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from qbench.compare.items import TASKS, against_merged, items_of, task_of
from qbench.compare.series import find_series
from qbench.core.unchecked import as_mapping, as_number
from qbench.measures.tasks.data import DATA
from qbench.measures.tasks.index import bundled_tasks
from qbench.report.figures import with_interval
from qbench.report.tasks import conditions
from qbench.sources.data.texts import DATASETS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qbench.compare.selection import CellRecords
    from qbench.core.page import Figure
    from qbench.core.record import Record

QUALITY = "quality"
_PERPLEXITY = "perplexity"
_BUNDLED = "bundled with qbench"


class LeftOut(NamedTuple):
    """What is not exported, and why."""

    what: str
    why: str

    def __str__(self) -> str:
        """As a line of a list."""
        return f"{self.what}: {self.why}"


@dataclass(frozen=True)
class ScoredData:
    """The data that a score was taken on."""

    id: str
    """The repository; of data that lies on no hub its own name."""
    name: str
    """For readers."""
    on_hub: bool = False
    config: str | None = None
    split: str | None = None
    revision: str | None = None
    """The commit of a repository; of other data `sha256:` and its digest, where that is known."""


@dataclass(frozen=True)
class HubScore:
    """One metric of one item of a cell, pooled over its processes as a report shows it."""

    what: str
    """Names it in messages: measurement, item and metric."""
    item: str
    """The item's slug."""
    task: str | None
    """lm-eval's name of the task; None for a text."""
    metric: str
    """As its own field calls it: `perplexity`, `acc`, `exact_match@strict-match`."""
    title: str
    """The metric with what it was taken on and how, for readers."""
    figure: Figure
    """The value with the ends of its 95 % interval."""
    data: ScoredData | None
    """None where the record does not say; `data_unknown` tells why."""
    record: Record
    data_unknown: str = ""
    partly: str = ""
    """Why it is not of the whole data; empty where it is."""
    is_share: bool = False
    """Whether it is the mean of scores by item that are from 0 to 1."""
    args: dict[str, Any] = field(default_factory=dict)
    """How the metric was taken."""


def scores_of(cell: CellRecords) -> tuple[list[HubScore], list[LeftOut]]:
    """Perplexities of texts and scores of tasks that have a value, and what has none, and why.

    That of a tuned model on a text is told once, not again where it is compared with the merged.
    """
    scores: list[HubScore] = []
    without: list[LeftOut] = []
    for made in (*_perplexities(cell), *_task_scores(cell)):
        if isinstance(made, HubScore) and made.figure.value is None:
            reason = made.figure.reason or made.figure.word or "no reason was recorded"
            without.append(LeftOut(made.what, reason))
        elif isinstance(made, HubScore):
            scores.append(made)
        else:
            without.append(made)
    return scores, without


def _perplexities(cell: CellRecords) -> Iterator[HubScore | LeftOut]:
    for slug, first in items_of([cell], QUALITY).items():
        if against_merged(first):
            continue
        params = first.item.params
        window, limit = params.get("window"), params.get("limit")
        data, unknown = data_of_text(as_mapping(params.get("text")))
        name = data.name if data else slug
        yield HubScore(
            what=f"{QUALITY} {slug} {_PERPLEXITY}",
            item=slug,
            task=None,
            metric=_PERPLEXITY,
            title=f"perplexity of {name}"
            + (f", windows of {window} tokens" if window else "")
            + (f", the first {limit} of them" if limit else ""),
            figure=with_interval(cell.of(QUALITY, slug), _PERPLEXITY),
            data=data,
            data_unknown=unknown,
            record=first,
            partly=f"taken on the first {limit} windows" if limit else "",
            args={key: params[key] for key in ("window", "limit", "protocol") if params.get(key)},
        )


def data_of_text(text: dict[str, Any]) -> tuple[ScoredData | None, str]:
    """The data of a text, by the parameter of that name; None and why where it is unknown."""
    name, fingerprint = str(text.get("name") or ""), text.get("fingerprint")
    if not name or not isinstance(fingerprint, str):
        return None, "the record does not say which text it read"
    known = DATASETS.get(str(text.get("location"))) if text.get("kind") == "hub" else None
    if known is not None and known.fingerprint == fingerprint:
        return ScoredData(
            known.repo,
            name,
            on_hub=True,
            config=known.config,
            split=known.split,
            revision=known.revision,
        ), ""
    if text.get("kind") == "hub":
        return None, f"the record names hub data that this qbench does not know: {fingerprint}"
    shown = f"{name} ({_BUNDLED})" if text.get("kind") == "bundled" else name
    return ScoredData(name, shown, revision=f"sha256:{fingerprint}"), ""


def _task_scores(cell: CellRecords) -> Iterator[HubScore | LeftOut]:
    for kind in TASKS:
        for slug, first in items_of([cell], kind).items():
            records = cell.of(kind, slug)
            good = next((one for one in records if one.metrics), None)
            if good is None:
                yield LeftOut(f"{kind} {slug}", f"{first.status}: {first.reason or 'no reason'}")
                continue
            for metric in good.metrics:
                yield _task_score(records, good, metric.name)


def _task_score(records: Sequence[Record], record: Record, name: str) -> HubScore:
    slug = record.item.slug
    task = task_of(record)
    metric = name.rpartition(".")[2]
    data, unknown = data_of_task(record, task)
    shots = as_number(record.details.get("few_shot"))
    said = "" if shots is None else f", {shots:g}-shot"
    partly = _partly(record)
    return HubScore(
        what=f"{record.item.measurement} {slug} {metric}",
        item=slug,
        task=task,
        metric=metric,
        title=f"{metric} of {task}{said}{conditions(record)}" + (f", {partly}" if partly else ""),
        figure=with_interval(records, name),
        data=data,
        data_unknown=unknown,
        record=record,
        partly=partly,
        is_share=_is_share(record, name),
        args={} if shots is None else {"num_fewshot": int(shots)},
    )


def _is_share(record: Record, name: str) -> bool:
    value = record.value(name)
    series = None if value is None else find_series(record, name, value)
    return series is not None and all(0 <= one <= 1 for one in series.sums)


def data_of_task(record: Record, task: str) -> tuple[ScoredData | None, str]:
    """The data of a task or of all tasks of a group; None where these are several."""
    told = [as_mapping(one) for one in as_mapping(record.details.get(DATA)).values()]
    place = as_mapping(record.item.params.get("task")).get("location")
    if place is None and task in bundled_tasks():
        return ScoredData(task, f"{task} ({_BUNDLED})", revision=_hashed(record)), ""
    if not told:
        return None, "its record does not say which data it read; take the task again"
    if not all(one.get("hub") for one in told):
        return ScoredData(task, task, revision=_hashed(record)), ""
    places = {(one.get("path"), one.get("split"), one.get("revision")) for one in told}
    if len(places) > 1:
        return None, f"it reads {len(places)} datasets, splits or commits, and one can be named"
    path, split, revision = (part and str(part) for part in places.pop())
    configs = {one.get("name") for one in told}
    config = str(configs.pop()) if len(configs) == 1 and None not in configs else None
    shown = f"{path} ({config})" if config else str(path)
    made = ScoredData(str(path), shown, on_hub=True, config=config, split=split, revision=revision)
    return made, ""


def _hashed(record: Record) -> str | None:
    """Tells data that lies on no hub from another of its name: the digest of all its items."""
    found = record.details.get("samples_hash")
    return f"sha256:{found}" if isinstance(found, str) else None


def _partly(record: Record) -> str:
    taken = as_number(record.details.get("items"))
    every = as_number(record.details.get("items_in_all"))
    if taken is None or every is None:
        return "the record does not say of how many items it is"
    return "" if taken == every else f"taken on {taken:g} of {every:g} items"
