"""The packages of qbench, its extras, and what the code imports and looks for go together."""

from __future__ import annotations

import ast
import sys
from importlib.metadata import packages_distributions
from typing import TYPE_CHECKING

import pytest
from packaging.requirements import Requirement

from qbench.core.packages import (
    DISTRIBUTION,
    EXTRAS,
    install_command,
    missing_packages,
    remedy_of_import,
    required_packages,
)
from qbench.finetune import methods
from qbench.measures import measures
from qbench.precisions import precisions
from tests.light_packages import PROJECT, extras, names_of
from tests.workplace import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator

NOT_LOOKED_FOR = {"dev", "docs", "formats"}
"""Extras for those who work on qbench, and one that is made of others."""
OF_OTHERS = {"markupsafe", "pyarrow", "pydantic-core", "triton", "typing-extensions"}
"""Packages that come with jinja2, datasets, pydantic and torch, which are made of them."""


def of_extras() -> dict[str, str]:
    """Each package that an extra alone brings, with the extra."""
    required = names_of(PROJECT["dependencies"])
    return {
        name: extra
        for extra, lines in extras().items()
        if extra not in NOT_LOOKED_FOR
        for name in names_of(lines)
        if name not in required
    }


def imported() -> Iterator[tuple[str, str]]:
    """Each module of another project that qbench's code imports, with the file."""
    for path in (REPOSITORY / "qbench").rglob("*.py"):
        if "bundled" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [one.name for one in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names = [node.module]
            for name in names:
                top = name.partition(".")[0]
                if top != "qbench" and top not in sys.stdlib_module_names:
                    yield top, str(path.relative_to(REPOSITORY))


def test_every_package_of_an_extra_is_known_and_the_other_way_round() -> None:
    assert of_extras() == EXTRAS


def test_the_plain_install_is_what_the_project_says() -> None:
    assert required_packages() == names_of(PROJECT["dependencies"])


def test_every_package_that_is_needed_comes_with_qbench_or_an_extra() -> None:
    known = {*required_packages(), *EXTRAS}
    for one in (*precisions().values(), *methods().values(), *measures().values()):
        assert set(one.needs) <= known, one.name


def test_whatever_is_imported_comes_with_qbench_or_an_extra() -> None:
    owners = packages_distributions()
    known = {*required_packages(), *EXTRAS, *OF_OTHERS}
    for module, file in sorted(set(imported())):
        packages = {name.lower().replace("_", "-") for name in owners.get(module, [module])}
        assert packages & known, f"{file} imports {module}"


@pytest.mark.parametrize("package", sorted(EXTRAS))
def test_an_import_that_fails_is_answered_by_the_extra(package: str) -> None:
    module = {"mlflow-skinny": "mlflow"}.get(package, package.replace("-", "_"))
    advice = remedy_of_import(ModuleNotFoundError("No module", name=f"{module}.part"))
    command = f"pip install '{DISTRIBUTION}[{EXTRAS[package]}]'"
    assert advice == f"needs {package}, which is not installed: {command}"


def test_commands_name_qbench_once() -> None:
    assert install_command(["torch", "peft"]) == "pip install qbench-llm"
    assert install_command(["torch", "hqq", "gguf"]) == "pip install 'qbench-llm[hqq,gguf]'"
    assert install_command(["no-such", "torch"]) == "pip install qbench-llm no-such"
    assert install_command(["no-such", "no-such"]) == "pip install no-such"
    assert remedy_of_import(ModuleNotFoundError("No module", name="no_such")) is None
    assert missing_packages(("no-such", "no-such")) == "needs no-such: pip install no-such"


def test_requirements_are_within_bounds() -> None:
    """A new major version of a package may break qbench: each line says up to which it goes."""
    for line in PROJECT["dependencies"]:
        operators = {one.operator for one in Requirement(line).specifier}
        assert operators == {">=", "<"}, line


def test_the_page_tells_of_every_extra() -> None:
    page = (REPOSITORY / "docs" / "install.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    assert {name.strip(" `") for row in rows for name in row.split(",")} == set(extras())
