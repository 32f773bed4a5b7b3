"""`qbench claims`: what a person types, and what it answers."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING

import pytest

from qbench.core.store import read_folder
from qbench.plan.claims import read_claims
from qbench.report.claims import claims_page, hold_against
from tests.command import call
from tests.paired_records import losses, quality
from tests.record_factory import make_environment, make_record
from tests.workplace import REPOSITORY, keep

if TYPE_CHECKING:
    from pathlib import Path

    from tests.workplace import Finished

PUBLISHED = REPOSITORY / "results" / "published"
PAGE = REPOSITORY / "reports" / "claims.md"
MINE = """\
claims:
  - name: mine
    claim: NF4 is as good as FP4.
    source: {work: My own guess}
    checks: {metric: perplexity, of: nf4, against: fp4, expect: {within: 1%}}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Records of FP4, and of NF4, which loses 2 % less; the same on another device."""
    gpu = make_environment(device="NVIDIA H200", device_kind="nvidia-h200", device_type="cuda")
    for more in ({}, {"environment": gpu, "suite": "other"}):
        for record in (
            quality("fp32", losses(0.0), **more),
            quality("fp4", losses(0.03, seed=2), **more),
            quality("nf4", losses(0.01, seed=3), **more),
            make_record("nf4", "footprint", {"bits_per_weight.linear": 4.5}, **more),
            make_record("nf4-dq", "footprint", {"bits_per_weight.linear": 4.2}, **more),
        ):
            keep(tmp_path / "results", record)
    return tmp_path


def verdicts(finished: Finished) -> dict[tuple[str, str], str]:
    assert finished.code == 0, finished
    found = json.loads(finished.output)["verdicts"]
    return {(one["suite"], one["claim"]): one["verdict"] for one in found}


def test_every_suite_device_and_model_has_its_verdicts(folder: Path) -> None:
    found = verdicts(call(folder, "claims", "--format", "json"))
    for suite in ("quickstart", "other"):
        assert found[suite, "nf4-beats-fp4"] == "holds"
        assert found[suite, "double-quantization-saves-bits"] == "does not hold"
        assert found[suite, "qat-beats-ptq"] == "not testable"


def test_one_suite_alone(folder: Path) -> None:
    found = verdicts(call(folder, "claims", "--suite", "other", "--format", "json"))
    assert {suite for suite, _ in found} == {"other"}
    finished = call(folder, "claims", "--suite", "othr")
    assert finished.code == 2
    assert "found no record of 'othr' in results; did you mean 'other'?" in finished.errors


def test_claims_of_ones_own(folder: Path) -> None:
    folder.joinpath("mine.yaml").write_text(MINE, encoding="utf-8")
    finished = call(folder, "claims", "--claims", "mine.yaml", "--format", "json")
    assert verdicts(finished)["quickstart", "mine"] == "does not hold"
    folder.joinpath("mine.yaml").write_text(MINE.replace("nf4,", "nf5,"), encoding="utf-8")
    finished = call(folder, "claims", "--claims", "mine.yaml")
    assert finished.code == 2
    assert "mine.yaml:5: claims[0].checks.of: found the text 'nf5'" in finished.errors


def test_the_terminal_has_what_was_tested_and_the_counts(folder: Path) -> None:
    finished = call(folder, "claims", "--suite", "other")
    words = " ".join(finished.output.split())
    assert "NF4 loses less than FP4" in words
    assert "below 0" in words
    assert "exact" in words
    assert "1 holds, 1 does not hold" in words
    assert "Losses" not in words


def test_the_page_has_the_ledger_the_reasons_and_the_sources(folder: Path) -> None:
    finished = call(folder, "claims", "--format", "markdown", "-o", "claims.md")
    assert finished.code == 0
    text = folder.joinpath("claims.md").read_text(encoding="utf-8")
    assert "| tiny-mistral on Intel Xeon (2 cores) | tiny-mistral on NVIDIA H200 |" in text
    assert "arXiv 2305.14314, table 2" in text
    assert "no cell here is mxfp4" in text or "no cell here is nvfp4: nvfp4-beats-mxfp4" in text
    assert "it is about a CUDA GPU, and this is a CPU" in text


def test_rows_for_programs(folder: Path) -> None:
    finished = call(folder, "claims", "--suite", "other", "--format", "csv")
    rows = {one["claim"]: one for one in csv.DictReader(io.StringIO(finished.output))}
    assert rows["nf4-beats-fp4"]["verdict"] == "holds"
    assert -0.03 < float(rows["nf4-beats-fp4"]["low"]) < float(rows["nf4-beats-fp4"]["high"]) < 0
    assert rows["qat-beats-ptq"]["figure"] == ""
    assert rows["qat-beats-ptq"]["number_of_figures"] == "0"
    assert "figures" not in rows["nf4-beats-fp4"]
    found = json.loads(call(folder, "claims", "--suite", "other", "--format", "json").output)
    (told,) = (one for one in found["verdicts"] if one["claim"] == "nf4-beats-fp4")
    (only,) = told["figures"]
    assert only["figure"] == told["figure"]


def test_a_rehearsal_never_counts(folder: Path) -> None:
    rehearsed = [
        one.model_copy(update={"rehearsal": ("a small model",), "suite": "rehearsed"})
        for one in read_folder(folder / "results")[0]
    ]
    for record in rehearsed:
        keep(folder / "results", record)
        keep(folder / "rehearsed", record)
    found = verdicts(call(folder, "claims", "--format", "json"))
    assert {suite for suite, _ in found} == {"quickstart", "other"}
    finished = call(folder, "claims", "rehearsed")
    assert finished.code == 2
    assert "records of a rehearsal" in finished.errors


def test_a_folder_without_records(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    finished = call(tmp_path, "claims", "empty")
    assert finished.code == 2
    assert "no records there; `qbench run suites/claims.yaml` makes some" in finished.errors


def test_texts_of_a_stranger_are_shown_as_they_are(folder: Path) -> None:
    hostile = "<img src=x> | [/red] [x](y) ::error::"
    text = MINE.replace("NF4 is as good as FP4.", f'"{hostile}"').replace(
        "My own guess", f'"{hostile}"'
    )
    folder.joinpath("mine.yaml").write_text(text, encoding="utf-8")
    for name in ("text", "markdown", "html"):
        finished = call(folder, "claims", "--claims", "mine.yaml", "--format", name)
        assert finished.code == 0, finished
        assert "<img src=x>" not in finished.output or name == "text"
        assert "](y)" not in finished.output.replace("]\\(", "") or name != "markdown"


def test_the_published_page_is_made_from_the_published_records(tmp_path: Path) -> None:
    finished = call(
        tmp_path, "claims", str(PUBLISHED), "--format", "markdown", "-o", str(tmp_path / "c.md")
    )
    assert finished.code == 0, finished
    made = tmp_path.joinpath("c.md").read_text(encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == made


def test_a_page_of_no_table() -> None:
    page = claims_page(read_claims(), hold_against(read_claims(), []))
    assert page.data["verdicts"] == []
