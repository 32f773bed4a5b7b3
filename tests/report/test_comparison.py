"""A comparison for the terminal and as markdown."""

from __future__ import annotations

import pytest
from scipy import stats

from qbench.compare.compare import Comparison, compare_records
from qbench.report import comparison as page
from qbench.report import markdown
from tests.pages import on_terminal
from tests.paired_records import footprint, latency, losses, quality, task, untouched
from tests.record_factory import make_environment


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    """Something real, something equal, something too few, and another git revision."""
    environment = make_environment(git_revision="4567def")
    new = [
        quality("nf4", losses(0.03, seed=2), environment=environment),
        *latency("nf4", [0.01] * 3, environment=environment),
        footprint("nf4", 1_000_000, environment=environment),
    ]
    return compare_records(new, untouched(), names=("new.json", "old | _x_"))


def shown(comparison: Comparison, *, everything: bool = False) -> str:
    return on_terminal(page.comparison_on_screen(comparison, everything=everything), 220)


def test_the_terminal_shows_what_differs_and_counts_the_rest(comparison: Comparison) -> None:
    text = shown(comparison)
    assert "perplexity" in text
    assert "worse" in text
    assert "2 equivalent" in text
    assert "memory.static" not in text
    assert "memory.static" in shown(comparison, everything=True)
    assert "git revision: 4567def (new), 0123abc (old)" in text


def test_what_was_not_compared_is_listed_by_reason(comparison: Comparison) -> None:
    reasons = dict(page.find_gaps(comparison))
    assert any("2 more are needed" in reason for reason in reasons)
    assert ["nf4 tasks cloze"] in reasons.values()


def test_the_page_has_table_conditions_and_method(comparison: Comparison) -> None:
    text = markdown.render(page.comparison_page(comparison))
    assert text.startswith("# new.json against old \\| \\_x\\_")
    rows = [line for line in text.splitlines() if line.startswith("| nf4")]
    assert len(rows) == 3
    assert "equal" in next(row for row in rows if "memory.static" in row)
    assert "## Not compared" in text
    assert "| git revision" in text
    assert "10,000 resamples, seed 0" in text
    assert "Holm over all 3 differences" in text


def test_nothing_in_common_is_said() -> None:
    empty = compare_records([], [])
    assert "Nothing to compare." in markdown.render(page.comparison_page(empty))


def test_flips_of_scores_stand_with_their_intervals() -> None:
    right = [1.0] * 150 + [0.0] * 50
    other = [0.0] * 6 + [1.0] * 144 + [1.0] * 3 + [0.0] * 47
    made = compare_records([task("nf4", other)], [task("nf4", right)])
    exact = stats.binomtest(9, 200).proportion_ci(0.95, method="exact")
    text = markdown.render(page.comparison_page(made))
    (row,) = [line for line in text.splitlines() if "| accuracy" in line and " to " in line][-1:]
    cells = [cell.strip() for cell in row.split("|")]
    assert cells[5:7] == ["6", "3"]
    assert cells[7] == f"4.50 ({100 * exact.low:.2f} to {100 * exact.high:.2f})"
    scored = stats.binomtest(147, 200).proportion_ci(0.95, method="exact")
    assert cells[3] == f"0.7350 ({scored.low:.4f} to {scored.high:.4f})"
    assert "Flips" in text
    assert "accuracy" in shown(made)
    same = compare_records([task("nf4", right)], [task("nf4", right)])
    assert "right →" not in shown(same)
    assert "right → wrong" in markdown.render(page.comparison_page(same))
