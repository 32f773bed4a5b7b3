"""How each tuned model is served: each deployment is a model of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.compare.items import (
    against_merged,
    describe_point,
    first_point,
    items_of,
    text_titles,
)
from qbench.compare.served import SERVED, STATIC, headline
from qbench.compare.tuned.arms import deployment_words
from qbench.compare.tuned.changes import (
    LOSS_MARGIN,
    PERPLEXITY_MARGIN,
    loss_change,
    perplexity_change,
)
from qbench.core.page import Column, Figure, Row, Table
from qbench.report.chat import CHAT
from qbench.report.field_names import with_field_names
from qbench.report.figures import NOT_MEASURED, REFERENCE_WORD, over_seeds
from qbench.report.finetune.changes import judge_all

if TYPE_CHECKING:
    from qbench.compare.selection import CellRecords, TableRecords
    from qbench.compare.tuned.arms import Arm
    from qbench.compare.tuned.changes import Claim
    from qbench.core.record import Record
    from qbench.core.spec import Deployment
    from qbench.report.finetune.changes import Judged
    from qbench.report.finetune.results import Results

ATTACHED: Deployment = "attached"
MERGED: Deployment = "merged"
FAKE_QUANTIZED: Deployment = "fake-quantized"
CHANGE = "change"
"""The question of how far a deployment is from its arm's first."""
_Key = tuple[str, str, str]


def deployments_table(records: TableRecords, results: Results) -> Table:
    """One row for each deployment of an arm, its seeds pooled."""
    deployments = _deployments(results)
    served = [cell for one in results.arms for cell in one.arm.served]
    point = first_point(served, "latency")
    judged = judged_deployments(records, results)
    damage = [slug for slug, one in items_of(served, "quality").items() if against_merged(one)]
    texts = text_titles(results.texts)
    answered = items_of(served, CHAT)
    size = headline(STATIC, served)
    held = "bytes that the loaded model keeps" + (", codes packed" if size != STATIC else "")
    columns = (
        Column("deployment", "deployment", "text", definition="how the tuned model is served"),
        Column("served", "served in", "text", definition="precision that the base is held in"),
        Column(size, "static", "bytes", definition=held),
        *_latency_columns(point),
        Column(
            "completion.loss",
            "test loss",
            "number",
            definition="on the completions of the test split, nat a token",
            decimals=4,
        ),
        Column(CHANGE, "from attached", "estimate", definition=_FROM_FIRST),
        *_text_columns(texts, damage, records.reference),
        *(_chat_column(slug, record) for slug, record in answered.items()),
    )
    rows = []
    for arm, deployment in deployments:
        cells = arm.of_deployment(deployment)
        figures = {
            "deployment": Figure(word=deployment_words(arm, deployment)),
            "served": Figure(word=cells[0].records[0].cell.precision.label),
            CHANGE: _change_figure(judged.get((arm.name, deployment, CHANGE)), arm, deployment),
        }
        for slug in texts:
            figures[f"perplexity:{slug}"] = over_seeds(cells, "quality", slug, "perplexity")
            change = judged.get((arm.name, deployment, slug))
            if change is not None:
                figures[f"change:{slug}"] = change.figure
            figures[f"kl:{slug}"] = over_seeds(cells, "quality", slug, "kl.mean")
        for slug in damage:
            figures[f"kl:{slug}"] = (
                Figure(word=REFERENCE_WORD)
                if deployment == MERGED
                else over_seeds(cells, "quality", slug, "kl.mean")
            )
        for slug, record in answered.items():
            figures[f"chat.kl:{slug}"] = (
                Figure(word=REFERENCE_WORD)
                if against_merged(record) and deployment == MERGED
                else over_seeds(cells, CHAT, slug, "chat.kl.mean")
            )
        rows.append(
            Row(
                deployment_label(arm.name, deployment),
                reference=False,
                figures=tuple(
                    figures[column.key] if column.key in figures else _plain(cells, column, point)
                    for column in columns
                ),
                faulty=any(cell.faulty for cell in cells),
            )
        )
    table = Table("How the tuned model is served", "cell", columns, tuple(rows))
    return with_field_names(table, point.item.params if point else None)


_FROM_FIRST = (
    "change of the test loss from the same arm's attached adapter (where all weights were tuned:"
    " from their 16 bits; after QAT: from before the conversion), nat a token; equivalent: within"
    f" ±{LOSS_MARGIN.amount:g}"
)


