"""The packages of `docs/ci.md` for a job that only gates, and what is absent beside them."""

from __future__ import annotations

import re
import tomllib

from packaging.requirements import Requirement

from tests.workplace import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def light_packages() -> list[str]:
    """The lines of `gate.txt`, as the page has them."""
    page = (REPOSITORY / "docs" / "ci.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- light packages -->\n```text\n(.*?)```", page, re.DOTALL)
    assert block is not None
    return block[1].splitlines()


def names_of(lines: list[str]) -> set[str]:
    """The names of packages, without their versions and extras."""
    return {Requirement(line).name for line in lines}


def extras() -> dict[str, list[str]]:
    """The lines of each extra."""
    found: dict[str, list[str]] = PROJECT["optional-dependencies"]
    return found
