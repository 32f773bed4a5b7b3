"""The other way round: suites that ask again for what records hold.

A record holds its cell and its item with every option. What a suite says once, such as the text of
quality or the options behind a label, is a fact, which all records of one suite share; records that
do not share it were taken by two suites of one name, or before and after the suite was edited, and
make two again. What a suite has a list of, such as the lengths of a grid, is put together.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

from qbench.core.errors import StoreError
from qbench.core.options import shown_options
from qbench.core.reading import InvalidValueError
from qbench.core.spec import PrecisionRef, slugify
from qbench.core.untrusted import in_one_line
from qbench.finetune import methods
from qbench.measures import asked_for
from qbench.measures.sensitivity.options import SENSITIVITY
from qbench.plan.items import MERGED
from qbench.plan.rehearsal import SUFFIX
from qbench.plan.suite.restated import SUPPLIED, Restated, Supplied
from qbench.precisions import is_quantized, precisions, with_defaults
from qbench.precisions.mixed.members import format_of
from qbench.precisions.mixed.sought import is_sought
from qbench.precisions.names import own_name
from qbench.sources.bundled import PREFIX
from qbench.sources.data.texts import DATASETS
from qbench.sources.models.random_models import RANDOM_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from qbench.core.record import Record
    from qbench.core.spec import Cell, Frozen, ModelRef, TuningRef
    from qbench.plan.suite.restated import Fact
    from qbench.precisions.mixed.options import Entry

_BESIDE_QAT = ("quantized", "fake-quantized")
"""Deployments that a suite has without asking, after QAT."""
_CODE = ("tasks", "metric")
"""Files of these may hold Python."""
_SWEPT = re.compile(r"(?P<rest>.+)-(?P<option>[a-z_]+)=(?P<value>[0-9.]+)")


def restate(records: Iterable[Record], known: Mapping[str, Record]) -> list[Restated]:
    """Suites that ask for all of the records, which are of one suite and device: mostly one.

    `known` are all records that there are by their keys, among them those that these depend on: the
    reference, the training of a tuned model, the sensitivities of a mix that was found. Raises
    `StoreError` for a record of what this qbench does not know.
    """
    made: list[Restated] = []
    others = _Known(known)
    for record in records:
        try:
            found = _Told(record, others)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            why = in_one_line(f"{type(error).__name__}: {error}")
            raise StoreError(
                f"record {record.key}: this qbench does not know what was asked for ({why}); take"
                f" the qbench that took it, {in_one_line(record.environment.qbench)}"
            ) from error
        fitting = (one for one in made if found.fits(one))
        one = next(fitting, None)
        if one is None:
            one = Restated(record.suite, rehearsal=bool(record.rehearsal))
            made.append(one)
        found.add_to(one)
    return made


def needed_keys(record: Record) -> list[str]:
    """Keys of the records that it depends on, by its identity."""
    names = ("reference", "tuning", "sensitivities")
    return [key for name in names if isinstance(key := record.identity.get(name), str)]


class _Known:
    """All records that there are, found by what others need of them."""

    def __init__(self, by_key: Mapping[str, Record]) -> None:
        self.by_key = by_key
        self.references: dict[str, Record] = {}
        """Of a model by its name, as the next."""
        self.tables: dict[str, Record] = {}
        """Sensitivities."""
        self.trainings: dict[tuple[str, str], Record] = {}
        """By the names of the model and of the tuning."""
        self.models: dict[str, ModelRef] = {}
        self.precisions: dict[str, PrecisionRef] = {}
        """By their labels."""
        for one in by_key.values():
            cell, name = one.cell, one.cell.model.name
            self.models.setdefault(name, cell.model)
            if cell.training is not None:
                self.trainings.setdefault((name, cell.training.label), one)
            if cell.tuning is None:
                self.precisions.setdefault(cell.precision.label, cell.precision)
            if one.reference:
                self.references.setdefault(name, one)
            if one.reference and one.item.measurement == SENSITIVITY:
                self.tables[name] = one


class _Told:
    """What one record tells of its suite."""

    def __init__(self, record: Record, known: _Known) -> None:
        self._record = record
        self._known = known
        self.facts: dict[Fact, Any] = {}
        self.lists: list[tuple[Fact, Any]] = []
        self.repeats: dict[str, int] = {}
        self.supplied: dict[str, Supplied] = {}
        self.code: list[str] = []
        self.lacking: list[str] = []
        needed = [known.by_key[key] for key in needed_keys(record) if key in known.by_key]
        self._tell_reference(needed)
        self._tell_cell(record.cell)
        self._tell_item(record)
        self._tell_training(record.cell, needed)
        self._tell_table(record.cell, needed)

    def fits(self, suite: Restated) -> bool:
        """Whether one suite may say this beside what it says already."""
        if suite.rehearsal != bool(self._record.rehearsal):
            return False
        return all(suite.facts.get(name, value) == value for name, value in self.facts.items())

    def add_to(self, suite: Restated) -> None:
        """Has the suite say it too."""
        suite.records.append(self._record)
        suite.facts |= self.facts
        suite.supplied |= self.supplied
        suite.code |= dict.fromkeys(self.code)
        suite.lacking |= dict.fromkeys(self.lacking)
        for name, value in self.lists:
            values = suite.lists.setdefault(name, [])
            if value not in values:
                values.append(value)
        for measurement, count in self.repeats.items():
            suite.repeats[measurement] = max(count, suite.repeats.get(measurement, 0))

    def _tell_reference(self, needed: Sequence[Record]) -> None:
        record = self._record
        label = record.item.held_against
        if record.reference:
            label = record.cell.label
        other = self._known.references.get(record.cell.model.name)
        found = next((one for one in needed if one.reference), other)
        if label in (None, MERGED):
            label = None if found is None else found.cell.label
        if label is None:
            return
        held = self._known.precisions.get(label)
        if found is not None and found.cell.label == label:
            held = found.cell.precision
        if record.reference:
            held = record.cell.precision
        if held is None and own_name(label) is not None:
            held = with_defaults(str(own_name(label))).model_copy(update={"label": label})
        if held is not None:
            self.facts["reference",] = label
            self.facts["precision", label] = self._precision(held)

    def _tell_training(self, cell: Cell, needed: Sequence[Record]) -> None:
        """What a tuned model was tuned on."""
        if cell.tuning is None:
            return
        other = self._known.trainings.get((cell.model.name, cell.tuning.label))
        training = next((one for one in needed if one.cell.is_training), other)
        if training is not None:
            self._tell_item(training)
        if ("data",) not in self.facts:
            self.lacking.append(
                "what was tuned on is not told by these records: the suite takes its default; give"
                " the folder of results that has the trainings' own records"
            )

    def _tell_table(self, cell: Cell, needed: Sequence[Record]) -> None:
        """What a mix of a budget was found from."""
        if cell.tuning is not None or not is_sought(cell.precision):
            return
        other = self._known.tables.get(cell.model.name)
        table = next((one for one in needed if one.item.measurement == SENSITIVITY), other)
        if table is not None:
            self._tell_item(table)
        else:
            self.lacking.append(
                "what mixes were found from is not among these records: the suite measures"
                " sensitivities with its defaults"
            )

    def _tell_cell(self, cell: Cell) -> None:
        self._tell_model(cell.model)
        tuning = cell.tuning
        if tuning is None:
            self.facts["precision", cell.precision.label] = self._precision(cell.precision)
            if cell.kv_cache is not None:
                self.lists.append((("kv_cache",), cell.kv_cache))
            return
        self.facts["tuning", tuning.arm] = self._method(tuning)
        self.facts["seeded",] = tuning.label != tuning.arm
        self.lists.append((("seed",), tuning.seed))
        if ("reference",) not in self.facts:
            # A suite measures the models as they are too, which are not selected.
            held = tuning.precision
            self.facts["precision", held.label] = self._precision(held)
        if cell.deploy is None:
            return
        if cell.deploy not in _BESIDE_QAT or not is_quantized(tuning.precision):
            self.lists.append((("deploy",), cell.deploy))
        if cell.deploy == "quantized" and not is_quantized(tuning.precision):
            self.facts["quantize", cell.precision.label] = self._precision(cell.precision)
        if self._record.item.params.get("against") == MERGED:
            self.lists.append((("deploy",), MERGED))
            if self._record.item.against_reference and self._record.item.states_key is None:
                # The suite dropped what it would have been compared with.
                self.lists.append((("exclude",), {"finetune": f"{tuning.label}--{MERGED}"}))

    def _tell_model(self, model: ModelRef) -> None:
        name = self._plain(model.name)
        self.facts["model", name] = self._model(model, name)
        original = self._known.models.get(model.original or "")
        if original is not None:
            name = self._plain(original.name)
            self.facts["model", name] = self._model(original, name)

    def _plain(self, name: str) -> str:
        """A rehearsal's name of a model as its suite has it."""
        return name.removesuffix(SUFFIX) if self._record.rehearsal else name

    def _model(self, model: ModelRef, name: str) -> dict[str, Any]:
        identity = self._record.identity.get("model")
        identity = identity if isinstance(identity, dict) else {}
        own = model == self._record.cell.model
        source = model.source
        if model.kind == "folder":
            fingerprint = identity.get("fingerprint") if own else None
            source = self._file("model", model.location, fingerprint)
        elif model.kind == "hub":
            revision = (identity.get("revision") if own else None) or model.revision
            source = model.location + (f"@{revision}" if revision else "")
        elif model.kind == "random" and _is_file(model):
            source = RANDOM_PREFIX + self._file("model", model.location, None)
        given = {
            "trust_remote_code": model.trust_remote_code or None,
            "device_map": model.device_map,
            "original": model.original and self._plain(model.original),
        }
        return {"source": source, "name": name} | {k: v for k, v in given.items() if v is not None}

    def _precision(self, held: PrecisionRef) -> dict[str, Any] | str:
        table = precisions()
        known = table[held.name].options if held.name in table else None
        options = self._options(held.options, known)
        if not options and held.label == held.name:
            return held.name
        return {held.name: options or None, "name": held.label}

    def _method(self, tuning: TuningRef) -> dict[str, Any]:
        """The entry of an arm: the label that it is called by is made of its parts again."""
        table = methods()
        known = table[tuning.method].options if tuning.method in table else None
        options = self._options(tuning.options, known)
        name, swept = tuning.arm, list[str]()
        for option in reversed(options):
            end = slugify("-".join(["", *shown_options({option: options[option]})]))
            if name.endswith(f"-{end}"):
                name = name.removesuffix(f"-{end}")
                swept.insert(0, option)
        if self._record.rehearsal:
            name, swept = self._before_shortened(name, options, swept)
        held = tuning.precision.label
        name = name.removesuffix(f"-{held}") or name
        return {
            "method": tuning.method,
            "precision": [self._precision(tuning.precision)],
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

    def _options(self, given: Mapping[str, Any], known: type[Frozen] | None) -> dict[str, Any]:
        """Options as a suite writes them: all but those that are not given by default either."""
        fields = {} if known is None else known.model_fields
        by_written = {one.alias or name: one for name, one in fields.items()}
        return {
            name: self._written("text", value)
            for name, value in given.items()
            if value is not None or (name in by_written and by_written[name].default is not None)
        }

    def _tell_item(self, record: Record) -> None:
        item = record.item
        data = item.params.get("data")
        if isinstance(data, dict) and "options" in data:
            self.facts["data",] = self._data(data)
        if item.measurement not in asked_for():
            return
        measurement = asked_for()[item.measurement]
        fields = measurement.options.model_fields
        self.repeats[item.measurement] = item.repeat + 1
        for name, value in measurement.asked_as(item.params).items():
            place = ("measure", item.measurement, name)
            if item.measurement == SENSITIVITY and name == "formats":
                self.facts[place] = self._formats(item.params)
                continue
            what = {"servers": "server", "include": "tasks", "scores": "metric"}.get(name, name)
            written = self._written(what, value)
            several = name in fields and _takes_several(fields[name].annotation)
            if several and written is not None and not isinstance(value, list | tuple):
                self.lists.append((place, written))
                self.facts["given", *place] = True
            elif several and written is None:
                self.facts["given", *place] = False
            else:
                self.facts[place] = written

    def _formats(self, params: Mapping[str, Any]) -> list[Any]:
        """What single layers were held in: by names with options, or by labels of the suite's."""
        made: list[Any] = []
        for one in params["formats"]:
            ref = PrecisionRef.model_validate(one)
            entry: Entry = {ref.name: self._options(ref.options, None)}
            try:
                label = format_of(entry, params["rest"]).label
            except InvalidValueError:
                label = ""
            if label == ref.label:
                made.append(entry)
                continue
            made.append(ref.label)
            named = self._known.precisions.get(ref.label, ref)
            self.facts["precision", ref.label] = self._precision(named)
        return made

    def _data(self, data: Mapping[str, Any]) -> dict[str, Any]:
        options = dict(data["options"])
        if data.get("kind") == "file":
            options["dataset"] = self._file("data", data["location"], data.get("fingerprint"))
        return {name: value for name, value in options.items() if value is not None}

    def _written(self, what: str, value: Any) -> Any:
        """A parameter as a suite writes it: a text by its name, what is a file by its place."""
        if isinstance(value, list | tuple):
            return [self._written(what, one) for one in value]
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


def _takes_several(annotation: Any) -> bool:
    """Whether an option is a list of values, each of which makes items of its own."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _takes_several(get_args(annotation)[0])
    if origin in (Union, UnionType):
        parts = [one for one in get_args(annotation) if one is not NoneType]
        return all(map(_takes_several, parts))
    return origin is tuple


def _is_file(model: ModelRef) -> bool:
    """Whether the configuration of random weights is read from a folder of somebody's own."""
    own = model.source.removeprefix(RANDOM_PREFIX)
    return Path(model.location).is_absolute() and not own.startswith(PREFIX)
