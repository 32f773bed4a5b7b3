"""The notebook for a free GPU: it is valid, it calls what there is, and it runs as a rehearsal."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nbformat
import pytest
from typer.main import get_command

from qbench.cli.main import app
from qbench.sources.bundled import bundled_suites
from tests.workplace import REPOSITORY

if TYPE_CHECKING:
    from tests.workplace import Workplace

NOTEBOOK = REPOSITORY / "docs" / "colab.ipynb"
VALUES = {"SUITE": "colab", "FOLDER": "qbench-colab"}
"""Of its variables, as it has them."""


@pytest.fixture
def notebook() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


def text_of(notebook: Any, kind: str) -> str:
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == kind)


def commands(notebook: Any, rehearse: str) -> list[list[str]]:
    """The words of each call of qbench, with what the notebook puts in for its variables."""
    shown = re.findall(r"^ *!qbench (.+)$", text_of(notebook, "code"), re.MULTILINE)
    shown += re.findall(r"`qbench ([^`]+)`", text_of(notebook, "markdown"))
    values = {**VALUES, "REHEARSE": rehearse}
    return [shlex.split(line.format_map(values)) for line in shown]


def test_it_is_valid_and_holds_no_output(notebook: Any) -> None:
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [(cell.outputs, cell.execution_count) for cell in code] == [([], None)] * len(code)


@pytest.mark.parametrize("rehearse", ["", "--rehearse"])
def test_its_commands_are_read_by_the_program(notebook: Any, rehearse: str) -> None:
    group = get_command(app)
    called = commands(notebook, rehearse)
    for name, *words in called:
        command = group.commands[name]  # type: ignore[attr-defined]
        command.make_context(name, words)
    assert {"doctor", "plan", "fit", "run", "recommend"} <= {name for name, *_ in called}


def test_what_it_links_and_names_is_there(notebook: Any) -> None:
    links = re.findall(r"\]\(([^)#]+)", text_of(notebook, "markdown"))
    assert links
    assert [link for link in links if not (NOTEBOOK.parent / link).exists()] == []
    code = text_of(notebook, "code")
    assert all(f'"{value}"' in code for value in VALUES.values())
    assert VALUES["SUITE"] in bundled_suites()


@pytest.mark.slow
def test_it_runs_when_rehearsed(
    notebook: Any, workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nbclient import NotebookClient

    for name, value in workplace.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("QBENCH_REHEARSE", "1")
    monkeypatch.setenv(
        "PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    )
    for cell in notebook.cells:
        if cell.cell_type == "code":
            # A command that fails ends no cell by itself.
            cell.source = re.sub(
                "^(!.*)$", r"\1\nassert _exit_code == 0", cell.source, flags=re.MULTILINE
            )
    resources = {"metadata": {"path": str(workplace.folder)}}
    done = NotebookClient(notebook, timeout=240, resources=resources).execute()
    outputs = [one for cell in done.cells for one in cell.get("outputs", [])]
    [page] = [one["data"]["text/html"] for one in outputs if "text/html" in one.get("data", {})]
    assert "srcdoc" in page
    assert "REHEARSAL" in page
    said = "".join(one["text"] for one in outputs if one.output_type == "stream")
    assert re.search(r"\b(\d+) records \(\1 ok\), \1 taken now", said)
    assert (workplace.folder / "adapter.zip").stat().st_size > 0
    # Where the last command looks, the records of a rehearsal are found and told from real ones.
    [words] = [words for words in commands(notebook, "") if words[0] == "recommend"]
    assert "the records of a rehearsal" in workplace.call_here(*words).errors
