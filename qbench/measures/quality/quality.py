"""Perplexity, bits per byte and divergence from the reference on a text, in one pass.

Sums by window are kept, so that cells can be compared pairwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import PositiveInt

from qbench.core.aliases import Also
from qbench.core.errors import MeasurementError, Problem
from qbench.core.options import plain_options, typed_options
from qbench.core.record import MetricDefinition
from qbench.core.spec import Frozen, Item
from qbench.measures.attention import attention_kernel, watching_attention
from qbench.measures.loaded import Outcome, make_metric
from qbench.measures.measurement import Measurement
from qbench.measures.options import CONTEXT, OneOrMoreText, OneOrMoreWindows
from qbench.measures.quality.by_window import WINDOW_METRICS, tokens_by_window, window_metrics
from qbench.measures.quality.confidence import by_confidence
from qbench.measures.quality.divergence import (
    DIVERGENCE_METRICS,
    divergence_histogram,
    divergence_metrics,
    divergence_series,
)
from qbench.measures.quality.head import find_head
from qbench.measures.quality.held_against import find_reference, keep_states, rounding_of_both
from qbench.measures.quality.positions import by_position
from qbench.measures.quality.scoring import (
    check_losses,
    ids_of,
    in_groups,
    rounding_kl,
    score_windows,
)
from qbench.measures.quality.windows import (
    FIXED_WINDOW,
    LLAMACPP,
    Protocol,
    Window,
    cut_windows,
    documents_of,
    ids_hash,
    tokenize,
)
from qbench.sources.data.control_tokens import written_out
from qbench.sources.data.texts import ResolvedText, read_documents, resolve_text

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

    from qbench.core.record import Metric
    from qbench.core.spec import ResolvedModel
    from qbench.measures.loaded import LoadedModel

WINDOW_MOST = 2048
"""Default window of a model with a longer context."""

METRICS = (
    MetricDefinition(
        name="perplexity",
        unit="1",
        better="lower",
        title="perplexity",
        formula="exp(sum of the scored tokens' negative log-likelihood / their number), log-softmax"
        " and sums in fp64 of fp32 logits",
        also_called=("PPL",),
    ),
    MetricDefinition(
        name="bits_per_byte",
        unit="bit",
        better="lower",
        title="bits per byte",
        formula="sum of the negative log-likelihood / ln 2 / UTF-8 bytes of the scored text;"
        " comparable across tokenizers",
        also_called=("BPB",),
    ),
    MetricDefinition(
        name="tokens",
        unit="1",
        varies_by="nothing",
        better="neither",
        title="scored tokens",
        formula="tokens whose likelihood was summed",
    ),
    MetricDefinition(
        name="nonfinite_share",
        unit="1",
        varies_by="nothing",
        better="lower",
        title="share of non-finite logits",
        formula="logits that are infinite or not a number / all logits",
    ),
    *WINDOW_METRICS,
    *DIVERGENCE_METRICS,
)


class QualityOptions(Frozen):
    """Options of `quality`."""

    text: OneOrMoreText = ("bundled:stdlib-heldout",)
    """`bundled:<name>`, a local file, a `.jsonl` file whose rows or a folder whose files are
    documents, or the name of a known data set (`wikitext-2`)."""
    window: Annotated[
        OneOrMoreWindows | None,
        Also(
            "ctx_size",
            "n_ctx",
            "seqlen",
            unlike={
                "stride": "a `window` overlaps none unless `protocol: strided` says so, whose"
                " stride is half a window"
            },
        ),
    ] = None
    """Tokens a window, `<s>` included, or `context` for the model's own context; the context unless
    given, at most 2048. Of a list, windows beyond a model's context are skipped."""
    protocol: Protocol = "default"
    """How the text is cut and which tokens are scored."""
    limit: PositiveInt | None = None
    """Only the first so many windows of each text."""
    batch: Annotated[PositiveInt, Also("batch_size")] = 4
    """Windows at once: the same in every cell, since neighbours change LLM.int8's outliers."""
    attention: Annotated[Literal["eager", "sdpa"] | None, Also("attn_implementation")] = None
    """The attention kernel to score with; the one the model chooses by itself unless given."""
    divergence: Annotated[bool, Also("kl_divergence")] = True
    """Whether each cell is compared with the reference's predictions, token by token."""


