"""What the user asked for: a suite's YAML file as one frozen value, or all its problems."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, SerializeAsAny, ValidationError

from qbench.compare.co2 import Co2
from qbench.compare.gate.rules import GateRule, rules_of
from qbench.compare.price import Price
from qbench.compare.recommend.budget import Budget
from qbench.compare.recommend.section import NEEDS_PRICE
from qbench.compare.stated import Stated
from qbench.core.errors import Problem, SuiteError, UsageError
from qbench.core.record_files import BASELINES
from qbench.core.spec import LONGEST_NAME, Cell, Frozen, ModelRef, PrecisionRef, slugify
from qbench.core.store import REHEARSALS
from qbench.measures.field_names import metric_called
from qbench.plan.suite.cluster import ClusterSection
from qbench.plan.suite.errors import note_errors
from qbench.plan.suite.file import DEFAULT_TIMEOUT_S, SuiteFile
from qbench.plan.suite.finetune import FineTuning, make_finetune
from qbench.plan.suite.parts import (
    check_count,
    default_precisions,
    make_caches,
    make_measures,
    make_models,
    make_precisions,
    make_reference,
    with_what_mixes_need,
)
from qbench.plan.suite.problems import Problems, leave_out
from qbench.plan.suite.schema import told_schema
from qbench.plan.suite.selectors import Selector, check_selection, selected
from qbench.plan.suite.written import read_file, read_text
from qbench.precisions.names import nearest_words, picks

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from qbench.plan.suite.settings import Setting
    from qbench.plan.suite.written import Written

_OWN_FOLDERS = (BASELINES, REHEARSALS)
"""Folders below the results that are no suite's."""


class Suite(Frozen):
    """A validated suite: which models, in which precisions, measured how."""

    name: str
    """Folder name under `results/`; the file's stem unless given."""
    file: str
    """Path of the file as it was given."""
    base: Path
    """Absolute folder of the file, where relative paths in it start."""
    models: tuple[ModelRef, ...]
    precisions: tuple[PrecisionRef, ...]
    reference: str
    """Label of the precision that the others are compared with."""
    kv_cache: tuple[str, ...] = ()
    """Kinds of quantized KV cache that each precision is also measured with."""
    finetune: FineTuning | None = None
    """What is tuned and served, beside the models as they are; nothing where it is None."""
    measure: dict[str, SerializeAsAny[Frozen]]
    """Options by the name of the measurement, in the order they are taken."""
    include: tuple[Selector, ...] = ()
    """Only cells that match one of these; all cells where it is empty."""
    exclude: tuple[Selector, ...] = ()
    """No cell that matches one of these."""
    timeout_s: float = DEFAULT_TIMEOUT_S
    """Seconds one process of a cell may take."""
    trust_code: bool = False
    """Whether Python of its tasks and metrics runs, which did not come installed."""
    gate: tuple[GateRule, ...] = ()
    """Margins that `qbench gate` compares the results with."""
    recommend: Budget | None = None
    """What a model may cost and lose; None for the default."""
    price: Price | None = None
    """What an hour of a device costs; nothing is priced where it is None."""
    co2: Co2 | None = None
    """Grams for each kilowatt hour; none are told where it is None."""
    cluster: ClusterSection = ClusterSection()
    """What its jobs ask of a cluster."""
    rehearsal: tuple[str, ...] = ()
    """What replaces what and is shortened, where this is a rehearsal of the file's suite."""
    lines: dict[str, int | str] = Field(default_factory=dict, exclude=True, repr=False)
    """Line of each key and list entry of the file, by its dotted path; or where else it is from."""

    @property
    def stated(self) -> Stated:
        """What it says about the reading of its records."""
        return Stated(budget=self.recommend, price=self.price, co2=self.co2)

    def problem(
        self, path: str, found: str, expected: str | None = None, remedy: str | None = None
    ) -> Problem:
        """Something about this file that shows only later; the line is the nearest key's."""
        at = path
        while at and at not in self.lines:
            at = re.sub(r"(?:^|\.|\[)[^.\[]*$", "", at)  # without its last key or index
        place = self.lines.get(at)
        if isinstance(place, str):
            return Problem(path, found, expected, remedy, place)
        return Problem(path, found, expected, remedy, self.file, place)

    def select(self, patterns: Sequence[str]) -> tuple[Cell, ...]:
        """The cells whose slug, precision's label or name match a pattern; all for no patterns.

        Raises `UsageError` for a pattern that matches none.
        """
        cells = self.cells()
        names = {cell.slug: cell.names for cell in cells}
        for pattern in patterns:
            if not any(picks(pattern, group) for group in names.values()):
                labels = list(dict.fromkeys(cell.label for cell in cells))
                hint = nearest_words(pattern, [*labels, *names]) or f"there are {', '.join(names)}"
                raise UsageError(f"--only {pattern!r}: matches no cell of {self.file}; {hint}")
        return tuple(
            cell
            for cell in cells
            if not patterns or any(picks(one, names[cell.slug]) for one in patterns)
        )

    def cells(self) -> tuple[Cell, ...]:
        """The cells to measure: model by model, the reference first, then in the suite's order."""
        every = _every_cell(
            self.models, self.precisions, self.reference, self.kv_cache, self.finetune
        )
        return selected(every, self.include, self.exclude)


def load_suite(path: Path, settings: Sequence[Setting] = ()) -> Suite:
    """Reads and validates a suite's file; raises `SuiteError` with all its problems."""
    return make_suite(read_file(path).set(settings))


