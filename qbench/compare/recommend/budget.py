"""What a person allows a model to cost and to lose, and what is to be lowest."""

from __future__ import annotations

from typing import Literal, get_args

from pydantic import Field

from qbench.core.spec import Frozen

Minimized = Literal["bytes", "peak", "prefill", "decode", "energy", "price"]
MINIMIZED: tuple[Minimized, ...] = get_args(Minimized)
"""What can be lowest, as a suite and the command line name it."""


class Budget(Frozen):
    """Limits, each None where it is not stated, and what the best cell has the least of."""

    max_bytes: float | None = None
    """Static bytes of the loaded model."""
    max_peak: float | None = None
    """Bytes at the peak of inference."""
    gpu: str | None = None
    """A size (`24GB`) or a GPU (`h100`), whose memory limits the peak of inference."""
    max_prefill: float | None = None
    """Seconds of one forward pass over the prompt."""
    max_decode: float | None = None
    """Seconds for each new token of the whole batch."""
    max_energy: float | None = None
    """Joules for each new token, over prefill and decode."""
    max_perplexity_increase: float | None = None
    """Over the reference's, 0.01 for 1 %; of each text."""
    max_kl: float | None = None
    """Mean divergence from the reference, in nats a token; of each text."""
    min_task: dict[str, float] = Field(default_factory=dict)
    """By task (`hellaswag`), by task and metric (`hellaswag.acc_norm`) or a pattern of these: the
    least change of its score from the reference's, such as -0.01. Of several the last one holds."""
    max_training_peak: float | None = None
    """Bytes at the peak of a training step; of fine-tuning arms."""
    max_step: float | None = None
    """Seconds of a training step; of fine-tuning arms."""
    max_loss_increase: float | None = None
    """Over the test loss of the best arm, in nats a token; of fine-tuning arms."""
    max_price: float | None = None
    """Of a million generated tokens, in the currency that an hour is priced in."""
    minimize: Minimized = "bytes"
    price: float | None = None
    """Of an hour of whatever device: what holds before the price of the suite."""
    batch: int | None = None
    """At which batch times and peaks are read; unless given, at that of the decision table."""

    @property
    def limits_quality(self) -> bool:
        """Whether it says anything of what may be lost; else the default limits hold."""
        return (
            self.max_perplexity_increase is not None
            or self.max_kl is not None
            or bool(self.min_task)
        )

    @property
    def needs_price(self) -> bool:
        """Whether it says something that is known only where an hour has a price."""
        return self.minimize == "price" or self.max_price is not None

    def over(self, other: Budget) -> Budget:
        """This one's limits, and the other's where this one states none."""
        stated = {name: getattr(self, name) for name in self.model_fields_set}
        if "min_task" in stated:
            kept = {key: one for key, one in other.min_task.items() if key not in self.min_task}
            stated["min_task"] = kept | self.min_task  # the later one of a score holds
        return other.model_copy(update=stated)
