"""The card of a cell's model: metadata for a model hub, and what was measured, for readers.

The metadata is that of huggingface_hub's own classes; what the records do not know stays out of it,
and is said.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qbench.core.errors import UsageError
from qbench.core.packed_records import pack
from qbench.core.page import Page, Strong, Words
from qbench.precisions import is_quantized
from qbench.report.exports.beside import beside_parts, how_to_reproduce
from qbench.report.exports.hub_scores import LeftOut, scores_of
from qbench.report.markdown import render

if TYPE_CHECKING:
    from huggingface_hub import EvalResult, ModelCard

    from qbench.compare.selection import CellRecords
    from qbench.core.page import Part
    from qbench.core.spec import Cell
    from qbench.report.exports.chosen import ExportedCell
    from qbench.report.exports.hub_scores import HubScore, ScoredData

BEGIN, END = "<!-- qbench -->", "<!-- /qbench -->"
"""Stand around what qbench writes in a card, so that it can be replaced."""
_TASK_TYPE, _TASK_NAME = "text-generation", "Text Generation"
"""The Hub's own names of what every model here does."""
_ATTACHED = ("attached", "attached-fp16", "adapter-int8", "adapter-nf4")


@dataclass(frozen=True)
class MadeCard:
    """A card, and what a reader will not find in its metadata."""

    card: ModelCard
    left_out: tuple[LeftOut, ...]


def model_card(
    exported: ExportedCell, *, how_made: str = "", library_name: str | None = None
) -> MadeCard:
    """The card of the model of one cell.

    `how_made` is markdown for a section "How it was made"; `library_name` the library that loads
    the files which the card will lie beside, as the Hub calls it. Raises `UsageError` for a
    training, which no model is served in.
    """
    from huggingface_hub import ModelCard, ModelCardData

    check_servable(exported)
    metadata, left_out = card_metadata(exported, library_name=library_name)
    data = ModelCardData(**metadata)
    cell = exported.cell.records[0].cell
    made = f"\n## How it was made\n\n{how_made.strip()}\n" if how_made.strip() else ""
    title = render(Page(f"{cell.model.name}, {cell.label}", ()))
    text = f"---\n{data.to_yaml()}\n---\n\n{title}{made}\n{card_section(exported)}"
    return MadeCard(ModelCard(text), tuple(left_out))


def check_servable(exported: ExportedCell) -> None:
    """Raises `UsageError` for a training: a model is what is served of it."""
    cell = exported.cell
    if not cell.is_training:
        return
    served = [
        one.label
        for one in exported.table.tuned
        if one.tuning == cell.tuning and not one.is_training
    ]
    raise UsageError(
        f"{cell.label}: found the training itself, which is no model; expected a way in which the"
        f" tuned model is served: {', '.join(served) or 'none of it was measured'}"
    )


def card_metadata(
    exported: ExportedCell, *, library_name: str | None = None
) -> tuple[dict[str, Any], list[LeftOut]]:
    """What huggingface_hub's `ModelCardData` is made of, and what is left out of it, and why."""
    cell = exported.cell.records[0].cell
    base, why = _base_model(exported)
    left_out = [] if base else [LeftOut("base_model", why)]
    left_out.append(LeftOut("license", "the records do not know it; add it to the metadata"))
    results, without = eval_results(exported)
    metadata: dict[str, Any] = {
        **unmeasured_metadata(cell, base, library_name),
        "model_name": cell.slug if results else None,
        "eval_results": results or None,
    }
    known = {key: value for key, value in metadata.items() if value is not None}
    return known, [*left_out, *without]


def unmeasured_metadata(cell: Cell, base: str | None, library_name: str | None) -> dict[str, Any]:
    """What `ModelCardData` says of a model apart from results; `base` is its base on the Hub."""
    return {
        "base_model": base,
        "base_model_relation": _relation_of(cell) if base else None,
        "library_name": library_name,
        "pipeline_tag": _TASK_TYPE,
        "tags": _tags_of(cell),
    }


def eval_results(exported: ExportedCell) -> tuple[list[EvalResult], list[LeftOut]]:
    """The cell's scores as the metadata of a card has them, and which have no place there."""
    scores, without = scores_of(exported.cell)
    nameless = [LeftOut(one.what, one.data_unknown) for one in scores if one.data is None]
    made = [_eval_result(one, one.data) for one in scores if one.data is not None]
    return made, [*without, *nameless]


def card_section(exported: ExportedCell) -> str:
    """What was measured, in markdown, between the two marks."""
    record = exported.cell.records[0]
    against = exported.reference
    beside = "" if against is None else f", beside {against.label}"
    how = (
        f" of {record.cell.model.source}{beside}, measured by qbench {record.environment.qbench} on"
        f" {record.environment.device}: times and peaks are those of that machine. Behind a"
        " figure stands its 95 % interval, where one is known."
    )
    parts: list[Part] = [
        Words((Strong(exported.cell.label), how)),
        *beside_parts(exported),
        *how_to_reproduce(exported),
    ]
    # The page's title is of the second level: the first is the card's own.
    kept = pack(record for cell in _measured(exported) for record in cell.records)
    page = render(Page("Measured by qbench", tuple(parts), packed=kept), top=2)
    return f"{BEGIN}\n{page}{END}\n"


def _measured(exported: ExportedCell) -> list[CellRecords]:
    """The cell with what it needs to be measured again: its reference, and its training."""
    cell = exported.cell
    trainings = [
        one
        for one in exported.table.tuned
        if cell.tuning is not None and one.is_training and one.tuning == cell.tuning
    ]
    against = exported.reference
    return [*([] if against is None else [against]), *trainings, cell]


def _eval_result(score: HubScore, data: ScoredData) -> EvalResult:
    from huggingface_hub import EvalResult

    return EvalResult(
        task_type=_TASK_TYPE,
        task_name=_TASK_NAME,
        dataset_type=data.id,
        dataset_name=data.name,
        dataset_config=data.config,
        dataset_split=data.split,
        dataset_revision=data.revision,
        metric_type=score.metric,
        metric_name=score.title,
        metric_value=score.figure.value,
        metric_args=score.args or None,
    )


def _base_model(exported: ExportedCell) -> tuple[str | None, str]:
    """The Hub's name of the model that the cell's was made of; else why there is none."""
    model = exported.cell.records[0].cell.model
    if model.original is not None:
        others = (one.records[0].cell.model for one in exported.table.every)
        found = next((one for one in others if one.name == model.original), None)
        if found is None:
            return None, f"no record is of {model.original}, which the checkpoint was made of"
        model = found
    if model.kind == "hub":
        return model.location, ""
    return None, f"{model.source} is no repository of the hub; add base_model to the metadata"


def _relation_of(cell: Cell) -> str | None:
    """What the Hub calls the relation to the base model; None for the base as it is."""
    if cell.deploy in _ATTACHED:
        return "adapter"
    if is_quantized(cell.precision):
        return "quantized"
    return None if cell.tuning is None else "finetune"


def _tags_of(cell: Cell) -> list[str]:
    """What a hub finds the model by."""
    tuned = [] if cell.tuning is None else [cell.tuning.method]
    return ["qbench", cell.precision.name, *tuned]
