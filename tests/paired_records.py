"""Records with the series that pairing needs, made so that the true change is known."""

from __future__ import annotations

import math
import random
from typing import TYPE_CHECKING, Any

from qbench.compare.estimates.bootstrap import Sampling
from tests.record_factory import make_environment, make_metric, make_record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.core.record import Record

SAMPLING = Sampling(resamples=2000)
OTHER_DEVICE = make_environment(device="Other CPU (8 cores)", device_kind="cpu-other-8c")
WINDOWS = 240
TOKENS = 255


def losses(
    log_change: float, *, spread: float = 0.01, seed: int = 1, windows: int = WINDOWS
) -> list[float]:
    """Summed losses of the windows of one text, `log_change` a token from the untouched model's.

    The text is the same whatever the change; how it falls on the windows is the seed's.
    """
    text, own = random.Random(0), random.Random(seed)
    return [
        TOKENS * (2.41 + text.gauss(0, 0.3) + log_change + own.gauss(0, spread))
        for _ in range(windows)
    ]


def quality(precision: str, sums: Sequence[float], **changes: Any) -> Record:
    """A quality record whose perplexity is that of the window losses."""
    weights = [float(TOKENS)] * len(sums)
    metrics = {"perplexity": math.exp(sum(sums) / sum(weights)), "tokens": sum(weights)}
    values: dict[str, Any] = {
        "slug": "text-w256-default",
        "params": {"text": {"name": "text", "fingerprint": "aa"}, "window": 256, "batch": 4},
        "series": {"window_nll": list(sums), "window_tokens": weights},
        "details": {"ids_sha256": "ab" * 32},
    }
    return make_record(precision, "quality", metrics, **(values | changes))


def divergence(precision: str, kl: Sequence[float], **changes: Any) -> Record:
    """A quality record with a divergence of these nats a token in its windows."""
    sums = [TOKENS * value for value in kl]
    record = quality(precision, losses(0.0, windows=len(kl)), **changes)
    metric = make_metric("kl.mean", sum(sums) / (TOKENS * len(sums)))
    lower = metric.model_copy(update={"better": "lower", "unit": "nat"})
    series = {**record.series, "window_kl_sum": sums}
    return record.model_copy(update={"metrics": (*record.metrics, lower), "series": series})


def task(precision: str, scores: Sequence[float], **changes: Any) -> Record:
    """A task's record with the scores of its items."""
    metric = make_metric("accuracy", sum(scores) / len(scores))
    better = metric.model_copy(update={"better": "higher"})
    values: dict[str, Any] = {
        "slug": "cloze",
        "params": {"task": "cloze", "limit": len(scores)},
        "series": {"item_correct": list(scores)},
        "details": {"item_ids": [f"item-{index}" for index in range(len(scores))]},
        "more_metrics": (better,),
    }
    return make_record(precision, "tasks", **(values | changes))


def latency(precision: str, seconds: Sequence[float], **changes: Any) -> list[Record]:
    """A latency record for each process, with the median that it found."""
    values: dict[str, Any] = {
        "slug": "b1-p128-n32",
        "params": {"batch": 1, "prompt_tokens": 128, "new_tokens": 32},
    }
    return [
        make_record(
            precision, "latency", {"latency.decode": value}, repeat=index, **(values | changes)
        )
        for index, value in enumerate(seconds)
    ]


def footprint(precision: str, size_bytes: float, **changes: Any) -> Record:
    """A footprint record of one figure."""
    return make_record(precision, "footprint", {"memory.static": size_bytes}, **changes)


def untouched(precision: str = "nf4") -> list[Record]:
    """All that a cell measures, before anything has changed."""
    return [
        quality(precision, losses(0.0)),
        task(precision, [1.0] * 320 + [0.0] * 80),
        *latency(precision, [0.0100, 0.0101, 0.0099, 0.0102, 0.0098]),
        footprint(precision, 1_000_000),
    ]
