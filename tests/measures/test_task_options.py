"""Options of lm-eval's tasks: kept where they mean something, and as the command takes them."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from statistics import fmean
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from qbench.compare.series import find_series
from qbench.core.errors import MeasurementError, TextError
from qbench.measures.tasks.definitions import packages_lacking
from qbench.measures.tasks.index import BUNDLED_TASKS_FOLDER, default_tasks, read_folder
from qbench.measures.tasks.options import TasksOptions
from qbench.measures.tasks.tasks import TASKS
from qbench.sources.bundled import bundled_models
from tests.measures.lm_eval_command import call_lm_eval
from tests.precisions.tiny_cells import load_fresh, resolve
from tests.record_factory import make_record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from qbench.core.spec import Item
    from qbench.measures.loaded import LoadedModel, Outcome

ITEMS = 8
END = "("
"""What code is full of: what ends a thought here."""
WRITES = """\
task: writes
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: generate_until
doc_to_text: context
doc_to_target: name
generation_kwargs:
  until: ["\\n\\n"]
  max_gen_toks: 24
filter_list:
  - name: none
    filter:
      - {{function: regex, regex_pattern: "([A-Za-z_]+)", fallback: ""}}
      - {{function: take_first}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
"""
LENGTHS = """\
task: finds
custom_dataset: !function makes.rows
test_split: test
output_type: generate_until
doc_to_text: context
doc_to_target: name
generation_kwargs: {until: ["\\n"], max_gen_toks: 8}
process_results: !function makes.by_length
metric_list:
  - {metric: "40", aggregation: !function makes.mean, higher_is_better: true}
"""
MAKES = """\
import random
from datasets import Dataset
from transformers import AutoTokenizer

def rows(pretrained, max_seq_lengths=(40,), **_):
    tokenizer = AutoTokenizer.from_pretrained(pretrained, trust_remote_code=True)
    made = []
    for length in max_seq_lengths:
        for _ in range(4):
            word = random.choice(["self", "name", "value"])
            ids = tokenizer(f"{word} = 1\\n" * length)["input_ids"][: length - 8]
            made.append({"context": tokenizer.decode(ids, skip_special_tokens=True),
                         "name": word, "max_length": length})
    return {"test": Dataset.from_list(made)}

def by_length(doc, results):
    return {"40": -1.0, str(doc["max_length"]): float(doc["name"] in results[0])}

def mean(values):
    kept = [one for one in values if one != -1]
    return sum(kept) / len(kept) if kept else -1
"""
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}# {{ m.role }}\n{{ m.content }}\n{% endfor %}"
    "{% if enable_thinking is defined and enable_thinking %}# thinking\n{% endif %}"
)


@pytest.fixture(scope="module", autouse=True)
def _private_data_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The data library's copies go where they vanish, and it asks no hub."""
    import datasets.config

    folder = tmp_path_factory.mktemp("datasets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        patch.setenv("HF_DATASETS_CACHE", str(folder))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A task that generates, and one that makes its data and scores each length."""
    folder = tmp_path_factory.mktemp("own")
    lines = (BUNDLED_TASKS_FOLDER / "stdlib-completion.jsonl").read_text().splitlines()
    data = folder / "writes.jsonl"
    data.write_text("".join(f"{line}\n" for line in lines[:ITEMS]))
    (folder / "writes.yaml").write_text(WRITES.format(data=data))
    (folder / "finds.yaml").write_text(LENGTHS)
    (folder / "makes.py").write_text(MAKES)
    return folder


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return _fresh(TEMPLATE)


def _fresh(template: str) -> LoadedModel:
    held = load_fresh(bundled_models()["tiny-mistral"], "fp32")
    made = replace(held, trust_code=True)  # for the functions of the tasks here
    made.tokenizer.chat_template = template
    return made


def items(base: Path, **options: Any) -> list[Item]:
    model = resolve(bundled_models()["tiny-mistral"])
    asked = {"include": "." if (base / "writes.yaml").exists() else None, **options}
    return TASKS.items(TasksOptions(**asked), model, base)


def take(loaded: LoadedModel, base: Path, **options: Any) -> Outcome:
    (item,) = items(base, **options)
    return TASKS.measure(loaded, item)


# ---------------------------------------------------------------- what is kept, what is refused


def test_options_are_kept_with_the_tasks_that_they_concern_and_change_no_other_key(
    own: Path,
) -> None:
    names = ["stdlib-choice", "writes", "finds"]
    plain = items(own, names=names)
    asked = items(
        own,
        names=names,
        gen_kwargs={"do_sample": True, "temperature": 0.7},
        repeats=2,
        metadata={"max_seq_lengths": [40, 60]},
    )
    assert asked[0] == plain[0]
    assert asked[1].params == plain[1].params | {
        "gen_kwargs": {"do_sample": True, "temperature": 0.7},
        "repeats": 2,
    }
    assert asked[2].params["metadata"] == {"max_seq_lengths": [40, 60]}
    assert [one.slug for one in asked] == ["stdlib-choice", "writes-2times", "finds-2times"]
    new = {"gen_kwargs", "repeats", "metadata", "system_prompt", "thinking", "think_end_token"}
    assert not new & {key for one in plain for key in one.params}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"names": "stdlib-choice", "gen_kwargs": {"top_p": 0.5}}, "gen_kwargs: stdlib-choice: sc"),
        ({"names": "stdlib-choice", "repeats": 2}, "repeats: stdlib-choice: scored by"),
        ({"names": "stdlib-choice", "metadata": {"x": 1}}, "metadata: stdlib-choice: no function"),
        ({"names": "writes", "metadata": {"x": 1}}, "metadata: writes: no function of the task"),
        ({"names": "writes", "repeats": 3}, "repeats: 3 of writes, .*come out the same each time"),
        (
            {"names": "stdlib-completion", "gen_kwargs": {"temperature": 0.7}},
            r"temperature 0.7 for stdlib-completion, .*greedy \(do_sample: false\); add do_sample",
        ),
        ({"names": "writes", "gen_kwargs": {"do_sample": True}}, "without a temperature above 0"),
        (
            {"names": "writes", "gen_kwargs": {"do_sample": True, "temperature": 0}, "repeats": 2},
            "do_sample: true for writes, without a temperature above 0",
        ),
        ({"names": "finds", "metadata": {"max_seq_lengths": "40"}}, "found 40; expected a list"),
        ({"names": "finds", "metadata": {"max_seq_lengths": []}}, r"found \[\]; expected a list"),
        (
            {
                "names": "stdlib-choice",
                "chat_template": True,
                "thinking": True,
                "think_end_token": END,
            },
            "thinking: stdlib-choice: .*lm-eval has no model think",
        ),
    ],
)
def test_options_that_no_task_takes(own: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(TextError, match=words):
        items(own, **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gen_kwargs": "temperature=1"}, "gen_kwargs"),
        ({"gen_kwargs": {"max_new_tokens": 4}}, "lm-eval reads it first, max_gen_toks"),
        ({"gen_kwargs": {"num_return_sequences": 2}}, "one answer to each item"),
        ({"gen_kwargs": {"n": 2}}, "one answer to each item"),
        ({"gen_kwargs": {"seed": 2}}, "a key of its own beside gen_kwargs"),
        ({"gen_kwargs": {"model": "another"}}, "not what is asked"),
        ({"gen_kwargs": {"return_dict_in_generate": True}}, "not what is asked"),
        ({"gen_kwargs": {"stop": ["x"]}}, "as lm-eval reads them, until"),
        ({"gen_kwargs": {"max_gen_toks": "abc"}}, "max_gen_toks: a whole number of 1 or more"),
        ({"gen_kwargs": {"max_gen_toks": 0}}, "max_gen_toks: a whole number of 1 or more"),
        ({"gen_kwargs": {"max_gen_toks": True}}, "max_gen_toks: a whole number of 1 or more"),
        ({"gen_kwargs": {"temperature": "hot"}}, "temperature: a number of 0 or more"),
        ({"gen_kwargs": {"temperature": -1}}, "temperature: a number of 0 or more"),
        ({"gen_kwargs": {"do_sample": "false"}}, "do_sample: true or false"),
        ({"gen_kwargs": {"until": 5}}, "until: a text, or a list of texts"),
        ({"gen_kwargs": {"until": None}}, "until: a text, or a list of texts"),
        ({"metadata": {"tokenizer": "x/y"}}, "qbench does not give itself"),
        ({"thinking": True, "think_end_token": "x"}, "beside `chat_template: true`"),
        ({"fewshot_as_multiturn": True}, "beside `chat_template: true`"),
        ({"thinking": True, "chat_template": True}, "think_end_token"),
        ({"system_prompt": ""}, "system_prompt"),
        ({"think_end_token": ""}, "think_end_token"),
    ],
)
def test_values_that_are_none(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        TasksOptions(**options)


def test_a_template_that_knows_nothing_of_thinking(own: Path, tmp_path: Path) -> None:
    model = resolve(bundled_models()["tiny-mistral"])
    here = model.model_copy(update={"folder": str(tmp_path)})
    options = TasksOptions(chat_template=True, thinking=False)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    wrong = TASKS.misfit(options, here)
    assert wrong is not None
    assert "has no `enable_thinking`" in str(wrong)
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
    assert TASKS.misfit(options, here) is None


def test_packages_that_a_tasks_python_begins_with(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("task: own\ndoc_to_text: !function code.text\n")
    (tmp_path / "code.py").write_text(
        "import json\nimport no_such_package\nfrom beside import x\n"
        "try:\n    import not_needed_either\nexcept ImportError:\n    pass\n"
        "try:\n    import bs5\nexcept ImportError as error:\n    raise OSError() from error\n"
        "def f():\n    import only_then\n"
    )
    (tmp_path / "beside.py").write_text("from another.one import y\nx = y\n")
    index = read_folder(tmp_path)
    assert packages_lacking("own", index) == ("another", "bs5", "no_such_package")
    assert packages_lacking("hellaswag", default_tasks()) == ()
    # What lm-eval's own modules begin with, by way of another.
    absent = [name for name in ("immutabledict", "langdetect") if find_spec(name) is None]
    assert list(packages_lacking("ifeval", default_tasks())) == absent


# ---------------------------------------------------------------- what they do


def test_a_thought_that_never_ends_is_told(loaded: LoadedModel, own: Path) -> None:
    asked = {"names": "writes", "chat_template": True}
    plain = take(loaded, own, **asked)
    assert "thoughts" not in plain.details
    outcome = take(
        loaded, own, **asked, thinking=True, think_end_token=END, gen_kwargs={"max_gen_toks": 4}
    )
    told = outcome.details["thoughts"]
    assert 0 < told["unended"] <= told["answers"] == ITEMS
    assert f"{told['unended']} of {ITEMS} answers to writes hold no {END}" in outcome.warnings[0]
    assert "raise max_gen_toks" in outcome.warnings[0]
    calm = take(loaded, own, **asked, thinking=False, think_end_token=END)
    assert not calm.warnings


def test_an_end_token_that_is_never_in_the_text(loaded: LoadedModel, own: Path) -> None:
    special = loaded.tokenizer.eos_token
    at = loaded.tokenizer.eos_token_id
    with pytest.raises(MeasurementError, match=f"special token.*give its id: {at}"):
        take(loaded, own, names="writes", think_end_token=special)
    with pytest.raises(MeasurementError, match="expected one below"):
        take(loaded, own, names="writes", think_end_token=10**6)


def test_a_system_prompt_that_the_template_does_not_take(own: Path) -> None:
    asked: dict[str, Any] = {"names": "writes", "chat_template": True, "system_prompt": "Be brief."}
    made = _fresh("{{ messages[-1].content }}")
    with pytest.raises(MeasurementError, match="leaves it out; leave system_prompt out"):
        take(made, own, **asked)
    made.tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    )
    with pytest.raises(MeasurementError, match=r"refuses it \(no system\)"):
        take(made, own, **asked)


def test_arguments_that_the_model_does_not_take(loaded: LoadedModel, own: Path) -> None:
    with pytest.raises(MeasurementError, match=r"task writes: gen_kwargs: .*no_such_argument"):
        take(loaded, own, names="writes", gen_kwargs={"no_such_argument": 1})


def test_answers_as_long_as_the_context(loaded: LoadedModel, own: Path) -> None:
    tokens = loaded.resolved.context_tokens
    with pytest.raises(MeasurementError, match=rf"max_gen_toks: found {tokens}; expected fewer"):
        take(loaded, own, names="writes", gen_kwargs={"max_gen_toks": tokens})


def test_a_length_that_no_item_is_of(loaded: LoadedModel, own: Path) -> None:
    asked = {"names": "finds", "metadata": {"max_seq_lengths": [60, 80]}, "limit": 3}
    outcome = take(loaded, own, **asked)
    scores = {metric.name: metric for metric in outcome.metrics}
    assert list(scores) == ["tasks.finds.60", "tasks.finds.80"]
    assert scores["tasks.finds.60"].value == fmean(outcome.series["item_60"])
    assert scores["tasks.finds.80"].value is None
    assert "`limit` takes the first ones" in str(scores["tasks.finds.80"].reason)
    assert outcome.details["items_of"]["80"] == []
    assert [metric.better for metric in outcome.metrics] == ["higher", "higher"]


def test_the_items_of_a_length_are_paired_by_themselves(loaded: LoadedModel, own: Path) -> None:
    outcome = take(loaded, own, names="finds", metadata={"max_seq_lengths": [40, 60]})
    assert [len(outcome.series[f"item_{one}"]) for one in (40, 60)] == [4, 4]
    assert outcome.details["items_of"] == {"40": [0, 1, 2, 3], "60": [4, 5, 6, 7]}
    record = make_record(
        more_metrics=outcome.metrics, series=outcome.series, details=outcome.details
    )
    series = find_series(record, "tasks.finds.60", outcome.metrics[1].value or 0.0)
    assert series is not None
    assert series.ids == tuple(outcome.details["item_ids"][4:])


@pytest.mark.slow
def test_rulers_needle_at_two_lengths(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wonderwords")
    import nltk.data

    (tmp_path / "tokenizers" / "punkt_tab").mkdir(parents=True)  # or lm-eval would fetch it
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    asked = {"names": "niah_single_1", "metadata": {"max_seq_lengths": [320, 400]}}
    outcome = take(loaded, tmp_path, **asked, limit=6)
    scores = {metric.name: metric for metric in outcome.metrics}
    assert list(scores) == ["tasks.niah_single_1.320", "tasks.niah_single_1.400"]
    assert scores["tasks.niah_single_1.320"].value == fmean(outcome.series["item_320"])
    assert "`limit`" in str(scores["tasks.niah_single_1.400"].reason)
    assert outcome.details["truncated_items"] == 0


# ---------------------------------------------------------------- lm-eval's own command


@pytest.mark.slow
def test_scores_are_those_of_the_command_with_the_same_flags(
    loaded: LoadedModel, own: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    loaded.model.save_pretrained(model)
    loaded.tokenizer.save_pretrained(model)
    sampled = {"do_sample": True, "temperature": 0.9, "max_gen_toks": 16}
    talk = ["--apply_chat_template"]
    cases: list[tuple[dict[str, Any], list[str], list[str], list[str]]] = [
        # What qbench is asked for; the command's model_args and flags; the seeds of its calls.
        (
            {"names": "writes", "gen_kwargs": sampled, "repeats": 2, "seed": 3},
            [],
            ["--gen_kwargs", json.dumps(sampled)],
            ["3,3,3,3", "3,3,4,3"],
        ),
        (
            {
                "names": "writes",
                "chat_template": True,
                "system_prompt": "import os",
                "few_shot": 2,
                "fewshot_as_multiturn": False,
            },
            [],
            [
                *talk,
                *("--system_instruction", "import os", "--num_fewshot", "2"),
                *("--fewshot_as_multiturn", "false"),
            ],
            [],
        ),
        (
            {
                "names": "writes",
                "chat_template": True,
                "thinking": True,
                "think_end_token": END,
                "gen_kwargs": {"max_gen_toks": 40, "until": ["\n\n\n"]},
            },
            ["enable_thinking=True", f"think_end_token={END}"],
            [*talk, "--gen_kwargs", json.dumps({"max_gen_toks": 40, "until": ["\n\n\n"]})],
            [],
        ),
        ({"names": "writes", "think_end_token": 28}, ["think_end_token=28"], [], []),
        (
            {"names": "finds", "metadata": {"max_seq_lengths": [40, 60]}},
            [],
            ["--metadata", json.dumps({"max_seq_lengths": [40, 60]})],
            [],
        ),
    ]
    calls, places = [], []
    for asked, more, flags, seeds in cases:
        for seed in seeds or ["0,1234,1234,1234"]:
            places.append(tmp_path / f"out{len(places)}")
            args = ",".join([f"pretrained={model}", "dtype=float32", *more])
            calls.append(
                [
                    *("run", "--model", "hf", "--model_args", args, "--include_path", str(own)),
                    *("--tasks", asked["names"], "--batch_size", "4", "--device", "cpu"),
                    *("--seed", seed, "--output_path", str(places[-1]), "--log_samples", *flags),
                ]
            )
    call_lm_eval(calls, tmp_path)
    waiting = iter(places)
    for asked, _, _, seeds in cases:
        name = asked["names"]
        mine = take(loaded, own, **asked)
        takes = [_theirs(next(waiting), name) for _ in seeds or [None]]
        for metric in mine.metrics:
            short = metric.name.rpartition(".")[2]
            assert metric.value == fmean(scores[f"{short},none"] for scores, _ in takes), asked
            own_items = [
                [row[short] for row in rows if row.get(short, -1) != -1] for _, rows in takes
            ]
            each = [fmean(one) for one in zip(*own_items, strict=True)]
            assert mine.series[f"item_{short}"] == each, asked
    # The seeds make a difference, or nothing was shown by them.
    first, second = (_theirs(place, "writes")[1] for place in places[:2])
    assert [row["resps"] for row in first] != [row["resps"] for row in second]


def _theirs(place: Path, name: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    (path,) = place.rglob("results_*.json")
    (samples,) = place.rglob(f"samples_{name}_*.jsonl")
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    rows.sort(key=lambda row: row["doc_id"])
    return json.loads(path.read_text())["results"][name], rows
