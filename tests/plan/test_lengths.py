"""Lengths of a grid: the model's own context by name, and those that are beyond it."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from qbench.core.errors import SuiteError
from qbench.plan.needs import cache_need, cell_need
from qbench.plan.plan import Plan, make_plan
from qbench.plan.rehearsal import rehearse
from qbench.plan.suite.suite import load_suite_text
from qbench.predict.devices import parse_memory
from qbench.predict.peaks import predicted_peak
from tests.tiny_models import make_tiny_model

if TYPE_CHECKING:
    from pathlib import Path

TEXT = """\
models: [./short, ./long]
precisions: [fp32]
measure: {%s: {%s}}
"""
BEYOND = "a prompt of 128 tokens with 4 new ones is longer than the context of short, which is 96"
MEASURED = pytest.mark.parametrize("measurement", ["latency", "memory"])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lengths")
    for name, context in (("short", 96), ("long", 256)):
        make_tiny_model(folder / name, "llama", context=context)
    return folder


def plan(base: Path, measurement: str, options: str, **more: Any) -> Plan:
    suite = load_suite_text(TEXT % (measurement, options), "suite.yaml", base)
    return make_plan(suite, base / "results", device="cpu", **more)


def points(made: Plan) -> dict[str, list[tuple[str, str | None]]]:
    """By model, the slugs of its items, each with the reason why it is skipped."""
    found: dict[str, dict[str, str | None]] = {}
    for cell in made.cells:
        for task in cell.tasks:
            found.setdefault(cell.cell.model.name, {})[task.item.slug] = task.skip
    return {name: list(slugs.items()) for name, slugs in found.items()}


@MEASURED
def test_context_is_each_models_own_less_the_new_tokens(base: Path, measurement: str) -> None:
    options = "prompt_tokens: [16, context], new_tokens: [4, 8]"
    found = points(plan(base, measurement, options))
    assert [slug for slug, _ in found["short"]] == [
        "b1-p16-n4",
        "b1-p16-n8",
        "b1-p92-n4",
        "b1-p88-n8",
    ]
    assert [slug for slug, _ in found["long"]][2:] == ["b1-p252-n4", "b1-p248-n8"]
    assert {skip for slugs in found.values() for _, skip in slugs} == {None}


@MEASURED
def test_the_context_by_name_and_by_number_are_one_point(base: Path, measurement: str) -> None:
    options = "prompt_tokens: [92, context], new_tokens: 4, repeats: 1"
    by_name = plan(base, measurement, "prompt_tokens: context, new_tokens: 4, repeats: 1")
    both = plan(base, measurement, options)
    assert points(both)["short"] == points(by_name)["short"] == [("b1-p92-n4", None)]
    assert both.cells[0].tasks[0].key == by_name.cells[0].tasks[0].key


@MEASURED
def test_of_a_list_what_is_beyond_a_context_is_skipped_for_that_model(
    base: Path, measurement: str
) -> None:
    options = "prompt_tokens: [32, 128], new_tokens: 4, repeats: 2"
    made = plan(base, measurement, options)
    assert points(made)["short"] == [
        ("b1-p32-n4", None),
        ("b1-p128-n4", BEYOND),
    ]
    assert points(made)["long"] == [("b1-p32-n4", None), ("b1-p128-n4", None)]
    skipped = [job for job, _ in made.skipped()]
    assert [[task.item.slug for task in job.tasks] for job in skipped] == [["b1-p128-n4"] * 2]


@MEASURED
def test_what_is_beyond_a_context_is_no_need_of_its_cell(base: Path, measurement: str) -> None:
    within, beyond = (
        plan(base, measurement, f"prompt_tokens: {written}, new_tokens: 4, repeats: 1")
        for written in ("[32]", "[32, 10000000]")
    )
    needs = [cell_need(made.cells[0], made.environment) for made in (within, beyond)]
    assert [need.fit is not None and need.fit.fits for need in needs] == [True, True]
    assert needs[0].bytes == needs[1].bytes


def test_a_cache_is_told_of_a_point_that_is_taken(base: Path) -> None:
    options = "prompt_tokens: 32, new_tokens: 4, forward: [static, eager]"
    made = plan(base, "latency", options)
    size = cache_need(made.cells[0])
    assert size is not None
    assert size[0] == "b1-p32-n4"


@MEASURED
@pytest.mark.parametrize(
    ("written", "found"),
    [("128", "128"), ("[128, 256]", "128"), ("context, new_tokens: 96", "context with 96")],
)
def test_a_grid_of_which_nothing_fits_is_refused(
    base: Path, measurement: str, written: str, found: str
) -> None:
    with pytest.raises(SuiteError) as caught:
        plan(base, measurement, f"prompt_tokens: {written}")
    (problem,) = caught.value.problems
    assert problem.place == f"measure.{measurement}.prompt_tokens"
    assert problem.found.startswith(found)
    assert problem.expected == "at most 96 together, the context of short"


def test_the_context_of_a_model_that_does_not_say_it(tmp_path: Path, base: Path) -> None:
    shutil.copytree(base / "short", tmp_path / "short")
    config = tmp_path / "short" / "config.json"
    config.write_text(config.read_text().replace('"max_position_embeddings": 96,', ""))
    suite = TEXT.replace(", ./long", "") % ("latency", "prompt_tokens: [8, context]")
    with pytest.raises(SuiteError, match="the context of short is not known"):
        make_plan(load_suite_text(suite, "suite.yaml", tmp_path), tmp_path, device="cpu")


@MEASURED
def test_chunks_are_part_of_a_point_where_they_are_shorter_than_its_prompt(
    base: Path, measurement: str
) -> None:
    plain = plan(base, measurement, "prompt_tokens: [16, 64], new_tokens: 4, repeats: 1")
    chunked = plan(
        base, measurement, "prompt_tokens: [16, 64], new_tokens: 4, repeats: 1, prefill_chunk: 16"
    )
    assert [slug for slug, _ in points(chunked)["short"]] == ["b1-p16-n4", "b1-p64-n4-c16"]
    first, second = chunked.cells[0].tasks
    assert first.key == plain.cells[0].tasks[0].key
    assert second.key != plain.cells[0].tasks[1].key
    assert second.item.params["prefill_chunk"] == 16
    assert "prefill_chunk" not in first.item.params


@MEASURED
def test_a_rehearsal_has_as_many_lengths(base: Path, measurement: str) -> None:
    options = "prompt_tokens: [64, context, 16], prefill_chunk: 16"
    suite = rehearse(load_suite_text(TEXT % (measurement, options), "suite.yaml", base))
    made: Any = suite.measure[measurement]
    assert made.prompt_tokens == (10, 16, 5)
    assert made.prefill_chunk == 4


MISTRAL = """\
models: ["random:Mistral-7B-Instruct-v0.2"]
precisions: [bf16]
measure: {latency: {prompt_tokens: [512, 32000], new_tokens: 16, repeats: 1%s}}
"""


def test_a_prompt_that_is_too_long_at_once_is_told_the_chunk_that_fits(tmp_path: Path) -> None:
    gpu = parse_memory("22GB")

    def skips(more: str) -> list[str | None]:
        suite = load_suite_text(MISTRAL % more, "suite.yaml", tmp_path)
        made = make_plan(suite, tmp_path, device="cpu", gpu=gpu)
        return [task.skip for task in made.cells[0].tasks]

    first, second = skips("")
    assert first is None
    assert second is not None
    assert second.startswith("does not fit: latency b1-p32000-n16 needs")
    advice, _, chunk = second.rpartition("fits with prefill_chunk: ")
    assert advice
    assert skips(f", prefill_chunk: {chunk}") == [None, None]
    larger = skips(f", prefill_chunk: {2 * int(chunk)}")[1]
    assert larger is not None
    assert larger.endswith(f"fits with prefill_chunk: {chunk}")


class TestOfTexts:
    """Windows of `quality`, and prompts of `decoded`."""

    @pytest.fixture(autouse=True)
    def text(self, base: Path) -> None:
        (base / "text.txt").write_text("def add(first, second):\n    return first\n" * 40)

    def test_windows_of_a_list_are_items(self, base: Path) -> None:
        found = points(plan(base, "quality", "text: text.txt, window: [32, 96, 128, context]"))
        assert found["short"] == [
            ("text-w32-default", None),
            ("text-w96-default", None),
            (
                "text-w128-default",
                "a window of 128 tokens is longer than the context of short, which is 96",
            ),
        ]
        windows = [32, 96, 128, 256]
        assert found["long"] == [(f"text-w{window}-default", None) for window in windows]

    def test_one_window_is_what_it_was(self, base: Path) -> None:
        one, listed, left_out, own = (
            plan(base, "quality", f"text: text.txt{window}").cells[0].tasks
            for window in (", window: 96", ", window: [96]", "", ", window: context")
        )
        (first,) = one
        assert first.item.params["window"] == 96
        assert [task.key for task in (*listed, *left_out, *own)] == [first.key] * 3

    def test_a_window_beyond_every_context_is_refused(self, base: Path) -> None:
        with pytest.raises(SuiteError) as caught:
            plan(base, "quality", "text: text.txt, window: [128, 200]")
        (problem,) = caught.value.problems
        assert problem.place == "measure.quality.window"
        assert (problem.found, problem.remedy) == ("128", "set window to at most 96")

    def test_prompts_of_a_list_are_decoded_after(self, base: Path) -> None:
        options = "text: text.txt, prompt_tokens: [16, 95, context], new_tokens: 8"
        longer = (
            "a prompt of 95 tokens with 8 new ones and the one after them is longer than the"
            " context of short, which is 96"
        )
        found = points(plan(base, "decoded", options))
        assert found["short"] == [
            ("text-p16-n8-first32", None),
            ("text-p95-n8-first32", longer),
            ("text-p87-n8-first32", None),
        ]
        assert [slug for slug, _ in found["long"]][-1] == "text-p247-n8-first32"


class TestNeedle:
    """Lengths of `needle` hold all: the question, and what is written after it."""

    def test_of_a_list_what_is_beyond_a_context_is_skipped(self, base: Path) -> None:
        found = points(plan(base, "needle", "lengths: [64, 128, context]"))
        beyond = (
            "a prompt of 112 tokens with 16 new ones is longer than the context of short, which"
            " is 96"
        )
        assert found["short"] == [
            ("stdlib-heldout-l64-5x10", None),
            ("stdlib-heldout-l128-5x10", beyond),
            ("stdlib-heldout-l96-5x10", None),
        ]
        assert [slug for slug, _ in found["long"]][-1] == "stdlib-heldout-l256-5x10"

    def test_half_of_the_context_and_all_of_it_by_default(self, base: Path) -> None:
        found = points(plan(base, "needle", "value: word, chat_template: true"))
        assert found["long"] == [
            ("stdlib-heldout-l128-5x10-word-chat", None),
            ("stdlib-heldout-l256-5x10-word-chat", None),
        ]

    @pytest.mark.parametrize(
        ("options", "place", "found", "remedy"),
        [
            ("lengths: [200, 220]", "lengths", "200", "give a length of at most 96"),
            ("lengths: 16", "lengths", "16", "give greater lengths, or lower new_tokens"),
            ("depths: [0, 120]", "depths[1]", "the number 120", ""),
            ("depths: []", "depths", "an empty list", ""),
            ("value: colour", "value", "the text 'colour'", ""),
        ],
    )
    def test_what_is_refused(
        self, base: Path, options: str, place: str, found: str, remedy: str
    ) -> None:
        with pytest.raises(SuiteError) as caught:
            plan(base, "needle", options)
        (problem,) = caught.value.problems
        assert problem.place == f"measure.needle.{place}"
        assert problem.found == found
        assert remedy in (problem.remedy or "")

    def test_its_peak_is_that_of_the_prompt_and_what_is_written_after_it(self, base: Path) -> None:
        peaks = []
        for name, options in (
            ("needle", "lengths: 64, new_tokens: 12, batch: 2, prefill_chunk: 20"),
            ("memory", "prompt_tokens: 52, new_tokens: 12, batch: 2, prefill_chunk: 20"),
        ):
            made = plan(base, name, options).cells[0]
            peaks.append(predicted_peak(made.cell, made.model, made.tasks[0].item))
        assert peaks[0] is not None
        assert peaks[0].total is not None
        assert peaks[0] == peaks[1]

    def test_random_weights_have_learned_nothing(self, base: Path) -> None:
        suite = load_suite_text(
            TEXT.replace("./short, ./long", "'random:./long'") % ("needle", ""), "suite.yaml", base
        )
        made = make_plan(suite, base / "results", device="cpu")
        reasons = {task.skip for cell in made.cells for task in cell.tasks}
        assert len(reasons) == 1
        assert "the model's weights are random" in str(reasons.pop())