class QualityParams(Frozen):
    """What one item scores, as it stands in its record."""

    text: ResolvedText
    window: int
    protocol: Protocol
    limit: int | None = None
    batch: int
    bos: Literal["as encoded"] | None = None
    """Of llama.cpp's protocol: apart from records that have one whatever the tokenizer does."""
    attention: Literal["eager", "sdpa"] | None = None
    divergence: bool
    against: Literal["merged"] | None = None
    """Of a tuned cell: compared with the same tuning merged in 16 bits, not with the reference."""


@dataclass(frozen=True)
class Quality(Measurement):
    """How well the model predicts a text."""

    name: str = "quality"
    summary: str = "perplexity, bits per byte, and divergence from the reference, on a text"
    options: type[Frozen] = QualityOptions
    metrics: tuple[MetricDefinition, ...] = METRICS

    def misfit(self, options: QualityOptions, model: ResolvedModel) -> Problem | None:
        """Windows that are all beyond the model's context, or another than the protocol's own."""
        fixed = FIXED_WINDOW.get(options.protocol)
        given = options.window or ()
        if fixed is not None and not {*given} <= {fixed}:
            return Problem(
                "window",
                next(str(one) for one in given if one != fixed),
                f"{fixed}, the window of protocol {options.protocol}",
                "leave window out, or choose another protocol",
            )
        context = model.context_tokens
        if context is None and CONTEXT in given:
            expected = f"a number of tokens, as the context of {model.ref.name} is not known"
            return Problem("window", CONTEXT, expected, "write how long the windows are")
        windows = [fixed] if fixed is not None else [one for one in given if one != CONTEXT]
        if context is None or CONTEXT in given or not windows or min(windows) <= context:
            return None
        return Problem(
            "window" if fixed is None else "protocol",
            str(min(windows)) if fixed is None else options.protocol,
            f"a window of at most {context}, the context of {model.ref.name}",
            f"set window to at most {context}"
            if fixed is None
            else "use protocol: default, whose window fits the model",
        )

    def items(self, options: QualityOptions, model: ResolvedModel, base: Path) -> list[Item]:
        """One item a text and window. Raises `TextError` for a text that cannot be found."""
        texts = [resolve_text(source, base=base) for source in options.text]
        given: dict[str, Any] = {"bos": "as encoded"} if options.protocol == LLAMACPP else {}
        given |= {
            name: value
            for name, value in (("attention", options.attention), ("limit", options.limit))
            if value is not None
        }
        made = [
            QualityParams(
                text=text,
                window=window,
                protocol=options.protocol,
                batch=options.batch,
                divergence=options.divergence,
                **given,
            )
            for text in texts
            for window in _windows(options, model.context_tokens)
        ]
        return [
            Item(
                measurement=self.name,
                slug=f"{params.text.name}-w{params.window}-{options.protocol}"
                + ("" if params.limit is None else f"-first{params.limit}"),
                params=plain_options(params),
                against_reference=options.divergence,
            )
            for params in made
        ]

    def measure(self, loaded: LoadedModel, item: Item) -> Outcome:
        """Scores the windows of the text in one pass."""
        import torch

        params = typed_options(QualityParams, item.params)
        documents = read_documents(params.text)
        text = documents.text
        tokenizer = loaded.tokenizer
        tokens, ends = tokenize(tokenizer, text)
        bos = _start(tokenizer, params.protocol)
        windows = cut_windows(tokens, params.protocol, params.window, bos)[: params.limit]
        _check(windows, tokens, loaded, params)
        ids_sha256 = ids_hash(windows)
        counts = [window.scored for window in windows]
        vocabulary = loaded.vocabulary
        with torch.inference_mode(), attention_kernel(loaded.model, params.attention):
            probe = torch.tensor([windows[0].ids[:64]], device=loaded.torch_device)
            head = find_head(loaded.model, probe)
            reference, unknown = find_reference(item, head, ids_sha256, wanted=params.divergence)
            scores = score_windows(head, windows, params.batch, vocabulary, reference)
            own_rounding: tuple[float | None, str | None] = (None, "divergence was not asked for")
            if params.divergence:
                own_rounding = rounding_kl(head, windows, params.batch, vocabulary)
            with watching_attention() as attention:
                head.states(ids_of(in_groups(windows, params.batch)[0], loaded.model.device))
            losses, nonfinite = scores.nll, scores.nonfinite / scores.logits
        total = math.fsum(losses)
        check_losses(scores, sum(counts))
        warnings = [f"{nonfinite:.2%} of the logits are not finite"] if nonfinite else []
        warnings += written_out(tokenizer, tokens)
        warnings += keep_states(reference, item, ids_sha256, own_rounding[0])
        divergence: tuple[Metric, ...] = ()
        if params.divergence:
            divergence = divergence_metrics(
                scores, sum(counts), rounding_of_both(own_rounding, reference), unknown
            )
        scored_bytes = _scored_bytes(text, ends, windows)
        return Outcome(
            metrics=(
                make_metric(METRICS, "perplexity", math.exp(total / sum(counts))),
                make_metric(
                    METRICS,
                    "bits_per_byte",
                    total / math.log(2) / scored_bytes if scored_bytes else None,
                    reason="the tokenizer does not say which characters a token stands for",
                ),
                make_metric(METRICS, "tokens", sum(counts)),
                make_metric(METRICS, "nonfinite_share", nonfinite),
                *window_metrics(losses, windows),
                *divergence,
            ),
            series={
                "window_nll": losses,
                "window_tokens": [float(count) for count in counts],
                **documents_of(windows, ends, documents.starts),
                **divergence_series(scores),
            },
            details={
                "windows": len(windows),
                "bos": bos,
                "text_tokens": len(tokens),
                "text_bytes": len(text.encode()),
                "scored_bytes": scored_bytes,
                "ids_sha256": ids_sha256,
                "head_route": head.route,
                "attention_ran": sorted(attention),
                "vocabulary": vocabulary,
                **divergence_histogram(scores),
                **tokens_by_window(scores, windows, divergence),
                **by_position(scores, windows),
                **by_confidence(scores),
            },
            warnings=tuple(warnings),
        )


