"""From what became of each needle to metrics, series and what there is by depth."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any

from qbench.core.errors import NonFiniteError
from qbench.core.record import MetricDefinition
from qbench.measures.loaded import Outcome, make_metric

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.measures.needle.haystack import Prompt
    from qbench.measures.needle.reading import Reading

_LARGEST_MEAN_LOSS = 700.0
"""Nats a token: what is beyond it is no loss, but a number that is none."""
METRICS = (
    MetricDefinition(
        name="needle.retrieval",
        unit="1",
        better="higher",
        title="needles found",
        formula="share of the needles whose value stands in what the model writes, greedily and in"
        " at most new_tokens tokens; capitals aside (string match of RULER, Hsieh et al. 2024,"
        " arXiv 2404.06654)",
        also_called=("NIAH accuracy", "string_match_all"),
    ),
    MetricDefinition(
        name="needle.exact",
        unit="1",
        better="higher",
        title="values with the likeliest tokens",
        formula="share of the needles of whose value each token is the likeliest, given the prompt"
        " and the value's tokens before it; as is_greedy of lm-eval",
        also_called=("is_greedy",),
    ),
    MetricDefinition(
        name="needle.loss",
        unit="nat",
        better="lower",
        title="loss of the values",
        formula="sum of the negative log-likelihood of the values' tokens, given the prompt and the"
        " value's tokens before / number of these tokens; log-softmax and sums in fp64 of fp32"
        " logits",
    ),
)


def make_outcome(
    prompts: Sequence[Prompt],
    readings: Sequence[Reading],
    *,
    text_characters: int,
    warnings: Sequence[str],
) -> Outcome:
    """Of the needles of one length, in their order.

    Raises `NonFiniteError` where the loss of the values is not finite.
    """
    tokens = [len(one.answer) for one in prompts]
    nll = [one.nll for one in readings]
    mean = math.fsum(nll) / sum(tokens)
    if not mean < _LARGEST_MEAN_LOSS:
        bad = sum(not math.isfinite(loss) for loss in nll)
        raise NonFiniteError(f"the loss of {bad} of {len(nll)} values is not finite")
    found = [_stands_in(one, read) for one, read in zip(prompts, readings, strict=True)]
    exact = [float(one.likeliest) for one in readings]
    series = {
        "item_retrieval": found,
        "item_exact": exact,
        "item_nll": nll,
        "item_tokens": [float(count) for count in tokens],
    }
    lengths = [len(one.ids) for one in prompts]
    return Outcome(
        metrics=(
            make_metric(METRICS, "needle.retrieval", math.fsum(found) / len(found)),
            make_metric(METRICS, "needle.exact", math.fsum(exact) / len(exact)),
            make_metric(METRICS, "needle.loss", mean),
        ),
        series=series,
        details={
            "item_ids": [one.needle.id for one in prompts],
            "items": len(prompts),
            "by_depth": _by_depth(prompts, series),
            "answers": {"needle.retrieval": _answers(prompts, readings, found)},
            "keys": [one.needle.key for one in prompts],
            "values": [one.needle.value for one in prompts],
            "prompt_tokens": {"least": min(lengths), "most": max(lengths)},
            "haystack_of_text": max(one.characters for one in prompts) / text_characters,
            "ids_sha256": _hash(prompts),
        },
        warnings=tuple(warnings),
    )


def _stands_in(prompt: Prompt, reading: Reading) -> float:
    return float(prompt.needle.value.lower() in reading.text.lower())


def _answers(
    prompts: Sequence[Prompt], readings: Sequence[Reading], found: Sequence[float]
) -> list[str]:
    """What each needle was said to be: its value where that was found, whatever stands around."""
    return [
        prompt.needle.value if right else read.text.strip()
        for prompt, read, right in zip(prompts, readings, found, strict=True)
    ]


def _by_depth(prompts: Sequence[Prompt], series: dict[str, list[float]]) -> dict[str, list[Any]]:
    """Columns with a place for each depth, as it was asked for."""
    places: dict[float, list[int]] = {}
    for at, one in enumerate(prompts):
        places.setdefault(one.needle.depth, []).append(at)

    def mean(values: Sequence[float]) -> list[float]:
        return [math.fsum(values[at] for at in own) / len(own) for own in places.values()]

    nll, tokens = mean(series["item_nll"]), mean(series["item_tokens"])
    return {
        "depth": list(places),
        "reached": mean([one.depth for one in prompts]),
        "needles": [len(own) for own in places.values()],
        "retrieval": mean(series["item_retrieval"]),
        "exact": mean(series["item_exact"]),
        "loss": [loss / count for loss, count in zip(nll, tokens, strict=True)],
    }


def _hash(prompts: Sequence[Prompt]) -> str:
    """sha256 of what is put to the model, and of what it should write."""
    digest = hashlib.sha256()
    for one in prompts:
        digest.update(repr((one.ids, one.answer)).encode())
    return digest.hexdigest()
