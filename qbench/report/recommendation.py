"""What to run, in words: the recommendation of a table, and what is said of each other cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.compare.recommend.limits import BY_DEFAULT
from qbench.core.page import Column, Figure, Heading, Mono, Page, Row, Strong, Table, Words, bullets
from qbench.report.chooser import chooser
from qbench.report.figures import NOT_MEASURED
from qbench.report.recommendation_data import recommendation_data
from qbench.report.recommendation_words import (
    brief,
    changes,
    check_words,
    cost_words,
    costs_words,
    is_quality_known,
    limit_words,
    loss_words,
    needed_words,
    relaxed_words,
    served_words,
    warning_words,
    with_interval,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.recommend.recommend import (
        Candidate,
        Recommendation,
        Standing,
    )
    from qbench.compare.recommend.tables import Recommended
    from qbench.compare.selection import TableRecords
    from qbench.core.page import Line, Part, Tone

_WORDS: dict[Standing, tuple[str, Tone]] = {
    "recommended": ("recommended", "good"),
    "meets": ("also meets", "plain"),
    "undecided": ("undecided", "warned"),
    "fails": ("fails", "bad"),
    "faulty": ("faulty layers", "bad"),
}
_HOW = (
    "A cell meets a limit when its whole 95 % interval (in brackets) lies within it, fails when the"
    " whole interval lies beyond, and is undecided else."
)
_LIKE = {
    "untuned": "qbench recommend --max-perplexity-increase 2% --gpu 24GB --minimize decode",
    "tuned": "qbench recommend --max-loss-increase 0.05 --max-training-peak 20GiB",
}
_MOST_NAMED = 6
"""Cells that a sentence names; the table has them all."""
_NOUN = {"untuned": "cell", "tuned": "tuned model"}


def recommendation_page(
    tables: Sequence[tuple[TableRecords, Recommendation]], left_out: Sequence[str] = ()
) -> Page:
    """What to run of each table of records, and what of the records was `left_out`."""
    parts: list[Part] = []
    for _, found in tables:
        parts += [Heading(found.choices.title)] if len(tables) > 1 else []
        parts += recommendation_parts(found)
    parts += [bullets(left_out, "quiet")] if left_out else []
    title = f"What to run: {tables[0][1].choices.title}" if len(tables) == 1 else "What to run"
    data = [recommendation_data(records, found) for records, found in tables]
    return Page(title, tuple(parts), {"recommendations": data, "left_out": list(left_out)})


def recommended_parts(recommended: Recommended) -> list[Part]:
    """What to run, and a sentence on the tuned models; nothing where there is nothing to choose."""
    found, tuned = recommended
    told: list[Part] = [Words(tuned_line(tuned))] if tuned else []
    return told if found is None else recommendation_parts(found, told)


def recommendation_parts(found: Recommendation, told: Sequence[Part] = ()) -> list[Part]:
    """A few sentences, what else is `told`, then a table with what is said of every cell."""
    return [
        *(Words(line) for line in recommendation_lines(found)),
        *told,
        chooser(found, _table(found), _NOUN[found.choices.kind], _every_needed(found)),
        Words(_HOW, "quiet"),
    ]


def recommendation_lines(found: Recommendation) -> list[Line]:
    """What to run, what it costs and loses, and by what it was limited: a line each."""
    return [*_what(found), *_served(found), *_warnings(found), _limits(found)]


def terminal_lines(found: Recommendation) -> list[Line]:
    """What to run and by which limits: a table beside it has what it costs and loses."""
    return [*_what(found, figures=False), *_served(found), _limits(found, briefly=True)]


def what_to_run(tables: Sequence[tuple[TableRecords, Recommended]]) -> list[Part]:
    """A line for each of several tables."""
    lines = [
        (f"{one.choices.title}: ", *_short(one))
        for _, recommended in tables
        for one in recommended.every
    ]
    return [Heading("What to run"), bullets(lines)] if lines else []


def tuned_line(found: Recommendation) -> Line:
    """What to train and how to serve it, in one line."""
    return ("Of the tuned models: ", *_short(found))


def _short(found: Recommendation) -> tuple[str | Strong | Mono, ...]:
    best = found.best
    if best is not None:
        words = f" ({best.cell.words})" if best.cell.words else ""
        told = (cost_words(found, best, found.axis), *changes(found, best, limited=True))
        figures = "; ".join(text for text in told if text)
        return (Strong(best.cell.label, "good"), f"{words}: {figures}.")
    nearest = found.nearest
    if nearest is None:
        return (Strong("nothing", "bad"), " is known to meet the budget.")
    lacks = "; ".join(check_words(check) for check in (*nearest.failed, *nearest.undecided))
    told_nearest = f" meets the budget; nearest is {nearest.cell.label}: {lacks}."
    return (Strong("nothing", "bad"), told_nearest)


def _what(found: Recommendation, *, figures: bool = True) -> list[Line]:
    """What is recommended, what it takes and loses if `figures`, and what is level with it."""
    best = found.best
    if best is None:
        return _nothing(found)
    number = 1 + len(found.of("meets"))
    blindly = "" if is_quality_known(found) else " by cost alone"
    noun = _NOUN[found.choices.kind]
    least = f"the lowest {found.axis.short} of"
    if number > 1:
        why = f", {least} the {number} {noun}s that meet every limit"
    else:
        why = f", the only {noun} that meets every limit" if found.choices.limits else ""
    words = f" ({best.cell.words})" if best.cell.words else ""
    lines: list[Line] = [
        (Strong(f"Recommended{blindly}: {best.cell.label}", "good"), f"{words}{why}."),
        *(_figures(found, best) if figures else ()),
    ]
    others = found.of("meets")
    same = [one.cell.label for one in others if _is_same(found, one)]
    level = [
        one.cell.label for one in others if one.told_apart is False and not _is_same(found, one)
    ]
    unknown = [one.cell.label for one in others if one.told_apart is None]
    by = f"By {found.axis.short}"
    if same:
        lines.append(
            f"{_and(same)} {'has' if len(same) == 1 else 'have'} the same {found.axis.short}."
        )
    if level:
        told = "is" if len(level) == 1 else "are"
        lines.append(f"{by}, {_and(level)} {told} not told apart from it: the intervals overlap.")
    if unknown:
        lines.append(
            f"{by}, whether {_and(unknown)} differ{'s' if len(unknown) == 1 else ''} from it by"
            " more than chance is not known."
        )
    before = [
        one.cell.label
        for one in found.of("undecided")
        if one.minimized.value is not None
        and best.minimized.value is not None
        and one.minimized.value < best.minimized.value
        and all(check.beyond is None for check in one.undecided)
    ]
    if before:
        lines.append(f"With more data it might be {_and(before, 'or')}: see the table.")
    return lines


def _figures(found: Recommendation, best: Candidate) -> list[Line]:
    """What the best takes and loses."""
    return [f"{text}." for text in (costs_words(found, best), loss_words(found, best)) if text]


def _is_same(found: Recommendation, one: Candidate) -> bool:
    """Whether what is minimized is exactly the best's."""
    best = found.best
    known = one.minimized
    return (
        best is not None
        and one.standing == "meets"
        and known.value is not None
        and known.low is not None
        and best.minimized.low == best.minimized.high == known.low == known.high
    )


