"""What a model answered to each item of a task, under each score: kept to count changed answers.

Right and wrong alone do not show them: one wrong answer may take another's place.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Row = dict[str, Any]
    Pick = Callable[[Sequence[float], Sequence[str]], int]

_HASH_DIGITS = 12


def _likeliest(likelihoods: Sequence[float], _choices: Sequence[str]) -> int:
    """As numpy's argmax: the first of several that are alike."""
    return max(range(len(likelihoods)), key=likelihoods.__getitem__)


def _by_characters(likelihoods: Sequence[float], choices: Sequence[str]) -> int:
    return _likeliest([one / len(text) for one, text in _pairs(likelihoods, choices)], choices)


def _by_bytes(likelihoods: Sequence[float], choices: Sequence[str]) -> int:
    sizes = [one / len(text.encode()) for one, text in _pairs(likelihoods, choices)]
    return _likeliest(sizes, choices)


def _pairs(likelihoods: Sequence[float], choices: Sequence[str]) -> list[tuple[float, str]]:
    return list(zip(likelihoods, choices, strict=True))


_PICKS: dict[str, Pick] = {"acc": _likeliest, "acc_norm": _by_characters, "acc_bytes": _by_bytes}
"""How lm-eval takes an answer from the likelihoods of the choices, by its metric."""


def item_answers(config: Row, rows: Sequence[Row], metric: str) -> list[int | str] | None:
    """The answer to each item that a score counts as right or wrong; None where none is known.

    `rows` are lm-eval's samples of one task under one filter. Of choices the answer is the index of
    the one that is picked, of generated texts a hash of what the filter leaves of it.
    """
    kind = config.get("output_type")
    if kind == "generate_until":
        return [_hash(row["filtered_resps"][0]) for row in rows]
    pick = _PICKS.get(metric)
    if kind != "multiple_choice" or pick is None:
        return None
    found: list[int | str] = []
    for row in rows:
        chosen = _chosen(config, row, pick)
        # What is picked here is held against lm-eval's own score, as far as its target tells.
        if chosen is None or _is_right(chosen, row["target"]) not in (None, row.get(metric) == 1):
            return None
        found.append(chosen)
    return found


def _chosen(config: Row, row: Row, pick: Pick) -> int | None:
    """The choice that is picked; None where the choices' own texts are needed and not there."""
    try:
        likelihoods = [float(one[0]) for one in row["filtered_resps"]]
        texts = [str(one[1]) for one in row["arguments"]]
    except (TypeError, ValueError, IndexError):
        return None
    alike = len(set(texts)) == 1 and len(texts) > 1  # the choices stand in the prompts
    # For mutual information the same choices follow once more, each without its prompt.
    bare = [not one[0] for one in row["arguments"]]
    count = len(bare) // 2 if any(bare) and not bare[0] else len(bare)
    if pick is not _likeliest and alike:
        return None
    delimiter = str(config.get("target_delimiter", " "))
    if not all(text.startswith(delimiter) for text in texts):
        delimiter = ""  # a chat template takes it away
    choices = [text.removeprefix(delimiter) for text in texts[:count]]
    if not count or (pick is not _likeliest and not all(choices)):
        return None
    return pick(likelihoods[:count], choices)


def _is_right(chosen: int, target: Any) -> bool | None:
    """None where the target is no index."""
    if isinstance(target, bool) or not isinstance(target, int | list):
        return None
    if isinstance(target, list):
        return chosen in target if all(isinstance(one, int) for one in target) else None
    return chosen == target


def _hash(text: Any) -> str:
    return hashlib.sha256(json.dumps(text, default=str).encode()).hexdigest()[:_HASH_DIGITS]
