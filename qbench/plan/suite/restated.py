"""What a suite would say that asks again for records: facts, lists, and what must be supplied."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

from qbench.finetune import methods
from qbench.measures import measures
from qbench.plan.items import MERGED

if TYPE_CHECKING:
    from qbench.core.record import Record

SUPPLIED = "inputs"
"""Folder beside a suite in which it looks for what was a file or folder of another machine."""

Fact = tuple[str, ...]
"""What is said, by the place where a suite says it."""


@dataclass(frozen=True)
class Supplied:
    """A file or folder that is not here, and must be put where the suite looks for it."""

    what: str
    """`model`, `text`, `prompts`, `data`, `tasks` or `metric`."""
    place: str
    """Where the suite looks for it, from its own folder."""
    was: str
    """Where it lay on the machine of the records."""
    fingerprint: str | None
    """Hash of its contents as records have it; None where they have none of it alone."""


@dataclass
class Restated:
    """A suite that asks again for records."""

    name: str
    rehearsal: bool
    records: list[Record] = field(default_factory=list)
    supplied: dict[str, Supplied] = field(default_factory=dict)
    """By the place where the suite looks for it."""
    facts: dict[Fact, Any] = field(default_factory=dict)
    """What it says once."""
    lists: dict[Fact, list[Any]] = field(default_factory=dict)
    """What it has a list of."""
    code: dict[str, None] = field(default_factory=dict)
    """Files of somebody's own that may hold Python."""
    lacking: dict[str, None] = field(default_factory=dict)
    """What the records do not tell, and what the suite says in its place."""
    repeats: dict[str, int] = field(default_factory=dict)
    """By the measurement."""

    @property
    def slugs(self) -> list[str]:
        """Of the records' cells, each once."""
        return list(dict.fromkeys(record.cell.slug for record in self.records))

    @property
    def runs_code(self) -> tuple[str, ...]:
        """What of it is Python or a program that did not come with qbench; nothing mostly."""
        found = [
            f"the model {one['name']} runs the Python that comes with it"
            for one in self._every("model")
            if one.get("trust_remote_code")
        ]
        found += [
            f"a server is started by: {server['command']}"
            for server in chain.from_iterable(self.lists.values())
            if isinstance(server, dict) and "command" in server
        ]
        found += [f"{one} may hold Python" for one in self.code]
        return tuple(found)

    def stated(self, *, trust_code: bool = False) -> dict[str, Any]:
        """The suite as plain values, in the order of its keys.

        Code that did not come with qbench runs only where `trust_code` says so.
        """
        made: dict[str, Any] = {
            "name": self.name,
            "models": [_allowed(one, trust_code=trust_code) for one in self._every("model")],
            "precisions": self._every("precision"),
        }
        if caches := self.lists.get(("kv_cache",)):
            made["kv_cache"] = caches
        if ("reference",) in self.facts:
            made["reference"] = self.facts["reference",]
        if tuned := self._every("tuning"):
            made["finetune"] = self._finetune(tuned)
        elif ("data",) in self.facts:
            # An untuned model is scored on the data's test split where a suite tunes anything.
            made["finetune"] = {"data": self.facts["data",], "methods": [next(iter(methods()))]}
        made["measure"] = self._measure()
        if dropped := self.lists.get(("exclude",)):
            made["exclude"] = dropped
        if trust_code and self.runs_code:
            made["trust_code"] = True
        return made

    def _every(self, kind: str) -> list[Any]:
        return [value for (of, *_), value in self.facts.items() if of == kind]

    def _measure(self) -> dict[str, Any]:
        made: dict[str, dict[str, Any]] = {name: {} for name in self.repeats}
        for (kind, *place), value in (*self.facts.items(), *self.lists.items()):
            if kind == "measure" and value is not None:
                made[place[0]][place[1]] = value
        for name, count in self.repeats.items():
            if count and "repeats" in measures()[name].options.model_fields:
                made[name].setdefault("repeats", count)
        # A suite measures something: of trainings alone, what is soonest done.
        return {name: made[name] for name in measures() if name in made} or {"footprint": {}}

    def _finetune(self, tuned: list[Any]) -> dict[str, Any]:
        seeds = list(self.lists["seed",])
        if self.facts["seeded",] and len(seeds) == 1:
            # The seed is part of a label where there are several.
            seeds.append(0 if seeds[0] else 1)
        deploy = self.lists.get(("deploy",)) or [MERGED]
        quantize = self._every("quantize")
        return {
            **({"data": self.facts["data",]} if ("data",) in self.facts else {}),
            "methods": tuned,
            "seeds": seeds,
            "deploy": deploy,
            **({"quantize": quantize} if quantize else {}),
        }


def _allowed(model: dict[str, Any], *, trust_code: bool) -> dict[str, Any]:
    """The model without leave to run its own Python, unless that is given."""
    return {k: v for k, v in model.items() if trust_code or k != "trust_remote_code"}
