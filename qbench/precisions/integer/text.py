"""Which text a precision is calibrated on, and that it is not the one that is evaluated on.

Known from the suite alone: no torch here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qbench.core.errors import TextError
from qbench.core.paths import written_path
from qbench.precisions.integer.options import (
    CALIBRATION_TEXT,
    WINDOW_TOKENS,
    IntegerOptions,
)
from qbench.sources.data.texts import ResolvedText, read_text, resolve_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.core.spec import PrecisionRef
    from qbench.sources.data.tuning import ResolvedTuningData

_TELLING_LETTERS = 40
"""Lines shorter than this stand in many texts by chance."""
_MOST_SHARED = 0.1
"""Share of the telling lines of the shorter text that may stand in the other, too."""
_FEWEST_SHARED = 5
"""Fewer lines tell nothing: two files may have a heading in common."""


def _calibrating(precision: PrecisionRef) -> IntegerOptions | None:
    """The options of one that must see text; None for others."""
    from qbench.precisions import options_of  # which imports this, for the table

    options = options_of(precision)
    return options if isinstance(options, IntegerOptions) and options.calibrates else None


def resolve_calibration(
    precision: PrecisionRef,
    *,
    base: Path,
    evaluated: Sequence[ResolvedText],
    tuned_on: ResolvedTuningData | None = None,
) -> PrecisionRef:
    """The precision with its calibration text found, by contents, if it has one.

    `evaluated` are the texts that the suite measures quality on, `tuned_on` the data whose test
    split it scores. Raises `TextError` for a text that cannot be found, is too short, or is also
    evaluated on.
    """
    options = _calibrating(precision)
    if options is None or isinstance(options.calibration_text, ResolvedText):
        return precision
    if tuned_on is not None:
        _check_not_tuned_on(options.calibration_text, tuned_on, base)
    text = resolve_text(options.calibration_text, base=base)
    if text.kind != "hub":
        _check_length(text, options)
    for other in evaluated:
        _check_apart(text, other)
    found: dict[str, Any] = {**precision.options, "calibration_text": text.model_dump()}
    return precision.model_copy(update={"options": found})


def window_tokens(options: IntegerOptions, context_tokens: int | None) -> int:
    """Tokens of a calibration window, for a model of that context (None: not stated).

    The default gives way to a shorter context. Raises `TextError` for another window that is longer
    than it.
    """
    asked = options.calibration_window
    if context_tokens is None or asked <= context_tokens:
        return asked
    if asked == WINDOW_TOKENS:
        return context_tokens
    raise TextError(
        f"calibration_window is {asked} tokens, the model's context {context_tokens}; set"
        f" calibration_window to at most {context_tokens}"
    )


def _check_not_tuned_on(source: str, tuned_on: ResolvedTuningData, base: Path) -> None:
    """Before the text is read: rows to tune on need not be such that a text can be made of them."""
    if tuned_on.kind == "file":
        path = written_path(source, base, TextError)
        same = path.resolve() == Path(tuned_on.location).resolve()
    else:
        same = source == tuned_on.source
    if same:
        raise TextError(
            f"calibration_text {source} is the data of finetune, whose test split is scored:"
            " its loss would look better than it is; calibrate on another text, such as"
            f" {CALIBRATION_TEXT}"
        )


def _check_length(text: ResolvedText, options: IntegerOptions) -> None:
    """A token is at least one byte, so that a text may be known to be too short."""
    size = len(read_text(text).encode())
    window = options.calibration_window if options.calibration_window != WINDOW_TOKENS else 1
    asked = options.calibration_windows or 1
    if size < asked * window:
        of_tokens = f" of {window} tokens" if window > 1 else ""
        raise TextError(
            f"calibration_text {text.source} has {size} bytes: too short for {asked} windows"
            f"{of_tokens}; give a longer text, or lower calibration_windows"
        )


def _check_apart(text: ResolvedText, evaluated: ResolvedText) -> None:
    remedy = "calibrate on another text, such as bundled:stdlib-calibration"
    if text.fingerprint == evaluated.fingerprint:
        raise TextError(
            f"calibration_text {text.source} is the text that quality is measured on"
            f" ({evaluated.source}): its perplexity would look better than it is;"
            f" {remedy}"
        )
    if "hub" in (text.kind, evaluated.kind):
        return  # not read while planning: it may have to be fetched
    lines, others = _telling_lines(read_text(text)), _telling_lines(read_text(evaluated))
    shared, shorter = len(lines & others), min(len(lines), len(others))
    if shared > max(_FEWEST_SHARED, _MOST_SHARED * shorter):
        raise TextError(
            f"calibration_text {text.source} overlaps the text that quality is measured on"
            f" ({evaluated.source}): {shared} of the {shorter} long lines of the shorter one stand"
            f" in the other, too; {remedy}"
        )


def _telling_lines(text: str) -> set[str]:
    stripped = (line.strip() for line in text.splitlines())
    return {line for line in stripped if len(line) >= _TELLING_LETTERS}
