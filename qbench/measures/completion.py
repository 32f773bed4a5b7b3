"""Loss on the completions of the tuning data's test split, of tuned and untuned cells alike.

Examples are scored one by one or beside others of the same length: nothing is padded, so that
neither padding nor its length can change a number.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pydantic import PositiveInt

from qbench.core.errors import MeasurementError, NonFiniteError
from qbench.core.options import typed_options
from qbench.core.record import MetricDefinition
from qbench.core.spec import Frozen
from qbench.finetune.train.examples import altered_warning, encode_all
from qbench.measures.loaded import Outcome, make_metric
from qbench.measures.measurement import Measurement
from qbench.measures.quality.head import find_head
from qbench.measures.quality.scoring import LARGEST_MEAN_LOSS, score_windows
from qbench.measures.quality.windows import Window
from qbench.sources.data.tuning import ResolvedTuningData, load_splits

if TYPE_CHECKING:
    from pathlib import Path

    from qbench.core.errors import Problem
    from qbench.core.spec import Item, ResolvedModel
    from qbench.finetune.train.examples import Encoded
    from qbench.measures.loaded import LoadedModel

METRICS = (
    MetricDefinition(
        name="completion.loss",
        unit="nat",
        better="lower",
        title="test loss",
        formula="sum of the negative log-likelihood of the test split's completions, their end"
        " token included, given their prompts / number of these tokens; log-softmax and sums in"
        " fp64 of fp32 logits",
    ),
    MetricDefinition(
        name="completion.perplexity",
        unit="1",
        better="lower",
        title="test perplexity",
        formula="exp(completion.loss)",
    ),
    MetricDefinition(
        name="completion.tokens",
        unit="1",
        varies_by="nothing",
        better="neither",
        title="scored completion tokens",
        formula="tokens of the completions, end tokens included, whose likelihood was summed",
    ),
)


class CompletionOptions(Frozen):
    """Options of `completion`; the data is that of `finetune`."""

    batch: PositiveInt = 4
    """Examples of equal length at once: the same in every cell, as neighbours change int8."""


class CompletionParams(Frozen):
    """What the one item scores, as it stands in its record."""

    data: ResolvedTuningData
    """What is tuned on, whose test split is scored."""
    batch: int


@dataclass(frozen=True)
class Completion(Measurement):
    """How well the model predicts what it is, or could be, tuned to write."""

    name: str = "completion"
    summary: str = "loss on the completions of the tuning data's test split"
    needs: tuple[str, ...] = ("datasets",)
    options: type[Frozen] = CompletionOptions
    metrics: tuple[MetricDefinition, ...] = METRICS

    def misfit(self, options: CompletionOptions, model: ResolvedModel) -> Problem | None:
        """Nothing: a batch suits any model."""
        return None

    def items(self, options: CompletionOptions, model: ResolvedModel, base: Path) -> list[Item]:
        """None: the plan makes the one item, as the data stands under `finetune`."""
        return []

    def measure(self, loaded: LoadedModel, item: Item) -> Outcome:
        """Scores every example of the test split that fits the model's context."""
        import torch

        params = typed_options(CompletionParams, item.params)
        splits = load_splits(params.data, loaded.tokenizer)
        encoded = encode_all(splits.test, loaded.tokenizer, loss_on="completion")
        context = loaded.resolved.context_tokens
        kept = [
            at
            for at, one in enumerate(encoded)
            if one.scored and (context is None or len(one.ids) <= context)
        ]
        _check(encoded, kept, loaded)
        # Those of equal length stand together; the model is asked for no other order.
        order = sorted(kept, key=lambda at: len(encoded[at].ids))
        windows = [_window(encoded[at]) for at in order]
        vocabulary = loaded.model.get_output_embeddings().weight.shape[0]
        with torch.inference_mode():
            probe = torch.tensor([windows[0].ids], device=loaded.torch_device)
            head = find_head(loaded.model, probe)
            scores = score_windows(head, windows, params.batch, vocabulary, None)
        losses = dict(zip(order, scores.nll, strict=True))
        tokens = [encoded[at].scored for at in kept]
        nll = [losses[at] for at in kept]
        mean = math.fsum(nll) / sum(tokens)
        if not mean < LARGEST_MEAN_LOSS:
            bad = sum(not math.isfinite(loss) for loss in nll)
            raise NonFiniteError(
                f"the loss of {bad} of {len(nll)} examples is not finite, and the mean loss is"
                f" {mean:.4g} nats a token"
            )
        too_long = len(encoded) - len(kept)
        return Outcome(
            metrics=(
                make_metric(METRICS, "completion.loss", mean),
                make_metric(METRICS, "completion.perplexity", math.exp(mean)),
                make_metric(METRICS, "completion.tokens", sum(tokens)),
            ),
            series={"item_nll": nll, "item_tokens": [float(count) for count in tokens]},
            details={
                "item_ids": [splits.test[at].id for at in kept],
                "ids_sha256": _ids_hash([encoded[at] for at in kept]),
                "too_long": too_long,
                "rows": splits.rows,
                "rows_empty": splits.empty,
                "rows_duplicate": splits.duplicates,
                "head_route": head.route,
            },
            warnings=(
                *splits.warnings,
                *altered_warning([encoded[at] for at in kept]),
                *((_too_long_warning(too_long, len(encoded), context),) if too_long else ()),
            ),
        )


def _too_long_warning(count: int, of: int, context: int | None) -> str:
    return (
        f"{count} of {of} test examples are longer than the model's context of {context} tokens and"
        " are not scored; give shorter data to score them all"
    )


def _window(encoded: Encoded) -> Window:
    """The example as what is scored: all tokens from the first one with a label."""
    first = len(encoded.ids) - encoded.scored
    return Window(tuple(encoded.ids), first_scored=first, text_end=len(encoded.ids))


def _check(encoded: list[Encoded], kept: list[int], loaded: LoadedModel) -> None:
    """Raises `MeasurementError` when nothing fits or an id is none of the model's."""
    if not kept:
        shortest = min(len(one.ids) for one in encoded)
        raise MeasurementError(
            f"all {len(encoded)} test examples are longer than the model's context of"
            f" {loaded.resolved.context_tokens} tokens, the shortest of them has {shortest};"
            " give shorter data"
        )
    loaded.check_ids(max(max(encoded[at].ids) for at in kept))


def _ids_hash(encoded: list[Encoded]) -> str:
    digest = hashlib.sha256()
    for one in encoded:
        digest.update(repr((len(one.ids) - one.scored, one.ids)).encode())
    return digest.hexdigest()


COMPLETION = Completion()
