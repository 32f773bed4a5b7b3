"""Python of a user's tasks and metrics: not run, planned or scored with, unless vouched for."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from qbench.core.errors import MeasurementError
from qbench.measures.tasks.options import TasksOptions
from qbench.measures.tasks.tasks import TASKS
from qbench.plan.untrusted_code import code_of
from qbench.sources.bundled import bundled_models
from tests.command import call
from tests.inline_runs import pretended, run_inline
from tests.precisions.tiny_cells import Variant, resolve
from tests.workplace import Workplace

if TYPE_CHECKING:
    from qbench.core.spec import Item
    from qbench.measures.loaded import LoadedModel, Outcome
    from tests.precisions.tiny_cells import TinyCells

TASK = """\
task: own
dataset_path: json
dataset_kwargs: {{data_files: {data}}}
test_split: train
output_type: multiple_choice
doc_to_text: "{text}"
doc_to_target: 0
doc_to_choice: ["a", "b"]
metric_list:
  - metric: {metric}
    aggregation: mean
    higher_is_better: true
"""
LEAVES_A_MARK = """\
import pathlib
pathlib.Path(__file__).with_name("mark").touch()
def shuffled(dataset):
    return dataset
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a task that needs no Python, and the Python of another."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    # The libraries that count what is loaded ask nobody; `evaluate` has a switch of its own.
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "data.jsonl").write_text('{"x": "1"}\n{"x": "2"}\n', encoding="utf-8")
    (tmp_path / "utils.py").write_text(LEAVES_A_MARK, encoding="utf-8")
    write(tmp_path)
    return tmp_path


def write(folder: Path, more: str = "", *, text: str = "{{x}}", metric: str = "acc") -> None:
    task = TASK.format(data=folder / "data.jsonl", text=text, metric=metric)
    (folder / "own.yaml").write_text(task + more, encoding="utf-8")


def item_of(folder: Path) -> Item:
    model = resolve(bundled_models()["tiny-mistral"])
    (item,) = TASKS.items(TasksOptions(names=("own",), include="."), model, folder)
    return item


def take(loaded: LoadedModel, folder: Path) -> Outcome:
    return TASKS.measure(loaded, item_of(folder))


@pytest.fixture
def loaded(cells: TinyCells) -> LoadedModel:
    return cells.load(Variant("asked", "llama", {"context": 512}), "fp32")


def test_a_function_of_a_file_is_found_also_where_it_is_included(folder: Path) -> None:
    assert code_of(item_of(folder)) == ()
    write(folder, "process_docs: !function utils.shuffled\n")
    (found,) = code_of(item_of(folder))
    assert f"{folder / 'own.yaml'}, which names the Python function utils.shuffled" in found
    assert str(folder / "utils.py") in found
    (folder / "own.yaml").rename(folder / "base")
    (folder / "own.yaml").write_text("include: base\ntask: own\n", encoding="utf-8")
    (found,) = code_of(item_of(folder))
    assert str(folder / "base") in found


def test_tasks_that_came_installed_need_no_word(tmp_path: Path) -> None:
    model = resolve(bundled_models()["tiny-mistral"])
    asked = TasksOptions(names=("stdlib-choice", "stdlib-completion", "squadv2"))
    assert [code_of(item) for item in TASKS.items(asked, model, tmp_path)] == [()] * 3


