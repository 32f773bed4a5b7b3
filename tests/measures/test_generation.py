"""Greedy generation against a naive loop, and what cannot be generated."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tokenizers import Tokenizer

from qbench.core.errors import MeasurementError, NonFiniteError, TextError
from qbench.finetune.train.examples import encode_all
from qbench.measures.generation.generation import GENERATION, METRICS, GenerationOptions
from qbench.measures.generation.generation import test_split_item as split_item
from qbench.sources.data.tuning import TuningDataOptions, load_splits, resolve_tuning_data
from qbench.sources.models.resolve import parse_model, resolve_model
from tests.precisions.tiny_cells import TinyCells, Variant, load_fresh

if TYPE_CHECKING:
    from qbench.measures.loaded import LoadedModel, Outcome

LLAMA = Variant("llama", "llama")
VARIANTS = [
    LLAMA,
    Variant("llama-nobos", "llama", {"bos": False}),
    Variant("gpt2", "gpt2", {"tied": True}),
    Variant("opt", "opt"),
    Variant("qwen2", "qwen2", {"bos": False}),
    Variant("gemma2", "gemma2", {"tied": True, "final_logit_softcapping": 3.0}),
]
PROMPTS = ("def first(", "return second + ", "«naïve café» 日本語 🙂")


def generate(loaded: LoadedModel, folder: Path | None = None, **options: Any) -> Outcome:
    chosen = GenerationOptions(**{"prompts": PROMPTS, "new_tokens": 12} | options)
    (item,) = GENERATION.items(chosen, loaded.resolved, folder or Path("/nowhere"))
    return GENERATION.measure(loaded, item)


def values(outcome: Outcome) -> dict[str, float | None]:
    return {metric.name: metric.value for metric in outcome.metrics}


def prompt_ids(folder: Path, text: str) -> list[int]:
    """By the tokenizer's file alone, `<s>` included where it puts one."""
    ids: list[int] = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids
    return ids


def naive_greedy(model: Any, ids: list[int], count: int, stop: set[int]) -> list[int]:
    """The whole text through the model again for every token, no cache."""
    import torch

    made: list[int] = []
    while len(made) < count and not (made and made[-1] in stop):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([[*ids, *made]]), use_cache=False).logits[0, -1]
        made.append(int(logits.double().argmax()))
    return made


@pytest.fixture(params=VARIANTS, ids=lambda variant: variant.label)
def variant(request: pytest.FixtureRequest) -> Variant:
    chosen: Variant = request.param
    return chosen


@pytest.mark.parametrize("precision", ["fp32", "nf4"])
def test_equals_a_naive_loop(variant: Variant, precision: str, cells: TinyCells) -> None:
    folder, loaded = cells.folder(variant), cells.load(variant, precision)
    stop = {loaded.model.config.eos_token_id}
    outcome = generate(loaded)
    encoded = [prompt_ids(folder, text) for text in PROMPTS]
    expected = [naive_greedy(loaded.model, ids, 12, stop) for ids in encoded]
    details = outcome.details
    assert details["generated_ids"] == expected
    assert details["prompt_tokens"] == [len(ids) for ids in encoded]
    assert details["ended"] == [ids[-1] in stop for ids in expected]
    assert details["prompts"] == list(PROMPTS)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert details["generated"] == [tokenizer.decode(ids) for ids in expected]
    assert values(outcome)["generation.tokens"] == sum(map(len, expected))
    assert outcome.series["item_tokens"] == [len(ids) for ids in expected]


def test_is_the_same_each_time(cells: TinyCells) -> None:
    loaded = cells.load(LLAMA, "int8")
    assert generate(loaded) == generate(loaded)


def test_the_bundled_model_continues_the_bundled_prompts(cells: TinyCells) -> None:
    model = resolve_model(parse_model("bundled:tiny-mistral", base=Path("/")))
    loaded = load_fresh(Path(model.folder or ""), "fp32")
    outcome = generate(loaded, prompts="bundled:stdlib-prompts", count=3, new_tokens=24)
    found = values(outcome)
    stop = {loaded.model.config.eos_token_id}
    for index, text in enumerate(outcome.details["prompts"]):
        ids = prompt_ids(loaded.checkpoint.folder, text)
        expected = naive_greedy(loaded.model, ids, 24, stop)
        assert outcome.details["generated_ids"][index] == expected
    assert found["generation.tokens"] == 72
    assert found["generation.exact_match"] == 0
    for name in ("rougeL", "chrf"):
        assert (found[f"generation.{name}"] or 0) > 0.05
        assert len(outcome.series[f"item_{name}"]) == 3


