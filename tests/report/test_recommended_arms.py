"""Which arm to train and how to serve it, against what the published records say by themselves."""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy import stats

from qbench.compare.recommend.arms import arm_choices
from qbench.compare.recommend.budget import Budget
from qbench.compare.recommend.limits import Limit
from qbench.compare.recommend.recommend import recommend
from qbench.compare.selection import select
from qbench.core.store import read_folder
from qbench.report.as_json import render
from qbench.report.markdown import render as as_markdown
from qbench.report.report_page import report_page
from tests.command import call
from tests.report.test_recommendation import packed

if TYPE_CHECKING:
    from qbench.compare.recommend.choices import Choices
    from qbench.compare.selection import CellRecords, TableRecords
    from qbench.core.record import Record

PUBLISHED = Path(__file__).parents[2] / "results" / "published"
SUITES = ["full", "finetune", "integers"]


@cache
def records_of(suite: str) -> tuple[Record, ...]:
    return tuple(read_folder(PUBLISHED / suite)[0])


@cache
def table_of(suite: str) -> tuple[TableRecords, Choices]:
    (table,) = select(records_of(suite)).tables
    made = arm_choices(table)
    assert made is not None
    return table, made


def served(table: TableRecords) -> dict[str, list[CellRecords]]:
    """The served cells by arm and way, whatever their seed, found by their labels."""
    found: dict[str, list[CellRecords]] = {}
    for cell in table.tuned:
        tuning = cell.tuning
        if tuning is None or cell.is_training or cell.deploy == "fake-quantized":
            continue
        way = cell.label.removeprefix(f"{tuning.label}--")
        found.setdefault(f"{tuning.arm}--{way}", []).append(cell)
    return found


def losses(cells: list[CellRecords]) -> dict[int, np.ndarray]:
    """By seed, the loss of each item and its tokens."""
    return {
        cell.tuning.seed: np.array([one.series["item_nll"], one.series["item_tokens"]])
        for cell in cells
        if cell.tuning is not None
        for one in cell.of("completion", "test")
    }


def change(own: list[CellRecords], best: list[CellRecords]) -> tuple[float, float, float]:
    """Mean over the seeds of the paired change, with its interval: items and seeds are chance."""
    mine, theirs = losses(own), losses(best)
    seeds = sorted(mine.keys() & theirs.keys())
    tokens = mine[seeds[0]][1]
    by_item = np.array([mine[seed][0] - theirs[seed][0] for seed in seeds])
    changes = by_item.sum(axis=1) / tokens.sum()
    mean = float(changes.mean())
    rest = by_item.mean(axis=0) - mean * tokens
    of_items = float(np.sum(rest**2)) / tokens.sum() ** 2
    of_seeds = float(changes.var(ddof=1)) / len(seeds) if len(seeds) > 1 else 0.0
    total = of_items + of_seeds
    if not total:
        return mean, mean, mean
    degrees = total**2 / (
        of_items**2 / (len(tokens) - 1) + (of_seeds**2 / (len(seeds) - 1) if of_seeds else 0.0)
    )
    wide = float(stats.t.ppf(0.975, degrees)) * math.sqrt(total)
    return mean, mean - wide, mean + wide


@pytest.mark.parametrize("suite", SUITES)
def test_losses_are_paired_with_the_best_over_items_and_seeds(suite: str) -> None:
    table, made = table_of(suite)
    cells = served(table)
    assert {choice.label for choice in made.cells} == set(cells)
    means = {
        label: statistics.fmean(
            value
            for cell in own
            for one in cell.of("completion", "test")
            if (value := one.value("completion.loss")) is not None
        )
        for label, own in cells.items()
    }
    best = min(means, key=lambda label: means[label])
    for choice in made.cells:
        known = choice.ranges["loss"]
        if choice.label == best:
            assert (known.value, known.low, known.high) == (0.0, 0.0, 0.0)
            continue
        value, low, high = change(cells[choice.label], cells[best])
        assert known.value == pytest.approx(value, abs=1e-9)
        assert known.low is not None
        assert known.high is not None
        assert known.low == pytest.approx(low, abs=0.35 * (high - low) + 1e-9)
        assert known.high == pytest.approx(high, abs=0.35 * (high - low) + 1e-9)


@pytest.mark.parametrize("suite", SUITES)
def test_of_a_grid_of_budgets_the_same_is_chosen_by_loops(suite: str) -> None:
    table, made = table_of(suite)
    sizes = {
        label: {packed(one) for cell in own for one in cell.of("footprint")}
        for label, own in served(table).items()
    }
    peaks = {
        cell.tuning.arm: one.value("training.memory.peak")
        for cell in table.tuned
        if cell.tuning is not None
        for one in cell.of("training")
    }
    highs = {choice.label: choice.ranges["loss"].high for choice in made.cells}
    bounds = sorted({high for high in highs.values() if high is not None})
    for most_loss in (0.0, *bounds[:: max(1, len(bounds) // 6)], bounds[-1]):
        for most_peak in sorted({peak for peak in peaks.values() if peak is not None}):
            limits = {
                "loss": Limit(most_loss, "max", "grid"),
                "training_peak": Limit(most_peak, "max", "grid"),
            }
            meeting = {}
            for label, size in sizes.items():
                high, peak = highs[label], peaks[label.rpartition("--")[0]]
                (bytes_,) = size
                inside = high is not None and high <= most_loss
                if inside and peak is not None and peak <= most_peak:
                    meeting[label] = bytes_
            found = recommend(replace(made, limits=limits)).best
            if not meeting:
                assert found is None
                continue
            assert found is not None
            assert meeting[found.cell.label] == min(meeting.values())


def test_the_default_is_the_margin_of_the_report_and_its_own_replaces_it() -> None:
    table, made = table_of("finetune")
    assert made.limits == {"loss": Limit(0.02, "max", "default")}
    own = arm_choices(table, Budget(max_loss_increase=0.005, max_training_peak=1e9, max_step=1.0))
    assert own is not None
    assert own.limits == {
        "loss": Limit(0.005, "max", "max_loss_increase"),
        "training_peak": Limit(1e9, "max", "max_training_peak"),
        "step": Limit(1.0, "max", "max_step"),
    }
    # One process for each of three seeds: of a time nothing is decided.
    assert {one.standing for one in recommend(own).candidates} <= {"undecided", "fails"}


def test_it_comes_first_in_the_section_and_is_in_the_json() -> None:
    page = as_markdown(report_page(records_of("finetune")))
    assert "Of the tuned models: **qlora-nf4-dq--attached** (QLoRA on NF4" in page
    section = page[page.index("## Fine-tuning") :]
    assert section.index("Recommended: qlora-nf4-dq--attached") < section.index("| arm ")
    found = json.loads(render(records_of("finetune")))["recommendations"]
    assert [(one["of"], one["recommended"]) for one in found] == [
        ("untuned", "int8"),
        ("tuned", "qlora-nf4-dq--attached"),
    ]


def test_limits_of_training_without_tuned_models_are_refused(tmp_path: Path) -> None:
    quality = str(PUBLISHED / "quality")
    finished = call(tmp_path, "recommend", quality, "--max-training-peak", "1GiB")
    assert finished.code == 2
    assert "--max-training-peak: no tuned model was served" in finished.errors
    finished = call(
        tmp_path, "recommend", str(PUBLISHED / "finetune"), "--max-training-peak", "100MiB"
    )
    assert finished.code == 1
    assert "No tuned model is shown to meet every limit" in finished.output
