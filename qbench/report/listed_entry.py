"""One precision, method or measurement in full: its options, its other names, what it needs."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from qbench.compare.speed import LEGEND
from qbench.core.aliases import other_names as other_options
from qbench.core.docstrings import field_docs
from qbench.core.errors import UsageError
from qbench.core.page import Heading, Page, Words, bullets, words_table
from qbench.core.spec import Frozen
from qbench.finetune import methods
from qbench.measures import measures
from qbench.precisions import precisions
from qbench.precisions.names import nearest_words, other_names, own_name
from qbench.report.known_models import MODELS
from qbench.report.listing import entry_data, lacking, why_not
from qbench.report.shipped_suites import SUITES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qbench.core.page import Line, Part
    from qbench.core.record import Environment
    from qbench.report.listing import Entry


def entry_page(name: str, environment: Environment, note: str | None = None) -> Page:
    """The entry of that name, a precision by any of its names; `note` says why it is that device.

    Raises `UsageError` where there is none.
    """
    held = precisions().get(own_name(name) or name)
    if held is not None:
        told = {
            "also_called": other_names(held),
            "unlike_served": held.unlike_served(held.options(), environment.device_type),
        }
        return _page(held, why_not(held, environment), environment, note, told)
    for table in (methods(), measures()):
        if name in table:
            entry: Entry = table[name]
            return _page(entry, lacking(entry, environment), environment, note)
    raise UsageError(_unknown(name))


def option_rows(options: type[Frozen]) -> list[tuple[str, str, str, list[str]]]:
    """Name, default, meaning and other names of each option that has a meaning to tell."""
    told = field_docs(options)
    other: dict[str, list[str]] = {}
    for also, option in other_options(options).items():
        other.setdefault(option, []).append(also)
    return [
        (
            field.alias or option,
            _default(field.get_default(call_default_factory=True)),
            " ".join(text.split()),
            other.get(field.alias or option, []),
        )
        for option, field in options.model_fields.items()
        if (text := field.description or told.get(option))
    ]


def _page(
    entry: Entry,
    reason: str | None,
    environment: Environment,
    note: str | None,
    told: Mapping[str, Any] = MappingProxyType({}),
) -> Page:
    rows = option_rows(entry.options)
    runs = f"does not run: {reason}" if reason else "runs"
    parts: list[Part] = [
        Words(entry.summary),
        bullets(
            [
                *_facts(**told),
                f"Needs: {', '.join(entry.needs)}." if entry.needs else "Needs no other package.",
                f"On {environment.device}: {runs}.",
            ]
        ),
    ]
    if rows:
        written = [
            (option, default, f"{text} Also: {', '.join(also)}." if also else text)
            for option, default, text, also in rows
        ]
        parts += [Heading("Options"), words_table(("option", "default", "meaning"), written)]
    parts += [Words(note)] if note else []
    data: dict[str, Any] = entry_data(entry, reason) | {
        "device": environment.device,
        "device_note": note,
        "options": [
            {"name": option, "default": default, "meaning": text, "also_called": also}
            for option, default, text, also in rows
        ],
    }
    return Page(entry.name, tuple(parts), data | dict(told))


def _facts(also_called: Sequence[str] = (), unlike_served: str | None = None) -> list[Line]:
    """What is told of a precision alone, in sentences."""
    told: list[Line] = [f"Also called {', '.join(also_called)}."] if also_called else []
    return [*told, f"Its times here are ≠, {LEGEND}: {unlike_served}."] if unlike_served else told


def _unknown(name: str) -> str:
    names = [*precisions(), *methods(), *measures(), MODELS, SUITES]
    words = nearest_words(name, names)
    found = f"unknown name '{name}'; expected a precision, a method or a measurement"
    return f"{found}; {words}" if words else f"{found} of `qbench list`"


def _default(value: Any) -> str:
    if isinstance(value, tuple | list):
        return ", ".join(_default(one) for one in value) or "none"
    if value is None:
        return "none"
    if isinstance(value, Frozen):  # as a suite would say it
        given = value.model_dump(exclude_defaults=True).items()
        return f"{{{', '.join(f'{name}: {_default(one)}' for name, one in given)}}}"
    return str(value).lower() if isinstance(value, bool) else str(value)
