"""Three disjoint splits of rows.

Which rows fall in which split follows from their contents and the seed alone, not from their order
in the file. Rows that ask the same are kept in one split.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qbench.core.errors import TextError
from qbench.sources.data.control_tokens import control_tokens
from qbench.sources.data.recipes import recipe_text, render

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qbench.sources.data.chat import Taken
    from qbench.sources.data.recipes import RecipeName, Templates

_ID_DIGITS = 12


@dataclass(frozen=True)
class Example:
    """One thing to learn."""

    id: str
    """Follows from the row's contents: the same in every cell and at any place in the file."""
    prompt: str
    """What the model is given; may be empty."""
    completion: str
    """What it learns to write after it."""
    templated: bool = False
    """Whether a chat template wrote both, with the control tokens that belong there."""


@dataclass(frozen=True)
class Splits:
    """Three disjoint splits, and the rows that are in none of them."""

    train: list[Example]
    validation: list[Example]
    test: list[Example]
    rows: int
    """Rows of the data."""
    empty: int
    """Rows left out because their completion is empty."""
    duplicates: int
    """Rows left out because an earlier one gives the same prompt and completion."""
    warnings: tuple[str, ...] = ()
    """What in them is read otherwise than it may be meant, with counts."""


@dataclass(frozen=True)
class Sizes:
    """Examples asked for in each split."""

    train: int
    validation: int
    test: int

    def __str__(self) -> str:
        together = self.train + self.validation + self.test
        return (
            f"expected at least {together}: train {self.train}, validation {self.validation} and"
            f" test {self.test}; lower them, or give more data"
        )


def make_splits(
    rows: Sequence[Mapping[str, Any]],
    recipe: RecipeName | Templates,
    sizes: Sizes,
    *,
    seed: int,
    source: str,
    tokenizer: Any | None = None,
) -> Splits:
    """Draws the splits. `source` is what messages call the data.

    Raises `TextError` for a row that does not fit the recipe, and for too few rows.
    """
    by_prompt = _RowsByPrompt(rows, recipe, source)
    # The train split last: a longer one leaves the others as they are.
    wanted = (sizes.test, sizes.validation, sizes.train)
    chosen = by_prompt.choose(seed, wanted)
    found = sum(map(len, chosen))
    if found < sum(wanted):
        raise TextError(f"{source}: {by_prompt.in_words(found)}; {sizes}")
    reader = _Reader(recipe, source, tokenizer)
    test, validation, train = (
        [reader.example(rows[at], at + 1) for at in places] for places in chosen
    )
    splits = Splits(
        train=train,
        validation=validation,
        test=test,
        rows=by_prompt.rows,
        empty=by_prompt.empty,
        duplicates=by_prompt.duplicates,
        warnings=reader.warnings(found),
    )
    check_overlap(splits, source)
    return splits


def check_overlap(splits: Splits, source: str) -> None:
    """Raises `TextError` when two splits share a prompt, or a completion that has no prompt.

    White space does not tell texts apart.
    """
    seen: dict[bytes, str] = {}
    for name in ("train", "validation", "test"):
        for example in getattr(splits, name):
            key = _digest(example.prompt if example.prompt.strip() else example.completion)
            other = seen.setdefault(key, name)
            if other != name:
                raise TextError(
                    f"{source}: example {example.id} is in the splits {other} and {name}; expected"
                    " disjoint splits; remove the row that repeats another"
                )