@pytest.mark.parametrize("command", ["plan", "run"])
@pytest.mark.parametrize(
    ("measure", "place", "words"),
    [
        ("tasks: {names: own, include: .}", "measure.tasks", ["own.yaml", "utils.py"]),
        ("generation: {scores: [./score]}", "measure.generation", ["score"]),
        ("generation: {scores: [exact_match, meteor]}", "measure.generation", ["score meteor"]),
    ],
)
def test_a_suite_that_does_not_vouch_for_it_is_refused(
    folder: Path, measure: str, place: str, words: list[str], command: str
) -> None:
    write(folder, "process_docs: !function utils.shuffled\n")
    suite = f"models: [bundled:tiny-mistral]\nprecisions: [fp32]\nmeasure: {{{measure}}}\n"
    (folder / "suite.yaml").write_text(suite, encoding="utf-8")
    finished = call(folder, command, "suite.yaml")
    assert finished.code == 2
    for word in (f"suite.yaml:3: {place}", "trust_code: true", *words):
        assert word in finished.errors
    (folder / "suite.yaml").write_text(f"{suite}trust_code: true\n", encoding="utf-8")
    assert call(folder, "plan", "suite.yaml").code == 0
    assert not (folder / "mark").exists()


WRITES = """\
task: own
dataset_path: json
dataset_kwargs: {{data_files: {folder}/data.jsonl}}
test_split: train
output_type: generate_until
generation_kwargs: {{until: [x], custom_generate: {folder}, trust_remote_code: true}}
doc_to_text: "{{{{x}}}}"
doc_to_target: "1"
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
"""


def test_a_task_that_has_a_library_run_python_is_refused(loaded: LoadedModel, folder: Path) -> None:
    """transformers' `generate` runs a folder's `custom_generate/generate.py` if it is told to."""
    (folder / "custom_generate").mkdir()
    script = "import pathlib\npathlib.Path({!r}).touch()\ndef generate(model, **_):\n    return 1\n"
    text = script.format(str(folder / "mark"))
    (folder / "custom_generate" / "generate.py").write_text(text, encoding="utf-8")
    (folder / "own.yaml").write_text(WRITES.format(folder=folder), encoding="utf-8")
    assert [what.partition("which ")[2] for what in code_of(item_of(folder))] == [
        f"has generation_kwargs.{key} run the Python that it names"
        for key in ("custom_generate", "trust_remote_code")
    ]
    with pytest.raises(MeasurementError, match=r"custom_generate.*trust_code: true"):
        take(loaded, folder)
    assert not (folder / "mark").exists()
    with pytest.raises(Exception):  # noqa: B017, PT011 - what it generates is no answer
        take(replace(loaded, trust_code=True), folder)
    assert (folder / "mark").exists()


def test_a_task_that_names_a_tokenizer_for_its_data_is_refused(folder: Path) -> None:
    """RULER's functions, which came installed, load it with the Python that lies beside it."""
    ruler = Path(str(files("lm_eval"))) / "tasks" / "ruler" / "niah_single_1.yaml"
    text = f"include: {ruler}\ntask: own\nmetadata: {{tokenizer: ./mine}}\n"
    (folder / "own.yaml").write_text(text, encoding="utf-8")
    (found,) = code_of(item_of(folder))
    assert found.endswith("own.yaml, which has metadata.tokenizer run the Python that it names")
    write(folder, "metadata: {model: any}\n")  # a task whose data lies in a file reads none
    assert code_of(item_of(folder)) == ()


@pytest.mark.parametrize("name", ["custom_generate", "trust_remote_code"])
def test_no_suite_has_transformers_run_another_way_of_generating(tmp_path: Path, name: str) -> None:
    suite = (
        "models: [bundled:tiny-mistral]\n"
        f"measure: {{tasks: {{names: stdlib-completion, gen_kwargs: {{{name}: ./mine}}}}}}\n"
        "trust_code: true\n"
    )
    (tmp_path / "suite.yaml").write_text(suite, encoding="utf-8")
    finished = call(tmp_path, "plan", "suite.yaml")
    assert finished.code == 2
    assert f"`{name}`; expected arguments that run no code" in finished.errors


