"""What the README shows is what the program takes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from qbench.cli import app
from qbench.suite import load_suite_text

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[str]:
    lines = [line.split("#")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    return [line for line in lines if line.startswith("qbench ")]


def test_the_suite_shown_is_valid(tmp_path: Path) -> None:
    (tmp_path / "models" / "my-llama").mkdir(parents=True)
    loaded = load_suite_text("".join(blocks("yaml")), "suite.yaml", tmp_path)
    assert [precision.label for precision in loaded.precisions] == [
        "fp32",
        "bf16",
        "nf4",
        "nf4-compute_dtype=fp16",
        "nf4-compute_dtype=fp32",
    ]


@pytest.mark.parametrize("line", commands())
def test_the_commands_shown_exist_with_their_options(line: str) -> None:
    words = shlex.split(line)[1:]
    group = get_command(app)
    if words[0].startswith("--"):
        assert any(words[0] in option.opts for option in group.params)
        return
    command = group.commands[words[0]]  # type: ignore[attr-defined]
    known = {name for option in command.params for name in option.opts}
    assert {word for word in words[1:] if word.startswith("-") and word != "-"} <= known


def test_the_make_targets_shown_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"make ([a-z]+)", README)):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_the_python_shown_names_what_there_is() -> None:
    import qbench

    [code] = blocks("python")
    for name in re.findall(r"qbench\.(\w+)\(", code):
        assert name in qbench.__all__
