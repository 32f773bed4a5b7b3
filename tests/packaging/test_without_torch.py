"""What reads records works where torch, and all but the light packages, cannot be imported."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.light_packages import PROJECT, extras, light_packages, names_of
from tests.record_factory import quickstart_records
from tests.workplace import Finished, keep

if TYPE_CHECKING:
    from tests.workplace import Workplace

# Modules and metadata of the packages are hidden: as if they had never been installed.
WITHOUT = """
import importlib.metadata, json, sys
from importlib.machinery import PathFinder
hidden = set(json.loads(sys.argv[1]))
modules = {{
    module
    for module, packages in importlib.metadata.packages_distributions().items()
    if any(package.lower().replace("_", "-") in hidden for package in packages)
}}

class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hides = name.partition(".")[0] in modules
        return None if hides else PathFinder.find_spec(name, path, target)

sys.meta_path = [Without if one is PathFinder else one for one in sys.meta_path]
found = importlib.metadata.Distribution.from_name

def from_name(name):
    if name.lower().replace("_", "-") in hidden:
        raise importlib.metadata.PackageNotFoundError(name)
    return found(name)

importlib.metadata.Distribution.from_name = from_name
{program}
"""
CALL_ALL = """
import contextlib, io
from qbench.cli.end import run_app
from qbench.cli.main import app
for arguments in json.loads(sys.argv[2]):
    sys.argv = ["qbench", *arguments]
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        code = run_app(app)
    print(json.dumps([code, output.getvalue(), errors.getvalue()]))
"""
FRAME = """
import qbench
from qbench.core.errors import UsageError
try:
    qbench.load_results()
except UsageError as error:
    print(error)
"""
SAME = (
    ["report", "quickstart", "--format", "markdown", "--output", "-"],
    ["report", "results", "--format", "json", "--output", "-"],
    ["recommend", "quickstart", "--max-perplexity-increase", "2%", "--format", "json"],
    ["claims", "results", "--format", "json"],
    ["baseline", "quickstart", "-o", "baseline.json"],
    ["gate", "quickstart", "--baseline", "baseline.json", "--format", "json"],
    ["compare", "tiny-mistral--nf4", "tiny-mistral--fp32", "--format", "json"],
    ["merge", "results", "--suite", "quickstart", "--dry-run", "--format", "json"],
    ["history", "quickstart", "--format", "json"],
    ["fit", "gpt2", "--gpu", "t4", "--precision", "nf4", "--format", "json"],
    ["list", "suites"],
    ["schema"],
)
ADVICE = "pip install qbench-llm"


def heavy_packages() -> set[str]:
    every = [*PROJECT["dependencies"], *(line for lines in extras().values() for line in lines)]
    return names_of(every) - names_of(light_packages()) - {"qbench-llm", "packaging"}


def run_without(place: Workplace, program: str, *arguments: str) -> list[str]:
    hidden = json.dumps(sorted(heavy_packages()))
    return place.output_of(WITHOUT.format(program=program), hidden, *arguments).splitlines()


def call_without(place: Workplace, *commands: list[str]) -> list[Finished]:
    lines = run_without(place, CALL_ALL, json.dumps(commands))
    return [Finished(*json.loads(line)) for line in lines]


@pytest.fixture
def measured(workplace: Workplace) -> Workplace:
    for record in quickstart_records():
        keep(workplace.folder / "results", record)
    return workplace


def test_what_reads_records_says_the_same(measured: Workplace) -> None:
    found = call_without(measured, *SAME)
    (measured.folder / "baseline.json").unlink()
    for command, without in zip(SAME, found, strict=True):
        assert without == measured.call_here(*command), command


def test_a_plan_has_the_same_bytes_and_what_needs_torch_says_so_in_a_line(
    measured: Workplace,
) -> None:
    plan = ["plan", "quickstart", "--gpu", "24GB", "--format", "json"]
    planned, doctor, listed, *others = call_without(
        measured,
        plan,
        ["doctor"],
        ["list", "--format", "json"],
        ["run", "quickstart"],
        ["run", "quickstart", "--yes"],
        ["run", "bundled:tiny-mistral", "--quick"],
        ["explain", "fp32"],
        ["explain", "nf4"],
    )
    cells = [json.loads(one.output)["cells"] for one in (planned, measured.call_here(*plan))]
    assert [one["bytes"] for one in cells[0]] == [one["bytes"] for one in cells[1]]
    assert doctor.code == 1
    said = f"torch: not installed → nothing is measured without it; the rest works: {ADVICE}"
    assert said in doctor.output
    assert all(one["runs"] is False for one in json.loads(listed.output)["precisions"])
    for one in others:
        assert one.code == 2
        assert len(one.errors.splitlines()) == 1
        assert one.errors.endswith(f"{ADVICE}\n")
    assert run_without(measured, FRAME) == [f"a frame needs pandas: {ADVICE}"]


def test_the_light_packages_are_in_the_versions_that_go_with_qbench() -> None:
    assert set(light_packages()) <= set(PROJECT["dependencies"])
    assert light_packages() == sorted(light_packages())