def _nothing(found: Recommendation) -> list[Line]:
    nearest = found.nearest
    noun = _NOUN[found.choices.kind]
    lines: list[Line] = [(Strong(f"No {noun} is shown to meet every limit.", "bad"),)]
    if nearest is None:
        return [*lines, "Of none is it known how far it is from them: see the table."]
    lacks = [*nearest.failed, *nearest.undecided]
    if not lacks:  # what is minimized is not known
        why = brief(nearest.minimized)
        return [
            *lines,
            f"{nearest.cell.label} does, but its {found.axis.short} is not known: {why}.",
        ]
    why = "; ".join(check_words(check) for check in lacks)
    lines.append((Strong(f"Nearest: {nearest.cell.label}"), f": {why}."))
    relaxed = [text for check in lacks if (text := relaxed_words(check))]
    if relaxed:
        lines.append(f"It would meet {' and '.join(relaxed)}.")
    return lines


def _warnings(found: Recommendation) -> list[Line]:
    """What the records of the best warn of."""
    told = "" if found.best is None else warning_words(found.best.cell)
    return [told] if told else []


def _served(found: Recommendation) -> list[Line]:
    """That the best is chosen by a speed that is not real."""
    told = "" if found.best is None else served_words(found, found.best)
    return [(Strong(told, "warned"),)] if told else []


