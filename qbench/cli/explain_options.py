"""The options of a precision as they are given on the command line: `--set KEY=VALUE`."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from pydantic import ValidationError

from qbench.core.errors import SuiteError, UsageError
from qbench.plan.suite.errors import note_errors
from qbench.plan.suite.options import Options
from qbench.plan.suite.problems import Problems
from qbench.plan.suite.schema import PlainSchema
from qbench.plan.suite.yaml_lines import read_yaml
from qbench.precisions import precisions

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qbench.core.spec import Frozen

_ASSIGNMENT = re.compile(r"\s*([A-Za-z_]\w*)\s*=(.*)")


def read_assignments(precision: str, assignments: Iterable[str]) -> Frozen:
    """All options of a precision, those of the assignments set; values are read as in a suite.

    Raises `UsageError` for one that is no assignment, and `SuiteError` with all problems of keys
    and values.
    """
    lines = []
    for text in assignments:
        found = _ASSIGNMENT.fullmatch(text)
        if found is None:
            known = ", ".join(precisions()[precision].options.model_fields)
            raise UsageError(
                f"--set: found {text!r}; expected KEY=VALUE on one line, where KEY is an option of"
                f" {precision}: {known or 'it has none'}"
            )
        lines.append(f"{found[1]}: {found[2]}\n")
    top, of_yaml = read_yaml("".join(lines), "--set")
    problems = Problems("--set", top, of_yaml)
    reader = Options(precision, precisions()[precision].options)
    try:
        options = reader.read(None if top is None else top.plain())
    except ValidationError as error:
        schema = reader.model.model_json_schema(schema_generator=PlainSchema)
        note_errors(problems, error, schema, precision)
    if len(problems):
        # A line of its own is what each option has, and none that the user could count.
        raise SuiteError([replace(problem, line=None) for problem in problems.sorted()])
    return options
