"""No file outside `qbench/precisions` names a precision: one that is added is known everywhere."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

from qbench.precisions import precisions
from tests.workplace import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = REPOSITORY / "qbench"
OWN = PACKAGE / "precisions"
TYPES = PACKAGE / "core" / "number_types.py"
"""Floating types are called like the precisions that hold everything in one; elsewhere code takes
their names from here."""
OTHER_WORDS = {
    ("core/cpu.py", "bf16"),  # an instruction set of Arm's processors
    ("core/packages.py", "hqq"),  # a package
    ("plan/suite/problems.py", "integer"),  # a type of JSON Schema
    ("plan/suite/cluster.py", "integer"),
    # what checkpoints call how they are quantized
    *(("sources/shapes/stored.py", name) for name in ("fp8", "mxfp8", "mxfp4")),
}
FAMILIES = {"bnb4bit", "int8", "stored"}
"""Modules of single families: what others need of them, a precision says itself."""


def modules() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        if OWN not in path.parents and path != TYPES and "bundled" not in path.parts:
            yield path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text("utf-8"))


def named(tree: ast.Module) -> set[str]:
    """Names of precisions that stand in code as they are, or as the name of a module."""
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    return {text for text in texts if isinstance(text, str)} & set(precisions())


def families(tree: ast.Module) -> set[str]:
    """Families that are imported by name."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "qbench.precisions":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module.removeprefix("qbench.precisions.")}
    return found & FAMILIES


def test_no_other_module_names_a_precision() -> None:
    read = [*modules()]
    assert len(read) > 100
    found = {(module, name) for module, tree in read for name in named(tree)}
    assert found - OTHER_WORDS == set()
    assert [(module, families(tree)) for module, tree in read if families(tree)] == []


def test_a_name_in_code_is_found() -> None:
    code = "from qbench.precisions import stored\nif name == 'nf4' or name in ('x', 'int8'): pass"
    assert named(ast.parse(code)) == {"nf4", "int8"}
    assert families(ast.parse(code)) == {"stored"}
    assert named(ast.parse("say('such as nf4')")) == set()
