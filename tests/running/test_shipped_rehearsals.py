"""One cell of each kind of every suite in the repository is rehearsed; `make rehearse` does all."""

from __future__ import annotations

import warnings
from io import StringIO
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from qbench.cli.display import RunDisplay
from qbench.plan.rehearsal import rehearse
from qbench.plan.suite.suite import load_suite
from qbench.precisions import precisions
from qbench.precisions.integer.integer import Integer
from qbench.running.executors.inline import InlineExecutor
from qbench.running.executors.this_machine import ThisMachine
from qbench.running.runner import run_suite
from tests.workplace import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

    from qbench.plan.suite.suite import Suite

SUITES = sorted((REPOSITORY / "suites").glob("**/*.yaml"))


def kinds(suite: Suite) -> list[str]:
    """One cell of each kind: untuned, by format; full, LoRA, QLoRA, QAT in each deployment."""
    chosen: dict[tuple[str, ...], str] = {}
    for cell in suite.cells():
        tuning = cell.tuning
        if tuning is None:
            kind: tuple[str, ...] = (width(cell.precision.name),)
        else:
            held = "full" if width(tuning.precision.name) == "full" else "quantized"
            kind = (tuning.method, held, cell.deploy or "training")
            of_arm = chosen.get((*kind[:2], "training"), cell.slug)
            # Merged into the original weights, QLoRA's adapter is one like LoRA's.
            if not cell.slug.startswith(of_arm) or kind == ("lora", "quantized", "merged"):
                continue
        chosen.setdefault(kind, cell.slug)
    return list(chosen.values())


def width(precision: str) -> str:
    if isinstance(precisions()[precision], Integer):
        return "integers"
    known = {"int8": "8 bits", "fp4": "4 bits", "nf4": "4 bits", "nf4-dq": "4 bits"}
    return known.get(precision, "full")


def quick(suite: Suite) -> Suite:
    """One process and the first point of every grid."""
    measure = {}
    for name, options in suite.measure.items():
        given = options.model_dump()
        once = {
            key: value[:1]
            for key, value in given.items()
            if key in {"batch", "prompt_tokens"} and isinstance(value, tuple)
        }
        if "repeats" in given:
            once["repeats"] = 1
        measure[name] = type(options).model_validate({**given, **once})
    return suite.model_copy(update={"measure": measure})


@pytest.mark.slow
@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.name)
def test_one_cell_of_each_kind_of_a_shipped_suite_is_rehearsed(
    path: Path, shared_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QBENCH_CACHE", str(shared_cache))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    suite = load_suite(path)
    made = quick(rehearse(suite))
    with warnings.catch_warnings(), RunDisplay(Console(file=StringIO()), quiet=True) as display:
        warnings.simplefilter("ignore")  # as in a worker's log, where they are no errors
        result = run_suite(
            made,
            tmp_path / "results",
            display,
            only=kinds(made),
            on=ThisMachine("cpu", make_executor=InlineExecutor),
        )
    assert {record.status for record in result.records} <= {"ok", "skipped"}
    assert all(record.rehearsal for record in result.records)
    taken = {record.item.measurement for record in result.records}
    assert set(suite.measure) <= taken
    assert ("training" in taken) == (suite.finetune is not None)
    skipped = [record for record in result.records if record.status == "skipped"]
    assert all(record.cell.model.kind == "random" for record in skipped)
