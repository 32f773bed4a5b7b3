"""A rehearsal has every cell and measurement of its suite, on replacements, and always says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from qbench.cli.sides import load_side
from qbench.compare.baseline import write_baseline
from qbench.core.errors import StoreError, SuiteError, UsageError
from qbench.plan.plan import make_plan
from qbench.plan.rehearsal import rehearse
from qbench.plan.suite.suite import Suite, load_suite_text
from qbench.report.files import by_suite, write_report
from qbench.report.formats import formats, report_subject
from qbench.report.plan_page import plan_page
from qbench.report.rows import metric_rows
from qbench.sources.bundled import bundled_texts
from tests.inline_runs import run_inline
from tests.pages import on_terminal, short_report
from tests.pages import whole_report as markdown
from tests.record_factory import make_record
from tests.workplace import Workplace, keep, place_of

LARGE = """\
name: large
models:
  - {source: "somewhere/large@0123456789abcdef0123456789abcdef01234567", name: large}
  - {source: "random:DialoGPT-medium", name: shape}
precisions: [bf16, int8, nf4]
reference: bf16
finetune:
  data: {dataset: somewhere/rows, recipe: %(recipe)s, train: 5000, test: 300}
  methods:
    - {method: lora, precision: [bf16, nf4], rank: [8, 256], target: [q_proj, c_attn], batch: 16,
       accumulate: 8, max_tokens: 4096, validate_every: 50}
exclude:
  - {model: large, precision: int8}
measure:
  memory: {batch: [1, 8, 32, 64, 128, 256], prompt_tokens: [512, 8192], new_tokens: 512}
  latency: {batch: 32, prompt_tokens: 512, repeats: 9, min_seconds: 10}
  quality: {text: [wikitext-2, bundled:stdlib-heldout], protocol: gptq-2048-nobos}
  tasks: {names: [stdlib-choice], few_shot: 5, chat_template: true}
  generation: {prompts: ["one", "two"], count: 2, new_tokens: 512, scores: [rouge, meteor]}