def test_the_texts_are_scored_against_references(cells: TinyCells, tmp_path: Path) -> None:
    loaded = cells.load(LLAMA, "fp32")
    own = generate(loaded).details["generated"]
    rows = [
        {"prompt": PROMPTS[0], "reference": f" {own[0]}\n"},
        {"prompt": PROMPTS[1], "reference": "word"},
    ]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    outcome = generate(loaded, tmp_path, prompts="p.jsonl", scores=["chrf", "exact_match"])
    assert outcome.details["references"] == [row["reference"] for row in rows]
    assert values(outcome)["generation.exact_match"] == 0.5
    assert outcome.series["item_exact_match"] == [1, 0]
    assert outcome.series["item_chrf"][0] == pytest.approx(100)
    for name in ("generation.rougeL", "generation.bleu"):
        metric = next(metric for metric in outcome.metrics if metric.name == name)
        assert metric.value is None
        assert "not among the suite's scores" in (metric.reason or "")
    assert set(outcome.series) == {"item_tokens", "item_exact_match", "item_chrf"}


METRIC_SCRIPT = """\
import datasets
import evaluate


class Longer(evaluate.Metric):
    def _info(self):
        texts = {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
        return evaluate.MetricInfo(
            description="share of texts longer than their reference",
            citation="",
            inputs_description="",
            features=datasets.Features(texts),
        )

    def _compute(self, predictions, references):
        longer = [len(a) > len(b) for a, b in zip(predictions, references)]
        return {"share": sum(longer) / len(longer)}
"""


def test_a_metric_script_of_evaluate_scores_the_texts(cells: TinyCells, tmp_path: Path) -> None:
    (tmp_path / "longer").mkdir()
    (tmp_path / "longer" / "longer.py").write_text(METRIC_SCRIPT, encoding="utf-8")
    prompts = [
        {"prompt": PROMPTS[0], "reference": "x"},
        {"prompt": PROMPTS[1], "reference": "x" * 999},
    ]
    lines = "\n".join(map(json.dumps, prompts))
    (tmp_path / "prompts.jsonl").write_text(lines, encoding="utf-8")
    loaded = cells.load(LLAMA, "fp32")
    asked: Any = {"prompts": "prompts.jsonl", "scores": ("exact_match", "./longer", "./missing")}
    refused = generate(loaded, tmp_path, **asked)
    assert values(refused)["generation.longer"] is None
    assert "trust_code: true" in str(refused.metrics[-2].reason)
    found = generate(replace(loaded, trust_code=True), tmp_path, **asked)
    assert values(found)["generation.longer.share"] == 0.5
    missing = next(one for one in found.metrics if one.name == "generation.missing")
    assert missing.value is None
    assert "missing" in str(missing.reason)


def test_prompts_without_references_have_no_scores(cells: TinyCells) -> None:
    outcome = generate(cells.load(LLAMA, "fp32"))
    assert [metric.name for metric in outcome.metrics] == [one.name for one in METRICS]
    for metric in outcome.metrics[1:]:
        assert metric.value is None
        assert metric.reason == "the prompts have no references"
    assert outcome.details["references"] is None


def favour(loaded: LoadedModel, tokens: list[int]) -> None:
    """Makes the model write these tokens in turn, the last one for ever, whatever the prompt is."""

    def chosen(_: Any, args: Any, kwargs: Any, out: Any) -> Any:
        past = kwargs.get("past_key_values")
        step = state["made"]
        state["made"] = step + 1
        assert past is not None
        out.logits[..., tokens[min(step, len(tokens) - 1)]] = 1e4
        return out

    state = {"made": 0}
    loaded.model.register_forward_hook(chosen, with_kwargs=True)


