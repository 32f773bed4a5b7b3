"""Tasks: found by name, scored as lm-eval's command and a naive loop score them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from qbench.core.errors import MeasurementError, NonFiniteError, TextError
from qbench.measures.tasks.index import BUNDLED_TASKS_FOLDER
from qbench.measures.tasks.options import TasksOptions
from qbench.measures.tasks.tasks import TASKS
from qbench.sources.bundled import bundled_models
from tests.measures.lm_eval_command import call_lm_eval
from tests.measures.own_tasks import MANY, write_own_tasks
from tests.precisions.tiny_cells import TinyCells, Variant, load_fresh, resolve

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from qbench.core.spec import Item
    from qbench.measures.loaded import LoadedModel, Outcome

LIMIT = 24


@pytest.fixture(scope="module", autouse=True)
def _private_data_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The data library's copies go where they vanish, and it asks no hub."""
    import datasets.config

    folder = tmp_path_factory.mktemp("datasets")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
        patch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        patch.setenv("HF_DATASETS_CACHE", str(folder))
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture(scope="module")
def own_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_own_tasks(tmp_path_factory.mktemp("own"))


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load_fresh(bundled_models()["tiny-mistral"], "fp32")


def items(folder: Path, **options: Any) -> list[Item]:
    model = resolve(bundled_models()["tiny-mistral"])
    return TASKS.items(TasksOptions(**options), model, folder)


def take(loaded: LoadedModel, folder: Path, **options: Any) -> Outcome:
    (item,) = items(folder, **options)
    return TASKS.measure(loaded, item)


def values(outcome: Outcome) -> dict[str, float | None]:
    return {metric.name: metric.value for metric in outcome.metrics}


# ---------------------------------------------------------------- names


def test_one_item_a_task_and_the_bundled_ones_unless_named(tmp_path: Path) -> None:
    found = items(tmp_path)
    assert [item.slug for item in found] == ["stdlib-choice", "stdlib-completion"]
    assert [item.params["task"]["location"] for item in found] == [None, None]
    assert found[0].params["seeds"] == [0, 1234, 1234, 1234]


def test_slugs_tell_what_differs_from_the_task_itself(tmp_path: Path) -> None:
    (item,) = items(
        tmp_path, names="stdlib-choice", few_shot=2, limit=5, chat_template=True, seed=7
    )
    assert item.slug == "stdlib-choice-2shot-first5-chat"
    assert item.params["seeds"] == [7, 7, 7, 7]


@pytest.mark.parametrize("name", ["sums", "all-sums"])
def test_a_tag_and_a_group_without_a_score_stand_for_their_tasks(
    own_folder: Path, name: str
) -> None:
    found = items(own_folder, names=name, include=".")
    assert {item.slug for item in found} == {"small-sums", "large-sums"}


def test_a_task_that_is_named_twice_is_taken_once(own_folder: Path) -> None:
    found = items(own_folder, names=["small-sums", "sums"], include=".")
    assert [item.slug for item in found] == ["small-sums", "large-sums"]


def test_a_group_with_a_score_of_its_own_is_one_item(own_folder: Path) -> None:
    (item,) = items(own_folder.parent, names="arithmetic", include=own_folder.name)
    assert item.params["task"]["location"] == str(own_folder)


@pytest.mark.slow
def test_lm_evals_own_tasks_are_known_without_it_being_imported() -> None:
    code = (
        "import sys; from qbench.measures.tasks.index import default_tasks, scored_names as s;"
        "index = default_tasks(); default_tasks.cache_clear(); kept = default_tasks();"
        "print(len(index) > 10000, index == kept, *s('hellaswag', index),"
        " *s('mmlu', index), *s('ai2_arc', index),"
        " [name for name in ('lm_eval', 'torch', 'transformers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [
        "True",
        "True",
        "hellaswag",
        "mmlu",
        "arc_challenge",
        "arc_easy",
        "[]",
    ]


def test_a_name_that_is_not_known(own_folder: Path) -> None:
    with pytest.raises(TextError) as caught:
        items(own_folder, names=["stdlib-choise", "smal-sums"], include=".")
    message = str(caught.value)
    assert "names: stdlib-choise: no task or group of that name; did you mean 'stdlib-choice'?" in (
        message
    )
    assert "did you mean 'small-sums'?" in message
    assert "stdlib-choice, stdlib-completion in qbench" in message


def test_a_folder_that_is_not_there_or_holds_no_task(tmp_path: Path) -> None:
    with pytest.raises(TextError, match="include: nowhere: no such folder"):
        items(tmp_path, include="nowhere")
    (tmp_path / "notes.yaml").write_text("title: no task\n")
    with pytest.raises(TextError, match=r"no task in .*a key task or group"):
        items(tmp_path, include=".")


