"""Grams of CO₂ in `qbench report`: by the factor of a suite, or of the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.command import call
from tests.record_factory import footprint_record, latency_record, make_metric
from tests.workplace import keep

ON_A_GPU = str(Path(__file__).parents[2] / "results" / "published" / "mistral-shape")
SUITE = """\
name: quickstart
models: bundled:tiny-mistral
co2: {grams_per_kwh: 100, source: a roof}
"""


def test_the_factor_of_the_command_line_holds_for_all_records(tmp_path: Path) -> None:
    """Of bf16 at batch 1: 6.683 J a token are 1.856 kWh a million."""
    given = ("report", ON_A_GPU, "--format", "markdown", "--output", "-")
    page = call(tmp_path, *given, "--co2-per-kwh", "100").output
    assert "g CO₂ a million new tokens" in page
    assert "185.6" in page
    assert "100 g a kWh, which the user states (--co2-per-kwh)" in page
    assert "CO₂" not in call(tmp_path, *given).output


def test_the_factor_of_a_suite_holds_unless_another_is_given(tmp_path: Path) -> None:
    energy = make_metric("latency.energy", 3.6).model_copy(update={"unit": "J"})
    timed = latency_record("fp32")
    drawn = timed.model_copy(update={"metrics": (*timed.metrics, energy)})
    for record in (footprint_record("fp32"), drawn):
        keep(tmp_path / "results", record)
    (tmp_path / "s.yaml").write_text(SUITE, encoding="utf-8")
    given = ("report", "s.yaml", "--format", "markdown", "--output", "-")
    assert "100 g a kWh, which the user states (a roof)" in call(tmp_path, *given).output
    other = call(tmp_path, *given, "--co2-per-kwh", "0.5").output
    assert "0.5 g a kWh, which the user states (--co2-per-kwh)" in other


@pytest.mark.parametrize("factor", ["-1", "nan", "inf"])
def test_a_factor_that_is_none_is_refused(tmp_path: Path, factor: str) -> None:
    finished = call(tmp_path, "report", ON_A_GPU, "--co2-per-kwh", factor)
    assert finished.code == 2
    assert "expected grams from 0 to 1e5" in finished.errors