class _RowsByPrompt:
    """What the rows ask, so that splits can be drawn without keeping their texts."""

    def __init__(
        self, rows: Sequence[Mapping[str, Any]], recipe: RecipeName | Templates, source: str
    ) -> None:
        self.rows = len(rows)
        self.empty = 0
        self.duplicates = 0
        self.groups: dict[bytes, list[int]] = {}
        """Places of the rows that ask the same, by the hash of what they ask."""
        seen: set[bytes] = set()
        for at, row in enumerate(rows):
            found = render(recipe, row, f"{source}: row {at + 1}")
            if not found.completion:
                self.empty += 1
                continue
            key = _digest(found.key)
            pair = _digest(found.completion, key)
            if pair in seen:
                self.duplicates += 1
                continue
            seen.add(pair)
            self.groups.setdefault(key, []).append(at)

    def choose(self, seed: int, sizes: Sequence[int]) -> list[list[int]]:
        """Places of the rows of each split, filled one after the other.

        A group that does not fit into what is left of a split is cut: none of it goes into the
        next.
        """
        order = sorted(
            self.groups, key=lambda key: hashlib.sha256(f"{seed}:".encode() + key).digest()
        )
        groups = iter(order)
        chosen: list[list[int]] = []
        for size in sizes:
            places: list[int] = []
            while len(places) < size and (key := next(groups, None)) is not None:
                places += self.groups[key][: size - len(places)]
            chosen.append(places)
        return chosen

    def in_words(self, chosen: int) -> str:
        """How many rows there are to draw from, when only `chosen` of them could be used."""
        usable = self.rows - self.empty - self.duplicates
        left_out = [
            f"{count} {words}"
            for count, words in (
                (self.empty, "with an empty completion"),
                (self.duplicates, "that repeat another"),
            )
            if count
        ]
        without = f" without the {' and the '.join(left_out)}" if left_out else ""
        same = (
            f", of which {chosen} can be used, as rows with the same prompt stay in one split"
            if chosen < usable
            else ""
        )
        return f"found {usable} rows{without}{same}"


def _digest(text: str, before: bytes = b"") -> bytes:
    return hashlib.sha256(before + " ".join(text.split()).encode()).digest()


class _Reader:
    """Makes examples of rows, and counts what is read otherwise than it may be meant."""

    def __init__(self, recipe: RecipeName | Templates, source: str, tokenizer: Any | None) -> None:
        self.recipe = recipe
        self.source = source
        self.tokenizer = tokenizer
        self.taken: Counter[Taken | None] = Counter()
        own = "".join(recipe_text(recipe))
        control = [] if tokenizer is None else sorted(control_tokens(tokenizer).values())
        self.control = [token for token in control if token not in own]
        """Control tokens that the recipe itself does not write."""
        self.with_control: Counter[str] = Counter()

    def example(self, row: Mapping[str, Any], number: int) -> Example:
        """The example of the row of that number."""
        place = f"{self.source}: row {number}"
        plain = render(self.recipe, row, place)
        identity = json.dumps([plain.prompt, plain.completion])
        # Of a chat the contents name it, not what a model's template makes of them.
        chat = self.recipe == "chat"
        shown = render(self.recipe, row, place, self.tokenizer) if chat else plain
        self.taken[shown.taken] += 1
        text = f"{plain.prompt}\n{plain.completion}"
        written = next((token for token in self.control if token in text), None)
        if written is not None:
            self.with_control[written] += 1
        return Example(
            id=hashlib.sha256(identity.encode()).hexdigest()[:_ID_DIGITS],
            prompt=shown.prompt,
            completion=shown.completion,
            templated=chat,
        )

    def warnings(self, examples: int) -> tuple[str, ...]:
        """Sentences for the records of what is made with the examples."""
        found = []
        if count := self.taken["answered"]:
            found.append(
                f"in {count} of {examples} examples the chat template does not write an answered"
                " turn behind what it writes to ask for one, such as a thinking block that it"
                " opens: the prompts end where the answers begin"
            )
        if count := self.taken["bare"]:
            found.append(
                f"in {count} of {examples} examples the chat template does not write the answer as"
                " it is: the bare answer is learned, without what ends a turn"
            )
        if count := self.with_control.total():
            found.append(
                f"{count} of {examples} examples write control tokens of the tokenizer out"
                f" ({', '.join(self.with_control)}), which are read as control tokens, not as text;"
                " take them out of the data if they are no part of the format"
            )
        return tuple(found)