def test_a_task_that_includes_a_file_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("output_type: multiple_choice\n")
    (tmp_path / "own.yaml").write_text("task: own\ninclude: base.yaml\n")
    (item,) = items(tmp_path, names="own", include=".")
    assert item.slug == "own"
    (tmp_path / "base.yaml").unlink()
    with pytest.raises(TextError, match=r"no task in .* \(passed over: own.yaml \(.*base.yaml"):
        items(tmp_path, names="own", include=".")


@pytest.mark.parametrize("line", ["include: true", "include: [3]", "tag: {a: 1}", "tag: 3"])
def test_names_that_are_none(tmp_path: Path, line: str) -> None:
    (tmp_path / "own.yaml").write_text(f"task: own\n{line}\n")
    with pytest.raises(TextError, match=r"passed over: own.yaml \((include|tag): found .*a name"):
        items(tmp_path, names="own", include=".")


def test_files_that_include_each_other_many_times_are_read_once(tmp_path: Path) -> None:
    """Each of 40 files twice the next: written out, 2⁴⁰ files."""
    for at in range(40):
        twice = f"include: [{at + 1}.part, {at + 1}.part]" if at < 39 else "num_fewshot: 7"
        (tmp_path / f"{at}.part").write_text(f"{twice}\n")
    (tmp_path / "own.yaml").write_text("task: own\ninclude: 0.part\n")
    (item,) = items(tmp_path, names="own", include=".")
    assert item.slug == "own"


def test_what_a_task_follows_from_decides_its_fingerprint(tmp_path: Path) -> None:
    def current() -> str:
        (item,) = items(tmp_path, names="own", include=".")
        return str(item.params["task"]["fingerprint"])

    (tmp_path / "base.yaml").write_text("output_type: multiple_choice\n")
    (tmp_path / "own.yaml").write_text(
        "task: own\ninclude: base.yaml\ndataset_kwargs: {data_files: data.jsonl}\n"
    )
    (tmp_path / "data.jsonl").write_text("{}\n")
    seen = [current()]
    for file, change in (
        ("own.yaml", "num_fewshot: 1\n"),
        ("base.yaml", "repeats: 1\n"),
        ("data.jsonl", "{}\n"),
        ("functions.py", "x = 1\n"),
    ):
        with (tmp_path / file).open("a") as opened:
            opened.write(change)
        seen.append(current())
    assert len(set(seen)) == len(seen)
    (tmp_path / "another.yaml").write_text("task: another\n")
    assert current() == seen[-1]


# ---------------------------------------------------------------- scores


def test_choices_score_as_in_a_naive_loop(loaded: LoadedModel, tmp_path: Path) -> None:
    import torch

    outcome = take(loaded, tmp_path, names="stdlib-choice", limit=LIMIT)
    lines = (BUNDLED_TASKS_FOLDER / "stdlib-choice.jsonl").read_text().splitlines()[:LIMIT]
    right, chosen = [], []
    for row in map(json.loads, lines):
        prompt = len(loaded.tokenizer(row["context"])["input_ids"])
        likelihoods = []
        for choice in row["choices"]:
            ids = torch.tensor([loaded.tokenizer(f"{row['context']}\n{choice}")["input_ids"]])
            assert ids[0, 0] == loaded.tokenizer.bos_token_id
            with torch.inference_mode():
                logits = loaded.model(ids).logits[0, prompt - 1 : -1].double()
            scored = torch.log_softmax(logits, -1).gather(1, ids[0, prompt:, None])
            likelihoods.append(float(scored.sum()))
        chosen.append(likelihoods.index(max(likelihoods)))
        right.append(float(chosen[-1] == row["answer"]))
    assert outcome.series == {"item_acc": right}
    assert outcome.details["answers"] == {"acc": chosen}
    assert values(outcome) == {"tasks.stdlib-choice.acc": pytest.approx(sum(right) / LIMIT)}
    assert outcome.metrics[0].better == "higher"


