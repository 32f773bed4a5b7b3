"""What the README, CONTRIBUTING.md and docs/ show is what the program takes."""

from __future__ import annotations

import importlib
import json
import re
import shlex
import tomllib
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from qbench.cli.main import app
from qbench.plan.claims import read_claims
from qbench.plan.suite.suite import load_suite_text
from tests.workplace import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    REPOSITORY / "examples" / "plugin" / "README.md",
    *sorted((REPOSITORY / "docs").glob("*.md")),
]
TEXTS = {
    page.relative_to(REPOSITORY).as_posix(): page.read_text(encoding="utf-8") for page in PAGES
}


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def commands() -> list[str]:
    """Each line of qbench in a block of shell, and each between backticks."""
    found: list[str] = []
    for text in TEXTS.values():
        lines = [
            line.split(" #")[0].strip()
            for block in blocks(text, "sh")
            for line in block.replace("\\\n", " ").splitlines()
        ]
        spans = re.findall(r"`(qbench [^`]+)`", text)
        found += [line for line in (*lines, *spans) if line.startswith("qbench ")]
    return sorted(set(found))


def suites() -> list[Any]:
    return [
        pytest.param(block, id=f"{name}-{index}")
        for name, text in TEXTS.items()
        for index, block in enumerate(blocks(text, "yaml"))
        if not block.startswith("claims:") and "runs-on:" not in block
    ]


def test_claims_shown_are_valid(tmp_path: Path) -> None:
    shown = [one for one in blocks(TEXTS["docs/claims.md"], "yaml") if one.startswith("claims:")]
    assert shown
    for text in shown:
        path = tmp_path / "claims.yaml"
        path.write_text(text, encoding="utf-8")
        assert read_claims(path)


@pytest.mark.parametrize("suite", suites())
def test_each_suite_shown_is_valid(suite: str, tmp_path: Path) -> None:
    (tmp_path / "models" / "my-llama").mkdir(parents=True)
    (tmp_path / "my-llama-nf4").mkdir()
    assert load_suite_text(suite, "suite.yaml", tmp_path).precisions


def test_a_list_makes_one_precision_of_each(tmp_path: Path) -> None:
    (tmp_path / "models" / "my-llama").mkdir(parents=True)
    [suite] = blocks(TEXTS["README.md"], "yaml")
    loaded = load_suite_text(suite, "suite.yaml", tmp_path)
    assert [precision.label for precision in loaded.precisions] == [
        "fp32",
        "bf16",
        "nf4",
        "nf4-compute_dtype=fp16",
        "nf4-compute_dtype=fp32",
    ]


def test_the_readme_shows_each_command() -> None:
    shown = {
        line.split()[1]
        for block in blocks(TEXTS["README.md"], "sh")
        for line in block.splitlines()
        if line.startswith("qbench ")
    }
    assert set(get_command(app).commands) <= shown  # type: ignore[attr-defined]


@pytest.mark.parametrize("line", commands())
def test_the_commands_shown_exist_with_their_options(line: str) -> None:
    words = shlex.split(line)[1:]
    group = get_command(app)
    if words[0].startswith("--"):
        assert any(words[0] in option.opts for option in group.params)
        return
    command = group.commands[words[0]]  # type: ignore[attr-defined]
    if hasattr(command, "commands"):  # `export card`
        command = command.commands[words[1]]
    known = {name for option in command.params for name in option.opts}
    assert {word for word in words[1:] if word.startswith("-") and word != "-"} <= known


def test_the_files_named_exist() -> None:
    folders = r"suites|reports|qbench|tests|tools|\.ci|examples"
    for page, text in TEXTS.items():
        for name in re.findall(rf"(?:{folders})/[\w./-]*\w", text):
            there = (REPOSITORY / name).exists() or (REPOSITORY / "docs" / name).exists()
            assert there, f"{page} names {name}"


def test_the_links_outside_the_site_lead_to_files() -> None:
    """Those within docs/ are mkdocs' to check."""
    for page in ("README.md", "CONTRIBUTING.md"):
        for link in re.findall(r"(?:\]\(|srcset=\"|src=\")([^)\"#]+)", TEXTS[page]):
            assert link.startswith("https://") or (REPOSITORY / link).exists(), (
                f"{page} links {link}"
            )


def test_what_is_shown_on_the_site_is_not_cut_off() -> None:
    for page, text in TEXTS.items():
        if page.startswith("docs/"):
            shown = "".join(blocks(text, r"\w*")).splitlines()
            assert max(map(len, shown), default=0) <= 80, page


def test_the_make_targets_shown_exist() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    for text in TEXTS.values():
        for target in set(re.findall(r"(?:^|`)make ([a-z-]+)", text, flags=re.MULTILINE)):
            assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_the_python_shown_names_what_there_is() -> None:
    import qbench

    shown = [code for text in TEXTS.values() for code in blocks(text, "python")]
    names = {name for code in shown for name in re.findall(r"qbench\.(\w+)\(", code)}
    assert names == set(qbench.__all__)


def test_the_imports_shown_lead_to_something() -> None:
    for text in TEXTS.values():
        for module, names in re.findall(r"^from (qbench[.\w]*) import (.+)$", text, re.MULTILINE):
            there = vars(importlib.import_module(module))
            assert set(re.split(r",\s*", names)) <= there.keys(), module


def test_the_rooms_told_of_are_those_of_the_contract() -> None:
    """In the contract's order, so that each imports from those below it."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    [layers] = [
        contract["layers"]
        for contract in project["tool"]["importlinter"]["contracts"]
        if contract["type"] == "layers"
    ]
    rooms = TEXTS["CONTRIBUTING.md"].partition("## The rooms")[2].partition("\n## ")[0]
    told = re.findall(r"^\| `(\w+)` \|", rooms, re.MULTILINE)
    assert told == [room for layer in layers for room in layer.split(" | ")]


UNITS = {"MiB": 2**20, "ms": 1e-3, "%": 1e-2}


def test_the_figures_shown_are_those_of_the_published_records() -> None:
    folder = str(REPOSITORY / "results" / "published" / "quickstart")
    report = CliRunner().invoke(app, ["report", folder, "--format", "json", "--output", "-"])
    [table] = json.loads(report.stdout)["decision_tables"]
    keys = {column["title"]: key for key, column in table["columns"].items()}
    heads, rows = readme_table("bits/weight")
    assert [row[0] for row in rows] == [
        f"{row['precision']} (reference)" if row["reference"] else row["precision"]
        for row in table["rows"]
    ]
    for cells, row in zip(rows, table["rows"], strict=True):
        for head, cell in zip(heads[1:], cells[1:], strict=True):
            title, _, unit = head.partition(" (")
            figure = row["figures"][keys[title]]
            says(cell, figure, UNITS.get(unit.removesuffix(")"), 1))


def readme_table(column: str) -> tuple[list[str], list[list[str]]]:
    lines = TEXTS["README.md"].splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith("|") and column in line)
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in takewhile(lambda line: line.startswith("|"), lines[start:])
    ]
    return cells[0], cells[2:]


def says(cell: str, figure: dict[str, Any], unit: float) -> None:
    """That a cell of the table shows the figure, in this unit, with all its marks."""
    assert cell.startswith("**") == figure["best"]
    assert ("†" in cell) == figure["warned"]
    assert ("≈" in cell) == figure["uncertain"]
    word = cell.strip("*†≈ ")
    if figure["value"] is None:
        assert word == figure["word"]
    elif word.startswith("<"):
        assert figure["value"] / unit < float(word[1:])
    else:
        decimals = len(word.partition(".")[2])
        assert round(figure["value"] / unit, decimals) == float(word)
