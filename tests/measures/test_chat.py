"""Divergence on the reference's answers against plain `generate` and softmax in fp64."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest
import torch

from qbench.compare.differences import level
from qbench.compare.estimates.bootstrap import Sampling
from qbench.compare.series import find_series
from qbench.core.errors import MeasurementError
from qbench.measures.chat.chat import CHAT
from qbench.measures.chat.metrics import METRICS, median_place, survival
from qbench.measures.chat.options import ChatOptions
from qbench.measures.quality.reference_states import has_states, states_path
from qbench.sources.bundled import bundled_models
from tests.measures.test_decoded import with_cache
from tests.precisions.tiny_cells import TinyCells, Variant, load_fresh
from tests.record_factory import make_record

if TYPE_CHECKING:
    from collections.abc import Callable

    from qbench.core.record import Record
    from qbench.core.spec import Item
    from qbench.measures.loaded import LoadedModel, Outcome

KEY = "0123456789abcdef"
LLAMA = Variant("llama", "llama", {"context": 256})
GPT2 = Variant("gpt2", "gpt2", {"context": 256})
PROMPTS = ("def first(", "return second + ", "«naïve café» 日本語 🙂", "import os\n")
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


@pytest.fixture(scope="module")
def trained() -> Callable[[str], LoadedModel]:
    """The bundled model, loaded once a precision."""
    return cache(lambda precision: load_fresh(bundled_models()["tiny-mistral"], precision))


def make_item(loaded: LoadedModel, *, reference: bool = False, **options: Any) -> Item:
    chosen = ChatOptions.model_validate({"prompts": PROMPTS, "new_tokens": 12} | options)
    (item,) = CHAT.items(chosen, loaded.resolved, Path("/nowhere"))
    return item.model_copy(update={"states_key": KEY, "makes_states": reference})


def measure(loaded: LoadedModel, *, reference: bool = False, **options: Any) -> Outcome:
    return CHAT.measure(loaded, make_item(loaded, reference=reference, **options))


def values(outcome: Outcome) -> dict[str, float | None]:
    return {metric.name: metric.value for metric in outcome.metrics}


def reasons(outcome: Outcome) -> set[str]:
    return {str(metric.reason) for metric in outcome.metrics if metric.value is None}


def answers_of(loaded: LoadedModel, prompts: list[list[int]], new: int) -> list[list[int]]:
    """By transformers' own greedy generation."""
    stop = loaded.model.config.eos_token_id
    made = []
    for ids in prompts:
        out = loaded.model.generate(
            torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            max_new_tokens=new,
            do_sample=False,
            eos_token_id=stop,
            pad_token_id=0,
        )
        made.append(out[0, len(ids) :].tolist())
    return made


class Naive(NamedTuple):
    """Of every token of one answer, in fp64."""

    kl: np.ndarray
    reverse: np.ndarray
    change: np.ndarray
    same: np.ndarray
    nll: np.ndarray


def naive(reference: LoadedModel, cell: LoadedModel, prompt: list[int], answer: list[int]) -> Naive:
    """From the full logits of prompt and answer."""
    size = max(reference.tokenizer.get_vocab().values()) + 1
    logits = []
    for loaded in (reference, cell):
        with torch.inference_mode():
            found = loaded.model(input_ids=torch.tensor([[*prompt, *answer]])).logits
        logits.append(found[0, len(prompt) - 1 : -1, :size].float().double().numpy())
    return from_logits(*logits, answer)


def lead(loaded: LoadedModel, ids: list[int]) -> float:
    """By how much the highest logit of the next token is above the second."""
    with torch.inference_mode():
        first, second = loaded.model(input_ids=torch.tensor([ids])).logits[0, -1].topk(2).values
    return float(first - second)


def from_logits(wanted: np.ndarray, found: np.ndarray, answer: list[int]) -> Naive:
    p, q = (np.exp(one - one.max(1, keepdims=True)) for one in (wanted, found))
    p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
    rows = np.arange(len(answer))
    return Naive(
        (p * (np.log(p) - np.log(q))).sum(1),
        (q * (np.log(q) - np.log(p))).sum(1),
        q[rows, answer] - p[rows, answer],
        wanted.argmax(1) == found.argmax(1),
        -np.log(q[rows, answer]),
    )


def record_of(outcome: Outcome) -> Record:
    return make_record(
        "nf4",
        "chat",
        more_metrics=outcome.metrics,
        series=dict(outcome.series),
        details=dict(outcome.details),
    )