@pytest.mark.slow
def test_completions_score_as_in_a_naive_loop(loaded: LoadedModel, tmp_path: Path) -> None:
    import re

    import torch

    outcome = take(loaded, tmp_path, names="stdlib-completion", limit=LIMIT)
    lines = (BUNDLED_TASKS_FOLDER / "stdlib-completion.jsonl").read_text().splitlines()[:LIMIT]
    right, names = [], []
    for row in map(json.loads, lines):
        ids = loaded.tokenizer(row["context"])["input_ids"]
        prompt = len(ids)
        for _ in range(8):
            with torch.inference_mode():
                ids.append(int(loaded.model(torch.tensor([ids])).logits[0, -1].argmax()))
        written = loaded.tokenizer.decode(ids[prompt:]).split("\n")[0]
        found = re.match(r" ?([A-Za-z]\w*)", written)
        names.append(found[1] if found else "")
        right.append(float(names[-1] == row["name"]))
    assert outcome.series == {"item_exact_match": right}
    answers = outcome.details["answers"]["exact_match"]
    # The same answer has the same sign, and another one another.
    assert len(set(zip(names, answers, strict=True))) == len(set(names)) == len(set(answers))


def test_what_is_kept_for_pairing(loaded: LoadedModel, tmp_path: Path) -> None:
    outcome = take(loaded, tmp_path, names="stdlib-choice", limit=6)
    details = outcome.details
    assert len(details["item_ids"]) == len(set(details["item_ids"])) == 6
    assert [name.split(":")[0] for name in details["item_ids"]] == list("012345")
    assert (details["items"], details["items_in_all"]) == (6, 400)
    assert details["chance"] == {"acc": 0.25}
    assert details["task_version"] == "1.0"
    assert details["special_token_ids"] == [loaded.tokenizer.bos_token_id]
    assert details["truncated_items"] == 0
    told = {"hub": False, "path": None, "name": None, "split": "test", "revision": None}
    assert details["data"] == {"stdlib-choice": told}
    scores = outcome.series["item_acc"]
    mean = sum(scores) / 6
    deviation = (sum((score - mean) ** 2 for score in scores) / 5) ** 0.5
    assert details["stderr"]["acc"] == pytest.approx(deviation / 6**0.5)
    again = take(loaded, tmp_path, names="stdlib-choice", limit=6).details
    other = take(loaded, tmp_path, names="stdlib-choice", limit=5).details
    assert again == details
    assert other["task_hash"] != details["task_hash"]
    assert other["config_hash"] == details["config_hash"]


@pytest.mark.slow
def test_the_bundled_model_does_well_above_chance(loaded: LoadedModel, tmp_path: Path) -> None:
    scores = {}
    for item in items(tmp_path, limit=100):
        scores.update(values(TASKS.measure(loaded, item)))
    # 4.3 standard deviations of a guess above 0.25 is 0.44.
    assert (scores["tasks.stdlib-choice.acc"] or 0) > 0.44
    assert (scores["tasks.stdlib-completion.exact_match"] or 0) > 0.2


def test_the_model_and_its_tokenizer_stay_as_they_are(cells: TinyCells, tmp_path: Path) -> None:
    from qbench.precisions.inventory import inventory

    tiny = cells.load(Variant("gpt2", "gpt2", {"bos": False}), "nf4")

    def state() -> list[Any]:
        return [
            (held.kind, held.tensor.untyped_storage().nbytes()) for held in inventory(tiny.model)
        ]

    before = state()
    assert tiny.tokenizer.pad_token is None
    outcome = take(tiny, tmp_path, names="stdlib-choice", limit=2)
    assert tiny.tokenizer.pad_token is None
    assert state() == before
    assert outcome.details["special_token_ids"] == []


def test_a_group_scores_all_its_items_together(loaded: LoadedModel, own_folder: Path) -> None:
    group = take(loaded, own_folder, names="arithmetic", include=".")
    parts = [
        take(loaded, own_folder, names=name, include=".") for name in ("small-sums", "large-sums")
    ]
    together = [score for part in parts for score in part.series["item_acc"]]
    assert group.series == {"item_acc": together}
    assert values(group) == {"tasks.arithmetic.acc": pytest.approx(sum(together) / 14)}
    assert len(set(group.details["item_ids"])) == group.details["items"] == 14
    assert group.details["members"]["large-sums"]["acc"] == parts[1].metrics[0].value
    assert group.details["task_version"] == "3.0"
    assert set(parts[0].series) == {"item_acc", "item_acc_norm"}
    assert parts[0].details["chance"] is None


