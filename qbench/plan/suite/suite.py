"""What the user asked for: a suite's YAML file as one frozen value, or all its problems."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field, SerializeAsAny

from qbench.compare.gate.rules import GateRule, parse_rules
from qbench.core.errors import Problem, SuiteError, UsageError
from qbench.core.names import nearest
from qbench.core.spec import LONGEST_NAME, Cell, Frozen, ModelRef, PrecisionRef, slugify
from qbench.plan.suite.finetune import FineTuning, read_finetune
from qbench.plan.suite.options import owners
from qbench.plan.suite.parts import (
    MAX_CELLS,
    default_measures,
    default_precisions,
    read_measures,
    read_models,
    read_name,
    read_precisions,
    read_reference,
    read_seconds,
    read_switch,
)
from qbench.plan.suite.problems import Findings
from qbench.plan.suite.selectors import Selector, check_selection, read_selectors, selected
from qbench.plan.suite.yaml_lines import Node, read_yaml

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_TIMEOUT_S = 3600.0
"""Seconds one process of a cell may take."""
LARGEST_FILE_BYTES = 1_000_000
"""A suite is written by hand; a file beyond this is something else."""
KEYS = (
    "name",
    "models",
    "precisions",
    "reference",
    "finetune",
    "measure",
    "include",
    "exclude",
    "gate",
    "timeout_s",
    "trust_code",
)
"""The keys of a suite's file."""


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
    """Margins that `qbench gate` holds the results against."""
    rehearsal: tuple[str, ...] = ()
    """What stands in for what and is shortened, where this is a rehearsal of the file's suite."""
    lines: dict[str, int] = Field(default_factory=dict, exclude=True, repr=False)
    """Line of each key and list entry of the file, by its dotted path."""

    def problem(
        self, path: str, found: str, expected: str | None = None, remedy: str | None = None
    ) -> Problem:
        """Something about this file that shows only later; the line is the nearest key's."""
        at = path
        while at and at not in self.lines:
            at = re.sub(r"(?:^|\.|\[)[^.\[]*$", "", at)  # without its last key or index
        return Problem(self.file, path, found, expected, self.lines.get(at), remedy)

    def select(self, patterns: Sequence[str]) -> tuple[Cell, ...]:
        """The cells whose slug, precision's label or name match a pattern; all for no patterns.

        Raises `UsageError` for a pattern that matches none.
        """
        cells = self.cells()
        names = {cell.slug: cell.names for cell in cells}
        for pattern in patterns:
            if not any(fnmatchcase(name, pattern) for group in names.values() for name in group):
                labels = list(dict.fromkeys(cell.label for cell in cells))
                hint = nearest(pattern, [*labels, *names]) or f"there are {', '.join(names)}"
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
    from qbench.measures import asked_for
    from qbench.precisions import precisions

    top, problems = read_yaml(text, file)
    findings = Findings(file, problems)
    entries = _top_entries(findings, top, text)
    if top is None or entries is None:
        raise SuiteError(findings.sorted())

    before = len(findings)
    models: tuple[ModelRef, ...] = ()
    if "models" in entries:
        models = read_models(findings, entries["models"], base)
    else:
        remedy = "add `models: [bundled:tiny-mistral]`, for one"
        findings.add(top, "the key `models`", found="a suite without models", remedy=remedy)
    chosen = default_precisions(precisions())
    if "precisions" in entries:
        chosen = read_precisions(findings, entries["precisions"], precisions())
    unread = any(problem.path.startswith(("models", "precisions")) for problem in problems)
    whole = len(findings) == before and not unread
    reference = read_reference(findings, entries.get("reference"), chosen, complete=whole)
    measure = default_measures(asked_for())
    if "measure" in entries:
        measure = read_measures(findings, entries["measure"], asked_for())
    finetune = read_finetune(findings, entries.get("finetune"))
    include = read_selectors(findings, entries.get("include"))
    exclude = read_selectors(findings, entries.get("exclude"))
    countable = _check_count(findings, top, models, chosen, finetune)
    if countable and whole and any(precision.label == reference for precision in chosen):
        cells = _every_cell(models, chosen, reference, finetune)
        check_selection(findings, cells, include, exclude, reference)
    name = slugify(slugify(Path(file).stem)[:LONGEST_NAME])
    if "name" in entries:
        name = read_name(findings, entries["name"]) or name
    timeout_s: float | None = DEFAULT_TIMEOUT_S
    if "timeout_s" in entries:
        timeout_s = read_seconds(findings, entries["timeout_s"])
    trust_code = "trust_code" in entries and read_switch(findings, entries["trust_code"])

    rules: tuple[GateRule, ...] = ()
    if "gate" in entries:
        rules = _read_gate(findings, entries["gate"])

    suite = Suite(
        name=name,
        file=file,
        base=base,
        models=models,
        precisions=chosen,
        reference=reference,
        finetune=finetune,
        measure=measure,
        include=tuple(selector for selector, _ in include),
        exclude=tuple(selector for selector, _ in exclude),
        timeout_s=timeout_s or DEFAULT_TIMEOUT_S,
        trust_code=trust_code,
        gate=rules,
        lines=top.lines(),
    )
    if len(findings) or timeout_s is None:
        raise SuiteError(findings.sorted(), readable=suite)
    return suite


