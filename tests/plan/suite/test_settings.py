"""`--set KEY=VALUE`: as if the suite's file had the value there, with the same errors."""

# ruff: noqa: E501  (tables: one case a line reads best)

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from qbench.core.errors import SuiteError, UsageError
from qbench.core.names import shortened
from qbench.measures import asked_for
from qbench.plan.suite.settings import read_settings
from qbench.plan.suite.suite import Suite, load_suite_text, make_suite
from qbench.plan.suite.written import read_text

BASE = Path(__file__).parent
FILE = """\
name: mine
models:
  - ./model
  - {source: bundled:tiny-mistral, name: tiny}
precisions: [fp32, nf4, int8: {threshold: 5}]
measure:
  footprint:
  latency: {batch_size: [1, 4], repeats: 2}
  quality: {text: a.txt}
finetune:
  methods: [full, {method: lora, r: 4}]
gate:
  memory.static: {max_increase: 1%}
  kl: [{max: 0.1}, {min: 0}]
timeout_s: 60
"""


def with_settings(*assignments: str, text: str = FILE) -> Suite:
    return make_suite(read_text(text, "suite.yaml", BASE).set(read_settings(assignments)))


def edited(steps: list[Any], value: Any, text: str = FILE) -> Suite:
    """The suite whose file has the value there."""
    stated = yaml.safe_load(text)
    holder = stated
    for step in steps[:-1]:
        holder = holder[step]
    holder[steps[-1]] = value
    return load_suite_text(yaml.safe_dump(stated, sort_keys=False), "suite.yaml", BASE)


def problem_of(*assignments: str, text: str = FILE) -> str:
    with pytest.raises(SuiteError) as caught:
        with_settings(*assignments, text=text)
    (problem,) = caught.value.problems
    assert problem.line is None
    return str(problem)


@pytest.mark.parametrize(
    ("assignment", "steps", "value"),
    [
        ("name=other", ["name"], "other"),
        ("timeout_s=1e2", ["timeout_s"], 100),
        ("measure.latency.repeats=1", ["measure", "latency", "repeats"], 1),
        ("measure.latency.batch=8", ["measure", "latency", "batch_size"], 8),
        ("measure.latency.batch_size=8", ["measure", "latency", "batch_size"], 8),
        ("measure.latency={batch_size: 8}", ["measure", "latency"], {"batch": 8}),
        ("measure.quality.window = 64", ["measure", "quality", "window"], 64),
        ("measure.memory.input_len=[8, 16]", ["measure", "memory"], {"prompt_tokens": [8, 16]}),
        ("measure.tasks.limit=3", ["measure", "tasks"], {"limit": 3}),
        ("measure=[footprint]", ["measure"], ["footprint"]),
        ("models.0=./other", ["models", 0], "./other"),
        ("models[0]=./other", ["models", 0], "./other"),
        ("models.0.name=first", ["models", 0], {"source": "./model", "name": "first"}),
        ("models[1].name=second", ["models", 1, "name"], "second"),
        ("models=bundled:tiny-mistral", ["models"], ["bundled:tiny-mistral"]),
        ("precisions.1.nf4.compute_dtype=fp16", ["precisions", 1], {"nf4": {"compute_dtype": "fp16"}}),
        ("precisions.2.int8.llm_int8_threshold=[5, 6]", ["precisions", 2, "int8"], {"threshold": [5, 6]}),
        ("reference=nf4", ["reference"], "nf4"),
        ("include=[{precision: fp*}, {precision: nf4}]", ["include"], [{"precision": "fp*"}, {"precision": "nf4"}]),
        ("finetune.methods.1.rank=8", ["finetune", "methods", 1, "r"], 8),
        ("finetune.methods.0.steps=3", ["finetune", "methods", 0], {"method": "full", "steps": 3}),
        ("finetune.methods.1.precision=nf4", ["finetune", "methods", 1, "precision"], "nf4"),
        ("finetune.seed=[1, 2]", ["finetune", "seeds"], [1, 2]),
        ("finetune.data.train=5", ["finetune", "data"], {"train": 5}),
        ("gate.memory.static.max_increase=2%", ["gate", "memory.static", "max_increase"], "2%"),
        ("gate.kl.1.min=0.5", ["gate", "kl", 1, "min"], 0.5),
        ("gate.tasks.*.max_drop=0.01", ["gate", "tasks.*"], {"max_drop": 0.01}),
        ("gate.latency.decode={max_increase: 10%}", ["gate", "latency.decode"], {"max_increase": "10%"}),
    ],
)  # fmt: skip
def test_it_is_as_if_the_file_had_the_value(assignment: str, steps: list[Any], value: Any) -> None:
    suite = with_settings(assignment)
    assert suite.model_dump() == edited(steps, value).model_dump()
    assert suite.model_dump() != with_settings().model_dump()


def test_several_settings_each_find_their_place() -> None:
    suite = with_settings("measure.latency.repeats=1", "measure.latency.seed=5", "name=a")
    options = suite.measure["latency"].model_dump()
    assert (options["repeats"], options["seed"], options["batch"]) == (1, 5, (1, 4))
    assert suite.name == "a"


def test_what_is_not_set_stays_measured() -> None:
    small = "models: bundled:tiny-mistral\n"
    suite = with_settings("measure.latency.repeats=1", text=small)
    assert list(suite.measure) == list(asked_for())
    listed = with_settings(
        "measure.latency.repeats=1", text=f"{small}measure: [footprint, latency]\n"
    )
    assert list(listed.measure) == ["footprint", "latency"]
    alone = with_settings("measure.latency.repeats=1", text=f"{small}measure: latency\n")
    assert list(alone.measure) == ["latency"]
    assert alone.measure["latency"].model_dump()["repeats"] == 1


