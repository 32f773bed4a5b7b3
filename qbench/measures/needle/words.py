"""What a needle says, how it is asked for, and the words and numbers that it is drawn of.

The sentences are those of RULER's task niah (Hsieh et al. 2024, arXiv 2404.06654) but for one: the
answer is begun with the needle's own words, so that the value is the next token for a model that
only goes on writing as it is for one that was tuned to answer.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Literal

Kind = Literal["number", "word"]
_DIGITS = 7
_ADJECTIVES = (
    *("amber", "ancient", "bitter", "brave", "bright", "calm", "clever", "cold", "crimson"),
    *("curious", "deep", "distant", "eager", "early", "fair", "faint", "fierce", "frozen"),
    *("gentle", "golden", "grand", "hidden", "hollow", "humble", "icy", "idle", "jolly"),
    *("keen", "late", "lively", "lonely", "lucky", "mellow", "mild", "misty", "narrow"),
    *("noble", "pale", "patient", "plain", "proud", "quick", "quiet", "rapid", "rare"),
    *("restless", "rough", "rusty", "sandy", "sharp", "silent", "silver", "slow", "smooth"),
    *("solid", "steady", "strange", "swift", "tall", "tame", "warm", "wild", "wise", "young"),
)
_NOUNS = (
    *("anchor", "apple", "badger", "basket", "beacon", "bridge", "candle", "canyon", "castle"),
    *("cedar", "cloud", "comet", "copper", "desert", "dragon", "ember", "falcon", "feather"),
    *("forest", "fountain", "garden", "glacier", "hammer", "harbor", "hollow", "island"),
    *("jungle", "kettle", "ladder", "lantern", "lemon", "marble", "meadow", "mirror"),
    *("mountain", "needle", "ocean", "orchard", "otter", "pebble", "pepper", "pillow"),
    *("planet", "quarry", "rabbit", "ribbon", "river", "saddle", "shadow", "sparrow"),
    *("spruce", "stone", "summit", "table", "thunder", "tiger", "timber", "tower", "valley"),
    *("velvet", "village", "violin", "walnut", "window", "winter"),
)


@dataclass(frozen=True)
class Needle:
    """One fact, and where it is put."""

    id: str
    """The same at every length: `d25-3` is the third one at 25 %."""
    depth: float
    """Share of the haystack that stands before it, in percent."""
    kind: Kind
    key: str
    value: str
    start: float
    """Where its haystack begins in the text: a share of it."""

    @property
    def sentence(self) -> str:
        """What is hidden."""
        return f"{self.begun} {self.value}."

    @property
    def begun(self) -> str:
        """The sentence up to its value, which the answer begins with."""
        return f"The special magic {self.kind} for {self.key} is"

    @property
    def before(self) -> str:
        """What stands before the haystack."""
        return (
            f"A special magic {self.kind} is hidden within the following text. Make sure to"
            f" memorize it. I will quiz you about the {self.kind} afterwards."
        )

    @property
    def question(self) -> str:
        """What stands behind the haystack."""
        return (
            f"What is the special magic {self.kind} for {self.key} mentioned in the provided text?"
        )


def draw_needles(depths: tuple[float, ...], count: int, kind: Kind, seed: int) -> list[Needle]:
    """So many needles at each depth.

    Each is drawn by itself: further depths or needles leave the others as they are.
    """
    found = []
    for depth in depths:
        for number in range(1, count + 1):
            named = f"d{depth:g}-{number}"
            drawn = random.Random(f"{seed} {kind} {named}")  # noqa: S311 - no secret
            key = _words(drawn)
            value = _number(drawn) if kind == "number" else _other_words(drawn, key)
            found.append(Needle(named, depth, kind, key, value, drawn.random()))
    return found


def _words(drawn: random.Random) -> str:
    return f"{drawn.choice(_ADJECTIVES)}-{drawn.choice(_NOUNS)}"


def _other_words(drawn: random.Random, key: str) -> str:
    while (found := _words(drawn)) == key:
        pass
    return found


def _number(drawn: random.Random) -> str:
    return str(drawn.randrange(10 ** (_DIGITS - 1), 10**_DIGITS))
