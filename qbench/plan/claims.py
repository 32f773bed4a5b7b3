"""A ledger of claims: the bundled one, or a person's YAML file, read with all its problems."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from pydantic import ValidationError

from qbench.compare.claims.claim import Claim, LedgerFile
from qbench.core.aliases import keys_of
from qbench.core.errors import SuiteError
from qbench.core.names import did_you_mean
from qbench.finetune import methods
from qbench.measures.field_names import definitions, metric_called
from qbench.plan.suite.errors import note_errors
from qbench.plan.suite.problems import Problems
from qbench.plan.suite.schema import PlainSchema
from qbench.plan.suite.written import text_of
from qbench.plan.suite.yaml_lines import read_yaml
from qbench.precisions import precisions
from qbench.precisions.kv_cache import kv_caches
from qbench.precisions.names import ONE_OF_THE_LIST, nearest_words, own_name
from qbench.sources.bundled import BUNDLED_FOLDER

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from pydantic.json_schema import JsonSchemaValue

    from qbench.compare.claims.claim import Side
    from qbench.core.spec import Frozen
    from qbench.plan.suite.problems import Steps

BUNDLED = BUNDLED_FOLDER / "claims" / "ledger.yaml"
"""The claims that ship with qbench."""
OF_FILES = "a YAML file of claims"
_START = "docs/claims.md shows what stands in one"
_OPEN = ("tasks.", "generation.")
"""Begins metrics that are named by a person's own tasks and scripts."""


def read_claims(path: Path = BUNDLED) -> tuple[Claim, ...]:
    """The claims of a file; raises `SuiteError` with all that is wrong with it."""
    text = text_of(path, OF_FILES, start=_START)
    top, wrong = read_yaml(text, str(path))
    problems = Problems(str(path), top, wrong)
    if top is None or not top.child("claims"):
        if not wrong:
            problems.add((), "the key `claims`", found="none", remedy=_START)
        raise SuiteError(problems.sorted())
    found: tuple[Claim, ...] = ()
    try:
        found = LedgerFile.model_validate(top.plain()).claims
    except ValidationError as error:
        note_errors(problems, error, _schema())
    for at, claim in enumerate(found):
        _check(claim, ("claims", at), problems)
    names = [claim.name for claim in found]
    for at, name in enumerate(names):
        if name in names[:at]:
            problems.add(("claims", at, "name"), "a name of its own", remedy="rename one of them")
    if len(problems):
        raise SuiteError(problems.sorted())
    return found


@cache
def _schema() -> JsonSchemaValue:
    return LedgerFile.model_json_schema(schema_generator=PlainSchema)


def _check(claim: Claim, place: Steps, problems: Problems) -> None:
    """What the tables of what is installed say of a claim's names."""
    for at, check in enumerate(claim.checks):
        here = (*place, "checks", at)
        more = (("plus", name) for name in check.plus)
        for key, name in (("metric", check.metric), ("per", check.per), *more):
            if name is None or name in definitions() or name.startswith(_OPEN):
                continue
            also = metric_called(name)
            hint = f"it is called {also} here" if also else did_you_mean(name, definitions())
            problems.add((*here, key), "a metric's own name", remedy=hint or "see the docs")
        for key, side in (("of", check.of), ("against", check.against)):
            if side is not None:
                _check_side(side, (*here, key), problems)


def _check_side(side: Side, here: Steps, problems: Problems) -> None:
    for key, name in (("precision", side.precision), ("base", side.base)):
        if name is not None and own_name(name) is None:
            remedy = nearest_words(name, precisions())
            problems.add((*here, key), f"a precision: {ONE_OF_THE_LIST}", remedy=remedy)
    tables = (("method", side.method, methods()), ("kv_cache", side.kv_cache, kv_caches()))
    for key, name, table in tables:
        if name is not None and name not in table:
            remedy = did_you_mean(name, table)
            problems.add((*here, key), f"one of {', '.join(table)}", remedy=remedy)
    named = precisions().get(own_name(side.precision or "") or "")
    held = [named] if named is not None else list(precisions().values())
    method = methods().get(side.method or "")
    options = (
        ("options", side.options, _fields(one.options for one in held)),
        ("tuned", side.tuned, _fields(one.options for one in ([method] if method else []))),
    )
    for key, given, known in options:
        for name in given:
            if known and name not in known:
                remedy = did_you_mean(name, known)
                expected = f"an option: one of {', '.join(sorted(known))}"
                problems.add((*here, key, name), expected, remedy=remedy, at_key=True)


def _fields(options: Iterable[type[Frozen]]) -> set[str]:
    return {name for each in options for name in keys_of(each)}