def _deployments(results: Results) -> list[tuple[Arm, str]]:
    return [(one.arm, deployment) for one in results.arms for deployment in one.arm.deployments]


def deployment_label(arm: str, deployment: str) -> str:
    """How a row is named."""
    return f"{arm}--{deployment}"


def judged_deployments(records: TableRecords, results: Results) -> dict[_Key, Judged]:
    """All changes of the table, judged together, by arm, deployment and question.

    The question is `change` for that of the test loss from the arm's first deployment, else the
    slug of a neutral text, whose perplexity is compared with the reference's.
    """
    claims: dict[_Key, Claim] = {}
    for arm, deployment in _deployments(results):
        cells, first = arm.of_deployment(deployment), first_deployment(arm)
        if first is not None and deployment != first:
            claims[arm.name, deployment, CHANGE] = loss_change(
                cells, arm.of_deployment(first), results.test_slug
            )
        for slug in results.texts if records.reference else ():
            claims[arm.name, deployment, slug] = perplexity_change(cells, records.reference, slug)
    return judge_all(claims)


def first_deployment(arm: Arm) -> str | None:
    """What an arm's other deployments are compared with; None where there is nothing to compare."""
    if ATTACHED in arm.deployments:
        return ATTACHED
    if arm.tuning.method == "lora" or len(arm.deployments) == 1:
        return None
    return next(
        (deployment for deployment in (MERGED, FAKE_QUANTIZED) if deployment in arm.deployments),
        None,
    )


def _change_figure(judged: Judged | None, arm: Arm, deployment: str) -> Figure:
    if judged is not None:
        return judged.figure
    if deployment == first_deployment(arm):
        return Figure(word=REFERENCE_WORD)
    return Figure(word=NOT_MEASURED)


def _plain(cells: tuple[CellRecords, ...], column: Column, point: Record | None) -> Figure:
    measurement = {
        STATIC: "footprint",
        SERVED[STATIC]: "footprint",
        "completion.loss": "completion",
    }.get(column.key, "latency")
    slug = point.item.slug if point and measurement == "latency" else None
    return over_seeds(cells, measurement, slug, column.key)


def _latency_columns(point: Record | None) -> list[Column]:
    if point is None:
        return []
    where = f" at {describe_point(point)}"
    return [
        Column(
            "latency.prefill",
            "prefill",
            "seconds",
            definition="time of one forward pass over the prompt" + where,
        ),
        Column(
            "latency.decode",
            "decode/token",
            "seconds",
            definition="time for each new token of the whole batch" + where,
        ),
    ]


def _chat_column(slug: str, record: Record) -> Column:
    """The divergence on answers: from the untuned reference's, or from the merged model's own."""
    what = "the same tuning merged in 16 bits" if against_merged(record) else "the untuned model"
    return Column(
        f"chat.kl:{slug}",
        "damage on answers" if against_merged(record) else "drift on answers",
        "number",
        definition=f"mean divergence (KL) a token from the predictions of {what}, nat, on"
        f" answers that it wrote itself to {record.item.params.get('count')} prompts",
        decimals=5,
    )


def _text_columns(
    texts: dict[str, str], damage: list[str], reference: CellRecords | None
) -> list[Column]:
    columns = []
    for slug, title in texts.items():
        named = f" {title}" if len(texts) > 1 else ""
        columns.append(
            Column(
                f"perplexity:{slug}",
                f"perplexity{named}",
                "number",
                definition=f"of the neutral text {title}",
                decimals=4,
            )
        )
        if reference is not None:
            columns += [
                Column(
                    f"change:{slug}",
                    f"from {reference.label}{named}",
                    "estimate",
                    definition=f"its change from the untuned {reference.label}: forgetting and"
                    " the precision's cost together; equivalent: within"
                    f" ±{100 * PERPLEXITY_MARGIN.amount:g} %",
                ),
                Column(
                    f"kl:{slug}",
                    f"drift{named}",
                    "number",
                    definition="mean divergence (KL) a token of its predictions from those of the"
                    f" untuned {reference.label} on that text, nat: how far the tuning moved it",
                    decimals=5,
                ),
            ]
        columns += [
            Column(
                f"kl:{other}",
                f"damage{named}",
                "number",
                definition="the same from the same tuning merged in 16 bits: what serving it in"
                " this way costs, apart from the tuning",
                decimals=5,
            )
            for other in damage
            if other == f"{slug}-vs-merged"
        ]
    return columns
