"""What `qbench merge` did, as a page: what clashes, what was measured twice, what is missing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.core.page import Heading, Notice, Page, Words, bullets, words_table
from qbench.core.units import counted
from qbench.core.untrusted import in_one_line, visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from qbench.compare.merge.choice import Choice, Unequal
    from qbench.compare.merge.merge import Merged
    from qbench.compare.merge.missing import Completeness
    from qbench.compare.merge.takes import Take
    from qbench.core.page import Part

_ON_SCREEN = 20
"""Lines of each list that a screen has room for."""
_NAMED = 3
"""Folders that a title names."""


def merge_page(merged: Merged, suites: Sequence[Completeness]) -> Page:
    """What was joined first, then what is wrong, and what is missing."""
    parts = (*_answer(merged, suites, None), *_parts(merged, suites, None))
    return Page(_title(merged), parts, merge_data(merged, suites))


def merge_on_screen(merged: Merged, suites: Sequence[Completeness]) -> Page:
    """The same with short lists, and what was joined last, so that it stands above the prompt."""
    parts = (*_parts(merged, suites, _ON_SCREEN), *_answer(merged, suites, _ON_SCREEN))
    return Page(_title(merged), parts)


def _title(merged: Merged) -> str:
    names = [_name(found.folder) for found in merged.found]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more} joined into {_name(merged.target)}"


def _answer(merged: Merged, suites: Sequence[Completeness], most: int | None) -> list[Part]:
    sentences = [f"{_name(found.folder)}: {_counts(found.takes)}" for found in merged.found]
    wrong = merged.undecided or merged.refused or any(one.missing for one in suites)
    answer = Words(summary(merged, suites), "bad" if wrong else "good")
    return [bullets(sentences[:most]), *_more(len(sentences), most), answer]


def _parts(merged: Merged, suites: Sequence[Completeness], most: int | None) -> list[Part]:
    """What is not as usual; with `most` no list is longer than that."""
    decided = [one for one in merged.several if not one.undecided and not one.same_figures]
    parts: list[Part] = []
    if decided:
        parts += [Heading("Kept of several"), _table(decided[:most]), *_more(len(decided), most)]
    if merged.undecided:
        parts += [
            Heading("Clashes"),
            Notice(
                "Of one key, and with other figures where they should be equal: none of these was"
                f" joined, and what {_name(merged.target)} has of them stays. Find out which folder"
                " is wrong, and leave it out; or state which to keep with --prefer first or newest."
            ),
            _table(merged.undecided[:most]),
            *_more(len(merged.undecided), most),
        ]
    told = [
        *(visible(" ".join(str(one.error).splitlines())) for one in merged.refused),
        *merged.left,
    ]
    if merged.mended:
        files = ", ".join(map(_name, merged.mended[:most]))
        parts.append(Words(f"Damaged before, and replaced: {files}"))
    if told:
        parts += [Heading("Not joined"), bullets(told[:most]), *_more(len(told), most)]
    for one in suites:
        parts += _suite_parts(one, most)
    return parts


def summary(merged: Merged, suites: Sequence[Completeness]) -> str:
    """What was done, and what is wrong, in a sentence."""
    would = "would be " if merged.dry_run else ""
    told = [
        f"{counted(merged.new, 'record')} {would}joined into {_name(merged.target)}",
        f"{merged.replaced} {would}replaced there",
        f"{merged.already} already there",
        counted(merged.logs, "log"),
    ]
    same = sum(one.same_figures for one in merged.several)
    if same:
        told.append(f"{same} measured twice with the same figures")
    if merged.undecided:
        told.append(counted(len(merged.undecided), "clash"))
    if merged.refused:
        told.append(f"{counted(len(merged.refused), 'file')} could not be joined")
    if suites:
        told.append(f"{sum(one.missing for one in suites)} missing")
    return ", ".join(told)


def merge_rows(merged: Merged, suites: Sequence[Completeness]) -> list[dict[str, Any]]:
    """One for each figure that differs, each record that was left, and each that is missing."""
    rows = []
    for choice in merged.several:
        kept = None if choice.kept is None else str(choice.kept.path)
        common = {"kind": choice.why, **choice.best.what._asdict(), "kept": kept}
        rows += [
            {**common, "other": str(one.take.path), **_unequal_data(one)} for one in choice.unequal
        ] or [{**common, "other": str(one.path), **_NO_FIGURE} for one in choice.others]
    for one in suites:
        for lacking in one.data["missing"]:
            kind = "measured otherwise" if lacking.pop("otherwise") else "missing"
            place = {"suite": one.suite, "device": one.device, **lacking}
            rows.append({"kind": kind, **place, "kept": None, "other": None, **_NO_FIGURE})
    return rows


def merge_data(merged: Merged, suites: Sequence[Completeness]) -> dict[str, Any]:
    """The whole for programs; `relative` is the other's figure over the kept one's, less 1."""
    return {
        "folders": [
            {"folder": str(found.folder), "records": len(found.takes)} for found in merged.found
        ],
        "target": str(merged.target),
        "dry_run": merged.dry_run,
        "new": merged.new,
        "replaced": merged.replaced,
        "already": merged.already,
        "mended": [str(path) for path in merged.mended],
        "logs": merged.logs,
        "several": [_choice_data(choice) for choice in merged.several],
        "clashes": len(merged.undecided),
        "not_joined": [{"file": str(one.path), "reason": str(one.error)} for one in merged.refused],
        "left": merged.left,
        "suites": [one.data for one in suites],
    }


_NO_FIGURE = dict.fromkeys(
    ("metric", "unit", "kept_value", "other_value", "relative", "should_be_equal")
)


def _choice_data(choice: Choice) -> dict[str, Any]:
    take = choice.best
    return {
        **take.what._asdict(),
        "rehearsal": take.rehearsal,
        "why": choice.why,
        "kept": None if choice.kept is None else str(choice.kept.path),
        "others": [str(one.path) for one in choice.others],
        "statuses": [one.status for one in (choice.best, *choice.others)],
        "differences": [
            {"other": str(one.take.path), **_unequal_data(one)} for one in choice.unequal
        ],
    }


def _unequal_data(one: Unequal) -> dict[str, Any]:
    return {
        "metric": one.metric,
        "unit": one.unit,
        "kept_value": one.kept,
        "other_value": one.other,
        "relative": one.relative,
        "should_be_equal": one.should_be_equal,
    }


def _table(choices: Iterable[Choice]) -> Part:
    rows = [
        (
            choice.best.what.words,
            choice.best.what.device,
            str(choice.why),
            "none" if choice.kept is None else _where(choice.kept),
            ", ".join(dict.fromkeys(map(_where, choice.others))),
            _largest(choice),
        )
        for choice in choices
    ]
    return words_table(("record", "device", "why", "kept", "left", "largest difference"), rows)


def _name(path: Path) -> str:
    """A path in one line, whatever is in it."""
    return in_one_line(str(path))


def _where(take: Take) -> str:
    return f"{_name(take.folder)} ({take.status})"


def _largest(choice: Choice) -> str:
    """The figure that differs most; of those that should be equal, where there are any."""
    wrong = [one for one in choice.unequal if one.should_be_equal]
    one = max(wrong or choice.unequal, key=lambda one: one.size, default=None)
    if one is None:
        return "–"
    relative = "" if one.relative is None else f" ({100 * one.relative:+.3g} %)"
    more = len(wrong or choice.unequal) - 1
    told = f"{one.metric} {one.kept:.6g} in {_name(choice.best.folder)}"
    told += f", {one.other:.6g} in {_name(one.take.folder)}{relative}"
    return f"{told}, and {more} more" if more else told


def _suite_parts(one: Completeness, most: int | None) -> list[Part]:
    where = one.device or "any device"
    counts = ", ".join(f"{count} {status}" for status, count in one.statuses.items())
    there = f"{one.asked - one.missing} of {counted(one.asked, 'measurement')} have a record"
    whole = not one.missing and not one.failed
    told = Words(f"{there} ({counts})" if counts else there, "good" if whole else "warned")
    parts: list[Part] = [Heading(f"{one.suite} on {where}"), told]
    if one.rehearsed:
        parts.append(
            Words(f"{counted(one.rehearsed, 'record')} of a rehearsal, which does not count")
        )
    if one.otherwise:
        parts.append(
            Words(
                f"{one.otherwise} of the missing were measured otherwise: by another protocol, with"
                " other contents of the model, text or data, or with other options"
            )
        )
    if one.missing:
        parts += [
            Words(f"Missing; `qbench run {one.file}` takes it on such a device:"),
            bullets(one.words[:most]),
            *_more(len(one.words), most),
        ]
    return parts


def _more(count: int, most: int | None) -> list[Part]:
    left = 0 if most is None else count - most
    return [Words(f"and {left} more; --format markdown shows all", "quiet")] if left > 0 else []


def _counts(takes: Sequence[Take]) -> str:
    ok = sum(take.status == "ok" for take in takes)
    return f"{counted(len(takes), 'record')}, {ok} ok"
