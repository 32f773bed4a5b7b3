"""Which cells answer prompts, what they are held against, and how a rehearsal shortens it."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

from qbench.core.errors import SuiteError
from qbench.measures.chat.options import ChatOptions
from qbench.plan.calibration import resolve_calibrations
from qbench.plan.plan import Plan, make_plan
from qbench.plan.rehearsal_options import shorten_measure
from qbench.plan.suite.suite import load_suite_text
from tests.workplace import write_text

if TYPE_CHECKING:
    from pathlib import Path

SUITE = """\
models: [./model]
precisions: [bf16, nf4]
measure:
  footprint:
  chat: {{prompts: [one, two], new_tokens: 4{more}}}
"""
TUNED = """\
finetune:
  data: {dataset: "bundled:stdlib-instruct", recipe: reverse-instruction, train: 8, test: 4}
  methods: [{name: qlora, method: lora, precision: nf4}]
  deploy: [attached, merged]
"""


@pytest.fixture
def base(tmp_path: Path, tiny_model: Path) -> Path:
    shutil.copytree(tiny_model, tmp_path / "model")
    return tmp_path


def plan(base: Path, more: str = "", *, beside: str = "", model: str = "./model") -> Plan:
    text = SUITE.format(more=more).replace("./model", model) + beside
    return make_plan(load_suite_text(text, "suite.yaml", base), base / "r", device="cpu")


def chats(made: Plan) -> dict[str, list[Any]]:
    return {
        cell.cell.label: [task for task in cell.tasks if task.item.measurement == "chat"]
        for cell in made.every
    }


def test_it_is_taken_where_a_suite_names_it_alone(base: Path) -> None:
    made = plan(base)
    found = chats(made)
    assert {label: len(tasks) for label, tasks in found.items()} == {"bf16": 1, "nf4": 1}
    own, other = found["bf16"][0], found["nf4"][0]
    assert own.item.makes_states
    assert other.item.states_key == own.key == other.identity["reference"]
    silent = load_suite_text("models: ['bundled:tiny-mistral']\n", "suite.yaml", base)
    unnamed = make_plan(silent, base / "r", device="cpu")
    assert not any(task.item.measurement == "chat" for task in unnamed.tasks)


def test_quantized_caches_answer_where_they_are_read(base: Path) -> None:
    """One pass reads nothing of a cache: there the model's own is enough."""
    found = chats(plan(base, beside="kv_cache: [fp8]\n"))
    assert {label for label, tasks in found.items() if tasks} == {"bf16", "nf4"}
    found = chats(plan(base, ", decoded: true", beside="kv_cache: [fp8]\n"))
    assert {label for label, tasks in found.items() if tasks} == {
        "bf16", "nf4", "bf16--kv-fp8", "nf4--kv-fp8",
    }  # fmt: skip
    assert len({task.item.states_key for tasks in found.values() for task in tasks}) == 1


def test_random_weights_answer_nothing(base: Path) -> None:
    tasks = [task for tasks in chats(plan(base, model="random:./model")).values() for task in tasks]
    assert tasks
    assert all("tells what a model has learned" in str(task.skip) for task in tasks)


def test_a_tuned_model_is_held_against_the_base_and_its_merged_self(base: Path) -> None:
    found = chats(plan(base, beside=TUNED))
    base_task = found["bf16"][0]
    attached, against = found["qlora-nf4--attached"]
    merged = {task.item.slug: task for task in found["qlora-nf4--merged"]}[against.item.slug]
    assert attached.item.states_key == base_task.key
    assert against.item.states_key == merged.key
    assert merged.item.makes_states
    assert (against.item.held_against, attached.item.held_against) == ("merged", "bf16")


def test_lengths_beyond_the_context_are_skipped(base: Path) -> None:
    made = plan(base, ", prompt_tokens: [64, 4000]")
    (short, long) = chats(made)["nf4"]
    assert short.skip is None
    assert "a prompt of 4000 tokens with 4 new ones is longer than the context" in str(long.skip)
    with pytest.raises(SuiteError, match="add prompt_tokens, or leave context_text out"):
        plan(base, ", context_text: 'bundled:stdlib-excerpt'")


def test_a_document_is_not_calibrated_on(base: Path) -> None:
    """It stands before what is scored."""
    write_text(base)
    calibrated = "{int4-g128-gptq: {calibration_text: text.txt}}"
    text = SUITE.format(more="").replace("nf4", calibrated)
    suite = load_suite_text(text, "suite.yaml", base)
    for document, refused in (("bundled:stdlib-excerpt", 0), ("text.txt", 1)):
        made = plan(base, f", prompt_tokens: 64, context_text: '{document}'")
        items = {"model": [task.item for task in made.tasks]}
        _, problems = resolve_calibrations(suite, items)
        assert len(problems) == refused


def test_a_rehearsal_asks_little(base: Path) -> None:
    options = ChatOptions(
        prompts="mine.jsonl",
        new_tokens=512,
        prompt_tokens=[8000, "context"],
        context_text="wikitext-2",
        prefill_chunk=1024,
        temperature=0.7,
    )
    made, words = shorten_measure("chat", options)
    assert isinstance(made, ChatOptions)
    assert (made.prompts, made.count, made.new_tokens) == ("bundled:stdlib-chat", 2, 4)
    assert made.prompt_tokens == (128, 256)
    assert (made.context_text, made.prefill_chunk) == (None, 4)
    assert (made.chat_template, made.temperature) == ("auto", 0.7)
    assert "chat_template" not in words[0]
    assert shorten_measure("chat", ChatOptions(chat_template=True))[0].chat_template is False
