"""What the user asked for: a suite's YAML file as one frozen value, or all its problems."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, SerializeAsAny, ValidationError

from qbench.compare.gate.rules import GateRule, rules_of
from qbench.compare.recommend.budget import Budget
from qbench.core.errors import Problem, SuiteError, UsageError
from qbench.core.names import did_you_mean
from qbench.core.spec import LONGEST_NAME, Cell, Frozen, ModelRef, PrecisionRef, slugify
from qbench.plan.suite.aliases import by_own_names
from qbench.plan.suite.errors import note_errors
from qbench.plan.suite.file import DEFAULT_TIMEOUT_S, SuiteFile
from qbench.plan.suite.finetune import FineTuning, make_finetune
from qbench.plan.suite.parts import (
    check_count,
    default_precisions,
    make_measures,
    make_models,
    make_precisions,
    make_reference,
)
from qbench.plan.suite.problems import Problems, leave_out
from qbench.plan.suite.schema import told_schema
from qbench.plan.suite.selectors import Selector, check_selection, selected
from qbench.plan.suite.yaml_lines import read_yaml

if TYPE_CHECKING:
    from collections.abc import Sequence

LARGEST_FILE_BYTES = 1_000_000
"""A suite is written by hand; a file beyond this is something else."""


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
    rehearsal: tuple[str, ...] = ()
    """What replaces what and is shortened, where this is a rehearsal of the file's suite."""
    lines: dict[str, int | str] = Field(default_factory=dict, exclude=True, repr=False)
    """Line of each key and list entry of the file, by its dotted path; or where else it is from."""

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
            if not any(fnmatchcase(name, pattern) for group in names.values() for name in group):
                labels = list(dict.fromkeys(cell.label for cell in cells))
                hint = did_you_mean(pattern, [*labels, *names]) or f"there are {', '.join(names)}"
                raise UsageError(f"--only {pattern!r}: matches no cell of {self.file}; {hint}")
        return tuple(
            cell
            for cell in cells
            if not patterns
            or any(fnmatchcase(name, p) for name in names[cell.slug] for p in patterns)
        )

    def cells(self) -> tuple[Cell, ...]:
        """The cells to measure: model by model, the reference first, then in the suite's order."""
        every = _every_cell(self.models, self.precisions, self.reference, self.finetune)
        return selected(every, self.include, self.exclude)


def load_suite(path: Path) -> Suite:
    """Reads and validates a suite's file; raises `SuiteError` with all its problems."""
    text = _read_text(path)
    return load_suite_text(text, str(path), path.resolve().parent)


def load_suite_text(text: str, file: str, base: Path) -> Suite:
    """Validates a suite's text; raises `SuiteError` with all its problems.

    `file` names it in messages and, by its stem, the suite; relative paths start at `base`.
    """
    top, of_yaml = read_yaml(text, file)
    if top is not None:
        top, of_yaml = by_own_names(top, file, of_yaml)
    problems = Problems(file, top, of_yaml)
    if top is None:
        if not of_yaml:
            found = "nothing but comments" if text.strip() else "an empty file"
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
    suite = _make_suite(problems, read, file, base, top.lines())
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
    finetune = make_finetune(problems, read.finetune) if read.finetune else None
    count = len(models) * (len(precisions) + (finetune.count if finetune else 0))
    if check_count(problems, count) and whole and reference in labels:
        cells = _every_cell(models, precisions, reference, finetune)
        check_selection(problems, cells, read.include, read.exclude, reference)
    return Suite(
        name=read.name or slugify(slugify(Path(file).stem)[:LONGEST_NAME]),
        file=file,
        base=base,
        models=models,
        precisions=precisions,
        reference=reference,
        finetune=finetune,
        measure=make_measures(problems, read.measure),
        include=read.include,
        exclude=read.exclude,
        timeout_s=read.timeout_s,
        trust_code=read.trust_code,
        gate=rules_of(read.gate),
        recommend=read.recommend.budget if read.recommend else None,
        lines=lines,
    )


def _every_cell(
    models: tuple[ModelRef, ...],
    precisions: tuple[PrecisionRef, ...],
    reference: str,
    finetune: FineTuning | None,
) -> tuple[Cell, ...]:
    """Model by model: as it is, the reference first; then each training with what it serves."""
    ordered = sorted(precisions, key=lambda precision: precision.label != reference)
    return tuple(
        cell
        for model in models
        for cell in (
            *(Cell(model=model, precision=precision) for precision in ordered),
            *(finetune.cells(model) if finetune else ()),
        )
    )


def _read_text(path: Path) -> str:
    """The file's text; raises `SuiteError` when it cannot be read."""
    remedy = None
    try:
        if path.is_dir():
            remedy = _suites_in(path)
            found, expected = "a folder", "a suite's YAML file"
        elif not path.exists():
            found, expected = "no such file", "a suite's YAML file"
            near = [str(path.parent / name) for name in _yaml_names(path.parent)]
            remedy = did_you_mean(str(path), near) or "`qbench init` writes a suite to start from"
        elif not path.is_file():
            found, expected = "something that is no regular file", "a suite's YAML file"
        elif path.stat().st_size > LARGEST_FILE_BYTES:
            found = f"{path.stat().st_size} bytes"
            expected = f"a suite's YAML file of at most {LARGEST_FILE_BYTES} bytes"
        else:
            return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        found = f"a byte that is not UTF-8 (0x{error.object[error.start]:02x})"
        problem = Problem("", found, "UTF-8 text", "save the file as UTF-8", str(path), line)
        raise SuiteError([problem]) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        reason = error.strerror if isinstance(error, OSError) else error
        found, expected = f"a file that cannot be read ({reason})", "a suite's YAML file"
        remedy = "check its permissions and the path"
    raise SuiteError([Problem("", found, expected, remedy, str(path))])


def _yaml_names(folder: Path) -> list[str]:
    """Names of the YAML files of a folder; none if it cannot be read."""
    if not folder.is_dir():
        return []
    return sorted(p.name for p in folder.iterdir() if p.suffix in {".yaml", ".yml"})


def _suites_in(folder: Path) -> str | None:
    names = _yaml_names(folder)
    return f"name one of its files: {', '.join(names)}" if names else None