def _windows(options: QualityOptions, context: int | None) -> list[int]:
    """Tokens of the windows that a model's texts are cut into, each once."""
    if options.window is None:
        return [FIXED_WINDOW.get(options.protocol) or min(WINDOW_MOST, context or WINDOW_MOST)]
    found = [context if one == CONTEXT else one for one in options.window]
    return list(dict.fromkeys(one for one in found if one is not None))


def _start(tokenizer: PreTrainedTokenizerBase, protocol: Protocol) -> int | None:
    """The id that the protocol puts before a window; None where it puts none."""
    bos: int | None = tokenizer.bos_token_id
    if protocol == "default":
        return bos
    if protocol != LLAMACPP or bos is None:
        return None
    # What is written into a model's GGUF file: whether its tokenizer puts one before a text.
    first = tokenizer("a", verbose=False)["input_ids"][:1]
    return bos if first == [bos] else None


def _check(
    windows: list[Window], tokens: list[int], loaded: LoadedModel, params: QualityParams
) -> None:
    """Raises `MeasurementError` for a text that gives no window or ids the model does not have."""
    if not windows:
        raise MeasurementError(
            f"text {params.text.name} has {len(tokens)} tokens: too short for one window of"
            f" {params.window} under protocol {params.protocol}; give a longer text or a"
            " smaller window"
        )
    loaded.check_ids(max(max(window.ids) for window in windows))


def _scored_bytes(text: str, ends: list[int] | None, windows: list[Window]) -> int | None:
    """UTF-8 bytes of the characters that the scored tokens stand for; None if not known."""
    if ends is None:
        return None
    total = 0
    for window in windows:
        first = window.text_end - window.scored
        start = ends[first - 1] if first else 0
        total += len(text[start : ends[window.text_end - 1]].encode())
    return total


QUALITY = Quality()
