"""Wall seconds of the commands that a person waits for, each in a process of its own.

Aims: `--help` under 0.3 s, a plan under 1 s, a run with nothing missing under 2 s.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.record_factory import quickstart_records
from tests.workplace import REPOSITORY, Workplace, keep, write_text

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

QUICKSTART = REPOSITORY / "suites" / "quickstart.yaml"


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Workplace:
    """A place where a run has taken all that its suite asks for."""
    place = Workplace(tmp_path_factory.mktemp("measured"), tiny_model)
    write_text(place.folder)
    place.write_suite("fp32", "nf4")
    assert place.call("run", "suite.yaml").code == 0
    return place


@pytest.mark.parametrize(
    "arguments",
    [
        ("--version",),
        ("--help",),
        ("run", "--help"),
        ("list",),
        ("schema",),
        ("plan", str(QUICKSTART)),
        ("plan", "suite.yaml"),
        ("run", "suite.yaml"),
        ("report",),
    ],
    ids=lambda arguments: " ".join(Path(argument).name for argument in arguments),
)
def test_command(
    benchmark: BenchmarkFixture, measured: Workplace, arguments: tuple[str, ...]
) -> None:
    finished = benchmark.pedantic(measured.call, arguments, rounds=5, warmup_rounds=1)
    assert finished.code == 0, finished.errors


def test_report_of_seven_cells(benchmark: BenchmarkFixture, workplace: Workplace) -> None:
    for record in quickstart_records():
        keep(workplace.folder / "results", record)
    finished = benchmark.pedantic(workplace.call, ("report",), rounds=5, warmup_rounds=1)
    assert finished.code == 0
