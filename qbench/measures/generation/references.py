"""Scores of generated texts against references, computed with no network.

They are what the metrics of these names in the package `evaluate` compute. Those metrics are
scripts fetched from a hub; here the libraries that the scripts call are called directly, with the
scripts' default settings.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from qbench.core.errors import MeasurementError
from qbench.core.packages import install_command
from qbench.core.record import MetricDefinition

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ScoreName = Literal["exact_match", "rouge", "chrf", "bleu"]
SCORES: tuple[ScoreName, ...] = get_args(ScoreName)

METRIC_OF_SCORE: dict[ScoreName, str] = {
    "exact_match": "generation.exact_match",
    "rouge": "generation.rougeL",
    "chrf": "generation.chrf",
    "bleu": "generation.bleu",
}

METRICS = (
    MetricDefinition(
        name="generation.exact_match",
        unit="1",
        better="higher",
        title="exact match",
        formula="share of the generated texts that equal their reference, white space around both"
        " aside; 0 to 1 (`exact_match` of evaluate)",
    ),
    MetricDefinition(
        name="generation.rougeL",
        unit="1",
        better="higher",
        title="ROUGE-L",
        formula="mean over the prompts of the F1 of the longest common subsequence of words, which"
        " are runs of ASCII letters and digits in lower case, without stemming; 0 to 1 (Lin 2004,"
        " ROUGE; package rouge-score, as `rouge` of evaluate, whose bootstrapped median it is the"
        " expectation of)",
    ),
    MetricDefinition(
        name="generation.chrf",
        unit="1",
        better="higher",
        title="chrF",
        formula="F2 of character 1- to 6-grams without white space, from their counts over all"
        " prompts; 0 to 100 (Popović 2015, chrF; package sacrebleu, as `chrf` of evaluate)",
    ),
    MetricDefinition(
        name="generation.bleu",
        unit="1",
        better="higher",
        title="BLEU",
        formula="geometric mean of the precisions of 1- to 4-grams of words (tokenizer 13a,"
        " exponential smoothing) times the brevity penalty, from counts over all prompts; 0 to 100"
        " (Papineni et al. 2002; Post 2018; package sacrebleu, as `sacrebleu` of evaluate)",
    ),
)


@dataclass(frozen=True)
class Scored:
    """A score over all prompts, and each prompt's own."""

    value: float | None
    each: tuple[float, ...] | None
    """The mean is `value` for exact match and ROUGE-L; chrF and BLEU are of the whole, not means.
    A single text's BLEU leaves out the orders that the text is too short for."""
    reason: str | None = None
    """Why there is no value."""


def score(name: ScoreName, generated: Sequence[str], references: Sequence[str]) -> Scored:
    """Scores texts against as many references, at least one.

    Raises `MeasurementError` when the library that computes it is not installed.
    """
    functions: dict[ScoreName, Callable[[Sequence[str], Sequence[str]], Scored]] = {
        "exact_match": _exact_match,
        "rouge": _rouge,
        "chrf": _chrf,
        "bleu": _bleu,
    }
    return functions[name](generated, references)


def _exact_match(generated: Sequence[str], references: Sequence[str]) -> Scored:
    return _mean([float(a.strip() == b.strip()) for a, b in _pairs(generated, references)])


def _rouge(generated: Sequence[str], references: Sequence[str]) -> Scored:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise _not_installed("rouge", "rouge-score") from error
    wordless = sum(not re.search(r"[a-z0-9]", text.lower()) for text in references)
    if wordless:
        return Scored(
            None,
            None,
            f"{wordless} of {len(references)} references have no ASCII letter or digit, and ROUGE"
            " sees nothing else; use chrf",
        )
    scorer = RougeScorer(["rougeL"])
    return _mean(
        [
            float(scorer.score(reference, text)["rougeL"].fmeasure)
            for text, reference in _pairs(generated, references)
        ]
    )


def _chrf(generated: Sequence[str], references: Sequence[str]) -> Scored:
    sacrebleu = _sacrebleu("chrf")
    return _of_corpus(sacrebleu.CHRF(), sacrebleu.CHRF(), generated, references)


def _bleu(generated: Sequence[str], references: Sequence[str]) -> Scored:
    sacrebleu = _sacrebleu("bleu")
    whole, single = sacrebleu.BLEU(), sacrebleu.BLEU(effective_order=True)
    return _of_corpus(whole, single, generated, references)


def _of_corpus(
    whole: Any, single: Any, generated: Sequence[str], references: Sequence[str]
) -> Scored:
    """One of sacrebleu's metrics on all texts, and, set for single texts, on each."""
    return Scored(
        float(whole.corpus_score(list(generated), [list(references)]).score),
        tuple(
            float(single.sentence_score(text, [reference]).score)
            for text, reference in _pairs(generated, references)
        ),
    )


def _sacrebleu(score_name: str) -> Any:
    try:
        from sacrebleu import metrics
    except ImportError as error:
        raise _not_installed(score_name, "sacrebleu") from error
    return metrics


def _not_installed(score_name: str, package: str) -> MeasurementError:
    return MeasurementError(
        f"the score {score_name} needs {package}: {install_command([package])}, or leave"
        f" {score_name} out of scores"
    )


def _pairs(generated: Sequence[str], references: Sequence[str]) -> list[tuple[str, str]]:
    return list(zip(generated, references, strict=True))


def _mean(each: list[float]) -> Scored:
    return Scored(math.fsum(each) / len(each), tuple(each))
