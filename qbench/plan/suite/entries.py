"""The entries of a suite, of what records hold of models, precisions, methods, data and options."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qbench.core.options import shown_options
from qbench.core.spec import slugify
from qbench.finetune import methods
from qbench.plan.rehearsal import SUFFIX
from qbench.plan.suite.restated import SUPPLIED, Supplied
from qbench.precisions import precisions
from qbench.sources.bundled import PREFIX
from qbench.sources.data.texts import DATASETS
from qbench.sources.models.random_models import RANDOM_PREFIX

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qbench.core.spec import Frozen, ModelRef, PrecisionRef, TuningRef

_CODE = ("tasks", "metric")
"""Files of these may hold Python."""
_SWEPT = re.compile(r"(?P<rest>.+)-(?P<option>[a-z_]+)=(?P<value>[0-9.]+)")


class Entries:
    """Makes the entries, and notes what of them is a file of somebody's own."""

    def __init__(self, *, rehearsal: bool) -> None:
        """`rehearsal`: the records are of one, whose names and options are those of its suite."""
        self._rehearsal = rehearsal
        self.supplied: dict[str, Supplied] = {}
        """Files that are not here, by the place where the suite looks for them."""
        self.code: list[str] = []
        """Files that may hold Python."""

    def plain(self, name: str) -> str:
        """A rehearsal's name of a model as its suite has it."""
        return name.removesuffix(SUFFIX) if self._rehearsal else name

    def model(self, model: ModelRef, identity: Mapping[str, Any]) -> dict[str, Any]:
        """A model; `identity` is what its records' keys hold of it, as far as it is known."""
        name = self.plain(model.name)
        source = model.source
        if model.kind == "folder":
            source = self._file("model", model.location, identity.get("fingerprint"))
        elif model.kind == "hub":
            revision = identity.get("revision") or model.revision
            source = model.location + (f"@{revision}" if revision else "")
        elif model.kind == "random" and _is_file(model):
            source = RANDOM_PREFIX + self._file("model", model.location, None)
        given = {
            "trust_remote_code": model.trust_remote_code or None,
            "device_map": model.device_map,
            "original": model.original and self.plain(model.original),
        }
        return {"source": source, "name": name} | {k: v for k, v in given.items() if v is not None}

    def precision(self, held: PrecisionRef) -> dict[str, Any] | str:
        """A precision with all its options, under its own label."""
        table = precisions()
        known = table[held.name].options if held.name in table else None
        options = self.options(held.options, known)
        if not options and held.label == held.name:
            return held.name
        return {held.name: options or None, "name": held.label}

    def method(self, tuning: TuningRef) -> dict[str, Any]:
        """The entry of an arm: the label that it is called by is made of its parts again."""
        table = methods()
        known = table[tuning.method].options if tuning.method in table else None
        options = self.options(tuning.options, known)
        name, swept = tuning.arm, list[str]()
        for option in reversed(options):
            end = slugify("-".join(["", *shown_options({option: options[option]})]))
            if name.endswith(f"-{end}"):
                name = name.removesuffix(f"-{end}")
                swept.insert(0, option)
        if self._rehearsal:
            name, swept = self._before_shortened(name, options, swept)
        held = tuning.precision.label
        name = name.removesuffix(f"-{held}") or name
        return {
            "method": tuning.method,
            "precision": [self.precision(tuning.precision)],
            "name": name,
            **{option: one for option, one in options.items() if option not in swept},
            **{option: [options[option]] for option in swept},
        }

    def _before_shortened(
        self, name: str, options: dict[str, Any], swept: list[str]
    ) -> tuple[str, list[str]]:
        """The name without values that a rehearsal shortened, which the options then have."""
        while (found := _SWEPT.fullmatch(name)) is not None and found["option"] in options:
            name = found["rest"]
            options[found["option"]] = json.loads(found["value"])
            swept = [found["option"], *swept]
        return name, swept

    def options(self, given: Mapping[str, Any], known: type[Frozen] | None) -> dict[str, Any]:
        """Options as a suite writes them: all but those that are not given by default either."""
        fields = {} if known is None else known.model_fields
        by_written = {one.alias or name: one for name, one in fields.items()}
        return {
            name: self.written("text", value)
            for name, value in given.items()
            if value is not None or (name in by_written and by_written[name].default is not None)
        }

    def data(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """What is tuned on, with its splits."""
        options = dict(data["options"])
        if data.get("kind") == "file":
            options["dataset"] = self._file("data", data["location"], data.get("fingerprint"))
        return {name: value for name, value in options.items() if value is not None}

    def written(self, what: str, value: Any) -> Any:
        """A parameter as a suite writes it: a text by its name, what is a file by its place."""
        if isinstance(value, list | tuple):
            return [self.written(what, one) for one in value]
        if isinstance(value, str) and what in _CODE and Path(value).is_absolute():
            return self._file(what, value, None)
        if not isinstance(value, dict) or "fingerprint" not in value:
            return value
        source = str(value.get("source", ""))
        if value.get("kind") == "inline":
            return list(value["inline"])
        if source.startswith(PREFIX) or source in DATASETS:
            return source
        return self._file(what, value.get("location") or source, value["fingerprint"])

    def _file(self, what: str, location: str, fingerprint: object) -> str:
        """Where the suite looks for a file: where it is, or among what must be supplied."""
        path = Path(location)
        if what in _CODE:
            self.code.append(f"{what} of {path.name}")
        if path.is_absolute() and path.exists():
            return location
        place = f"./{SUPPLIED}/{path.name}"
        known = None if fingerprint is None else str(fingerprint)
        self.supplied[place] = Supplied(what, place, location, known)
        return place


def _is_file(model: ModelRef) -> bool:
    """Whether the configuration of random weights is read from a folder of somebody's own."""
    own = model.source.removeprefix(RANDOM_PREFIX)
    return Path(model.location).is_absolute() and not own.startswith(PREFIX)
