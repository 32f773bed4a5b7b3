"""Thoughts that never ended: an answer without the end token is scored as it stands, and is told.

lm-eval strips what stands before the end token, and where there is none it reads the thought for
the answer. It also stops a model at the task's own stop texts, in a thought as well.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


@dataclass
class Thoughts:
    """Counts the answers of a task, and those in which the end token does not stand."""

    end_token: str | int | None
    decode: Callable[[list[int]], str]
    answers: int = field(default=0, init=False)
    unended: int = field(default=0, init=False)
    stopped: int = field(default=0, init=False)
    """Of those unended, the ones that stopped at a stop text of the task."""

    def count(self, written: Sequence[list[int]], stops: Sequence[str]) -> None:
        """Adds a batch: the tokens that were written, and the texts that end an answer."""
        if self.end_token is None:
            return
        for tokens in written:
            token, text = self.end_token, self.decode(tokens)
            self._add(text, stops, ended=token in (tokens if isinstance(token, int) else text))

    def count_texts(self, written: Sequence[str], stops: Sequence[str]) -> None:
        """The same of texts, in which an end token that is an id cannot be found."""
        for text in written if isinstance(self.end_token, str) else ():
            self._add(text, stops, ended=str(self.end_token) in text)

    def _add(self, text: str, stops: Sequence[str], *, ended: bool) -> None:
        self.answers += 1
        self.unended += not ended
        self.stopped += not ended and any(stop in text for stop in stops if stop)

    @property
    def details(self) -> dict[str, Any]:
        """For the record; nothing where no end token is named."""
        if self.end_token is None:
            return {}
        told = {"answers": self.answers, "unended": self.unended, "stopped": self.stopped}
        return {"thoughts": told}

    def warnings(self, task: str, *, expected: bool) -> list[str]:
        """What the scores hide; nothing where no thought is `expected`."""
        if not self.unended or not expected:
            return []
        why = (
            f"{self.stopped} of them stopped at a stop text of the task within the thought: set"
            " `until` in gen_kwargs; "
            if self.stopped
            else ""
        )
        words = (
            f"{self.unended} of {self.answers} answers to {task} hold no {self.end_token}: the"
            " thought did not end, or there was none, and all that was written is scored as the"
            f" answer; {why}raise max_gen_toks in gen_kwargs"
        )
        return [words]
