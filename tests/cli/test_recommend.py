"""`qbench recommend`: what a person types, what it answers, and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qbench.compare.recommend.budget import Budget
from tests.command import call
from tests.record_factory import make_record, quickstart_records
from tests.workplace import keep

if TYPE_CHECKING:
    from tests.workplace import Finished, Workplace

REPOSITORY = Path(__file__).parents[2]
FULL = str(REPOSITORY / "results" / "published" / "full")


def recommend(folder: Path, *arguments: str) -> Finished:
    return call(folder, "recommend", *arguments)


def test_it_says_what_to_run_under_the_default_and_how_to_say_otherwise(tmp_path: Path) -> None:
    finished = recommend(tmp_path, FULL)
    assert finished.code == 0
    assert "Recommended: int8" in finished.output
    assert "the default one" in finished.output


@pytest.mark.parametrize(
    ("arguments", "cell"),
    [
        (["--max-perplexity-increase", "3%"], "nf4-dq"),
        (["--max-perplexity-increase", "3 %", "--minimize", "decode"], "fp32"),
        (["--max-perplexity-increase", "3%", "--max-bytes", "2.3 MiB"], "nf4-dq"),
        (["--max-kl", "0.0001"], "fp16"),
        (["--max-kl", "0"], "fp32"),
        (["--min-task", "stdlib-choice: -0.015"], "int8"),
        (["--min-task", "stdlib-*: -0.013"], "fp16"),
        (["--max-decode", "1.75ms", "--max-perplexity-increase", "5%"], "fp16"),
        (["--gpu", "24GB", "--minimize", "prefill"], "bf16"),
        (["--minimize", "price", "--price", "1.5"], "fp32"),
    ],
)
def test_the_budget_decides(tmp_path: Path, arguments: list[str], cell: str) -> None:
    finished = recommend(tmp_path, FULL, *arguments, "--format", "json")
    assert finished.code == 0, finished
    found, *_ = json.loads(finished.output)["recommendations"]
    assert found["recommended"] == cell


def test_where_nothing_meets_it_the_nearest_is_told_and_the_code_is_1(tmp_path: Path) -> None:
    arguments = ("--max-decode", "1.5ms", "--max-perplexity-increase", "2%")
    finished = recommend(tmp_path, FULL, *arguments)
    assert finished.code == 1
    assert "Nearest: fp16" in finished.output
    assert "It would meet decode at most 1.75 ms" in " ".join(finished.output.split())
    found, *_ = json.loads(recommend(tmp_path, FULL, *arguments, "--format", "json").output)[
        "recommendations"
    ]
    assert found["recommended"] is None
    assert found["nearest"] == "fp16"


def test_every_format_says_the_same(tmp_path: Path) -> None:
    for name in ("text", "markdown", "html"):
        finished = recommend(tmp_path, FULL, "--format", name)
        assert finished.code == 0
        assert "Recommended: int8" in finished.output


SUITE = """
name: full
models: bundled:tiny-mistral
recommend:
  max_perplexity_increase: 3%
  minimize: bytes