def _limits(found: Recommendation, *, briefly: bool = False) -> Line:
    limits = found.choices.limits
    told = [limit_words(found.choices.axis(key), limit) for key, limit in limits.items()]
    like = Mono(_LIKE[found.choices.kind])
    if not told and briefly:
        return ("Limited by nothing (", Mono("qbench recommend"), " takes limits).")
    if not told:
        return ("Limited by nothing; limits are given as in ", like, ".")
    text = f"Limited by: {'; '.join(told)}."
    if any(limit.source == BY_DEFAULT for limit in limits.values()):
        if briefly:
            return (f"{text[:-1]} (by default; ", Mono("qbench recommend"), " takes others).")
        text += " As no limit on quality was given, the default one holds; yours are given as in "
        return (text, like, ", or under ", Mono("recommend:"), " in the suite.")
    return text


def _table(found: Recommendation) -> Table:
    columns = (
        Column("verdict", "verdict", "mark"),
        Column(found.axis.key, found.axis.short, found.axis.display),
        Column("why", "why", "text"),
    )
    rows = []
    for one in found.candidates:
        word, tone = _WORDS[one.standing]
        known = one.minimized
        figure = (
            Figure(word=NOT_MEASURED, reason=known.reason)
            if known.value is None
            else Figure(
                known.value, low=known.low, high=known.high, unlike_served=known.unlike_served
            )
        )
        figures = (Figure(word=word, tone=tone), figure, Figure(word=_reasons(found, one)))
        rows.append(Row(one.cell.label, one.cell.reference, figures, faulty=one.cell.faulty))
    return Table("What to run", "cell", columns, tuple(rows))


def _reasons(found: Recommendation, one: Candidate) -> str:
    if one.standing == "faulty":
        return "its layers do not compute what they hold: it is no choice"
    if one.standing in ("fails", "undecided"):
        checks = one.failed or one.undecided
        told = [check_words(check) for check in checks]
        if one.minimized.value is None and all(check.axis is not found.axis for check in checks):
            told.append(f"{found.axis.short}: {brief(one.minimized)}")
        return "; ".join(told)
    told = [f"{check.axis.short} {with_interval(check.axis, check.range)}" for check in one.checks]
    if _is_same(found, one):
        told.append(f"the same {found.axis.short}")
    elif one.told_apart is False:
        told.append(f"{found.axis.short} not told apart from the best's: the intervals overlap")
    return "; ".join(told)


def _every_needed(found: Recommendation) -> dict[str, dict[str, str]]:
    """By cell and axis, what more data would decide."""
    return {
        one.cell.label: {check.axis.key: needed_words(check.needed) for check in one.undecided}
        for one in found.candidates
    }


def _and(names: Sequence[str], last: str = "and") -> str:
    """The names in a row; of very many the first."""
    if len(names) > _MOST_NAMED:
        names = [*names[: _MOST_NAMED - 1], f"{len(names) - _MOST_NAMED + 1} more"]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {last} {names[-1]}"
