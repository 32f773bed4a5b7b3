"""What the docstrings below the fields of a class say: for JSON Schema, lists and tables alone.

pydantic can look for them when a class is made, which would take a tenth of the time of a plan.
"""

from __future__ import annotations

import ast
import inspect
import sys
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import BaseModel


def field_docs(model: type[BaseModel]) -> dict[str, str]:
    """The text below each field, by the field's name, those of the class's bases included.

    Nothing is known of classes whose source is not there, such as those made while running.
    """
    told: dict[str, str] = {}
    for base in reversed(model.__mro__):
        told |= _of_module(base.__module__).get(base.__qualname__, {})
    return {name: told[name] for name in model.model_fields if name in told}


def describe(schema: dict[str, Any], model: type[BaseModel]) -> None:
    """Adds to a model's JSON Schema what its docstrings say of fields without a description."""
    told = field_docs(model)
    fields = schema.get("properties", {})
    for name, field in model.model_fields.items():
        if name in told and (own := fields.get(field.alias or name)) is not None:
            own.setdefault("description", told[name])


@cache
def _of_module(name: str) -> dict[str, dict[str, str]]:
    """The texts of all classes of a module, by the class's name within it."""
    try:
        source = inspect.getsource(sys.modules[name])
    except (KeyError, OSError, TypeError):  # built in, or without its source
        return {}
    told: dict[str, dict[str, str]] = {}

    def read(body: list[ast.stmt], within: str) -> None:
        for statement in body:
            if isinstance(statement, ast.ClassDef):
                own = f"{within}{statement.name}"
                told[own] = _of_body(statement.body)
                read(statement.body, f"{own}.")

    read(ast.parse(source).body, "")
    return told


def _of_body(body: list[ast.stmt]) -> dict[str, str]:
    return {
        field.target.id: inspect.cleandoc(text.value.value)
        for field, text in pairwise(body)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
        if isinstance(text.value.value, str)
    }
