"""Selectors: patterns that pick cells of a suite, as under `include` and `exclude`."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from qbench.core.foreign import LONGEST_LINE
from qbench.core.names import nearest
from qbench.core.spec import Cell, Frozen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.plan.suite.problems import Findings
    from qbench.plan.suite.yaml_lines import Node


UNTUNED = "none"
"""The pattern that picks the cells which are not tuned; `*` picks those that are."""


class Selector(Frozen):
    """Picks the cells whose model and precision match its patterns."""

    model: str = "*"
    """Pattern for the model's name, as in file names: `*`, `?` and `[abc]`."""
    precision: str = "*"
    """Pattern for the precision's label or name, such as `nf4*`: what a cell is served in."""
    finetune: str | None = None
    """Pattern for what tuned cells are called, such as `qlora*`; `none` picks untuned cells."""

    def matches(self, cell: Cell) -> bool:
        """Whether the cell is picked."""
        if self.finetune is not None and not _is_tuned_so(cell, self.finetune):
            return False
        labels = (cell.precision.label, cell.precision.name)
        return fnmatchcase(cell.model.name, self.model) and any(
            fnmatchcase(label, self.precision) for label in labels
        )


def _is_tuned_so(cell: Cell, pattern: str) -> bool:
    if cell.tuning is None:
        return pattern == UNTUNED
    names = (cell.label, cell.tuning.label, cell.tuning.arm)
    return any(fnmatchcase(name, pattern) for name in names)


def selected(
    cells: Sequence[Cell], include: Sequence[Selector], exclude: Sequence[Selector]
) -> tuple[Cell, ...]:
    """The cells that match one of `include` (all, where it is empty) and none of `exclude`.

    What a training serves goes with it: without the training there is nothing to serve.
    """
    kept = [
        cell
        for cell in cells
        if (not include or any(selector.matches(cell) for selector in include))
        and not any(selector.matches(cell) for selector in exclude)
    ]
    trained = {(cell.model.name, _tuning_label(cell)) for cell in kept if cell.deploy is None}
    return tuple(cell for cell in kept if (cell.model.name, _tuning_label(cell)) in trained)


def _tuning_label(cell: Cell) -> str | None:
    return None if cell.tuning is None else cell.tuning.label


def read_selectors(findings: Findings, node: Node | None) -> list[tuple[Selector, Node]]:
    """The selectors of a list, each with its place."""
    if node is None:
        return []
    entries = node.value if isinstance(node.value, tuple) else (node,)
    if node.value is None or not entries:
        entries = ()
        remedy = "remove the line to keep every cell"
        findings.add(node, "at least one selector such as {precision: nf4*}", remedy=remedy)
    return [(made, entry) for entry in entries if (made := _read_selector(findings, entry))]


def check_selection(
    findings: Findings,
    cells: Sequence[Cell],
    include: Sequence[tuple[Selector, Node]],
    exclude: Sequence[tuple[Selector, Node]],
    reference: str,
) -> None:
    """Notes selectors that pick nothing, a reference that is dropped, and a suite left empty."""
    idle = [
        (selector, node)
        for selector, node in (*include, *exclude)
        if not any(selector.matches(cell) for cell in cells)
    ]
    for selector, node in idle:
        _note_no_match(findings, cells, selector, node)
    if idle:
        return  # what is left over says nothing while a pattern is misspelt
    kept = selected(cells, [s for s, _ in include], [s for s, _ in exclude])
    if not kept and cells:
        node = (*exclude, *include)[0][1]
        found = "a selection that leaves no cell"
        findings.add(node, "at least one cell to measure", found=found, remedy="select less")
        return
    for name in dict.fromkeys(cell.model.name for cell in kept):
        of_model = [cell for cell in cells if cell.model.name == name]
        dropped = next(cell for cell in of_model if cell.label == reference)
        if dropped in kept:
            continue
        culprit = next((node for selector, node in exclude if selector.matches(dropped)), None)
        node = culprit or include[0][1]
        findings.add(
            node,
            "the reference to stay, for the other cells are compared with it",
            found=f"the reference cell {name} in {reference} dropped",
            remedy="set `reference` to a precision that stays"
            if culprit
            else f"add {{precision: {reference}}} to `include`, or set another `reference`",
        )


def _read_selector(findings: Findings, node: Node) -> Selector | None:
    if not isinstance(node.value, dict) or not node.value:
        findings.add(node, "a mapping with `model`, `precision` or both, such as {precision: nf4*}")
        return None
    patterns = {}
    for key, child in node.value.items():
        if key not in Selector.model_fields:
            findings.add_unknown(child, "key of a selector", key, Selector.model_fields)
        elif isinstance(child.value, str) and 0 < len(child.value) <= LONGEST_LINE:
            patterns[key] = child.value
        else:
            remedy = "put it in quotes" if isinstance(child.value, int | float) else None
            findings.add(child, "a name or a pattern such as nf4*", remedy=remedy)
    return Selector(**patterns) if len(patterns) == len(node.value) else None


def _note_no_match(
    findings: Findings, cells: Sequence[Cell], selector: Selector, node: Node
) -> None:
    """Says which of the patterns matches nothing: one does, since every pair is a cell."""
    known = {
        "model": [cell.model.name for cell in cells],
        "precision": [cell.precision.label for cell in cells],
        "finetune": [cell.label for cell in cells if cell.tuning is not None],
    }
    for key, names in known.items():
        pattern = getattr(selector, key)
        if pattern is None:
            continue
        alone = Selector(**{key: pattern})
        if not any(alone.matches(cell) for cell in cells):
            findings.add(
                node.child(key) or node,
                f"a name or pattern of {', '.join(dict.fromkeys(names))}",
                found=f"'{pattern}', which matches no {key} of the suite",
                remedy=nearest(pattern.strip("*"), names),
            )
