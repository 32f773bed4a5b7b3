"""Divergence from the reference where a model is used: on answers to prompts.

The reference answers the prompts once, and what it wrote is kept beside its states. Every cell
reads the same prompts and answers (teacher forcing), and its predictions of the answers' tokens are
held against the reference's: the prompts' own tokens are not scored.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qbench.core.errors import MeasurementError, Problem
from qbench.core.options import plain_options, typed_options
from qbench.core.spec import Frozen, Item
from qbench.measures.chat.asking import ask
from qbench.measures.chat.head import ReadingHead
from qbench.measures.chat.metrics import (
    DIVERGENCES,
    METRICS,
    PARTS_AT,
    PREFIX,
    SAME_TEXT,
    median_place,
    parting_places,
)
from qbench.measures.chat.options import DOCUMENT, ChatOptions, ChatParams
from qbench.measures.chat.traces import FILE, make_traces, read_traces
from qbench.measures.generation.continuation import new_tokens_misfit
from qbench.measures.grid import misfit, prompt_of
from qbench.measures.loaded import Outcome, make_metric
from qbench.measures.measurement import Measurement
from qbench.measures.quality.by_window import tokens_by_window
from qbench.measures.quality.confidence import by_confidence
from qbench.measures.quality.divergence import (
    divergence_histogram,
    divergence_metrics,
    divergence_series,
)
from qbench.measures.quality.head import find_head
from qbench.measures.quality.held_against import find_reference, keep_states, rounding_of_both
from qbench.measures.quality.positions import by_position
from qbench.measures.quality.scoring import check_losses, rounding_kl, score_windows
from qbench.measures.quality.windows import ids_hash
from qbench.precisions.kv_cache import OWN
from qbench.sources.data.prompts import item_names, read_prompts, resolve_prompts
from qbench.sources.data.texts import resolve_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from qbench.core.record import Metric, MetricDefinition
    from qbench.core.spec import ResolvedModel
    from qbench.measures.loaded import LoadedModel
    from qbench.measures.quality.head import OutputHead
    from qbench.measures.quality.windows import Window

BATCH = 1
"""Answers at once: padding and neighbours would change LLM.int8's outliers."""
_ROUNDING_LONGEST = 4096
"""Tokens beyond which the plain attention kernel's scores take too much memory to be looked at."""