@pytest.mark.parametrize(
    ("scored", "reference"),
    [
        ("whole", "one\n two\n \nthree"),
        ("paragraph", "one\n two"),
        ("line", "one"),
    ],
)
def test_how_much_of_a_text_is_scored(
    scored: str, reference: str, cells: TinyCells, tmp_path: Path
) -> None:
    folder = cells.folder(LLAMA)
    text = "\n\n  one\n two\n \nthree"
    written = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(
        text, add_special_tokens=False
    )
    loaded = load_fresh(folder, "fp32")
    favour(loaded, [*written.ids, loaded.model.config.eos_token_id])
    (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": "def", "reference": reference}))
    outcome = generate(loaded, tmp_path, prompts="p.jsonl", new_tokens=64, scored=scored)
    assert values(outcome)["generation.exact_match"] == 1
    assert values(outcome)["generation.chrf"] == pytest.approx(100)
    assert outcome.details["generated"] == [text]


def test_an_end_token_at_once_ends_the_text(cells: TinyCells) -> None:
    loaded = load_fresh(cells.folder(LLAMA), "fp32")
    end = loaded.model.config.eos_token_id
    favour(loaded, [end])
    outcome = generate(loaded)
    assert outcome.details["generated_ids"] == [[end]] * 3
    assert outcome.details["generated"] == ["", "", ""]
    assert outcome.details["ended"] == [True] * 3
    assert values(outcome)["generation.tokens"] == 3


def test_any_of_several_end_tokens_ends_the_text(cells: TinyCells) -> None:
    loaded = load_fresh(cells.folder(LLAMA), "fp32")
    loaded.model.generation_config.eos_token_id = [7, 9]
    favour(loaded, [5, 9, 5])
    outcome = generate(loaded, prompts=PROMPTS[:1])
    assert outcome.details["generated_ids"] == [[5, 9]]
    assert outcome.details["stop_token_ids"] == [7, 9]


def test_a_text_cut_within_a_character_is_still_text(cells: TinyCells) -> None:
    folder = cells.folder(LLAMA)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    smile = tokenizer.encode("🙂", add_special_tokens=False).ids
    assert len(smile) == 4
    loaded = load_fresh(folder, "fp32")
    favour(loaded, [*smile, smile[0]])
    outcome = generate(loaded, prompts=PROMPTS[:1], new_tokens=5)
    (text,) = outcome.details["generated"]
    assert text == "🙂\ufffd"
    assert outcome.details["generated_ids"] == [[*smile, smile[0]]]
    json.dumps(outcome.details).encode()


def test_defaults_of_the_checkpoint_change_nothing(cells: TinyCells) -> None:
    expected = generate(cells.load(LLAMA, "fp32")).details["generated_ids"]
    loaded = load_fresh(cells.folder(LLAMA), "fp32")
    config = loaded.model.generation_config
    config.update(
        repetition_penalty=5.0,
        do_sample=True,
        temperature=2.0,
        num_beams=3,
        no_repeat_ngram_size=1,
        suppress_tokens=[expected[0][0]],
        forced_bos_token_id=4,
        max_length=3,
    )
    assert generate(loaded).details["generated_ids"] == expected
    assert loaded.model.generation_config is config


def test_begin_token_is_never_doubled(cells: TinyCells) -> None:
    loaded = cells.load(LLAMA, "fp32")
    outcome = generate(loaded, prompts=["<s>def", "def"])
    first, second = outcome.details["generated_ids"]
    assert first == second
    assert outcome.details["prompt_tokens"][0] == outcome.details["prompt_tokens"][1]


def test_the_test_split_begins_as_what_was_trained_on(tmp_path: Path, cells: TinyCells) -> None:
    """A tokenizer that has a beginning token, but does not put it there by itself."""
    folder = shutil.copytree(cells.folder(LLAMA), tmp_path / "model")
    written = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps({**written, "post_processor": None}))
    rows = [{"instruction": f"def f{at}", "output": f"(a{at})"} for at in range(9)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = TuningDataOptions(
        dataset="rows.jsonl",
        recipe={"prompt": "{{ instruction }}", "completion": "{{ output }}"},
        train=4, validation=2, test=3,
    )  # fmt: skip
    data = resolve_tuning_data(options, base=tmp_path)
    item = split_item(GenerationOptions(count=3), data, None, tmp_path)
    loaded = load_fresh(folder, "fp32")
    outcome = GENERATION.measure(loaded, item)
    examples = load_splits(data).test
    encoded = encode_all(examples, loaded.tokenizer, loss_on="completion")
    heads = [one.ids[: -one.scored] for one in encoded]
    assert {head[0] for head in heads} == {loaded.tokenizer.bos_token_id}
    assert outcome.details["ids_sha256"] == hashlib.sha256(repr(heads).encode()).hexdigest()


def test_chat_template(cells: TinyCells) -> None:
    folder = cells.folder(LLAMA)
    loaded = load_fresh(folder, "fp32")
    loaded.tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    outcome = generate(loaded, prompts=["def"], chat_template=True)
    ids = prompt_ids(folder, "[user] def\n[assistant]")
    stop = {loaded.model.config.eos_token_id}
    assert outcome.details["prompt_tokens"] == [len(ids)]
    assert outcome.details["generated_ids"] == [naive_greedy(loaded.model, ids, 12, stop)]
    assert outcome.details["prompts"] == ["def"]


def test_chat_template_that_is_missing_or_refuses(cells: TinyCells) -> None:
    loaded = load_fresh(cells.folder(LLAMA), "fp32")
    with pytest.raises(MeasurementError, match="no chat template; set chat_template: false"):
        generate(loaded, chat_template=True)
    loaded.tokenizer.chat_template = "{{ raise_exception('system first') }}"
    with pytest.raises(MeasurementError, match=r"single user message \(system first"):
        generate(loaded, chat_template=True)


def test_a_prompt_that_does_not_fit_the_context(cells: TinyCells) -> None:
    loaded = cells.load(LLAMA, "fp32")
    ids = prompt_ids(cells.folder(LLAMA), "def")
    most = 128 - len(ids)
    assert len(generate(loaded, prompts=["def"], new_tokens=most).details["generated_ids"]) == 1
    with pytest.raises(MeasurementError, match=rf"prompt 2 has \d+ tokens.*at most {len(ids)};"):
        generate(loaded, prompts=["def", "def first("], new_tokens=most)
    with pytest.raises(MeasurementError, match=r"prompt 1 has \d+ tokens.*shorten the prompt"):
        generate(loaded, prompts=["xyz " * 200])


def test_a_tokenizer_of_another_model(cells: TinyCells) -> None:
    loaded = load_fresh(cells.folder(LLAMA), "fp32")
    loaded.model.resize_token_embeddings(40)
    with pytest.raises(MeasurementError, match="embedding has 40 rows"):
        generate(loaded)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_no_numbers(value: float, cells: TinyCells) -> None:
    loaded = load_fresh(cells.folder(LLAMA), "fp32")
    loaded.model.get_submodule("lm_head").weight.data[:] = value
    with pytest.raises(NonFiniteError, match="no token is the likeliest"):
        generate(loaded)


def test_more_new_tokens_than_the_context_misfit_the_model(cells: TinyCells) -> None:
    model = cells.load(LLAMA, "fp32").resolved
    assert GENERATION.misfit(GenerationOptions(new_tokens=127), model) is None
    misfit = GENERATION.misfit(GenerationOptions(new_tokens=128), model)
    assert misfit is not None
    assert (misfit.place, misfit.found) == ("new_tokens", "128")


def test_one_item_with_all_that_decides_it(cells: TinyCells) -> None:
    model = cells.load(LLAMA, "fp32").resolved
    (item,) = GENERATION.items(GenerationOptions(), model, Path("/nowhere"))
    assert item.slug == "stdlib-prompts-n8-t64"
    assert item.params["batch"] == 1
    (chat,) = GENERATION.items(GenerationOptions(chat_template=True), model, Path("/nowhere"))
    assert chat.slug == "stdlib-prompts-n8-t64-chat"
    assert type(item).model_validate_json(item.model_dump_json()) == item
    (inline,) = GENERATION.items(GenerationOptions(prompts=("a", "b")), model, Path("/nowhere"))
    assert type(inline).model_validate_json(inline.model_dump_json()) == inline
    with pytest.raises(TextError):
        GENERATION.items(GenerationOptions(prompts="no.jsonl"), model, Path("/nowhere"))


def test_equal_prompts_are_told_apart(cells: TinyCells) -> None:
    names = generate(cells.load(LLAMA, "fp32"), prompts=["a", "b", "a"]).details["item_ids"]
    assert len(set(names)) == 3
    assert names[0][:-1] == names[2][:-1] != names[1][:-1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"prompts": []},
        {"prompts": ""},
        {"count": 0},
        {"new_tokens": -1},
        {"scores": ["rogue"]},
        {"scored": "half"},
    ],
)
def test_options_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        GenerationOptions(**wrong)
