"""Any metric of the package `evaluate` by name, beside the scores that need no script of a hub.

A name is a folder or file with a metric script (relative to the suite), or a metric on the hub:
`meteor`, `owner/name`. A script is Python: it runs only where the suite says `trust_code: true`,
and none is fetched, so that of the hub's only those can be used that `evaluate` has loaded before.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator

from qbench.core.errors import MeasurementError, TextError
from qbench.core.names import what_there_is
from qbench.core.packages import install_command
from qbench.core.paths import written_path
from qbench.core.record import Metric
from qbench.measures.generation.references import SCORES
from qbench.measures.untrusted_code import nothing_fetched

if TYPE_CHECKING:
    from collections.abc import Sequence

HUB_METRICS = (
    "bertscore", "bleurt", "cer", "character", "comet", "f1", "google_bleu", "mauve", "meteor",
    "nist_mt", "sacrebleu", "sari", "squad", "squad_v2", "ter", "wer",
)  # fmt: skip
"""Metrics of `evaluate` for texts; others by `owner/name` or as a folder."""


def known_score(name: str) -> str:
    """The name as it is; raises ValueError, with the nearest, for one that is no score's."""
    if name in SCORES or name in HUB_METRICS or is_path(name) or "/" in name:
        return name
    raise ValueError(
        f"one of {', '.join(SCORES)}, a metric of the package evaluate such as meteor or"
        " owner/name, or a folder with a metric script;"
        f" {what_there_is(name, SCORES + HUB_METRICS)}"
    )


EvaluateName = Annotated[str, AfterValidator(known_score)]
"""The name of a score: qbench's own, a metric of `evaluate`, or a metric script."""


def is_path(name: str) -> bool:
    """Whether a score's name is a file or folder."""
    return name.startswith((".", "/", "~")) or name.endswith(".py")


def resolve_name(name: str, base: Path) -> str:
    """The name, a path made absolute from `base`, the suite's folder.

    Raises `TextError` for a text that can be no path.
    """
    if not is_path(name):
        return name
    try:
        return str(written_path(name, base, TextError).resolve())
    except TextError as error:
        raise TextError(f"scores: {error}") from error


def evaluated(
    name: str, texts: Sequence[str], references: Sequence[str], *, trusted: bool
) -> list[Metric]:
    """Every number that the metric gives, as `generation.<metric>.<key>`; or why there is none."""
    label = f"generation.{Path(name).stem if is_path(name) else name.replace('/', '.')}"
    try:
        found = _compute(name, texts, references, trusted=trusted)
    except MeasurementError as error:
        return [Metric(name=label, unit="1", better="neither", value=None, reason=str(error))]
    return [
        Metric(name=f"{label}.{key}", unit="1", better="neither", value=float(value))
        for key, value in found.items()
        if isinstance(value, int | float)
    ] or [
        Metric(
            name=label,
            unit="1",
            better="neither",
            value=None,
            reason=f"the metric gives no plain number, only {', '.join(found) or 'nothing'}",
        )
    ]


def _compute(
    name: str, texts: Sequence[str], references: Sequence[str], *, trusted: bool
) -> dict[str, Any]:
    try:
        import evaluate
    except ImportError as error:
        raise MeasurementError(
            f"the score {name} needs evaluate: {install_command(['evaluate'])}, or leave it out of"
            " scores"
        ) from error
    try:
        with nothing_fetched(trusted=trusted):
            metric = evaluate.load(name)
            found: dict[str, Any] | None = metric.compute(
                predictions=list(texts), references=list(references)
            )
    except MeasurementError:
        raise
    except Exception as error:  # whatever a foreign script raises
        first = str(error).strip().splitlines()
        raise MeasurementError(
            f"evaluate's metric {name} cannot be computed ({type(error).__name__}:"
            f" {first[0] if first else 'no message'}); no script is fetched: name a folder with it,"
            " or leave it out of scores"
        ) from error
    return found or {}
