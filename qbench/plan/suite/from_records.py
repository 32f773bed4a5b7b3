"""The other way round: suites that ask again for what records hold.

A record holds its cell and its item with every option. What a suite says once, such as the text of
quality or the options behind a label, is a fact, which all records of one suite share; records that
do not share it were taken by two suites of one name, or before and after the suite was edited, and
make two again. What a suite has a list of, such as the lengths of a grid, is put together.
"""

from __future__ import annotations

from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

from qbench.core.errors import StoreError
from qbench.core.reading import InvalidValueError
from qbench.core.spec import PrecisionRef
from qbench.core.unchecked import as_mapping
from qbench.core.untrusted import in_one_line
from qbench.measures import asked_for
from qbench.measures.sensitivity.options import SENSITIVITY
from qbench.plan.items import MERGED
from qbench.plan.suite.entries import Entries
from qbench.plan.suite.restated import Restated
from qbench.precisions import is_quantized, with_defaults
from qbench.precisions.mixed.members import format_of
from qbench.precisions.mixed.sought import is_sought
from qbench.precisions.names import own_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from qbench.core.record import Record
    from qbench.core.spec import Cell
    from qbench.plan.suite.restated import Fact
    from qbench.precisions.mixed.options import Entry

_BESIDE_QAT = ("quantized", "fake-quantized")
"""Deployments that a suite has without asking, after QAT."""


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
        self.models: dict[str, Record] = {}
        """Any record of a model, by the model's name."""
        self.precisions: dict[str, PrecisionRef] = {}
        """By their labels."""
        for one in by_key.values():
            cell, name = one.cell, one.cell.model.name
            self.models.setdefault(name, one)
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
        self._entries = Entries(rehearsal=bool(record.rehearsal))
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
        suite.supplied |= self._entries.supplied
        suite.code |= dict.fromkeys(self._entries.code)
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
            self.facts["precision", label] = self._entries.precision(held)

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
        self._tell_model(self._record)
        tuning = cell.tuning
        if tuning is None:
            self.facts["precision", cell.precision.label] = self._entries.precision(cell.precision)
            if cell.kv_cache is not None:
                self.lists.append((("kv_cache",), cell.kv_cache))
            return
        self.facts["tuning", tuning.arm] = self._entries.method(tuning)
        self.facts["seeded",] = tuning.label != tuning.arm
        self.lists.append((("seed",), tuning.seed))
        if ("reference",) not in self.facts:
            # A suite measures the models as they are too, which are not selected.
            held = tuning.precision
            self.facts["precision", held.label] = self._entries.precision(held)
        if cell.deploy is None:
            return
        if cell.deploy not in _BESIDE_QAT or not is_quantized(tuning.precision):
            self.lists.append((("deploy",), cell.deploy))
        if cell.deploy == "quantized" and not is_quantized(tuning.precision):
            self.facts["quantize", cell.precision.label] = self._entries.precision(cell.precision)
        if self._record.item.params.get("against") == MERGED:
            self.lists.append((("deploy",), MERGED))
            if self._record.item.against_reference and self._record.item.states_key is None:
                # The suite dropped what it would have been compared with.
                self.lists.append((("exclude",), {"finetune": f"{tuning.label}--{MERGED}"}))

    def _tell_model(self, record: Record) -> None:
        model = record.cell.model
        identity = as_mapping(record.identity.get("model"))
        self.facts["model", model.name] = self._entries.model(model, identity)
        original = self._known.models.get(model.original or "")
        if original is not None and ("model", original.cell.model.name) not in self.facts:
            self._tell_model(original)

    def _tell_item(self, record: Record) -> None:
        item = record.item
        data = item.params.get("data")
        if isinstance(data, dict) and "options" in data:
            self.facts["data",] = self._entries.data(data)
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
            written = self._entries.written(what, value)
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
            entry: Entry = {ref.name: self._entries.options(ref.options, None)}
            try:
                label = format_of(entry, params["rest"]).label
            except InvalidValueError:
                label = ""
            if label == ref.label:
                made.append(entry)
                continue
            made.append(ref.label)
            named = self._known.precisions.get(ref.label, ref)
            self.facts["precision", ref.label] = self._entries.precision(named)
        return made


def _takes_several(annotation: Any) -> bool:
    """Whether an option is a list of values, each of which makes items of its own."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _takes_several(get_args(annotation)[0])
    if origin in (Union, UnionType):
        parts = [one for one in get_args(annotation) if one is not NoneType]
        return all(map(_takes_several, parts))
    return origin is tuple
