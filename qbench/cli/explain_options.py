"""The options of a precision as they are given on the command line: `--set KEY=VALUE`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import ValidationError

from qbench.core.errors import SuiteError
from qbench.plan.suite.aliases import Kind, by_own_names
from qbench.plan.suite.errors import note_errors
from qbench.plan.suite.options import Options
from qbench.plan.suite.problems import Problems
from qbench.plan.suite.schema import PlainSchema
from qbench.plan.suite.settings import NO_KEYS, read_settings, with_settings
from qbench.precisions import precisions

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qbench.core.spec import Frozen


def read_assignments(precision: str, assignments: Iterable[str]) -> Frozen:
    """All options of a precision, those of the assignments set; values are read as in a suite.

    Raises `UsageError` for one that is no assignment, and `SuiteError` with all problems of keys
    and values.
    """
    reader = Options(precision, precisions()[precision].options)
    known = ", ".join(reader.model.model_fields)
    settings = read_settings(assignments, f"an option of {precision}: {known or 'it has none'}")
    kind = Kind(reader.model)
    top, wrong = by_own_names(*with_settings(NO_KEYS, settings, kind), "--set", kind)
    problems = Problems("--set", top, wrong)
    try:
        options = reader.read(top.plain())
    except ValidationError as error:
        schema = reader.model.model_json_schema(schema_generator=PlainSchema)
        note_errors(problems, error, schema, precision)
    if len(problems):
        raise SuiteError(problems.sorted())
    return options
