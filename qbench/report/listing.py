"""What there is to choose from as a page: precisions, methods, measurements, formats.

All of it in short, a line each; one entry in full is `qbench.report.listed_entry`.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from qbench.compare.speed import marked_lines
from qbench.core.aliases import keys_of
from qbench.core.packages import ALWAYS_NEEDED, missing_packages
from qbench.core.page import (
    Column,
    Figure,
    Heading,
    Mono,
    Page,
    Row,
    Table,
    Words,
    bullets,
    words_table,
)
from qbench.finetune import methods
from qbench.measures import measures
from qbench.precisions import precisions
from qbench.precisions.kv_cache import kv_caches
from qbench.precisions.names import other_names
from qbench.report.known_models import MODELS
from qbench.report.shipped_suites import SUITES

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from qbench.core.page import Part
    from qbench.core.record import Environment
    from qbench.core.spec import Frozen
    from qbench.precisions.precision import Precision
    from qbench.report.format import Format, Source

_MADE_OF: dict[Source, str] = {
    "page": "any page",
    "records": "a report",
    "rows": "a comparison",
    "gate": "a gate",
}


class Entry(Protocol):
    """A precision, a method or a measurement, as far as it is listed."""

    @property
    def name(self) -> str:
        """As written in a suite."""

    @property
    def summary(self) -> str:
        """One line."""

    @property
    def options(self) -> type[Frozen]:
        """Its typed options."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Packages beside those that qbench always has."""


def listing_page(
    environment: Environment, formats: Iterable[Format], note: str | None = None
) -> Page:
    """All names, each with what it is and whether it can run on the device.

    `note` says why it is not another device.
    """
    others = {name: other_names(one) for name, one in precisions().items()}
    held = [(one, why_not(one, environment)) for one in precisions().values()]
    device = environment.device_type
    unlike = {name: one.unlike_served(one.options(), device) for name, one in precisions().items()}
    tuned = [(one, lacking(one, environment)) for one in methods().values()]
    cached = [(one, lacking(one, environment)) for one in kv_caches().values()]
    taken = [(one, lacking(one, environment)) for one in measures().values()]
    written = [(one.name, one.summary, _made_of(one), one.suffix) for one in formats]
    parts: list[Part] = [
        Heading("Precisions"),
        _table("what it is", environment.device, held, unlike),
        bullets(_unlike_lines(unlike)),
        Heading("KV caches"),
        _table("what it keeps", environment.device, cached),
        Heading("Fine-tuning methods"),
        _table("what it trains", environment.device, tuned),
        Heading("Measurements"),
        _table("what it finds", environment.device, taken),
        Heading("Formats"),
        words_table(("name", "what it is", "of", "file"), written),
        Words(("Options and other names of one: ", Mono(f"qbench list {next(iter(others))}"))),
        Words(("Models that plan without a hub: ", Mono(f"qbench list {MODELS}"))),
        Words(("Suites that ship with qbench: ", Mono(f"qbench list {SUITES}"))),
        *([Words(note)] if note else []),
    ]
    data = {
        "device": environment.device,
        "device_note": note,
        "precisions": [
            entry_data(*entry)
            | {"also_called": others[entry[0].name], "unlike_served": unlike[entry[0].name]}
            for entry in held
        ],
        "kv_caches": [entry_data(*entry) for entry in cached],
        "methods": [entry_data(*entry) for entry in tuned],
        "measurements": [entry_data(*entry) for entry in taken],
        "formats": [
            {"name": name, "summary": summary, "of": of.split(", "), "suffix": suffix}
            for name, summary, of, suffix in written
        ],
    }
    return Page(f"What qbench has, on {environment.device}", tuple(parts), data)


def entry_data(entry: Entry, reason: str | None) -> dict[str, Any]:
    """An entry in plain values; `reason` is why it does not run here."""
    return {
        "name": entry.name,
        "summary": entry.summary,
        "options": keys_of(entry.options),
        "needs": list(entry.needs),
        "runs": reason is None,
        "reason": reason,
    }


def why_not(held: Precision, environment: Environment) -> str | None:
    """Why a precision with its default options cannot run on the device."""
    return (
        missing_packages(ALWAYS_NEEDED, environment)
        or held.unavailable(environment)
        or held.incapable(held.options(), environment)
    )


def lacking(entry: Entry, environment: Environment) -> str | None:
    """Which packages an entry needs that are not installed, with the remedy; None without any."""
    return missing_packages((*ALWAYS_NEEDED, *entry.needs), environment)


def _table(
    about: str,
    device: str,
    entries: Iterable[tuple[Entry, str | None]],
    unlike: Mapping[str, str | None] = MappingProxyType({}),
) -> Table:
    """`unlike` says of an entry why its times are not as served."""
    columns = (
        Column("summary", about, "text"),
        Column("runs", f"on {device}", "text"),
    )
    rows = (_row(*entry, real=not unlike.get(entry[0].name)) for entry in entries)
    return Table("", "name", columns, tuple(rows))


def _unlike_lines(unlike: Mapping[str, str | None]) -> list[str]:
    """Whose speed here is not that of the format as it is served: each reason once."""
    names: dict[str, list[str]] = {}
    for name, reason in unlike.items():
        if reason is not None:
            names.setdefault(reason, []).append(name)
    return marked_lines(names)


def _row(entry: Entry, reason: str | None, *, real: bool) -> Row:
    figures = (
        Figure(word=entry.summary),
        Figure(word=reason or ("runs" if real else "runs ≠"), tone="bad" if reason else "good"),
    )
    return Row(entry.name, reference=False, figures=figures)


def _made_of(form: Format) -> str:
    return ", ".join(words for source, words in _MADE_OF.items() if form.takes(source))
