"""Selectors: patterns that pick cells of a suite, as under `include` and `exclude`."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated

from pydantic import ConfigDict, model_validator

from qbench.core.names import did_you_mean
from qbench.core.reading import STRICT, InvalidValueError, NotNull, expects
from qbench.core.spec import Cell, Frozen
from qbench.core.untrusted import LONGEST_LINE
from qbench.precisions.kv_cache import OWN
from qbench.precisions.names import nearest_words, picks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.plan.suite.problems import Problems

UNTUNED = "none"
"""The pattern that picks the cells which are not tuned; `*` picks those that are."""


Pattern = Annotated[
    str, expects("a name or a pattern such as nf4*", min_length=1, max_length=LONGEST_LINE)
]


_EXPECTED = "a mapping with `model`, `precision` or both, such as {precision: nf4*}"


class Selector(Frozen):
    """Picks the cells whose model, precision and cache match its patterns."""

    model_config = STRICT | ConfigDict(
        json_schema_extra={"minProperties": 1, "errorMessage": _EXPECTED}
    )

    model: Pattern = "*"
    """Pattern for the model's name, as in file names: `*`, `?` and `[abc]`."""
    precision: Pattern = "*"
    """Pattern for the precision's label or name, such as `nf4*`: what a cell is served in."""
    finetune: Annotated[Pattern | None, NotNull()] = None
    """Pattern for what tuned cells are called, such as `qlora*`; `none` picks untuned cells."""

    kv_cache: Annotated[Pattern | None, NotNull()] = None
    """Pattern for the kind of KV cache, such as `int*`; `own` picks cells whose cache is in the
    model's own type."""

    @model_validator(mode="before")
    @classmethod
    def _not_empty(cls, value: object) -> object:
        if value == {}:
            raise InvalidValueError(_EXPECTED)
        return value

    def matches(self, cell: Cell) -> bool:
        """Whether the cell is picked."""
        if self.finetune is not None and not _is_tuned_so(cell, self.finetune):
            return False
        if self.kv_cache is not None and not fnmatchcase(cell.kv_cache or OWN, self.kv_cache):
            return False
        labels = (cell.precision.label, cell.precision.name)
        return fnmatchcase(cell.model.name, self.model) and picks(self.precision, labels)


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


def check_selection(
    problems: Problems,
    cells: Sequence[Cell],
    include: Sequence[Selector],
    exclude: Sequence[Selector],
    reference: str,
) -> None:
    """Notes selectors that pick nothing, a reference that is dropped, and a suite left empty."""
    placed = [(selector, ("include", index)) for index, selector in enumerate(include)]
    dropping = [(selector, ("exclude", index)) for index, selector in enumerate(exclude)]
    idle = [
        (selector, at)
        for selector, at in (*placed, *dropping)
        if not any(selector.matches(cell) for cell in cells)
    ]
    for selector, at in idle:
        _note_no_match(problems, cells, selector, at)
    if idle:
        return  # what is left over says nothing while a pattern is misspelt
    kept = selected(cells, [one for one, _ in placed], [one for one, _ in dropping])
    if not kept and cells:
        _, at = (*dropping, *placed)[0]
        found = "a selection that leaves no cell"
        problems.add(at, "at least one cell to measure", found=found, remedy="select less")
        return
    for name in dict.fromkeys(cell.model.name for cell in kept):
        of_model = [cell for cell in cells if cell.model.name == name]
        dropped = next(cell for cell in of_model if cell.label == reference)
        if dropped in kept or dropped.model.original is not None:  # compared with another model's
            continue
        culprit = next((at for selector, at in dropping if selector.matches(dropped)), None)
        problems.add(
            culprit or placed[0][1],
            "the reference to stay, for the other cells are compared with it",
            found=f"the reference cell {name} in {reference} dropped",
            remedy="set `reference` to a precision that stays"
            if culprit
            else f"add {{precision: {reference}}} to `include`, or set another `reference`",
        )


def _note_no_match(
    problems: Problems, cells: Sequence[Cell], selector: Selector, at: tuple[str, int]
) -> None:
    """Says which of the patterns matches nothing: one does, since every pair is a cell."""
    known = {
        "model": [cell.model.name for cell in cells],
        "precision": [cell.precision.label for cell in cells],
        "finetune": [cell.label for cell in cells if cell.tuning is not None],
        "kv_cache": [cell.kv_cache or OWN for cell in cells],
    }
    for key, names in known.items():
        pattern = getattr(selector, key)
        if pattern is None:
            continue
        alone = Selector(**{key: pattern})
        nearest = nearest_words if key == "precision" else did_you_mean
        if not any(alone.matches(cell) for cell in cells):
            problems.add(
                (*at, key),
                f"a name or pattern of {', '.join(dict.fromkeys(names))}",
                found=f"'{pattern}', which matches no {key} of the suite",
                remedy=nearest(pattern.strip("*"), names),
            )
