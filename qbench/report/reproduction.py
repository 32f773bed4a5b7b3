"""What measuring records again would be here, as a page: conditions, what lacks, what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.core.page import Code, Heading, Notice, Page, Words, bullets, words_table
from qbench.core.units import counted
from qbench.core.untrusted import in_one_line
from qbench.plan.conditions_here import figures_of
from qbench.report.reproduction_files import (
    CONSTRAINTS,
    MEASURED,
    SCRIPT,
    compare_words,
    export_lines,
    install_lines,
    run_words,
    suite_name,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from qbench.core.page import Part, Tone
    from qbench.plan.reproduction import Again, Reproduction

_STATES = {"matters": "differs", "no matter": "differs, moves nothing", "unknown": "not known"}
_FOLLOWING = frozenset({"reference", "tuning", "sensitivities"})
"""Parts of an identity that are keys of other records."""
_MOST_LINES = 12


def reproduction_page(
    made: Sequence[Reproduction], notes: Sequence[str], prevents: Sequence[str], *, compared: bool
) -> Page:
    """The whole: each suite with all conditions, and the commands."""
    parts = [*_parts(made, notes, prevents, whole=True), *_commands(made, compared=compared)]
    return Page(_title(made), tuple(parts), reproduction_data(made, notes, prevents))


def reproduction_on_screen(
    made: Sequence[Reproduction], notes: Sequence[str], prevents: Sequence[str]
) -> Page:
    """What is not as it was, without the conditions that are."""
    parts = _parts(made, notes, prevents, whole=False)
    return Page(_title(made), tuple(parts), reproduction_data(made, notes, prevents))


def _summary(made: Sequence[Reproduction]) -> str:
    """How many records the suite asks for by their keys: under their conditions, and here."""
    total = sum(len(one.every) for one in made)
    count = counted(total, "record")
    there = [one.same_keys_there for one in made if one.same_keys_there is not None]
    if len(there) < len(made):
        return f"{count}: whether they would have the same keys here cannot be told."
    same = sum(one.same_keys for one in made)
    return (
        f"Under their own conditions {sum(there)} of {count} would have the same key, here {same}:"
        " what has the same key is the same measurement."
    )


def reproduction_data(
    made: Sequence[Reproduction], notes: Sequence[str], prevents: Sequence[str]
) -> dict[str, Any]:
    """The same for programs."""
    return {
        "suites": [
            {
                "file": suite_name(at),
                "suite": one.restated.name,
                "records": len(one.every),
                "same_keys": one.same_keys,
                "same_keys_under_their_conditions": one.same_keys_there,
                "more_measurements": one.more,
                "only": list(one.only),
                "conditions": [
                    {
                        "name": each.name,
                        "there": each.there,
                        "here": each.here,
                        "state": each.state,
                        "follows": each.follows or None,
                    }
                    for each in one.conditions
                ],
                "supplied": [
                    {
                        "what": each.what,
                        "place": each.place,
                        "was": each.was,
                        "fingerprint": each.fingerprint,
                    }
                    for each in one.restated.supplied.values()
                ],
                "code": list(one.restated.runs_code),
                "lacking": list(one.restated.lacking),
                "problems": list(one.problems),
                "skipped": dict(_skipped(one)),
                "otherwise": dict(_otherwise(one)),
            }
            for at, one in enumerate(made)
        ],
        "prevents": list(prevents),
        "notes": list(notes),
    }


def _title(made: Sequence[Reproduction]) -> str:
    return f"{in_one_line(made[0].restated.name)}, measured again"


def _parts(
    made: Sequence[Reproduction], notes: Sequence[str], prevents: Sequence[str], *, whole: bool
) -> list[Part]:
    parts: list[Part] = []
    for at, one in enumerate(made):
        if len(made) > 1:
            parts.append(Heading(suite_name(at)))
        parts += _suite_parts(one, whole=whole)
    if prevents:
        parts += [Heading("What would prevent a run here"), bullets(prevents, "warned")]
    parts.append(bullets(notes))
    same = sum(one.same_keys for one in made) == sum(len(one.every) for one in made)
    tone: Tone = "good" if same else "warned"
    parts.append(Words(_summary(made), tone))
    return parts


def _suite_parts(one: Reproduction, *, whole: bool) -> list[Part]:
    parts: list[Part] = []
    if one.restated.rehearsal:
        parts.append(
            Notice(
                "These records are of a rehearsal: what is measured again are its replacements, not"
                " the models that its suite names, which the records do not hold."
            )
        )
    parts += _conditions(one, whole=whole)
    supplied = list(one.restated.supplied.values())
    if supplied:
        parts += [
            Heading("What must be supplied", 3),
            words_table(
                ("put it at", "what", "it was", "fingerprint"),
                [(o.place, o.what, in_one_line(o.was), o.fingerprint or "-") for o in supplied],
            ),
        ]
    told = [f"cannot be planned here: {one}" for one in one.problems]
    told += [f"not taken here: {reason} ({places})" for reason, places in _skipped(one)]
    told += [f"asked for otherwise: {reason} ({places})" for reason, places in _otherwise(one)]
    told += one.restated.lacking
    told += [f"runs code that did not come with qbench: {each}" for each in one.restated.runs_code]
    if one.more:
        more = counted(one.more, "measurement")
        told.append(
            f"the suite asks for {more} more than the records: it takes every item of each cell"
        )
    if told:
        parts += [Heading("What is not as it was", 3), bullets(told)]
    return parts


def _conditions(one: Reproduction, *, whole: bool) -> list[Part]:
    shared = [each for each in one.conditions if each.state == "same"]
    rows = [
        (each.name, each.there, each.here, _state(each.state, each.follows))
        for each in one.conditions
        if whole or each.state != "same"
    ]
    parts: list[Part] = []
    if rows:
        parts.append(words_table(("condition", "of the records", "here", "what follows"), rows))
    told = [
        f"{kind}: {', '.join(names)}"
        for kind, names in figures_of(one.restated.records).items()
        if names
    ]
    if any(each.state == "matters" for each in one.conditions):
        told.append(f"{SCRIPT} sets the records' variables, and installs their packages")
    if shared and not whole:
        told.append(f"the same here: {', '.join(each.name for each in shared)}")
    parts.append(bullets(told))
    return parts


def _state(state: str, follows: str) -> str:
    word = _STATES.get(state, state)
    return f"{word}: {follows}" if follows and state == "matters" else word


def _skipped(one: Reproduction) -> list[tuple[str, str]]:
    return _grouped((each.skip, each) for each in one.every if each.skip is not None)


def _otherwise(one: Reproduction) -> list[tuple[str, str]]:
    """What the suite says otherwise than records even under their own conditions."""
    return _grouped((_why_unlike(each), each) for each in one.every if each.unlike)


def _why_unlike(again: Again) -> str:
    names = list(again.unlike)
    if names == ["cell"]:
        return "the suite has no such item"
    own = [name for name in names if name not in _FOLLOWING]
    if not own:
        return (
            f"the record of its {', '.join(names)} was taken otherwise, or is not among those that"
            " were given"
        )
    return ", ".join(own)


def _grouped(found: Iterable[tuple[str, Again]]) -> list[tuple[str, str]]:
    cells: dict[str, dict[str, None]] = {}
    for reason, again in found:
        cells.setdefault(in_one_line(reason), {})[again.record.cell.slug] = None
    return [
        (reason, ", ".join(list(of)[:_MOST_LINES]) + (" …" if len(of) > _MOST_LINES else ""))
        for reason, of in cells.items()
    ]


def _commands(made: Sequence[Reproduction], *, compared: bool) -> list[Part]:
    records = [record for one in made for record in one.restated.records]
    lines = ["python -m venv venv", *install_lines(records), *export_lines(records)]
    for at, one in enumerate(made):
        lines.append(f"venv/bin/qbench run {' '.join(run_words(suite_name(at), one))}")
    if compared:
        lines.append(f"venv/bin/qbench {compare_words(made)}")
    newest = records[-1].environment
    commit = newest.git_revision
    parts: list[Part] = [
        Heading("How"),
        Words(f"bash {SCRIPT} does all of it, in this folder; or, one by one:"),
        Code("\n".join(lines)),
    ]
    told = [f"{CONSTRAINTS} holds the versions of the packages that decide the numbers."]
    if compared:
        told.append(
            f"{MEASURED} holds the records' own figures; the comparison says which differ by more"
            " than chance."
        )
    else:
        told.append("The records' own figures are not here: compare with where they came from.")
    if commit is not None:
        told.append(
            f"The run was started in a folder at commit {commit}. Where that was a clone of qbench"
            " itself, check that commit out and install it in place of the released version."
        )
    parts.append(bullets(told))
    return parts
