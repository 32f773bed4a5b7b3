"""What each layer, block or kind of layer costs alone in a format; and all of a cell's together.

On the reference every unit is held in each format alone, and the model runs on from its block: the
KL from the reference's own predictions is what that unit costs. Every other cell is scored on the
same windows, which tells what all of its layers cost together.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qbench.core.errors import MeasurementError, NotKeptError, Problem
from qbench.core.number_types import BF16
from qbench.core.options import plain_options
from qbench.core.spec import Frozen, Item
from qbench.measures.loaded import Outcome, make_metric
from qbench.measures.measurement import Measurement
from qbench.measures.quality.by_window import tokens_by_window
from qbench.measures.quality.divergence import divergence_metrics, divergence_series
from qbench.measures.quality.head import find_head
from qbench.measures.quality.held_against import find_reference, keep_states, rounding_of_both
from qbench.measures.quality.reference_states import OwnStates
from qbench.measures.quality.scoring import check_losses, rounding_kl, score_windows
from qbench.measures.quality.windows import cut_windows, documents_of, ids_hash, tokenize
from qbench.measures.sensitivity.definitions import EVERY, METRICS, OF_CELL, OF_TABLE, PREFIX, SUM
from qbench.measures.sensitivity.options import (
    SENSITIVITY,
    WINDOW_MOST,
    SensitivityOptions,
    SensitivityParams,
    params_of,
)
from qbench.measures.sensitivity.table import Measured, TableMaker
from qbench.precisions.mixed.sensitivities import keep_sensitivities
from qbench.sources.data.texts import read_documents, resolve_text

if TYPE_CHECKING:
    from pathlib import Path

    from qbench.core.record import Metric, MetricDefinition
    from qbench.core.spec import ResolvedModel
    from qbench.measures.loaded import LoadedModel
    from qbench.measures.quality.windows import Window
    from qbench.precisions.mixed.sensitivities import Sensitivities

_NAMES = frozenset(one.name for one in OF_CELL)
_SERIES = ("window_kl_sum", "window_same_top")
"""Of the cell's windows: what its metrics come from."""
_OF_REFERENCE = "the table is the reference's"


@dataclass(frozen=True)
class Sensitivity(Measurement):
    """Where the damage of a format comes from, unit by unit."""

    name: str = SENSITIVITY
    summary: str = "KL of each layer, block or kind of layer alone in a format, and of all together"
    options: type[Frozen] = SensitivityOptions
    metrics: tuple[MetricDefinition, ...] = METRICS

    @property
    def by_default(self) -> bool:
        """It is many passes over a text."""
        return False

    def misfit(self, options: SensitivityOptions, model: ResolvedModel) -> Problem | None:
        """A window beyond the model's context."""
        asked, context = options.window, model.context_tokens
        if asked is None or context is None or asked <= context:
            return None
        return Problem(
            "window",
            str(asked),
            f"a window of at most {context}, the context of {model.ref.name}",
            f"set window to at most {context}",
        )

    def items(self, options: SensitivityOptions, model: ResolvedModel, base: Path) -> list[Item]:
        """One item. Raises `TextError` for a text that cannot be found.

        Formats that need a suite to be known are left to the plan (`qbench.plan.sensitivity`).
        """
        text = resolve_text(options.text, base=base)
        window = options.window or min(WINDOW_MOST, model.context_tokens or WINDOW_MOST)
        params = SensitivityParams(
            text=text,
            window=window,
            limit=options.limit,
            batch=options.batch,
            by=options.by,
            rest=BF16,
            formats=(),
            divergence=True,
            **({} if options.prune is None else {"prune": options.prune}),
        )
        return [
            Item(
                measurement=self.name,
                slug=f"{text.name}-w{window}-first{options.limit}-by-{options.by}",
                params=plain_options(params),
                against_reference=True,
            )
        ]

    def measure(self, loaded: LoadedModel, item: Item) -> Outcome:
        """Scores the windows; of the reference, with each unit in each format besides."""
        import torch

        params = params_of(item)
        windows, documents = _windows(loaded, params)
        ids_sha256 = ids_hash(windows)
        count = sum(window.scored for window in windows)
        vocabulary = loaded.vocabulary
        measured: Measured | None = None
        with torch.inference_mode():
            probe = torch.tensor([windows[0].ids[:64]], device=loaded.torch_device)
            head = find_head(loaded.model, probe)
            reference, unknown = find_reference(item, head, ids_sha256, wanted=True)
            scores = score_windows(head, windows, params.batch, vocabulary, reference)
            check_losses(scores, count)
            rounding = rounding_kl(head, windows, params.batch, vocabulary)
            if isinstance(reference, OwnStates):
                states = reference.states
                maker = TableMaker(head, windows, states, vocabulary, params, loaded.progress)
                measured = maker.make()
        warnings = keep_states(reference, item, ids_sha256, rounding[0])
        if measured is not None and item.states_key is not None:
            warnings += _keep(item.states_key, measured.table)
        both = rounding_of_both(rounding, reference)
        every = divergence_metrics(scores, count, both, unknown, EVERY, PREFIX)
        divergence = tuple(one for one in every if one.name in _NAMES)
        details: dict[str, Any] = {
            "windows": len(windows),
            "ids_sha256": ids_sha256,
            **tokens_by_window(scores, windows, divergence),
        }
        return Outcome(
            metrics=(*divergence, *_of_table(params, measured)),
            series={
                "window_tokens": [float(window.scored) for window in windows],
                **documents,
                **{name: one for name, one in divergence_series(scores).items() if name in _SERIES},
            },
            details=details if measured is None else {**details, **_told(measured)},
            warnings=tuple(warnings),
        )


