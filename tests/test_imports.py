"""What only plans, reports or lists never loads torch: it must start in a fraction of a second."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.record_factory import quickstart_records
from tests.workplace import REPOSITORY, keep

if TYPE_CHECKING:
    from tests.workplace import Workplace

HEAVY = {
    "torch",
    "transformers",
    "pandas",
    "accelerate",
    "bitsandbytes",
    "datasets",
    "numpy",
    "submitit",
}
CALL = """
import json, sys
from qbench.cli.main import main
for arguments in {commands}:
    sys.argv = ["qbench", *arguments]
    code = 0
    try:
        main()
    except SystemExit as end:
        code = end.code
    print(json.dumps([code, sorted({heavy} & set(sys.modules))]), file=sys.stderr)
"""
MADE_OF_HEAVY_CLASSES = {"qbench.precisions.layer_quantizer"}
"""Modules whose own classes are below a library's; they are imported within functions alone."""
CHOOSE_FORMS = """
import json, sys
from qbench.precisions import precisions
forms = [held.forms(held.options()) for held in precisions().values()]
assert sum(map(bool, forms)) > 20
print(json.dumps(sorted({heavy} & set(sys.modules))))
"""
IMPORT_ALL = """
import importlib, json, pkgutil, sys
import qbench
for module in pkgutil.walk_packages(qbench.__path__, "qbench."):
    if module.name not in {apart}:
        importlib.import_module(module.name)
print(json.dumps(sorted({heavy} & set(sys.modules))))
"""


def loaded_by(place: Workplace, *commands: list[str]) -> list[tuple[int, list[str]]]:
    """Exit code of each command, and the heavy packages that the process has loaded after it.

    All are called in one process, in their order.
    """
    done = subprocess.run(
        [sys.executable, "-c", CALL.format(commands=commands, heavy=HEAVY)],
        cwd=place.folder,
        env=place.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    told = [line for line in done.stderr.splitlines() if line.startswith("[")]
    return [(code, heavy) for code, heavy in map(json.loads, told)]


@pytest.mark.parametrize(
    ("commands", "allowed"),
    [
        (
            [
                ["--help"],
                ["--version"],
                ["run", "--help"],
                ["explain", "--help"],
                ["list"],
                ["schema"],
                ["init", "new.yaml"],
                ["plan", "suite.yaml"],
                ["fit", "gpt2", "--gpu", "t4", "--precision", "nf4", "--length", "64"],
                ["plan", str(REPOSITORY / "suites" / "quickstart.yaml")],
                ["doctor"],
            ],
            [],
        ),
        (
            # Verdicts and intervals are bootstrapped with numpy and scipy.
            [
                *(["report", "results", "--format", name] for name in ("markdown", "csv", "json")),
                ["recommend", "--max-perplexity-increase", "2%"],
                ["claims"],
            ],
            ["numpy"],
        ),
    ],
    ids=["planning", "reporting"],
)
def test_no_command_loads_anything_heavy(
    workplace: Workplace, commands: list[list[str]], allowed: list[str]
) -> None:
    workplace.write_suite("fp32", "int8", "nf4")
    for record in quickstart_records():
        keep(workplace.folder / "results", record)
    ends = loaded_by(workplace, *commands)
    for command, (code, heavy) in zip(commands, ends, strict=True):
        assert (code, [name for name in heavy if name not in allowed]) == (0, []), command


def test_a_run_with_nothing_missing_loads_nothing_heavy(workplace: Workplace) -> None:
    workplace.write("suite.yaml", f"models: [{workplace.model}]\nmeasure: [footprint]\n")
    command = ["run", "suite.yaml", "--only", "fp32"]
    # What the parent loaded; the worker of the first run has loaded all of them.
    assert loaded_by(workplace, command, command) == [(0, []), (0, [])]


def test_no_module_loads_anything_heavy_when_it_is_imported() -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL.format(heavy=HEAVY, apart=MADE_OF_HEAVY_CLASSES)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert json.loads(done.stdout) == []


def test_forms_of_checkpoints_are_chosen_without_anything_heavy(workplace: Workplace) -> None:
    assert json.loads(workplace.output_of(CHOOSE_FORMS.format(heavy=HEAVY))) == []


def test_a_folder_says_what_it_is_and_runs_nothing_but_for_the_three_tables() -> None:
    """Asking for one file of a folder runs no other: so there are no circles at import."""
    package = REPOSITORY / "qbench"
    with_code = {
        str(path.parent.relative_to(package))
        for path in package.rglob("__init__.py")
        if len(ast.parse(path.read_text(encoding="utf-8")).body) != 1
    }
    assert with_code == {".", "finetune", "measures", "precisions"}


def test_at_the_root_of_the_package_there_is_no_code_but_what_others_call() -> None:
    files = {path.name for path in (REPOSITORY / "qbench").glob("*.py")}
    assert files <= {"__init__.py", "__main__.py", "plugin.py"}
