"""Quality of decoded positions: a text read token by token through the KV cache.

One pass over a text never reads what the cache keeps; decoding does. So the first part of each
window is read at once, as a prompt is, and the rest a token a pass, each the text's own (teacher
forcing). What the model predicts after each of these is held against the reference's predictions
at the same positions, which were made in the same way with the reference's own cache.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from pydantic import PositiveInt

from qbench.core.aliases import Also
from qbench.core.errors import MeasurementError
from qbench.core.options import plain_options, typed_options
from qbench.core.record import MetricDefinition
from qbench.core.spec import Frozen, Item
from qbench.measures.grid import misfit, prompt_of
from qbench.measures.loaded import Outcome, make_metric
from qbench.measures.measurement import Measurement
from qbench.measures.options import GridPrompt, OneOrMoreText
from qbench.measures.quality.by_window import tokens_by_window
from qbench.measures.quality.confidence import by_confidence
from qbench.measures.quality.divergence import (
    divergence_histogram,
    divergence_metrics,
    divergence_series,
    named_after,
)
from qbench.measures.quality.head import DecodingHead, find_head
from qbench.measures.quality.held_against import find_reference, keep_states, rounding_of_both
from qbench.measures.quality.positions import by_position
from qbench.measures.quality.scoring import check_losses, rounding_kl, score_windows
from qbench.measures.quality.windows import cut_windows, documents_of, ids_hash, tokenize
from qbench.precisions.kv_cache import OWN
from qbench.sources.data.control_tokens import written_out
from qbench.sources.data.texts import ResolvedText, read_documents, resolve_text

if TYPE_CHECKING:
    from pathlib import Path

    from qbench.core.errors import Problem
    from qbench.core.spec import ResolvedModel
    from qbench.measures.loaded import LoadedModel
    from qbench.measures.quality.windows import Window

_PREFIX = "decoded."
_DIVERGENCES = named_after(_PREFIX, "of decoded positions")
METRICS = (
    MetricDefinition(
        name="decoded.perplexity",
        unit="1",
        better="lower",
        title="perplexity of decoded positions",
        formula="as perplexity, over the tokens that follow the decoded ones",
    ),
    MetricDefinition(
        name="decoded.tokens",
        unit="1",
        varies_by="nothing",
        better="neither",
        title="decoded positions scored",
        formula="new_tokens of each window",
    ),
    *_DIVERGENCES,
)


class DecodedOptions(Frozen):
    """Options of `decoded`."""

    text: OneOrMoreText = ("bundled:stdlib-heldout",)
    """`bundled:<name>`, a local file, a `.jsonl` file whose rows or a folder whose files are
    documents, or the name of a known data set (`wikitext-2`)."""
    limit: PositiveInt = 32
    """The first so many windows of each text, or all if there are fewer."""
    prompt_tokens: GridPrompt = (128,)
    """Tokens of each window that are read at once, `<s>` included; `context` for as many as the
    model's own context leaves. Of a list, those beyond a model's context are skipped."""
    new_tokens: Annotated[PositiveInt, Also("max_new_tokens", "output_len", "n_gen")] = 64
    """Tokens read one by one after them; the prediction after each is scored."""
    batch: Annotated[PositiveInt, Also("batch_size")] = 8
    """Windows at once: the same in every cell."""


class DecodedParams(Frozen):
    """What one item scores, as it stands in its record."""

    text: ResolvedText
    limit: int
    prompt_tokens: int
    new_tokens: int
    batch: int
    divergence: bool = True


@dataclass(frozen=True)
class Decoded(Measurement):
    """How well the model predicts a text that it reads through its KV cache."""

    name: str = "decoded"
    summary: str = "quality of positions decoded through the KV cache, on a text"
    options: type[Frozen] = DecodedOptions
    metrics: tuple[MetricDefinition, ...] = METRICS

    def misfit(self, options: DecodedOptions, model: ResolvedModel) -> Problem | None:
        """Windows that are all beyond the model's context."""
        after = f"{options.new_tokens} new tokens and the one after them"
        return misfit(options.prompt_tokens, (options.new_tokens + 1,), model, after)

    def items(self, options: DecodedOptions, model: ResolvedModel, base: Path) -> list[Item]:
        """One item a text and prompt. Raises `TextError` for a text that cannot be found."""
        context, after = model.context_tokens, options.new_tokens + 1
        prompts = [prompt_of(one, after, context) for one in options.prompt_tokens]
        made = [
            DecodedParams(
                text=resolve_text(source, base=base),
                limit=options.limit,
                prompt_tokens=prompt,
                new_tokens=options.new_tokens,
                batch=options.batch,
            )
            for source in options.text
            for prompt in dict.fromkeys(prompts)
            if prompt is not None
        ]
        return [
            Item(
                measurement=self.name,
                slug=f"{one.text.name}-p{one.prompt_tokens}-n{one.new_tokens}-first{one.limit}",
                params=plain_options(one),
                against_reference=True,
            )
            for one in made
        ]

    def measure(self, loaded: LoadedModel, item: Item) -> Outcome:
        """Decodes the windows, a batch of them after another."""
        import torch

        params = typed_options(DecodedParams, item.params)
        text = read_documents(params.text)
        tokens, ends = tokenize(loaded.tokenizer, text.text)
        windows = _windows(tokens, params, loaded)
        ids_sha256 = ids_hash(windows)
        count = sum(window.scored for window in windows)
        vocabulary = loaded.vocabulary
        with torch.inference_mode():
            probe = torch.tensor([windows[0].ids[:64]], device=loaded.torch_device)
            route = find_head(loaded.model, probe).route
            head = DecodingHead(loaded.model, route, params.prompt_tokens, loaded.new_cache)
            reference, unknown = find_reference(item, head, ids_sha256, wanted=True)
            scores = score_windows(head, windows, params.batch, vocabulary, reference)
            rounding = rounding_kl(head, windows, params.batch, vocabulary)
        check_losses(scores, count)
        share = scores.nonfinite / scores.logits
        both = rounding_of_both(rounding, reference)
        divergence = divergence_metrics(scores, count, both, unknown, _DIVERGENCES, _PREFIX)
        return Outcome(
            metrics=(
                make_metric(METRICS, "decoded.perplexity", math.exp(math.fsum(scores.nll) / count)),
                make_metric(METRICS, "decoded.tokens", count),
                *divergence,
            ),
            series={
                "window_nll": scores.nll,
                "window_tokens": [float(window.scored) for window in windows],
                **documents_of(windows, ends, text.starts),
                **divergence_series(scores),
            },
            details={
                "windows": len(windows),
                "kv_cache": loaded.cell.kv_cache or OWN,
                "ids_sha256": ids_sha256,
                "head_route": route,
                "vocabulary": vocabulary,
                **divergence_histogram(scores),
                **tokens_by_window(scores, windows, divergence),
                **by_position(scores, windows),
                **by_confidence(scores),
            },
            warnings=(
                *([f"{share:.2%} of the logits are not finite"] if share else []),
                *written_out(loaded.tokenizer, tokens),
                *keep_states(reference, item, ids_sha256, rounding[0]),
            ),
        )


def _windows(tokens: list[int], params: DecodedParams, loaded: LoadedModel) -> list[Window]:
    """Windows of equal length one after another; raises `MeasurementError` where there is none."""
    length = params.prompt_tokens + params.new_tokens + 1
    bos: int | None = loaded.tokenizer.bos_token_id
    cut = cut_windows(tokens, "default", length, bos)
    whole = [window for window in cut if len(window.ids) == length][: params.limit]
    if not whole:
        raise MeasurementError(
            f"text {params.text.name} has {len(tokens)} tokens: too short for a prompt of"
            f" {params.prompt_tokens} and {params.new_tokens} decoded after it; give a longer text"
            " or smaller numbers"
        )
    loaded.check_ids(max(max(window.ids) for window in whole))
    return [replace(window, first_scored=params.prompt_tokens + 1) for window in whole]


DECODED = Decoded()