@dataclass(frozen=True)
class Chat(Measurement):
    """How far a cell is from the reference on answers that the reference wrote."""

    name: str = "chat"
    summary: str = "divergence on the reference's own answers to prompts, and where text parts"
    options: type[Frozen] = ChatOptions
    metrics: tuple[MetricDefinition, ...] = METRICS
    by_default: bool = False

    def misfit(self, options: ChatOptions, model: ResolvedModel) -> Problem | None:
        """Lengths that leave no room in the context, and a document without a length."""
        if options.prompt_tokens is not None:
            return misfit(options.prompt_tokens, (options.new_tokens,), model)
        if options.context_text is not None:
            return Problem(
                "context_text",
                options.context_text,
                "prompt_tokens beside it: how long the prompts are with it",
                "add prompt_tokens, or leave context_text out",
            )
        return new_tokens_misfit(options.new_tokens, model)

    def items(self, options: ChatOptions, model: ResolvedModel, base: Path) -> list[Item]:
        """One item a length. Raises `TextError` for prompts or a text that cannot be used."""
        prompts = resolve_prompts(options.prompts, count=options.count, base=base)
        given: dict[str, Any] = {}
        if options.temperature:
            given |= {"temperature": options.temperature, "seed": options.seed}
        if options.prefill_chunk is not None:
            given["prefill_chunk"] = options.prefill_chunk
        if options.decoded:
            given["decoded"] = True
        lengths: list[int | None] = [None]
        if options.prompt_tokens is not None:
            given["document"] = resolve_text(options.context_text or DOCUMENT, base=base)
            context = model.context_tokens
            asked = [prompt_of(one, options.new_tokens, context) for one in options.prompt_tokens]
            lengths = list(dict.fromkeys(one for one in asked if one is not None))
        made = [
            ChatParams(
                text=prompts,
                count=prompts.count,
                new_tokens=options.new_tokens,
                chat_template=options.chat_template,
                batch=BATCH,
                divergence=True,
                **given,
                **({} if length is None else {"prompt_tokens": length}),
            )
            for length in lengths
        ]
        return [
            Item(
                measurement=self.name,
                slug=_slug(params),
                params=plain_options(params),
                against_reference=True,
            )
            for params in made
        ]

    def asked_as(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The prompts, and the text that fills them up, by their names as options."""
        named = {"prompts": params["text"], "context_text": params.get("document")}
        return {**super().asked_as(params), **named}

    def measure(self, loaded: LoadedModel, item: Item) -> Outcome:
        """Writes the answers where the model is the reference, and scores them."""
        import torch

        params = typed_options(ChatParams, item.params)
        prompts = read_prompts(params.text)
        asked = ask(prompts, params, loaded)
        details: dict[str, Any] = {
            "item_ids": item_names(prompts),
            "chat_template": asked.chat,
            "prompt_tokens": [len(ids) for ids in asked.ids],
            "kv_cache": loaded.cell.kv_cache or OWN,
        }
        if item.states_key is None:
            return _nothing("no cell of the suite is the reference, which writes answers", details)
        if item.makes_states:
            traces, answers = make_traces(loaded, asked.ids, params)
            details |= {"prompts": [prompt.text for prompt in prompts], "answers": answers}
        else:
            try:
                traces = read_traces(item.states_key)
            except MeasurementError as error:
                return _nothing(str(error), details)
        if traces.prompts != asked.ids:
            reason = (
                "the reference was asked in other token ids than this cell's tokenizer, or its chat"
                " template, makes of the same prompts"
            )
            details["ids_sha256"] = hashlib.sha256(repr(asked.ids).encode()).hexdigest()
            return _nothing(reason, details)
        windows = traces.windows
        loaded.check_ids(max(max(window.ids) for window in windows))
        ids_sha256 = ids_hash(windows)
        vocabulary = loaded.vocabulary
        with torch.inference_mode():
            head = _head(loaded, params, windows)
            reference, unknown = find_reference(item, head, ids_sha256, wanted=True)
            if reference is None:
                return _nothing(unknown or "the reference's states cannot be read", details)
            scores = score_windows(head, windows, BATCH, vocabulary, reference)
            rounding = _rounding(head, windows, vocabulary)
        count = sum(window.scored for window in windows)
        check_losses(scores, count)
        kept = keep_states(reference, item, ids_sha256, rounding[0], {FILE: traces.text})
        share = scores.nonfinite / scores.logits
        divergence = divergence_metrics(
            scores, count, rounding_of_both(rounding, reference), None, DIVERGENCES, PREFIX
        )
        places = None if params.temperature else parting_places(scores, windows)
        return Outcome(
            metrics=(
                make_metric(METRICS, "chat.perplexity", math.exp(math.fsum(scores.nll) / count)),
                make_metric(METRICS, "chat.tokens", count),
                *divergence,
                *_parting(places, windows, params),
            ),
            series={
                "item_nll": scores.nll,
                "item_tokens": [float(window.scored) for window in windows],
                **divergence_series(scores, "item"),
                **({} if places is None else {"item_same_text": _whole(places)}),
            },
            details={
                **details,
                "ids_sha256": ids_sha256,
                "ended": traces.ended,
                "parts_at": places,
                "head_route": head.route,
                "vocabulary": vocabulary,
                **divergence_histogram(scores),
                **tokens_by_window(scores, windows, divergence),
                **by_position(scores, windows, in_answer=True),
                **by_confidence(scores),
            },
            warnings=(
                *asked.warnings,
                *([f"{share:.2%} of the logits are not finite"] if share else []),
                *kept,
            ),
        )


def _slug(params: ChatParams) -> str:
    parts = [f"{params.text.name}-n{params.count}-t{params.new_tokens}"]
    if params.prompt_tokens is not None:
        parts.append(f"p{params.prompt_tokens}")
    if params.chat_template != "auto":
        parts.append("chat" if params.chat_template else "plain")
    if params.temperature:
        parts.append(f"drawn{params.temperature:g}-s{params.seed}")
    if params.prefill_chunk is not None:
        parts.append(f"c{params.prefill_chunk}")
    if params.decoded:
        parts.append("decoded")
    return "-".join(parts)


def _head(loaded: LoadedModel, params: ChatParams, windows: list[Window]) -> OutputHead:
    """What reads the answers as the item says."""
    import torch

    probe = torch.tensor([windows[0].ids[:64]], device=loaded.torch_device)
    head = find_head(loaded.model, probe)
    if params.prefill_chunk is None and not params.decoded:
        return head
    return ReadingHead(
        loaded.model, head.route, loaded.new_cache, params.prefill_chunk, params.decoded
    )


def _rounding(
    head: OutputHead, windows: list[Window], vocabulary: int
) -> tuple[float | None, str | None]:
    """What rounding alone makes, on the answers that are not too long to look at it."""
    short = [window for window in windows if len(window.ids) <= _ROUNDING_LONGEST]
    if not short:
        return None, (
            f"each prompt and answer has more than {_ROUNDING_LONGEST} tokens, whose scores under"
            " the plain attention kernel take too much memory"
        )
    return rounding_kl(head, short, BATCH, vocabulary)


def _parting(
    places: list[int | None] | None, windows: list[Window], params: ChatParams
) -> tuple[Metric, ...]:
    """The share of answers that greedy text would not leave, and where it leaves the others."""
    if places is None:
        reason = (
            f"the answers were drawn at temperature {params.temperature:g}: they are no greedy text"
        )
        return tuple(make_metric(METRICS, name, None, reason=reason) for name in _OF_GREEDY)
    lengths = [window.scored for window in windows]
    return (
        make_metric(METRICS, SAME_TEXT, math.fsum(_whole(places)) / len(places)),
        make_metric(
            METRICS,
            PARTS_AT,
            median_place(places, lengths),
            reason="fewer than half of the answers part",
        ),
    )


_OF_GREEDY = (SAME_TEXT, PARTS_AT)


def _whole(places: list[int | None]) -> list[float]:
    return [float(place is None) for place in places]


def _nothing(reason: str, details: dict[str, Any]) -> Outcome:
    """No figure has a value, for the same reason."""
    metrics = tuple(make_metric(METRICS, one.name, None, reason=reason) for one in METRICS)
    return Outcome(metrics=metrics, details=details)


CHAT = Chat()