timeout_s: 7200
gate: {memory.static: {max_increase: 1%%}}
"""


def load(text: str, base: Path) -> Suite:
    return load_suite_text(text, "suite.yaml", base)


def large(base: Path, recipe: str = "reverse-instruction") -> Suite:
    return load(LARGE % {"recipe": recipe}, base)


def plain(options: Any) -> dict[str, Any]:
    shown: dict[str, Any] = options.model_dump(mode="json")
    return shown


def test_it_has_the_cells_of_the_suite_under_names_of_their_own(tmp_path: Path) -> None:
    suite = large(tmp_path)
    made = rehearse(suite)
    assert [cell.label for cell in made.cells()] == [cell.label for cell in suite.cells()]
    # The cell that the selector leaves out of one model is left out here too.
    slugs = [cell.slug for cell in made.cells()]
    assert "shape-rehearsal--int8" in slugs
    assert "large-rehearsal--int8" not in slugs
    assert {cell.model.source for cell in made.cells()} == {
        "bundled:tiny-mistral",
        "random:tiny-gpt2",
    }
    assert made.timeout_s == suite.timeout_s
    assert made.gate == ()


def test_the_suite_itself_stays_as_it_is(tmp_path: Path) -> None:
    suite = large(tmp_path)
    before = suite.model_dump_json()
    rehearse(suite)
    assert suite.model_dump_json() == before
    assert suite.rehearsal == ()


def test_grids_keep_their_points_and_become_small(tmp_path: Path) -> None:
    measure = rehearse(large(tmp_path)).measure
    memory = plain(measure["memory"])
    assert memory["batch"] == [1, 2, 3, 4, 5, 6]
    assert memory["prompt_tokens"] == [8, 16]
    assert memory["new_tokens"] == [4]
    latency = plain(measure["latency"])
    assert (latency["batch"], latency["prompt_tokens"]) == ([4], [16])
    assert (latency["repeats"], latency["min_seconds"]) == (2, 0.02)


def test_what_is_read_is_what_ships_with_qbench(tmp_path: Path) -> None:
    measure = rehearse(large(tmp_path)).measure
    quality = plain(measure["quality"])
    # The protocol's window of 2048 is beyond the bundled model's context.
    assert (quality["text"], quality["protocol"]) == (["bundled:stdlib-excerpt"], "default")
    assert quality["window"] == [64]
    tasks = plain(measure["tasks"])
    assert (tasks["names"], tasks["limit"]) == (["stdlib-choice"], 4)
    assert (tasks["few_shot"], tasks["chat_template"]) == (1, False)
    generation = plain(measure["generation"])
    assert generation["prompts"] == "bundled:stdlib-prompts"
    assert generation["scores"] == ["rouge"]


@pytest.mark.parametrize(
    ("lengths", "made"),
    [("", [256]), ("lengths: [context, 4096, 16384]", [404, 192, 298]), ("lengths: 900", [192])],
)
def test_needles_have_room_for_what_must_be_written(
    tmp_path: Path, lengths: str, made: list[int]
) -> None:
    asked = f"{{new_tokens: 99, depths: [50, 0, 100], chat_template: true, {lengths}}}"
    suite = load(f"models: [bundled:tiny-mistral]\nmeasure: {{needle: {asked}}}\n", tmp_path)
    needle = plain(rehearse(suite).measure["needle"])
    assert needle["lengths"] == made
    assert (needle["new_tokens"], needle["needles"], needle["depths"]) == (12, 1, [0, 100])
    assert (needle["text"], needle["chat_template"]) == (["bundled:stdlib-excerpt"], False)


@pytest.mark.parametrize(
    "asked",
    [
        "chat_template: true, thinking: true, think_end_token: </think>",
        "gen_kwargs: {temperature: 0.6, do_sample: true, max_gen_toks: 4096}, repeats: 5",
        "system_prompt: Be brief., fewshot_as_multiturn: false, chat_template: true",
    ],
)
def test_tasks_with_options_of_their_own_have_bundled_ones_that_take_them(
    tmp_path: Path, asked: str
) -> None:
    (tmp_path / "own.yaml").write_text("task: own\ngeneration_kwargs: {max_gen_toks: 99}\n")
    tasks = f"{{names: own, include: ., {asked}}}"
    suite = load(f"models: [bundled:tiny-mistral]\nmeasure: {{tasks: {tasks}}}\n", tmp_path)
    made = plain(rehearse(suite).measure["tasks"])
    assert set(made["names"]) <= {"stdlib-choice", "stdlib-completion"}
    assert made["repeats"] <= 2
    assert make_plan(rehearse(suite), tmp_path, device="cpu").tasks


def test_tasks_at_servers_are_put_to_qbenchs_own(tmp_path: Path) -> None:
    served = (
        "{names: own, include: ., chat_template: true, endpoint: chat, context: 9000,"
        " servers: [{address: 'http://192.0.2.7', cells: fp32, api_key: {env: NO_SUCH}}]}"
    )
    (tmp_path / "own.yaml").write_text("task: own\n")
    text = f"models: [bundled:tiny-mistral]\nmeasure: {{served_tasks: {served}}}\n"
    made = plain(rehearse(load(text, tmp_path)).measure["served_tasks"])
    (server,) = made["servers"]
    assert server == {"engine": "transformers", "name": "192.0.2.7", "cells": ["fp32"]}
    assert (made["names"], made["endpoint"]) == (["stdlib-completion"], "completions")


def test_the_excerpt_is_the_beginning_of_the_held_out_text() -> None:
    texts = {name: path.read_text(encoding="utf-8") for name, path in bundled_texts().items()}
    assert texts["stdlib-heldout"].startswith(texts["stdlib-excerpt"])
    assert len(texts["stdlib-excerpt"]) > 3000


def test_trainings_take_a_few_short_steps_with_the_same_methods(tmp_path: Path) -> None:
    suite = large(tmp_path)
    made = rehearse(suite)
    assert suite.finetune is not None
    assert made.finetune is not None
    assert [one.label for one in made.finetune.tunings] == [
        one.label for one in suite.finetune.tunings
    ]
    ranks = [one.options["rank"] for one in made.finetune.tunings]
    assert sorted(set(ranks)) == [8, 64]
    for tuning in made.finetune.tunings:
        options = tuning.options
        assert (options["steps"], options["batch"], options["accumulate"]) == (3, 2, 2)
        assert (options["max_tokens"], options["validate_every"]) == (256, 1)
        assert options["target"] == ["q_proj"]  # the bundled model has no c_attn
    data = made.finetune.data
    assert (data.dataset, data.train, data.test) == ("bundled:stdlib-instruct", 16, 8)
    assert data.recipe == "reverse-instruction"


@pytest.mark.parametrize(
    ("recipe", "prompt", "completion"),
    [
        ('{prompt: "Q: {{ question }}", completion: "{{ answer }}", scores: [chrf]}', "{{", "{{"),
        ("text", "", "{{ output }}"),
    ],
)
def test_a_recipe_over_other_columns_gets_the_bundled_ones(
    tmp_path: Path, recipe: str, prompt: str, completion: str
) -> None:
    suite = large(tmp_path, recipe)
    made = rehearse(suite)
    assert made.finetune is not None
    found: Any = made.finetune.data.recipe
    assert found.prompt.startswith(prompt)
    assert found.completion.startswith(completion)
    assert any("recipe" in note for note in made.rehearsal)
    if "scores" in recipe:
        assert found.scores == ("chrf",)
    make_plan(made, tmp_path / "results", device="cpu")


def test_a_chat_recipe_is_replaced_and_said(tmp_path: Path) -> None:
    made = rehearse(large(tmp_path, "chat"))
    assert made.finetune is not None
    assert made.finetune.data.recipe == "instruction"
    assert any("chat, which needs a chat template" in note for note in made.rehearsal)


def test_it_says_what_stands_in_what_is_shorter_and_what_it_cannot_show(tmp_path: Path) -> None:
    notes = rehearse(large(tmp_path)).rehearsal
    text = "\n".join(notes)
    assert "bundled:tiny-mistral replaces somewhere/large@0123456789abcdef" in text
    assert "random:tiny-gpt2 replaces random:DialoGPT-medium" in text
    assert "bundled:stdlib-instruct replaces somewhere/rows" in text
    assert "quality: text bundled:stdlib-excerpt for wikitext-2+bundled:stdlib-heldout" in text
    assert notes[-1].startswith("It does not show whether the real models fit")


def test_the_layers_that_the_bundled_model_lacks_are_said(tmp_path: Path) -> None:
    commit = "7b40bb0f92c45fefa957d088000d8648e5c7fa33"
    made = rehearse(load(f"models: [microsoft/DialoGPT-medium@{commit}]\n", tmp_path))
    assert any("Conv1D" in note for note in made.rehearsal)


def test_a_stored_checkpoint_is_stood_in_for_by_a_quantized_model(tmp_path: Path) -> None:
    text = "models: [{source: a/b, device_map: auto}]\nprecisions: [stored]\n"
    made = rehearse(load(text, tmp_path))
    assert [(one.label, one.name) for one in made.precisions] == [("stored", "nf4")]
    assert any("nf4, quantized on loading" in note for note in made.rehearsal)
    assert any("device_map" in note for note in made.rehearsal)
    plan = make_plan(made, tmp_path / "results", device="cpu")
    assert [cell.skip for cell in plan.cells] == [None]


def test_calibration_is_on_bundled_text(tmp_path: Path) -> None:
    text = (
        "models: [a/b]\nprecisions: [fp32, {int4-g32-gptq: {calibration_text: wikitext-2}}]\n"
        "measure: {footprint: {}}\n"
    )
    made = rehearse(load(text, tmp_path))
    (_, gptq) = made.precisions
    assert gptq.options["calibration_text"] == "bundled:stdlib-calibration"
    assert any("stdlib-calibration replaces wikitext-2" in note for note in made.rehearsal)
    assert (gptq.options["calibration_windows"], gptq.options["calibration_window"]) == (4, 64)
    assert any("calibration_windows 4 for" in note for note in made.rehearsal)
    (tuned,) = rehearse(
        load("models: [a/b]\nprecisions: [int4-g128-autoround]\n", tmp_path)
    ).precisions
    assert tuned.options["rounding_steps"] == 4
    make_plan(made, tmp_path / "results", device="cpu")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("models: [./gone]\n", "gone: no such folder"),
        ("models: [a/b]\nmeasure: {quality: {text: gone.txt}}\n", "gone.txt: no such file"),
        ("models: [a/b]\nmeasure: {tasks: {include: gone}}\n", "gone: no such folder"),
        (
            "models: [a/b]\nfinetune: {data: {dataset: gone.jsonl}, methods: [lora]}\n",
            "gone.jsonl: no such file",
        ),
    ],
)
def test_what_the_suite_names_on_this_machine_is_looked_for_all_the_same(
    tmp_path: Path, text: str, words: str
) -> None:
    with pytest.raises(SuiteError, match=words):
        rehearse(load(text, tmp_path))


def test_the_plan_keeps_records_apart_and_says_what_it_is(tmp_path: Path) -> None:
    plan = make_plan(rehearse(large(tmp_path)), tmp_path / "results", device="cpu")
    folder = tmp_path / "results" / "rehearsal" / "large"
    assert all(Path(task.path).is_relative_to(folder) for task in plan.tasks)
    text = on_terminal(plan_page(plan, tmp_path / "results"), 300)
    assert "Rehearsal of large" in text
    assert "rehearsal: bundled:tiny-mistral replaces somewhere/large" in text


NOTE = "a small model replaces a large one"


def pair() -> list[Any]:
    values = {"memory.static": 100.0}
    real = make_record("fp32", metrics=values)
    rehearsed = make_record("fp32", metrics=values, model="large-rehearsal", rehearsal=(NOTE,))
    return [real, rehearsed]


class TestTheReport:
    def test_begins_with_what_it_is(self) -> None:
        page = markdown(pair()[1:])
        assert page.startswith("# Rehearsal: quickstart\n\n> **REHEARSAL: these figures are")
        assert f"- {NOTE}\n" in page
        assert "# Quantization report" in markdown(pair()[:1])
        assert "REHEARSAL" not in markdown(pair()[:1])

    def test_says_so_on_the_terminal_first_and_last(self) -> None:
        lines = short_report(pair()[1:], 300).strip().splitlines()
        assert lines[0].startswith("REHEARSAL: ")
        assert lines[-1].startswith("REHEARSAL: ")

    def test_is_a_file_and_a_part_of_its_own(self, tmp_path: Path) -> None:
        parts = by_suite(pair())
        markdown = formats()["markdown"]
        names = [write_report(report_subject(part), tmp_path, markdown).name for part in parts]
        assert names == [
            "quickstart-cpu-intel-xeon-2c.md",
            "quickstart-rehearsal-cpu-intel-xeon-2c.md",
        ]

    def test_marks_every_row(self) -> None:
        assert [row["rehearsal"] for row in metric_rows(pair())] == [False, True]


class TestComparing:
    @pytest.fixture
    def results(self, tmp_path: Path) -> Path:
        real, rehearsed = pair()
        keep(tmp_path / "results", real)
        keep(tmp_path / "results" / "rehearsal", rehearsed)
        return tmp_path / "results"

    def test_a_rehearsal_alone_is_refused(self, results: Path) -> None:
        with pytest.raises(UsageError, match="found the records of a rehearsal"):
            load_side(str(results / "rehearsal"))

    def test_beside_real_records_it_is_passed_over(self, results: Path) -> None:
        assert [one.rehearsal for one in load_side(str(results)).records] == [()]
        assert [one.rehearsal for one in load_side("fp32", results).records] == [()]

    def test_it_is_no_baseline(self, tmp_path: Path) -> None:
        with pytest.raises(StoreError, match="no baseline"):
            write_baseline(tmp_path / "baseline.json", pair()[1:])


def test_a_rehearsal_runs_and_its_records_and_files_say_so(workplace: Workplace) -> None:
    workplace.write(
        "suite.yaml",
        "models: [somewhere/large]\nprecisions: [fp32]\nmeasure: {footprint: {}, memory: {}}\n",
    )
    ran = run_inline(workplace, rehearsed=True)
    assert not ran.result.failed
    assert "rehearsal of suite: 1 cell" in ran.output
    assert workplace.call_here("report", "results/rehearsal").code == 0
    records = list(workplace.records().values())
    assert [record.status for record in records] == ["ok", "ok"]
    assert all("replaces somewhere/large" in record.rehearsal[0] for record in records)
    results = workplace.folder / "results" / "rehearsal"
    assert all(place_of(results, record).is_file() for record in records)
    kind = records[0].environment.device_kind
    page = workplace.folder / "reports" / f"suite-rehearsal-{kind}.md"
    assert page.read_text(encoding="utf-8").startswith("# Rehearsal: suite\n")
    for command in (["baseline", "suite.yaml"], ["compare", "results/rehearsal", "fp32"]):
        refused = workplace.call_here(*command)
        assert refused.code == 2
