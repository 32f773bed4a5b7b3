"""Tells of a training's steps while it goes on: what the loop has read of each, once a second."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from qbench.measures.loaded import Steps

if TYPE_CHECKING:
    from qbench.finetune.train.checkpoint import Progress
    from qbench.measures.loaded import TellSteps

LEAST_S = 1.0
"""Between two tellings: steps are often faster, and are told together then."""


class StepTeller:
    """Called after each step; tells what is new, at most once a second, and at the end the rest.

    It reads nothing from the device: losses are numbers of Python by then.
    """

    def __init__(self, steps: int, tell: TellSteps) -> None:
        """`steps`: of the whole training."""
        self._steps = steps
        self._tell = tell
        self._told = 0
        self._told_at = -LEAST_S
        self._validated: set[int] = set()

    def __call__(self, progress: Progress) -> None:
        """A step has ended."""
        now = time.monotonic()
        if progress.step < self._steps and now - self._told_at < LEAST_S:
            return
        first = self._told
        self._tell(
            Steps(
                of=self._steps,
                first=first,
                loss=progress.losses[first:],
                learning_rate=progress.learning_rates[first:],
                validation=[
                    (step, loss)
                    for step, loss in sorted(progress.validation.items())
                    if step not in self._validated
                ],
            )
        )
        self._told, self._told_at = progress.step, now
        self._validated.update(progress.validation)