def _windows(
    loaded: LoadedModel, params: SensitivityParams
) -> tuple[list[Window], dict[str, list[float]]]:
    """The windows, with the series of their documents where the text has any."""
    text = read_documents(params.text)
    tokens, ends = tokenize(loaded.tokenizer, text.text)
    bos: int | None = loaded.tokenizer.bos_token_id
    windows = cut_windows(tokens, "default", params.window, bos)[: params.limit]
    if not windows:
        raise MeasurementError(
            f"text {params.text.name} has {len(tokens)} tokens: too short for one window; give a"
            " longer text"
        )
    loaded.check_ids(max(max(window.ids) for window in windows))
    return windows, documents_of(windows, ends, text.starts)


def _keep(key: str, table: Sensitivities) -> list[str]:
    """Keeps the table for mixes; a warning where it cannot be kept."""
    try:
        keep_sensitivities(key, table)
    except NotKeptError as error:  # the record has it all the same
        return [f"no mix can be made of these figures: {error}"]
    return []


def _of_table(params: SensitivityParams, measured: Measured | None) -> list[Metric]:
    """The figures of the table as a whole."""
    if measured is None:
        names = ["sensitivity.largest", *(f"{SUM}{one.label}" for one in params.formats)]
        return [_metric(name, None, _OF_REFERENCE) for name in names]
    units = measured.table.units
    every = [cost.kl for unit in units for cost in unit.costs.values() if cost.kl is not None]
    made = [_metric("sensitivity.largest", max(every, default=None), "no pair has a KL")]
    for label in measured.table.formats:
        found = [unit.costs[label].kl for unit in units]
        known = [kl for kl in found if kl is not None]
        lacking = f"{len(found) - len(known)} of the {len(found)} units have no KL in it"
        total = math.fsum(known) if len(known) == len(found) else None
        made.append(_metric(f"{SUM}{label}", total, lacking))
    return made


def _metric(name: str, value: float | None, reason: str) -> Metric:
    family = f"{SUM}*"
    if not name.startswith(SUM):
        return make_metric(OF_TABLE, name, value, reason=reason)
    return make_metric(OF_TABLE, family, value, reason=reason).model_copy(update={"name": name})


def _told(measured: Measured) -> dict[str, Any]:
    """The table and what it was made of, as they stand in the record."""
    largest = max(
        (
            (cost.kl, unit.name, label)
            for unit in measured.table.units
            for label, cost in unit.costs.items()
            if cost.kl is not None
        ),
        default=None,
    )
    return {
        **measured.details,
        "largest": None if largest is None else {"unit": largest[1], "format": largest[2]},
        "sensitivities": measured.table.model_dump(mode="json"),
    }


MEASUREMENT = Sensitivity()
