"""Perplexity and bits per byte on a text, with the summed loss of each window kept."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import Field, PositiveInt

from qbench.errors import MeasurementError, NonFiniteError
from qbench.measures.loaded import Outcome, make_metric
from qbench.measures.options import OneOrMoreText
from qbench.measures.windows import FIXED_WINDOW, Protocol, Window, cut_windows
from qbench.record import MetricDefinition
from qbench.sources.texts import ResolvedText, read_text, resolve_text
from qbench.spec import Frozen, Item

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from transformers import PreTrainedTokenizerBase

    from qbench.measures.head import OutputHead
    from qbench.measures.loaded import LoadedModel
    from qbench.spec import ResolvedModel

LARGEST_MEAN_LOSS = 700.0
"""Nats a token beyond which exp() has no finite value."""
WINDOW_MOST = 2048
"""Default window of a model with a longer context."""

METRICS = (
    MetricDefinition(
        name="perplexity",
        unit="1",
        better="lower",
        title="perplexity",
        formula="exp(sum of the scored tokens' negative log-likelihood / their number), log-softmax"
        " in fp32, sums in fp64",
    ),
    MetricDefinition(
        name="bits_per_byte",
        unit="bit",
        better="lower",
        title="bits per byte",
        formula="sum of the negative log-likelihood / ln 2 / UTF-8 bytes of the scored text;"
        " comparable across tokenizers",
    ),
    MetricDefinition(
        name="tokens",
        unit="1",
        better="neither",
        title="scored tokens",
        formula="tokens whose likelihood was summed",
    ),
    MetricDefinition(
        name="nonfinite_share",
        unit="1",
        better="lower",
        title="share of non-finite logits",
        formula="logits that are infinite or not a number / all logits",
    ),
)


class QualityOptions(Frozen):
    """Options of `quality`."""

    text: OneOrMoreText = ("bundled:stdlib-heldout",)
    """`bundled:<name>`, a local file, or the name of a known data set (`wikitext-2`)."""
    window: int | None = Field(default=None, ge=2)
    """Tokens a window, `<s>` included; the model's context unless given, at most 2048."""
    protocol: Protocol = "default"
    """How the text is cut and which tokens are scored."""
    batch: PositiveInt = 4
    """Windows at once: the same in every cell, since neighbours change LLM.int8's outliers."""


@dataclass(frozen=True)
class Quality:
    """How well the model predicts a text."""

    name: str = "quality"
    summary: str = "perplexity and bits per byte on a text"
    needs: tuple[str, ...] = ()
    options: type[Frozen] = QualityOptions
    metrics: tuple[MetricDefinition, ...] = METRICS
    trusts_kernels: bool = True

    def misfit(
        self, options: QualityOptions, model: ResolvedModel
    ) -> tuple[str, str, str, str] | None:
        """A window beyond the model's context, or another than the protocol's own."""
        fixed = FIXED_WINDOW.get(options.protocol)
        if fixed is not None and options.window not in {None, fixed}:
            return (
                "window",
                str(options.window),
                f"{fixed}, the window of protocol {options.protocol}",
                "leave window out, or choose another protocol",
            )
        window = fixed or options.window
        context = model.context_tokens
        if window is None or context is None or window <= context:
            return None
        return (
            "window" if fixed is None else "protocol",
            str(window) if fixed is None else options.protocol,
            f"a window of at most {context}, the context of {model.ref.name}",
            f"set window to at most {context}"
            if fixed is None
            else "use protocol: default, whose window fits the model",
        )

    def items(self, options: QualityOptions, model: ResolvedModel, base: Path) -> list[Item]:
        """One item a text. Raises `TextError` for one that cannot be found."""
        window = FIXED_WINDOW.get(options.protocol) or options.window
        window = window or min(WINDOW_MOST, model.context_tokens or WINDOW_MOST)
        texts = [resolve_text(source, base=base) for source in options.text]
        return [
            Item(
                measurement=self.name,
                slug=f"{text.name}-w{window}-{options.protocol}",
                params={
                    "text": text.model_dump(),
                    "window": window,
                    "protocol": options.protocol,
                    "batch": options.batch,
                },
            )
            for text in texts
        ]

    def measure(self, loaded: LoadedModel, item: Item) -> Outcome:
        """Scores every window of the text in one pass."""
        import torch

        params = item.params
        text = read_text(ResolvedText(**params["text"]))
        tokenizer = loaded.tokenizer
        tokens, ends = _tokenize(tokenizer, text)
        bos = tokenizer.bos_token_id
        windows = cut_windows(tokens, params["protocol"], params["window"], bos)
        _check(windows, tokens, loaded, params)
        with torch.inference_mode():
            losses, nonfinite = _score(loaded, windows, params["batch"])
        counts = [window.scored for window in windows]
        total = math.fsum(losses)
        if not total / sum(counts) < LARGEST_MEAN_LOSS:
            bad = sum(not math.isfinite(loss) for loss in losses)
            raise NonFiniteError(
                f"the loss of {bad} of {len(windows)} windows is not finite, the mean loss is"
                f" {total / sum(counts):.4g} nats a token, and {nonfinite:.2%} of the logits are"
                " not finite"
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
            ),
            series={"window_nll": losses, "window_tokens": [float(count) for count in counts]},
            details={
                "windows": len(windows),
                "bos": bos if params["protocol"] in {"default", "llamacpp-512-half"} else None,
                "text_tokens": len(tokens),
                "text_bytes": len(text.encode()),
                "scored_bytes": scored_bytes,
                "ids_sha256": _ids_hash(windows),
            },
            warnings=(f"{nonfinite:.2%} of the logits are not finite",) if nonfinite else (),
        )