def check_against(outcome: Outcome, every: list[Naive]) -> None:
    """The figures of a record are those of the naive loop."""
    found = values(outcome)
    kl, reverse, change, same, nll = (np.concatenate(one) for one in zip(*every, strict=True))
    assert found["chat.tokens"] == len(kl)
    assert found["chat.kl.mean"] == pytest.approx(kl.mean(), abs=1e-7)
    assert found["chat.kl.max"] == pytest.approx(kl.max(), abs=1e-6)
    for name, share in (("median", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99_9", 0.999)):
        assert found[f"chat.kl.{name}"] == pytest.approx(np.quantile(kl, share), abs=1e-6)
    assert found["chat.kl.reverse"] == pytest.approx(reverse.mean(), abs=1e-7)
    assert found["chat.probability_change.mean"] == pytest.approx(change.mean(), abs=1e-7)
    for name, share in (("p1", 0.01), ("p25", 0.25), ("median", 0.5), ("p95", 0.95)):
        expected = np.quantile(change, share)
        assert found[f"chat.probability_change.{name}"] == pytest.approx(expected, abs=1e-6)
    rms = math.sqrt((change**2).mean())
    assert found["chat.rms_probability_change"] == pytest.approx(rms, abs=1e-7)
    assert found["chat.top1_agreement"] == pytest.approx(same.mean())
    assert found["chat.perplexity"] == pytest.approx(math.exp(nll.mean()), rel=1e-6)
    series = outcome.series
    assert series["item_tokens"] == [len(one.kl) for one in every]
    assert series["item_kl_sum"] == pytest.approx([one.kl.sum() for one in every], abs=1e-5)
    assert series["item_same_top"] == [one.same.sum() for one in every]
    told = level([record_of(outcome)], "chat.kl.p90", sampling=Sampling())
    assert (told.unit, told.units) == ("items", len(every))
    for metric in METRICS:
        value = found[metric.name]
        if metric.better == "neither" or value is None or ".kl.p" in metric.name:
            continue
        if metric.name not in {"chat.kl.median", "chat.kl.max", "chat.parts_at"}:
            paired = find_series(record_of(outcome), metric.name, value)
            assert paired is not None, metric.name
            assert paired.unit == "items"
            assert paired.ids == tuple(outcome.details["item_ids"])


@pytest.mark.parametrize("variant", [LLAMA, GPT2], ids=lambda one: one.label)
@pytest.mark.parametrize("precision", ["bf16", "nf4"])
def test_equals_a_naive_loop(cells: TinyCells, variant: Variant, precision: str) -> None:
    reference, cell = cells.load(variant, "fp32"), cells.load(variant, precision)
    own = measure(reference, reference=True)
    outcome = measure(cell)
    prompts = [reference.tokenizer(text)["input_ids"] for text in PROMPTS]
    answers = answers_of(reference, prompts, 12)
    assert own.details["answers"] == [reference.tokenizer.decode(ids) for ids in answers]
    kept = json.loads(states_path(KEY).with_name("traces.json").read_text())
    assert (kept["prompts"], kept["answers"]) == (prompts, answers)
    pairs = zip(prompts, answers, strict=True)
    check_against(outcome, [naive(reference, cell, *pair) for pair in pairs])
    assert values(own)["chat.kl.mean"] == values(own)["chat.kl.reverse"] == 0.0
    assert values(own)["chat.same_text"] == 1.0


def test_the_bundled_model_on_its_own_conversations(trained: Callable[[str], LoadedModel]) -> None:
    reference, cell = trained("fp32"), trained("nf4")
    asked = {"prompts": "bundled:stdlib-chat", "count": 8, "new_tokens": 24}
    measure(reference, reference=True, **asked)
    outcome = measure(cell, **asked)
    rows = [json.loads(line) for line in CONVERSATIONS.read_text().splitlines()[:8]]
    texts = ["\n\n".join(one["content"] for one in row["messages"]) for row in rows]
    prompts = [reference.tokenizer(text)["input_ids"] for text in texts]
    answers = answers_of(reference, prompts, 24)
    every = [naive(reference, cell, *pair) for pair in zip(prompts, answers, strict=True)]
    check_against(outcome, every)
    assert outcome.details["chat_template"] is False
    # Where the cell's own greedy text parts from what the reference wrote. Token by token its sums
    # round otherwise, so that of two tokens with the same logit the other may stand first.
    parted = outcome.details["parts_at"]
    own = answers_of(cell, prompts, 24)
    for told, mine, theirs, prompt in zip(parted, own, answers, prompts, strict=True):
        pairs = enumerate(zip(mine, theirs, strict=False))
        found_at = next((at for at, (a, b) in pairs if a != b), None)
        if told != found_at:
            at = min(one for one in (told, found_at) if one is not None)
            assert lead(cell, [*prompt, *theirs[:at]]) < 0.01
    found = values(outcome)
    assert found["chat.same_text"] == parted.count(None) / 8
    assert outcome.series["item_same_text"] == [float(one is None) for one in parted]
    known = sorted(one for one in parted if one is not None)
    assert found["chat.parts_at"] == known[3]
    told = outcome.details["by_position"]
    kl = np.concatenate([one.kl for one in every])
    places = np.concatenate([np.arange(len(one.kl)) for one in every])
    assert told["from"] == [0, 16]
    assert told["kl"] == pytest.approx([kl[places < 16].sum(), kl[places >= 16].sum()], abs=1e-5)


CONVERSATIONS = Path(__file__).parents[2] / "qbench" / "bundled" / "prompts" / "stdlib-chat.jsonl"


@pytest.mark.slow
def test_a_planted_damage_is_seen(trained: Callable[[str], LoadedModel]) -> None:
    reference, cell = trained("fp32"), trained("bf16")
    asked = {"prompts": "bundled:stdlib-chat", "count": 6, "new_tokens": 24}
    measure(reference, reference=True, **asked)
    sound = values(measure(cell, **asked))
    weight = cell.model.model.layers[2].mlp.down_proj.weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.mul_(1.5)
    broken = values(measure(cell, **asked))
    with torch.no_grad():
        weight.copy_(kept)
    assert (broken["chat.kl.mean"] or 0) > 20 * (sound["chat.kl.mean"] or 1)
    assert (broken["chat.same_text"] or 0) < (sound["chat.same_text"] or 0)
    assert values(measure(cell, **asked)) == sound


@pytest.mark.parametrize("kind", [pytest.param(None, marks=pytest.mark.slow), "int4"])
def test_answers_that_are_decoded_read_the_cache(cells: TinyCells, kind: str | None) -> None:
    """Against a loop that reads token by token with transformers' own caches."""
    from transformers import DynamicCache, QuantizedCache

    reference = cells.load(LLAMA, "fp32")
    cell = with_cache(reference, kind)
    asked = {"decoded": True, "prompts": [text * 4 for text in PROMPTS]}
    measure(reference, reference=True, **asked)
    outcome = measure(cell, **asked)
    prompts = [reference.tokenizer(text)["input_ids"] for text in asked["prompts"]]
    every = []
    for prompt, answer in zip(prompts, answers_of(reference, prompts, 12), strict=True):
        logits = []
        for quantized in (False, kind is not None):
            config = reference.model.config
            kept: Any = DynamicCache(config=config)
            if quantized:
                kept = QuantizedCache(
                    backend="hqq", config=config, nbits=4, axis_key=1, axis_value=1, q_group_size=16
                )
            rows = []
            for part in (prompt, *([one] for one in answer[:-1])):
                with torch.inference_mode():
                    out = reference.model(
                        input_ids=torch.tensor([part]), past_key_values=kept, use_cache=True
                    )
                rows.append(out.logits[0, -1].double().numpy())
            logits.append(np.stack(rows)[:, : len(reference.tokenizer)])
        every.append(from_logits(*logits, answer))
    check_against(outcome, every)
    assert (values(outcome)["chat.kl.mean"] == 0) == (kind is None)
    assert outcome.details["kv_cache"] == (kind or "own")


def test_a_prompt_in_chunks_is_the_same_but_for_rounding(cells: TinyCells) -> None:
    reference = cells.load(LLAMA, "fp32")
    cell = cells.load(LLAMA, "nf4", compute_dtype="fp32")
    found = {}
    for chunk in (None, 5):
        asked = {"prefill_chunk": chunk}
        measure(reference, reference=True, **asked)
        found[chunk] = measure(cell, **asked)
    assert found[5].details["ids_sha256"] == found[None].details["ids_sha256"]
    for name, series in found[None].series.items():
        assert found[5].series[name] == pytest.approx(series, rel=1e-3, abs=1e-5), name


def test_long_prompts_are_filled_up_with_a_text(
    trained: Callable[[str], LoadedModel], tmp_path: Path
) -> None:
    reference, cell = trained("fp32"), trained("nf4")
    asked = {"prompts": "bundled:stdlib-chat", "count": 3, "new_tokens": 8}
    asked |= {"prompt_tokens": 300}
    own = measure(reference, reference=True, **asked)
    outcome = measure(cell, **asked)
    lengths = outcome.details["prompt_tokens"]
    assert all(290 <= length <= 300 for length in lengths)
    kept = json.loads(states_path(KEY).with_name("traces.json").read_text())
    text = (
        bundled_models()["tiny-mistral"].parent / "stdlib-heldout/stdlib-heldout.txt"
    ).read_text()
    starts = []
    for ids, asked_for in zip(kept["prompts"], own.details["prompts"], strict=True):
        written = reference.tokenizer.decode(ids, skip_special_tokens=True)
        document, between, prompt = written.partition(f"\n\n{asked_for}")
        assert (between, prompt) == (f"\n\n{asked_for}", "")
        starts.append(text.index(document[1:-1]))
    assert starts == sorted(set(starts))
    assert kept["answers"] == answers_of(reference, kept["prompts"], 8)
    pairs = zip(kept["prompts"], kept["answers"], strict=True)
    check_against(outcome, [naive(reference, cell, *pair) for pair in pairs])

    short = tmp_path / "short.txt"
    short.write_text("x = 1\n" * 40)
    with pytest.raises(MeasurementError, match="too short to fill a prompt of 300"):
        measure(reference, reference=True, **asked, context_text=str(short))
    short.write_text(text[:1500])
    told = measure(reference, reference=True, **asked, context_text=str(short))
    assert "some stand behind the same part" in told.warnings[0]
    asked["prompt_tokens"] = 20
    with pytest.raises(MeasurementError, match=r"prompt 1 has \d+ tokens by itself; .* at most 20"):
        measure(reference, reference=True, **asked)


def test_lengths_and_texts_that_do_not_fit_are_named(cells: TinyCells) -> None:
    model = cells.load(LLAMA, "fp32").resolved

    def problem(**options: Any) -> str:
        return str(CHAT.misfit(ChatOptions(**options), model))

    assert "set prompt_tokens to at most 128" in problem(prompt_tokens=[129])
    assert CHAT.misfit(ChatOptions(prompt_tokens=[128, 4000]), model) is None
    assert "fewer than 256" in problem(new_tokens=256)
    assert "add prompt_tokens" in problem(context_text="bundled:stdlib-excerpt")
    items = CHAT.items(ChatOptions(prompt_tokens=[64, "context", 128]), model, Path("/"))
    assert [item.params["prompt_tokens"] for item in items] == [64, 128]
    assert len({item.slug for item in items}) == 2
    with pytest.raises(MeasurementError, match=r"with 250 new ones does not fit .* at most 6;"):
        measure(cells.load(LLAMA, "fp32"), reference=True, new_tokens=250)


def test_drawn_answers_are_the_same_each_time_and_part_from_nothing(cells: TinyCells) -> None:
    reference, cell = cells.load(LLAMA, "fp32"), cells.load(LLAMA, "nf4")
    found = []
    for seed in (0, 0, 7):
        state = torch.random.get_rng_state()
        asked = {"temperature": 0.8, "seed": seed}
        found.append(measure(reference, reference=True, **asked).details["answers"])
        assert torch.equal(torch.random.get_rng_state(), state)
    assert found[0] == found[1]
    assert found[1] != found[2]
    greedy = measure(reference, reference=True).details["answers"]
    assert greedy not in found
    measure(reference, reference=True, temperature=0.8)
    outcome = measure(cell, temperature=0.8)
    kept = json.loads(states_path(KEY).with_name("traces.json").read_text())
    pairs = zip(kept["prompts"], kept["answers"], strict=True)
    check_against(outcome, [naive(reference, cell, *pair) for pair in pairs])
    assert values(outcome)["chat.same_text"] is None
    assert reasons(outcome) == {
        "the answers were drawn at temperature 0.8: they are no greedy text"
    }


def test_a_token_is_drawn_as_often_as_it_is_likely(cells: TinyCells) -> None:
    """None is left out: the library's own defaults would draw among the 50 likeliest alone."""
    loaded = cells.load(LLAMA, "fp32")
    draws = 60
    asked = {"prompts": ["def f("] * draws, "count": draws, "new_tokens": 1, "temperature": 1.5}
    measure(loaded, reference=True, **asked)
    kept = json.loads(states_path(KEY).with_name("traces.json").read_text())
    with torch.inference_mode():
        logits = loaded.model(input_ids=torch.tensor([kept["prompts"][0]])).logits[0, -1]
    likely = torch.softmax(logits.double() / 1.5, -1)
    beyond = set(likely.argsort(descending=True)[50:].tolist())
    share = float(likely[sorted(beyond)].sum())
    found = sum(answer[0] in beyond for answer in kept["answers"]) / draws
    assert found == pytest.approx(share, abs=5 * math.sqrt(share * (1 - share) / draws))


def test_the_chat_template_is_used_where_there_is_one(cells: TinyCells, tmp_path: Path) -> None:
    loaded = load_fresh(cells.folder(LLAMA), "fp32")
    rows = [
        {"messages": [{"role": "system", "content": "be short"}, {"role": "user", "content": "a"}]},
        {"prompt": "b"},
    ]
    path = tmp_path / "p.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    written = {
        "auto": ["be short\n\na", "b"],
        True: ["[system] be short\n[user] a\n[assistant]", "[user] b\n[assistant]"],
    }
    asked = {"prompts": str(path)}
    for template, chosen, expected in (
        (None, "auto", written["auto"]),
        (TEMPLATE, "auto", written[True]),
        (TEMPLATE, True, written[True]),
        (TEMPLATE, False, written["auto"]),
    ):
        loaded.tokenizer.chat_template = template
        outcome = measure(loaded, reference=True, chat_template=chosen, **asked)
        kept = json.loads(states_path(KEY).with_name("traces.json").read_text())
        assert kept["prompts"] == [loaded.tokenizer(text)["input_ids"] for text in expected]
        assert outcome.details["chat_template"] is (expected is written[True])
    loaded.tokenizer.chat_template = None
    with pytest.raises(MeasurementError, match="chat_template is on, but"):
        measure(loaded, reference=True, chat_template=True, **asked)


def test_another_tokenizer_or_template_is_not_compared(cells: TinyCells) -> None:
    reference = cells.load(LLAMA, "fp32")
    measure(reference, reference=True)
    other = load_fresh(cells.folder(LLAMA), "bf16")
    other.tokenizer.chat_template = TEMPLATE
    outcome = measure(other)
    assert len(reasons(outcome)) == 1
    assert "other token ids" in reasons(outcome).pop()
    assert outcome.details["ids_sha256"] is not None
    assert all(metric.value is None for metric in outcome.metrics)


@pytest.mark.parametrize("how", ["gone", "a bit", "no reference"])
def test_without_the_references_answers_there_is_a_reason(cells: TinyCells, how: str) -> None:
    reference, cell = cells.load(LLAMA, "fp32"), cells.load(LLAMA, "bf16")
    measure(reference, reference=True)
    item = make_item(cell)
    path = states_path(KEY).with_name("traces.json")
    if how == "gone":
        shutil.rmtree(path.parent)
        expected = "states are not in the cache"
    elif how == "a bit":
        path.write_text(path.read_text().replace("true", "false").replace("1", "2"))
        expected = "not the states that the reference left there: traces.json is not what"
    else:
        item = item.model_copy(update={"states_key": None})
        expected = "no cell of the suite is the reference"
    assert has_states(KEY) == (how == "no reference")
    outcome = CHAT.measure(cell, item)
    assert len(reasons(outcome)) == 1
    assert expected in reasons(outcome).pop()
    # So that it is taken again once the answers are there.
    assert "ids_sha256" not in outcome.details


def test_an_answer_that_ends_at_once_is_scored(cells: TinyCells) -> None:
    """Its end is a prediction as any other."""
    loaded = cells.load(LLAMA, "fp32")
    first = measure(loaded, reference=True, new_tokens=1)
    kept = json.loads(states_path(KEY).with_name("traces.json").read_text())
    ending = replace(loaded)
    config = ending.model.generation_config
    own, config.eos_token_id = config.eos_token_id, kept["answers"][0][0]
    try:
        outcome = measure(ending, reference=True)
    finally:
        config.eos_token_id = own
    assert outcome.series["item_tokens"][0] == first.series["item_tokens"][0] == 1
    assert outcome.details["ended"][0] is True


@pytest.mark.parametrize(
    ("places", "lengths", "expected", "median"),
    [
        ([2, None, 5, 2], [8, 8, 8, 8], [(2, 0.5), (5, 0.25)], 2),
        # The second is known up to its end alone: of the two that are left one parts at 5.
        ([2, None, 5, None], [8, 4, 8, 8], [(2, 0.75), (5, 0.375)], 5),
        ([None, None], [3, 9], [], None),
        ([0], [1], [(0, 0.0)], 0),
    ],
)
def test_survival(
    places: list[int | None],
    lengths: list[int],
    expected: list[tuple[int, float]],
    median: int | None,
) -> None:
    found = survival(places, lengths)
    assert [at for at, _ in found] == [at for at, _ in expected]
    assert [share for _, share in found] == pytest.approx([share for _, share in expected])
    assert median_place(places, lengths) == median
