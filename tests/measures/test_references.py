"""Scores against references, compared with formulas written out here."""

from __future__ import annotations

import math
import re
import sys
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from qbench.core.errors import MeasurementError
from qbench.measures.generation.references import METRIC_OF_SCORE, METRICS, SCORES, score

if TYPE_CHECKING:
    from collections.abc import Sequence

GENERATED = [
    "the cat sat on the mat and then it slept",
    "def add(a, b):\n    return a + b",
    "return self._numerator * other",
    "nothing alike",
]
REFERENCES = [
    "the dog sat on a mat and then slept",
    "def add(a, b):\n    return a - b",
    "return self._numerator * other.denominator",
    "xyz",
]


def longest_common(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence, by its recursive definition."""
    table: dict[tuple[int, int], int] = {}

    def at(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return 0
        if (i, j) not in table:
            if first[i - 1] == second[j - 1]:
                table[i, j] = at(i - 1, j - 1) + 1
            else:
                table[i, j] = max(at(i - 1, j), at(i, j - 1))
        return table[i, j]

    return at(len(first), len(second))


def rouge_l(text: str, reference: str) -> float:
    own, base = (re.findall(r"[a-z0-9]+", one.lower()) for one in (text, reference))
    common = longest_common(own, base)
    if not common:
        return 0.0
    precision, recall = common / len(own), common / len(base)
    return 2 * precision * recall / (precision + recall)


def grams(units: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(units[at : at + order]) for at in range(len(units) - order + 1))


def chrf(generated: Sequence[str], references: Sequence[str]) -> float:
    """F2 averaged over precision and recall of the orders that both sides have grams of."""
    precisions, recalls = [], []
    for order in range(1, 7):
        matches = own_total = base_total = 0
        for text, reference in zip(generated, references, strict=True):
            own, base = (grams("".join(one.split()), order) for one in (text, reference))
            matches += (own & base).total()
            # grams of an order that the reference is too short for are not compared with a text
            own_total += own.total() if base else 0
            base_total += base.total()
        if own_total and base_total:
            precisions.append(matches / own_total)
            recalls.append(matches / base_total)
    precision, recall = (sum(row) / len(row) for row in (precisions, recalls))
    return 100 * 5 * precision * recall / (4 * precision + recall) if precision + recall else 0.0


def bleu(generated: Sequence[list[str]], references: Sequence[list[str]]) -> float:
    """Of words that are cut already, where every order has a match: no smoothing is needed."""
    logs = []
    for order in range(1, 5):
        matches = total = 0
        for own, base in zip(generated, references, strict=True):
            matches += (grams(own, order) & grams(base, order)).total()
            total += grams(own, order).total()
        logs.append(math.log(matches / total))
    own_length, base_length = (sum(map(len, rows)) for rows in (generated, references))
    penalty = min(1.0, math.exp(1 - base_length / own_length))
    return 100 * penalty * math.exp(sum(logs) / 4)


def test_every_score_has_its_metric() -> None:
    assert tuple(METRIC_OF_SCORE) == SCORES
    assert list(METRIC_OF_SCORE.values()) == [definition.name for definition in METRICS]


def test_exact_match_puts_white_space_around_aside() -> None:
    found = score("exact_match", ["a b\n", "a  b", "A b", ""], [" a b", "a b", "a b", "a b"])
    assert found.each == (1.0, 0.0, 0.0, 0.0)
    assert found.value == 0.25


def test_rouge_equals_its_formula() -> None:
    found = score("rouge", GENERATED, REFERENCES)
    expected = [rouge_l(*pair) for pair in zip(GENERATED, REFERENCES, strict=True)]
    assert 0 < expected[0] < 1
    assert found.each == pytest.approx(expected)
    assert found.value == pytest.approx(sum(expected) / len(expected))


def test_rouge_of_a_text_without_words_is_nought() -> None:
    assert score("rouge", ["", "日本語"], ["a", "b"]).each == (0.0, 0.0)


def test_rouge_has_no_value_where_it_sees_no_words_in_a_reference() -> None:
    found = score("rouge", ["日本語", "a"], ["日本語", "a"])
    assert found.value is None
    assert found.each is None
    assert found.reason is not None
    assert "1 of 2 references" in found.reason


def test_chrf_equals_its_formula() -> None:
    found = score("chrf", GENERATED, REFERENCES)
    assert found.value == pytest.approx(chrf(GENERATED, REFERENCES))
    assert found.each is not None
    for value, text, reference in zip(found.each, GENERATED, REFERENCES, strict=True):
        assert value == pytest.approx(chrf([text], [reference]))


def test_chrf_of_other_scripts() -> None:
    texts = ["日本語のテキスト🙂", "naïve café"]
    assert score("chrf", texts, texts).value == pytest.approx(100)
    found = score("chrf", texts, ["日本語の文章", "naïve cafe"])
    assert found.value == pytest.approx(chrf(texts, ["日本語の文章", "naïve cafe"]))


def test_bleu_equals_its_formula() -> None:
    # words that tokenizer 13a leaves as they are
    generated = [GENERATED[0], "one two three four five six seven"]
    references = [REFERENCES[0], "zero one two three four five six and more"]
    found = score("bleu", generated, references)
    cut = [[one.split() for one in rows] for rows in (generated, references)]
    assert found.value == pytest.approx(bleu(*cut))
    assert found.each is not None
    assert found.each[1] == pytest.approx(bleu(cut[0][1:], cut[1][1:]))


@pytest.mark.parametrize("name", SCORES)
def test_the_same_text_scores_best_and_nothing_worst(name: str) -> None:
    best = 1 if name in {"exact_match", "rouge"} else 100
    assert score(name, REFERENCES[:3], REFERENCES[:3]).value == pytest.approx(best)  # type: ignore[arg-type]
    assert score(name, [""], ["something"]).value == 0  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [("rouge", "rouge_score.rouge_scorer", "rouge-score"), ("chrf", "sacrebleu", "sacrebleu")],
)
def test_a_package_that_is_not_installed_is_named(
    name: str, module: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MeasurementError, match=rf"{package}: pip install qbench-llm, or leave"):
        score(name, ["a"], ["a"])  # type: ignore[arg-type]