def test_items_that_share_what_the_suite_names_are_kept_as_such(
    loaded: LoadedModel, own_folder: Path, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in (own_folder / "small-sums.jsonl").read_text().splitlines()]
    for at, row in enumerate(rows):
        row |= {"story": f"story {at // 2}", "page": at % 3}
    data = tmp_path / "stories.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "stories.yaml").write_text(MANY.format(name="stories", data=data))
    known = take(loaded, tmp_path, names="stories", include=".")
    assert known.details["clusters"] == [0, 0, 1, 1, 2, 2, 3, 3, 4]
    assert known.details["clustered_by"] == "story"
    named = take(loaded, tmp_path, names="stories", include=".", cluster="page")
    assert named.details["clusters"] == [0, 1, 2] * 3
    assert named.series == known.series
    (item,) = items(tmp_path, names="stories", include=".")
    assert "cluster" not in item.params  # so that records of before it was named keep their keys
    names = ["stories", "stdlib-choice"]
    found = items(tmp_path, names=names, include=".", cluster={"stories": "page"})
    assert [one.params.get("cluster") for one in found] == ["page", None]
    with pytest.raises(TextError, match=r"cluster: found story; .*: stories; did you mean"):
        items(tmp_path, names="stories", include=".", cluster={"story": "page"})
    with pytest.raises(MeasurementError, match=r"task stories: cluster: found pages, .*'page'"):
        take(loaded, tmp_path, names="stories", include=".", cluster="pages")


# ---------------------------------------------------------------- what goes wrong


def test_examples_that_a_task_does_without(loaded: LoadedModel, tmp_path: Path) -> None:
    outcome = take(loaded, tmp_path, names="stdlib-choice", limit=2, few_shot=3)
    assert outcome.details["few_shot"] == 0
    assert "with 0 examples, as it says itself, not with few_shot: 3" in outcome.warnings[0]


def test_items_that_are_longer_than_the_context(cells: TinyCells, tmp_path: Path) -> None:
    tiny = cells.load(Variant("llama", "llama"), "fp32")
    outcome = take(tiny, tmp_path, names="stdlib-choice", limit=8)
    assert tiny.resolved.context_tokens == 128
    lines = (BUNDLED_TASKS_FOLDER / "stdlib-choice.jsonl").read_text().splitlines()[:8]
    long = 0
    for row in map(json.loads, lines):
        choice = max(row["choices"], key=len)
        long += len(tiny.tokenizer(f"{row['context']}\n{choice}")["input_ids"]) - 1 > 128
    assert 0 < outcome.details["truncated_items"] == long
    assert f"{long} of 8 items of stdlib-choice are longer" in outcome.warnings[0]


def test_a_task_whose_data_cannot_be_had(loaded: LoadedModel, own_folder: Path) -> None:
    hub = own_folder / "hub"
    hub.mkdir()
    text = MANY.format(name="far-sums", data="x.jsonl")
    (hub / "far.yaml").write_text(text.replace("dataset_path: json", "dataset_path: a/nowhere"))
    (hub / "lost.yaml").write_text(MANY.format(name="lost-sums", data="no/such/file.jsonl"))
    with pytest.raises(MeasurementError, match=r"task far-sums: .*a/nowhere.*check the network"):
        take(loaded, own_folder, names="far-sums", include="hub")
    with pytest.raises(MeasurementError, match=r"task lost-sums: .*no/such/file.jsonl"):
        take(loaded, own_folder, names="lost-sums", include="hub")


def test_a_task_that_changed_since_the_plan(loaded: LoadedModel, tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text('{"question": "a", "choices": ["b", "c"], "answer": 0}\n')
    path = tmp_path / "own.yaml"
    path.write_text(MANY.format(name="own", data=tmp_path / "data.jsonl"))
    (item,) = items(tmp_path, names="own", include=".")
    path.write_text(path.read_text() + "num_fewshot: 0\n")
    with pytest.raises(MeasurementError, match=r"own: its files have changed .* start the run"):
        TASKS.measure(loaded, item)


def test_a_group_without_a_score_of_tasks_that_only_it_knows(
    loaded: LoadedModel, own_folder: Path, tmp_path: Path
) -> None:
    config = MANY.format(name="inner", data=own_folder / "small-sums.jsonl")
    indented = "\n".join(f"    {line}" for line in config.splitlines() if "tag" not in line)
    (tmp_path / "group.yaml").write_text(f"group: outer\ntask:\n  -{indented[3:]}\n")
    with pytest.raises(MeasurementError, match=r"group outer has no score .* outer::inner"):
        take(loaded, tmp_path, names="outer", include=".")


def test_a_chat_template_that_the_tokenizer_does_not_have(
    loaded: LoadedModel, tmp_path: Path
) -> None:
    with pytest.raises(MeasurementError, match="chat_template: false"):
        take(loaded, tmp_path, names="stdlib-choice", chat_template=True)


def test_prompts_as_a_conversation(cells: TinyCells, tmp_path: Path) -> None:
    tiny = cells.load(Variant("talker", "llama", {"context": 512}), "fp32")
    plain = take(tiny, tmp_path, names="stdlib-choice", limit=2)
    tiny.tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}[answer]"
    )
    put = take(tiny, tmp_path, names="stdlib-choice", limit=2, chat_template=True)
    assert put.details["samples_hash"] != plain.details["samples_hash"]
    assert put.details["config_hash"] == plain.details["config_hash"]