def load_suite_text(text: str, file: str, base: Path) -> Suite:
    """Validates a suite's text; raises `SuiteError` with all its problems.

    `file` names it in messages and, by its stem, the suite; relative paths start at `base`.
    """
    return make_suite(read_text(text, file, base))


def make_suite(what: Written) -> Suite:
    """The suite that was written; raises `SuiteError` with all its problems."""
    top, file = what.top, what.file
    problems = Problems(file, top, what.problems)
    if top is None:
        if not what.problems:
            found = "an empty file" if what.blank else "nothing but comments"
            remedy = "`qbench init` writes a suite to start from"
            problems.add((), "a suite with its `models`", found=found, remedy=remedy)
        raise SuiteError(problems.sorted())
    written = top.plain()
    if not isinstance(written, dict):
        remedy = "write `models:` and the models under it, each with a dash"
        problems.add((), f"keys with values: {', '.join(SuiteFile.model_fields)}", remedy=remedy)
        raise SuiteError(problems.sorted())
    try:
        read = SuiteFile.model_validate(written)
    except ValidationError as error:
        wrong = note_errors(problems, error, told_schema())
        problems.kept = leave_out(written, wrong)
        read = _what_is_right(written)
    suite = _make_suite(problems, read, file, what.base, top.lines())
    if len(problems):
        raise SuiteError(problems.sorted(), readable=suite)
    return suite


def _what_is_right(written: dict[str, Any]) -> SuiteFile:
    """What a file says, less the keys that still cannot be read."""
    lacking = {} if "models" in written else {"models": ["bundled:tiny-mistral"]}
    try:
        read = SuiteFile.model_validate(written | lacking)
    except ValidationError as error:
        unread = {detail["loc"][0] for detail in error.errors(include_url=False)}
        return _what_is_right({key: one for key, one in written.items() if key not in unread})
    return read.model_copy(update={"models": ()}) if lacking else read


def _make_suite(
    problems: Problems, read: SuiteFile, file: str, base: Path, lines: dict[str, int | str]
) -> Suite:
    """The suite that the file means; what is wrong with the whole of it is noted."""
    models = make_models(problems, read.models, base)
    precisions = default_precisions()
    if "precisions" in lines:
        precisions = make_precisions(problems, read.precisions, "precisions")
    whole = bool(read.models) and not problems.has("models", "precisions")
    labels = [precision.label for precision in precisions]
    reference = make_reference(problems, read.reference, labels, complete=whole)
    caches = make_caches(problems, read.kv_cache, precisions)
    finetune = make_finetune(problems, read.finetune) if read.finetune else None
    held = len(precisions) * (1 + len(caches))
    count = len(models) * (held + (finetune.count if finetune else 0))
    if check_count(problems, count) and whole and reference in labels:
        cells = _every_cell(models, precisions, reference, caches, finetune)
        check_selection(problems, cells, read.include, read.exclude, reference)
    name = read.name or slugify(slugify(Path(file).stem)[:LONGEST_NAME])
    if name in _OWN_FOLDERS:
        remedy = "the folder of that name holds something else; give it another `name`"
        problems.add(("name",), "another name", found=f"'{name}'", remedy=remedy)
    _check_metrics(problems, read.gate)
    if read.recommend and not (read.price or read.recommend.price or problems.has("price")):
        _check_price(problems, read.recommend.budget)
    return Suite(
        name=name,
        file=file,
        base=base,
        models=models,
        precisions=precisions,
        reference=reference,
        kv_cache=caches,
        finetune=finetune,
        measure=with_what_mixes_need(
            make_measures(problems, read.measure, caches=bool(caches)), precisions
        ),
        include=read.include,
        exclude=read.exclude,
        timeout_s=read.timeout_s,
        trust_code=read.trust_code,
        gate=rules_of(read.gate),
        recommend=read.recommend.budget if read.recommend else None,
        price=read.price,
        co2=read.co2,
        cluster=read.cluster or ClusterSection(),
        lines=lines,
    )


def _check_metrics(problems: Problems, rules: Iterable[str]) -> None:
    """Notes rules of the gate that name a time by its rate; other names were replaced before."""
    for name in rules:
        metric = metric_called(name)
        if metric is not None:
            problems.add(
                ("gate", name),
                "the name of a metric",
                found=f"'{name}'",
                remedy=f"write {metric}, which is the time that {name} is the rate of",
                at_key=True,
            )


def _check_price(problems: Problems, budget: Budget) -> None:
    """Notes what of a budget is about a price, where none is given."""
    for key, asked in (("minimize", budget.minimize == "price"), ("max_price", budget.max_price)):
        if asked:
            problems.add(("recommend", key), NEEDS_PRICE)


def _every_cell(
    models: tuple[ModelRef, ...],
    precisions: tuple[PrecisionRef, ...],
    reference: str,
    caches: tuple[str, ...],
    finetune: FineTuning | None,
) -> tuple[Cell, ...]:
    """Model by model: as it is, the reference first; then each training with what it serves.

    Each precision with the model's own cache comes before it with the others.
    """
    ordered = sorted(precisions, key=lambda precision: precision.label != reference)
    return tuple(
        cell
        for model in models
        for cell in (
            *(
                Cell(model=model, precision=precision, kv_cache=cache)
                for precision in ordered
                for cache in (None, *caches)
            ),
            *(finetune.cells(model) if finetune else ()),
        )
    )