def _tokenize(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[int] | None]:
    """The text's ids with nothing added, and the character that each token ends at, if known."""
    encoded = tokenizer(
        text,
        add_special_tokens=False,
        return_offsets_mapping=tokenizer.is_fast,
        verbose=False,
    )
    offsets = encoded.get("offset_mapping")
    return list(encoded["input_ids"]), None if offsets is None else [end for _, end in offsets]


def _check(
    windows: list[Window], tokens: list[int], loaded: LoadedModel, params: dict[str, Any]
) -> None:
    """Raises `MeasurementError` for a text that gives no window or ids the model does not have."""
    if not windows:
        raise MeasurementError(
            f"text {params['text']['name']} has {len(tokens)} tokens: too short for one window of"
            f" {params['window']} under protocol {params['protocol']}; give a longer text or a"
            " smaller window"
        )
    rows = loaded.model.get_input_embeddings().weight.shape[0]
    highest = max(max(window.ids) for window in windows)
    if highest >= rows:
        raise MeasurementError(
            f"the tokenizer gives id {highest}, but the model's embedding has {rows} rows: the"
            f" tokenizer in {loaded.folder} is not this model's"
        )


def _score(loaded: LoadedModel, windows: list[Window], batch: int) -> tuple[list[float], float]:
    """Each window's summed negative log-likelihood, and the share of non-finite logits."""
    import torch

    from qbench.measures.head import find_head

    device = loaded.torch_device
    head = find_head(loaded.model, torch.tensor([windows[0].ids[:64]], device=device))
    losses: list[float] = []
    nonfinite = logits = 0
    for group in _groups(windows, batch):
        ids = torch.tensor([window.ids for window in group], device=device)
        states = head.states(ids)
        for row, window in enumerate(group):
            first = window.first_scored
            loss, bad, seen = _window_loss(head, states[row, first - 1 : -1], ids[row, first:])
            losses.append(loss)
            nonfinite += bad
            logits += seen
    return losses, nonfinite / logits


def _window_loss(
    head: OutputHead, states: torch.Tensor, targets: torch.Tensor
) -> tuple[float, int, int]:
    """Summed loss of targets (n,) under states (n, hidden); non-finite logits; logits seen."""
    import torch

    from qbench.measures.head import CHUNK_TOKENS

    total = 0.0
    nonfinite = seen = 0
    for start in range(0, len(targets), CHUNK_TOKENS):
        chunk = slice(start, start + CHUNK_TOKENS)
        logits = head.logits(states[chunk])
        losses = torch.nn.functional.cross_entropy(logits, targets[chunk], reduction="none")
        total += float(losses.double().sum())
        # One sum tells that all are finite; they are counted one by one only when it is not.
        if not torch.isfinite(logits.sum()):
            nonfinite += int((~torch.isfinite(logits)).sum())
        seen += logits.numel()
    return total, nonfinite, seen


def _groups(windows: list[Window], batch: int) -> list[list[Window]]:
    """Neighbouring windows of equal length, at most `batch` together, in the text's order."""
    groups: list[list[Window]] = []
    for window in windows:
        if groups and len(groups[-1]) < batch and len(groups[-1][0].ids) == len(window.ids):
            groups[-1].append(window)
        else:
            groups.append([window])
    return groups


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


def _ids_hash(windows: list[Window]) -> str:
    digest = hashlib.sha256()
    for window in windows:
        digest.update(repr((window.first_scored, window.ids)).encode())
    return digest.hexdigest()


QUALITY = Quality()