@pytest.mark.parametrize("columns", [slice(5, None), slice(-1, None)], ids=["most", "last"])
@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("stdlib-choice", "the likelihoods of 4 items are not finite numbers"),
        ("stdlib-completion", "no token is the likeliest"),
    ],
)
def test_answers_of_logits_that_are_no_numbers(
    tmp_path: Path, task: str, words: str, columns: slice
) -> None:
    def spoil(_head: Any, _inputs: Any, logits: Any) -> None:
        logits[..., columns] = float("nan")

    broken = load_fresh(bundled_models()["tiny-mistral"], "fp32")
    broken.model.get_output_embeddings().register_forward_hook(spoil)
    with pytest.raises(NonFiniteError, match=f"task {task}: .*{words}"):
        take(broken, tmp_path, names=task, limit=4)


def test_a_tokenizer_without_an_end_token(tmp_path: Path) -> None:
    broken = load_fresh(bundled_models()["tiny-mistral"], "fp32")
    broken.tokenizer.eos_token = None
    with pytest.raises(MeasurementError, match=r"no end token.*add eos_token to its tokenizer_co"):
        take(broken, tmp_path, names="stdlib-completion", limit=2)
    assert values(take(broken, tmp_path, names="stdlib-choice", limit=2))


def test_items_of_which_every_answer_is_ruled_out() -> None:
    from qbench.measures.tasks.results import make_outcome

    row = {"resps": [[(float("-inf"), False)], [(float("-inf"), False)]]}
    with pytest.raises(NonFiniteError, match="the likelihoods of 1 items"):
        make_outcome("choices", {"samples": {"choices": [row]}})


# ---------------------------------------------------------------- lm-eval's own command


@pytest.mark.slow
def test_scores_are_those_of_the_lm_eval_command(
    loaded: LoadedModel, own_folder: Path, tmp_path: Path
) -> None:
    """Item by item, for the checkpoint and for its saved 4-bit form, examples drawn alike."""
    models = {
        "fp32": loaded,
        "nf4": load_fresh(bundled_models()["tiny-mistral"], "nf4", compute_dtype="fp32"),
        "int8": load_fresh(bundled_models()["tiny-mistral"], "int8", dtype="fp32"),
    }
    # The command's batches mix the items of its tasks, which changes LLM.int8's outlier columns.
    alone = {"int8": "stdlib-choice"}
    both = tmp_path / "tasks"
    shutil.copytree(BUNDLED_TASKS_FOLDER, both / "bundled")
    shutil.copytree(own_folder, both / "own")
    calls = []
    for precision, cell in models.items():
        folder = tmp_path / precision
        cell.model.save_pretrained(folder)
        cell.tokenizer.save_pretrained(folder)
        calls.append(
            [
                *("run", "--model", "hf", "--model_args", f"pretrained={folder},dtype=float32"),
                *("--include_path", str(both), "--num_fewshot", "2", "--limit", str(LIMIT)),
                *("--tasks", alone.get(precision, "stdlib-choice,stdlib-completion,small-sums")),
                *("--batch_size", "4"),
                *("--device", "cpu", "--output_path", f"{folder}-out", "--log_samples"),
            ]
        )
    call_lm_eval(calls, tmp_path)
    for precision, cell in models.items():
        out = tmp_path / f"{precision}-out"
        (path,) = out.rglob("results_*.json")
        theirs = json.loads(path.read_text())
        for asked in (
            {"names": "stdlib-choice"},
            {"names": "stdlib-completion"},
            {"names": "small-sums", "include": ".", "few_shot": 2},
        ):
            name = asked["names"]
            if alone.get(precision, name) != name:
                continue
            mine = take(cell, own_folder, limit=LIMIT, **asked)
            samples = next(out.rglob(f"samples_{name}_*.jsonl"))
            rows = [json.loads(line) for line in samples.read_text().splitlines()]
            rows.sort(key=lambda row: row["doc_id"])
            for metric in mine.metrics:
                short = metric.name.rpartition(".")[2]
                assert metric.value == theirs["results"][name][f"{short},none"], (precision, metric)
                assert mine.series[f"item_{short}"] == [row[short] for row in rows]
                assert (
                    mine.details["stderr"][short] == theirs["results"][name][f"{short}_stderr,none"]
                )
            assert mine.details["samples_hash"] == theirs["task_hashes"][name]