def test_an_entry_of_measurements_by_name() -> None:
    text = "models: bundled:tiny-mistral\nmeasure: [footprint, latency]\n"
    assert list(with_settings("measure.1=memory", text=text).measure) == ["footprint", "memory"]
    assert "'2' for an entry of a list of 2" in problem_of("measure.2=memory", text=text)


def test_a_key_of_figures_is_a_key() -> None:
    text = (
        "models: ./m\nfinetune:\n  methods:\n"
        "    - {method: lora, extra: {rank_pattern: {'0': 4, '1': 2}}}\n"
    )
    suite = with_settings("finetune.methods.0.extra.rank_pattern.1=8", text=text)
    assert suite.finetune is not None
    extra = suite.finetune.tunings[0].options["extra"]
    assert extra == {"rank_pattern": {"0": 4, "1": 8}}


def test_an_entry_that_stands_alone_is_the_first_of_its_list() -> None:
    suite = with_settings(
        "models.0.name=mine", "precisions.0.nf4.dtype=fp32", text="models: ./m\nprecisions: nf4\n"
    )
    assert [model.name for model in suite.models] == ["mine"]
    assert suite.precisions[0].options["dtype"] == "fp32"


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("measure.latency.repeats=x", "measure.latency.repeats: found the text 'x'; expected a positive whole number of at most 100"),
        ("measure.latency.batch_size=x", "measure.latency.batch: found the text 'x'; expected a positive whole number"),
        ("measure.latncy.repeats=1", "the unknown measurement 'latncy'"),
        ("mesure.latency.repeats=1", "the unknown key 'mesure'"),
        ("measure.latency.repeat=1", "did you mean 'repeats'?"),
        ("measure.latency={batch: 1, batch_size: 2}", "'batch_size' beside 'batch' (--set "),
        ("models.2.name=x", "models: found '2' for an entry of a list of 2; expected a number from 0 to 1"),
        (f"models.{'9' * 70}=x", f"models: found '{'9' * 29}…{'9' * 29}' for an entry of a list of 2"),
        ("models.name=x", "found 'name' for an entry of a list of 2"),
        ("exclude.0.precision=x", "exclude: found no list there"),
        ("name.first=x", "name: found 'mine', which has no 'first'; expected a mapping"),
        ("timeout_s.x=1", "timeout_s: found '60', which has no 'x'"),
        ("timeout_s=", "timeout_s: found nothing (an empty value)"),
        ("timeout_s=.inf", "found the number .inf"),
        ("precisions=[nf5]", "precisions[0]: found the unknown precision 'nf5'"),
        ("reference=bf61", "reference: found the unknown precision of this suite 'bf61'"),
        ("include={precision: x}", "include.precision: found 'x', which matches no precision"),
        ("name={", "not YAML"),
        ("name=*x", "quote a pattern"),
        ("gate.kl.0.maximum=1", "the unknown key of a rule 'maximum'"),
        ("finetune.methods.1.r=0", "finetune.methods[1].rank: found the number 0"),
    ],
)  # fmt: skip
def test_what_is_wrong_has_the_setting_as_its_place(assignment: str, words: str) -> None:
    told = problem_of(assignment)
    assert told.startswith(f"--set {shortened(assignment, 80)}: ")
    assert words in told


@pytest.mark.parametrize(
    "text", ["", "name", "=x", "a..b=1", ".a=1", " = ", "[0]=x", "a." * 5000 + "a=1"]
)
def test_what_is_no_assignment(text: str) -> None:
    with pytest.raises(
        UsageError, match=r"^--set: found .*; expected KEY=VALUE, where KEY is a key"
    ):
        read_settings([text])


def test_a_key_that_is_set_twice() -> None:
    with pytest.raises(UsageError, match="the key 'name' twice"):
        read_settings(["name=a", "name=b"])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("measure.latency.batch=4", "measure.latency.batch_size=2"),
        ("measure.tasks.num_fewshot=3", "measure.tasks.few_shot=2"),
        ("gate.ppl={max_increase: 1%}", "gate.perplexity={max_increase: 2%}"),
    ],
)
def test_a_key_that_is_set_by_two_of_its_names(first: str, second: str) -> None:
    assert f"found what '--set {first}' sets too" in problem_of(first, second)


def test_two_keys_of_what_the_file_does_not_name() -> None:
    given = ("measure.latency.batch=2", "measure.memory={batch: 3}")
    measure = with_settings(*given, text="models: bundled:tiny-mistral").measure
    assert measure["memory"].batch == (3,)


def test_the_problems_of_file_and_settings_are_told_together() -> None:
    with pytest.raises(SuiteError) as caught:
        with_settings("timeout_s=x", "models.7=x", text=f"{FILE}bogus: 1\n")
    told = [str(problem) for problem in caught.value.problems]
    assert len(told) == 3
    assert any(text.startswith("suite.yaml:16: bogus: ") for text in told)


def test_later_problems_have_the_setting_as_their_place() -> None:
    suite = with_settings("measure.quality.window=64")
    assert str(suite.problem("measure.quality.window", "what")).startswith("--set measure.quality")
    assert suite.problem("measure.quality.text", "what").line == 9


@given(
    st.text("abmeasure.latency[]0123=:{}'\"*& \n", max_size=30),
    st.text("abc0123={}[]:,'\"*&!\n %", max_size=12),
)
def test_any_setting_is_taken_or_refused_in_words(key: str, value: str) -> None:
    told = "--set"
    try:
        with_settings(f"{key}={value}")
    except UsageError as error:
        told = str(error)
    assert "--set" in told