"""


def test_a_suites_budget_holds_and_the_command_line_goes_before_it(tmp_path: Path) -> None:
    (tmp_path / "suite.yaml").write_text(SUITE, encoding="utf-8")
    published = ("suite.yaml", "--results", str(REPOSITORY / "results" / "published"))
    for options, cell in (
        ((), "nf4-dq"),
        (("--minimize", "decode"), "fp32"),
        (("--max-perplexity-increase", "1%"), "int8"),
    ):
        finished = recommend(tmp_path, *published, *options, "--format", "json")
        assert finished.code == 0, finished
        found, *_ = json.loads(finished.output)["recommendations"]
        assert found["recommended"] == cell


def test_the_last_limit_of_a_score_holds_and_the_command_lines_are_last() -> None:
    suites = Budget(min_task={"choice": -0.01, "*": -0.02})
    assert list(Budget(min_task={"choice": -0.5}).over(suites).min_task.items()) == [
        ("*", -0.02),
        ("choice", -0.5),
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--max-bytes", "6"], ["--max-bytes: found '6'", "a size such as 6GiB", "write 6GiB"]),
        (["--max-bytes", "-6GiB"], ["--max-bytes: found '-6GiB'"]),
        (["--max-peak", "6 apples"], ["--max-peak", "a size such as 6GiB"]),
        (["--max-decode", "40"], ["--max-decode", "write 40ms"]),
        (["--max-energy", "2"], ["--max-energy", "write 2J"]),
        (["--max-decode", "0ms"], ["--max-decode", "a time such as 40ms"]),
        (["--max-perplexity-increase", "0.01"], ["a share of at least 0 such as 1%", "write 1%"]),
        (["--max-perplexity-increase", "-1%"], ["a share of at least 0"]),
        (["--max-kl", "-1"], ["--max-kl", "at least 0"]),
        (["--max-kl", "nan"], ["--max-kl"]),
        (["--gpu", "0"], ["--gpu: found '0'", "a size such as 24GB"]),
        (["--gpu", "0GB"], ["--gpu: found '0GB'", "a size such as 24GB"]),
        (["--gpu", "h10"], ["--gpu: found 'h10'", "did you mean 'h100'"]),
        (["--min-task", "hellaswag -0.01"], ["--min-task", "'hellaswag: -0.01'"]),
        (["--min-task", "stdlib-choise: -0.01"], ["did you mean 'stdlib-choice'"]),
        (["--min-task", "stdlib-choice: -1e999"], ["--min-task", "a number such as -0.01"]),
        (["--minimize", "loss"], ["--minimize: found 'loss'", "bytes, peak, prefill"]),
        (["--minimize", "energy"], ["it was not measured", "bytes, peak, prefill, decode"]),
        (["--minimize", "price"], ["price", "what an hour of the device costs", "--gpu-hour 2.49"]),
        (["--max-price", "1"], ["--max-price: found no price", "--gpu-hour 2.49"]),
        (["--gpu-hour", "x"], ["--gpu-hour: found 'x'", "a positive number up to 1e12"]),
        (["--gpu-hour", "$2.49"], ["--gpu-hour", "write 2.49 alone"]),
        (["--gpu-hour", "h100=2.49 USD"], ["'h100=2.49 USD'", "write 2.49 alone"]),
        (["--gpu-hour", "nan"], ["one for each kind of device: nvidia-h100=2.49"]),
        (["--gpu-hour", "h100=0"], ["--gpu-hour", "a positive number up to 1e12"]),
        (["--gpu-hour", "1", "--gpu-hour", "2"], ["--gpu-hour", "one amount for each kind"]),
        (["--currency", "USD"], ["--currency: found no price of an hour", "--gpu-hour"]),
        (["--min-task", "a: -1", "--min-task", " a : -2"], ["--min-task: 'a' is limited twice"]),
        (["--price", "0"], ["--price", "a positive number"]),
        (["--price", "1e308"], ["--price", "a positive number up to 1e12"]),
        (["--batch", "3"], ["--batch 3", "there are 1, 4"]),
        (["--batch", "0"], ["--batch", "at least 1"]),
        (["--max-bytes", "x", "--max-decode", "y"], ["--max-bytes", "--max-decode"]),
    ],
)
def test_what_cannot_be_used_is_told_with_place_and_remedy(
    tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    finished = recommend(tmp_path, FULL, *arguments)
    assert finished.code == 2
    assert not finished.output
    told = " ".join(finished.errors.split())
    assert all(word in told for word in words), told


def test_records_that_are_not_there_or_rehearsed(tmp_path: Path) -> None:
    assert "no such folder" in recommend(tmp_path, "nowhere").errors
    (tmp_path / "empty").mkdir()
    assert "no records there" in recommend(tmp_path, "empty").errors
    keep(tmp_path / "results", make_record("fp32", rehearsal=("bundled model",)))
    finished = recommend(tmp_path)
    assert finished.code == 2
    assert "rehearsal" in finished.errors


def test_each_table_has_its_own_and_one_without_any_gives_1(tmp_path: Path) -> None:
    for record in quickstart_records():
        keep(tmp_path / "results", record)
    keep(tmp_path / "results", make_record("fp32", metrics={"memory.static": 2.0**40}, model="big"))
    finished = recommend(tmp_path, "--max-bytes", "100MiB", "--format", "json")
    assert finished.code == 1
    found = json.loads(finished.output)["recommendations"]
    assert {one["model"]: one["recommended"] is None for one in found} == {
        "tiny-mistral": False,
        "big": True,
    }


def test_why_nothing_is_known_of_a_cost_is_told_once(tmp_path: Path) -> None:
    records = [one for one in quickstart_records() if one.item.measurement == "footprint"]
    for record in records:
        oom = {"status": "oom", "reason": "no room", "metrics": ()}
        keep(tmp_path / "results", record.model_copy(update=oom if record.reference else {}))
    finished = recommend(tmp_path, "--max-bytes", "100MiB")
    assert finished.code == 0, finished
    assert " ".join(finished.output.split()).count("static bytes: oom (no room)") == 1


def test_what_is_left_out_is_told(tmp_path: Path) -> None:
    for record in quickstart_records():
        old = record.cell.label == "nf4"
        keep(tmp_path / "results", record.model_copy(update={"protocol": "0"} if old else {}))
    told = "of protocol 0 left out"
    assert told in " ".join(recommend(tmp_path).output.split())
    (found,) = json.loads(recommend(tmp_path, "--format", "json").output)["left_out"]
    assert told in found
    compared = call(tmp_path, "compare", "results", "results")
    assert compared.code == 0
    assert compared.errors.count(told) == 1


def test_a_report_of_a_suite_chooses_by_its_budget(tmp_path: Path) -> None:
    (tmp_path / "suite.yaml").write_text(SUITE, encoding="utf-8")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "full").symlink_to(FULL)
    for where, cell in (("suite.yaml", "nf4-dq"), ("results/full", "int8")):
        finished = call(tmp_path, "report", where, "--format", "markdown", "--output", "-")
        assert finished.code == 0, finished
        assert f"**Recommended: {cell}**" in finished.output


@pytest.mark.slow
def test_a_run_ends_with_its_suites_own_recommendation(workplace: Workplace) -> None:
    budget = "recommend: {max_bytes: 1TiB}\n"
    suite = f"models: [{workplace.model}]\nprecisions: [fp32, bf16]\nmeasure: [footprint]\n"
    workplace.write("suite.yaml", suite + budget)
    finished = workplace.call("run", "suite.yaml")
    assert finished.code == 0
    assert "Recommended by cost alone: bf16" in finished.output
    assert "Limited by: static bytes at most 1,024" in finished.output
    (page,) = (workplace.folder / "reports").glob("*.md")
    assert "Limited by: static bytes at most 1,024" in page.read_text(encoding="utf-8")
