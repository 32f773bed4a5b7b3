"""Records of the measurement of sensitivities, of which every figure is known."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from tests.record_factory import make_metric, make_record

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qbench.core.record import Record

WINDOWS, TOKENS = 30, 100
SLUG = "text-w100-first30-by-layer"
UNITS = tuple(
    f"model.layers.{block}.{kind}" for block in (0, 1) for kind in ("q_proj", "down_proj")
)
KL = {
    "int8": dict(zip(UNITS, (1e-4, 4e-4, 1e-4, 2e-4), strict=True)),
    "nf4": dict(zip(UNITS, (1e-3, 9e-3, 2e-3, 3e-3), strict=True)),
}
"""Nats a token of each unit alone, by format."""
PLAIN, BYTES = 2_000, {"int8": 1_000, "nf4": 520}


def spread(kl: float, seed: object, windows: int = WINDOWS) -> list[float]:
    """Sums by window whose mean a token is `kl`, some 5 % apart."""
    own = random.Random(str(seed))
    shares = [1 + own.gauss(0, 0.05) for _ in range(windows)]
    total = sum(shares)
    return [kl * TOKENS * windows * share / total for share in shares]


def table_of(
    kls: Mapping[str, Mapping[str, float | None]], windows: int = WINDOWS
) -> dict[str, Any]:
    """The table as a record's details hold it; a pair without KL was dominated."""
    units = list(next(iter(kls.values())))
    dominated = "int8 has no more bytes and errs no more on the layers' outputs"
    return {
        "rest": "fp32",
        "formats": {
            label: {"label": label, "name": label, "options": {"dtype": "fp32"}} for label in kls
        },
        "units": [
            {
                "name": unit,
                "layers": [unit],
                "weights": 500,
                "plain_bytes": PLAIN,
                "costs": {
                    label: {
                        "bytes": BYTES.get(label, 500),
                        "kl": kls[label][unit],
                        "reason": dominated if kls[label][unit] is None else None,
                        "output_error": 0.05,
                    }
                    for label in kls
                },
            }
            for unit in units
        ],
        "tokens": TOKENS * windows,
        "window_tokens": [TOKENS] * windows,
        "window_kl_sums": {
            unit: {
                label: spread(kl, (label, unit), windows)
                for label in kls
                if (kl := kls[label][unit]) is not None
            }
            for unit in units
        },
    }


def sensitivity(precision: str, sums: Sequence[float], **changes: Any) -> Record:
    """What a cell costs as a whole, by these sums of windows."""
    kl = make_metric("sensitivity.kl.mean", sum(sums) / (TOKENS * len(sums)))
    values: dict[str, Any] = {
        "slug": SLUG,
        "params": {"text": {"name": "text"}, "by": "layer"},
        "series": {"window_kl_sum": list(sums), "window_tokens": [float(TOKENS)] * len(sums)},
        "more_metrics": (kl.model_copy(update={"unit": "nat", "better": "lower"}),),
    }
    return make_record(precision, "sensitivity", **(values | changes))


def of_reference(
    kls: Mapping[str, Mapping[str, float | None]] = KL, windows: int = WINDOWS, **changes: Any
) -> Record:
    """The reference's record, with the table."""
    details = {"sensitivities": table_of(kls, windows)}
    return sensitivity("fp32", [0.0] * windows, details=details, **changes)