def test_what_is_vouched_for_is_named_where_it_runs(folder: Path) -> None:
    write(folder, "process_docs: !function utils.shuffled\n")
    suite = (
        "models: [bundled:tiny-mistral]\nprecisions: [fp32]\ntrust_code: true\n"
        "measure: {tasks: {names: own, include: .}}\n"
    )
    (folder / "suite.yaml").write_text(suite, encoding="utf-8")
    finished = call(folder, "plan", "suite.yaml")
    assert finished.code == 0
    said = " ".join(finished.output.split())
    assert "measure.tasks: runs" in said
    assert "the Python function utils.shuffled" in said
    assert "as trust_code says" in said
    ran = run_inline(Workplace(folder, folder), work=pretended())
    assert "measure.tasks: runs" in ran.output
    assert "the Python function utils.shuffled" in ran.output
    assert not (folder / "mark").exists()


def test_scores_of_a_recipe_are_metrics_too(tmp_path: Path) -> None:
    recipe = "{prompt: '{{ a }}', completion: '{{ b }}', scores: [./mine]}"
    (tmp_path / "rows.jsonl").write_text('{"a": "x", "b": "y"}\n' * 30, encoding="utf-8")
    data = f"{{dataset: rows.jsonl, recipe: {recipe}, train: 4, validation: 2, test: 2}}"
    suite = (
        f"models: [bundled:tiny-mistral]\nfinetune:\n  data: {data}\n"
        "  methods: [lora]\nmeasure: [generation]\n"
    )
    (tmp_path / "suite.yaml").write_text(suite, encoding="utf-8")
    finished = call(tmp_path, "plan", "suite.yaml")
    assert finished.code == 2
    assert "suite.yaml:3: finetune.data.recipe: found the score ./mine" in finished.errors


def test_it_runs_where_it_is_vouched_for(loaded: LoadedModel, folder: Path) -> None:
    assert take(loaded, folder).details["items"] == 2
    assert not (folder / "mark").exists()  # a neighbour's Python is not touched
    write(folder, "process_docs: !function utils.shuffled\n")
    with pytest.raises(MeasurementError, match=r"utils\.py.*trust_code: true"):
        take(loaded, folder)
    assert not (folder / "mark").exists()
    assert take(replace(loaded, trust_code=True), folder).details["items"] == 2
    assert (folder / "mark").exists()


ESCAPES = [
    "{{{{ cycler.__init__.__globals__.os.system('touch {mark}') }}}}",
    "{{{{ ''.__class__.__mro__[1].__subclasses__() }}}}",
]


@pytest.mark.parametrize("template", ESCAPES)
def test_a_template_reaches_its_row_alone(loaded: LoadedModel, folder: Path, template: str) -> None:
    write(folder, text=template.format(mark=folder / "mark"))
    with pytest.raises(MeasurementError, match=r"SecurityError: .*unsafe"):
        take(loaded, folder)
    assert not (folder / "mark").exists()


@pytest.mark.parametrize("more", ["", "    hf_evaluate: true\n"])
@pytest.mark.parametrize("trusted", [False, True])
def test_no_script_of_a_metric_is_fetched(
    loaded: LoadedModel,
    folder: Path,
    more: str,
    monkeypatch: pytest.MonkeyPatch,
    *,
    trusted: bool,
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *names, **_: asked.append(names))
    write(folder, more, metric="no_such_metric")
    with pytest.raises(MeasurementError, match="no_such_metric is none of lm-eval's"):
        take(replace(loaded, trust_code=trusted), folder)
    assert asked == []


def test_a_script_beside_the_current_folder_is_not_run(
    loaded: LoadedModel, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`evaluate` takes a folder of the metric's name before it asks the hub."""
    (folder / "mine").mkdir()
    (folder / "mine" / "mine.py").write_text(LEAVES_A_MARK, encoding="utf-8")
    monkeypatch.chdir(folder)
    write(folder, metric="mine")
    with pytest.raises(MeasurementError, match="mine is none of lm-eval's"):
        take(loaded, folder)
    assert not list(folder.rglob("mark"))
    assert os.getcwd() == str(folder)  # noqa: PTH109 - where evaluate looks