def _check_count(
    findings: Findings,
    top: Node,
    models: tuple[ModelRef, ...],
    precisions: tuple[PrecisionRef, ...],
    finetune: FineTuning | None,
) -> bool:
    """Notes a suite of too many cells, before any of them is made."""
    count = len(models) * (len(precisions) + (finetune.count if finetune else 0))
    if count > MAX_CELLS:
        remedy = "shorten the lists, or write several suites"
        findings.add(top, f"at most {MAX_CELLS}", found=f"{count} cells", remedy=remedy)
    return count <= MAX_CELLS


def _read_gate(findings: Findings, node: Node) -> tuple[GateRule, ...]:
    """The rules of a gate, each problem at the place it stands in."""
    rules, wrong = parse_rules(node.plain())
    for problem in wrong:
        at = node
        for key in problem.keys:
            at = at.child(key) or at
        findings.add(at, problem.expected, found=problem.found, remedy=problem.remedy)
    return tuple(rules)


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


def _top_entries(findings: Findings, top: Node | None, text: str) -> dict[str, Node] | None:
    """The suite's keys, unknown ones noted; None where there is no suite at all."""
    from qbench.measures import asked_for

    if top is None:
        if not len(findings):
            place = Node(None, "", 1, 1)
            found = "nothing but comments" if text.strip() else "an empty file"
            remedy = "`qbench init` writes a suite to start from"
            findings.add(place, "a suite with its `models`", found=found, remedy=remedy)
        return None
    if not isinstance(top.value, dict):
        remedy = "write `models:` and the models under it, each with a dash"
        findings.add(top, f"keys with values: {', '.join(KEYS)}", remedy=remedy)
        return None
    for key, child in top.value.items():
        if key in KEYS:
            continue
        hint = None
        if key in asked_for():
            hint = f"'{key}' is a measurement: put it under `measure`"
        elif homes := owners(key, asked_for()):
            hint = f"'{key}' is an option of {', '.join(homes)}: put it there, under `measure`"
        findings.add_unknown(child, "key", key, KEYS, hint)
    return top.value


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
            remedy = nearest(str(path), near) or "`qbench init` writes a suite to start from"
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
        problem = Problem(str(path), "", found, "UTF-8 text", line, "save the file as UTF-8")
        raise SuiteError([problem]) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        reason = error.strerror if isinstance(error, OSError) else error
        found, expected = f"a file that cannot be read ({reason})", "a suite's YAML file"
        remedy = "check its permissions and the path"
    raise SuiteError([Problem(str(path), "", found, expected, remedy=remedy)])


def _yaml_names(folder: Path) -> list[str]:
    """Names of the YAML files of a folder; none if it cannot be read."""
    if not folder.is_dir():
        return []
    return sorted(p.name for p in folder.iterdir() if p.suffix in {".yaml", ".yml"})


def _suites_in(folder: Path) -> str | None:
    names = _yaml_names(folder)
    return f"name one of its files: {', '.join(names)}" if names else None
