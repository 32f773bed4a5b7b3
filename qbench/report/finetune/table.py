"""The arms in one table: what each cost, what it gained, and what it forgot."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.compare.items import text_titles
from qbench.compare.tuned.changes import LOSS_MARGIN, PERPLEXITY_MARGIN
from qbench.core.page import Column, Figure, Row, Table
from qbench.report.field_names import with_field_names
from qbench.report.figures import NOT_MEASURED, REFERENCE_WORD, mark_best, over_seeds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.selection import CellRecords
    from qbench.report.finetune.results import ArmResult, Results

_SCORE_TITLES = {
    "generation.rougeL": "ROUGE-L",
    "generation.chrf": "chrF",
    "generation.exact_match": "exact match",
    "generation.bleu": "BLEU",
}
_COSTS = (
    Column(
        "training.trainable_weights",
        "trainable",
        "exact",
        definition="weights that are trained",
    ),
    Column(
        "training.trainable_share",
        "share",
        "percent",
        definition="of the model's logical weights, those in 4 bits counted unpacked",
    ),
    Column(
        "training.memory.peak",
        "peak memory",
        "bytes",
        "lower",
        "highest memory of one training step, evaluation apart (live tensors on a CPU, the"
        " allocator's on CUDA)",
    ),
    Column(
        "training.step_time",
        "step",
        "seconds",
        definition="median time of a step: forward, backward and optimizer; of one process a seed,"
        " so that with one seed the spread between processes is not known",
    ),
    Column(
        "training.tokens_per_second",
        "tokens/s",
        "number",
        definition="trained tokens a second, padding counted out",
        decimals=0,
    ),
)
_HELD_OUT = (
    Column(
        "training.heldout_loss_before",
        "held-out before",
        "number",
        definition="loss on the validation split before the training, nat a token",
        decimals=3,
    ),
    Column(
        "training.heldout_loss_after",
        "after",
        "number",
        definition="the same after it",
        decimals=3,
    ),
)
_NO_TRAINING = Figure(word=NOT_MEASURED)


def arms_table(results: Results) -> Table:
    """A row an arm, below those of the untuned models that they are compared with."""
    titles = text_titles(results.texts)
    columns = (
        Column("method", "method", "text", definition=_METHOD),
        *_COSTS,
        *_HELD_OUT,
        Column(
            "completion.loss",
            "test loss",
            "number",
            definition="loss on the completions of the test split, nat a token, of the arm's"
            " attached adapter (of full tuning, and where it is not attached, of the merged model)",
            decimals=4,
        ),
        Column("gain", "from untuned", "estimate", definition=_GAIN),
        *_against_column(results),
        *_score_column(results),
        *(
            Column(
                f"forgetting:{slug}",
                "forgetting" if len(titles) == 1 else f"forgetting {title}",
                "estimate",
                definition=f"change of the perplexity of {title}, which is no data that was tuned"
                " on, from the same untuned model; equivalent: within"
                f" ±{100 * PERPLEXITY_MARGIN.amount:g} %",
            )
            for slug, title in titles.items()
        ),
        Column(
            "training.adapter_bytes",
            "on disk",
            "bytes",
            "lower",
            "weight files of what was trained: the adapter, of full tuning all weights",
        ),
    )
    rows = [
        *(_untuned_row(cell, results, columns) for cell in results.untuned),
        *(_arm_row(one, results, columns) for one in results.arms),
    ]
    return mark_best(with_field_names(Table("Arms", "arm", columns, tuple(rows))))


def score_title(metric: str) -> str:
    """What the score of a generation is called."""
    return _SCORE_TITLES.get(metric, metric.partition(".")[2] or metric)


_METHOD = (
    "full: every weight is trained, with fp32 master weights unless it says pure; LoRA: an adapter"
    " beside a frozen base; QLoRA: the same on a quantized base; QAT: weights, or an adapter, are"
    " trained while the layers compute with rounded weights"
)
_GAIN = (
    "change of the test loss from the untuned model held in the precision that the arm is served"
    f" in (else from the reference), nat a token; equivalent: within ±{LOSS_MARGIN.amount:g}"
)


def _against_column(results: Results) -> list[Column]:
    names = {one.counterpart.name: one.counterpart for one in results.arms if one.counterpart}
    if not names:
        return []
    several = len(names) > 1
    others = [one.words for one in names.values()]
    title = f"from {others[0]}" if len(set(others)) == 1 else "from the reference arm"
    definition = (
        "change of the test loss from that arm, nat a token"
        + (" (the one with the same options)" if several else "")
        + f"; equivalent: within ±{LOSS_MARGIN.amount:g}"
    )
    return [Column("against", title, "estimate", definition=definition)]


def _score_column(results: Results) -> list[Column]:
    if results.score is None:
        return []
    _, metric = results.score
    definition = "of what is generated for prompts of the test split, against its completions"
    return [
        Column(
            "score",
            score_title(metric),
            "number",
            "neither",
            definition,
            decimals=3,
            intervals=True,
        )
    ]


def _untuned_row(cell: CellRecords, results: Results, columns: Sequence[Column]) -> Row:
    figures = {
        "method": Figure(word="untuned"),
        "completion.loss": over_seeds([cell], "completion", results.test_slug, "completion.loss"),
    }
    if results.score is not None:
        figures["score"] = over_seeds([cell], "generation", *results.score)
    return Row(
        cell.label,
        cell.reference,
        tuple(figures.get(column.key, _NO_TRAINING) for column in columns),
    )


def _arm_row(one: ArmResult, results: Results, columns: Sequence[Column]) -> Row:
    arm = one.arm
    figures = {
        "method": Figure(word=arm.words),
        "completion.loss": over_seeds(
            arm.shown, "completion", results.test_slug, "completion.loss"
        ),
        "gain": one.gain.figure,
        "against": Figure(word=REFERENCE_WORD) if one.against is None else one.against.figure,
        **{f"forgetting:{slug}": judged.figure for slug, judged in one.forgetting.items()},
    }
    if results.score is not None:
        figures["score"] = over_seeds(arm.shown, "generation", *results.score)
    return Row(
        arm.name,
        reference=False,
        figures=tuple(
            figures[column.key]
            if column.key in figures
            else over_seeds(arm.trainings, "training", None, column.key)
            for column in columns
        ),
        faulty=any(cell.faulty for cell in (*arm.trainings, *arm.shown)),
    )
