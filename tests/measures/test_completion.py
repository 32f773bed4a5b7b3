"""The loss on completions against a naive computation from the model's full logits."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import pytest
import torch

from qbench.core.errors import MeasurementError, NonFiniteError, TextError
from qbench.core.spec import Item
from qbench.measures.completion import COMPLETION, CompletionOptions
from qbench.sources.data.tuning import TuningDataOptions, load_splits, resolve_tuning_data
from tests.measures import naive_perplexity as naive
from tests.precisions.tiny_cells import TinyCells, Variant, load_fresh

if TYPE_CHECKING:
    from pathlib import Path

    from qbench.measures.loaded import LoadedModel, Outcome

VARIANTS = [
    Variant("llama", "llama", {"context": 512}),
    Variant("llama-nobos", "llama", {"context": 512, "bos": False}),
    Variant("gpt2", "gpt2", {"context": 512}),
    Variant("gemma2", "gemma2", {"tied": True, "final_logit_softcapping": 3.0}),
]
LLAMA = VARIANTS[0]
WORDS = ("def", "return", "first", "second", "print", "(", ")")


def make_data(folder: Path, *, long: int = 0) -> dict[str, Any]:
    """Data as it stands in an item; `long` of its rows have very long completions."""
    rows = []
    for at in range(30):
        words = " ".join(WORDS[(at + step) % len(WORDS)] for step in range(1 + at % 5))
        text = f"{words} {'x' * 5000 if at < long else ''}"
        rows.append({"instruction": f"say {at:02}", "output": text})
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = TuningDataOptions(
        dataset="data.jsonl",
        recipe={"prompt": "{{ instruction }}: ", "completion": "{{ output }}"},
        train=10,
        validation=2,
        test=18,
    )
    return resolve_tuning_data(options, base=folder).model_dump(mode="json")


def take(loaded: LoadedModel, data: dict[str, Any], batch: int = 4) -> Outcome:
    params = {"data": data, "batch": batch}
    return COMPLETION.measure(loaded, Item(measurement="completion", slug="x", params=params))


def values(outcome: Outcome) -> dict[str, float | None]:
    return {metric.name: metric.value for metric in outcome.metrics}


def naive_losses(
    loaded: LoadedModel, folder: Path, data: dict[str, Any]
) -> list[tuple[str, float, int]]:
    """Id, summed loss and scored tokens of each test example, one at a time."""
    from tokenizers import Tokenizer

    from qbench.sources.data.tuning import ResolvedTuningData

    bos = naive.bos_id(folder)
    eos = Tokenizer.from_file(str(folder / "tokenizer.json")).token_to_id("<|endoftext|>")
    found = []
    for example in load_splits(ResolvedTuningData(**data)).test:
        head = naive.text_ids(folder, example.prompt)
        head = head if bos is None else [bos, *head]
        assert eos is not None
        tail = [*naive.text_ids(folder, example.completion), eos]
        losses = naive.losses(loaded.model, [*head, *tail])
        found.append((example.id, math.fsum(losses[len(head) - 1 :]), len(tail)))
    return found


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.label)
def test_equals_a_naive_computation(
    variant: Variant, batch: int, cells: TinyCells, tmp_path: Path
) -> None:
    data = make_data(tmp_path)
    folder, loaded = cells.folder(variant), cells.load(variant, "fp32")
    expected = naive_losses(loaded, folder, data)
    outcome = take(loaded, data, batch)
    total, tokens = math.fsum(nll for _, nll, _ in expected), sum(n for _, _, n in expected)
    assert values(outcome)["completion.tokens"] == tokens
    assert values(outcome)["completion.loss"] == pytest.approx(total / tokens, rel=1e-6)
    assert values(outcome)["completion.perplexity"] == pytest.approx(
        math.exp(total / tokens), rel=1e-5
    )
    assert outcome.series["item_nll"] == pytest.approx([nll for _, nll, _ in expected], rel=1e-5)
    assert outcome.series["item_tokens"] == [n for _, _, n in expected]
    assert outcome.details["item_ids"] == [name for name, _, _ in expected]
    assert outcome.warnings == ()


@pytest.mark.parametrize("precision", ["bf16", "int8", "nf4"])
def test_other_precisions_score_the_same_items(
    precision: str, cells: TinyCells, tmp_path: Path
) -> None:
    data = make_data(tmp_path)
    reference = take(cells.load(LLAMA, "fp32"), data)
    found = take(cells.load(LLAMA, precision), data)
    for name in ("item_ids", "ids_sha256"):
        assert found.details[name] == reference.details[name]
    assert found.series["item_tokens"] == reference.series["item_tokens"]
    assert found.series["item_nll"] != reference.series["item_nll"]
    assert values(found)["completion.loss"] == pytest.approx(
        values(reference)["completion.loss"], rel=0.1
    )


def test_a_model_with_adapters_in_its_layers(tmp_path: Path, cells: TinyCells) -> None:
    peft = pytest.importorskip("peft")
    data = make_data(tmp_path)
    folder = cells.folder(LLAMA)
    loaded = load_fresh(folder, "fp32")
    before = values(take(loaded, data))["completion.loss"]
    config = peft.LoraConfig(r=4, init_lora_weights=False, target_modules=["q_proj", "v_proj"])
    torch.manual_seed(0)
    peft.inject_adapter_in_model(config, loaded.model)
    outcome = take(loaded, data)
    expected = naive_losses(loaded, folder, data)
    assert values(outcome)["completion.loss"] != pytest.approx(before, rel=1e-4)
    assert outcome.series["item_nll"] == pytest.approx([nll for _, nll, _ in expected], rel=1e-5)


def test_what_is_longer_than_the_context_is_told(cells: TinyCells, tmp_path: Path) -> None:
    loaded = cells.load(LLAMA, "fp32")
    whole = take(loaded, make_data(tmp_path))
    outcome = take(loaded, make_data(tmp_path, long=9))
    left = 18 - len(outcome.details["item_ids"])
    assert 0 < left == outcome.details["too_long"]
    assert outcome.warnings[0].startswith(f"{left} of 18 test examples are longer than")
    same = set(outcome.details["item_ids"]) & set(whole.details["item_ids"])
    assert same == set(outcome.details["item_ids"])


def test_nothing_fits(cells: TinyCells, tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="all 18 test examples are longer than"):
        take(cells.load(LLAMA, "fp32"), make_data(tmp_path, long=30))


def test_a_loss_that_is_no_number(tmp_path: Path, cells: TinyCells) -> None:
    loaded = load_fresh(cells.folder(LLAMA), "fp32")
    with torch.no_grad():
        loaded.model.get_output_embeddings().weight[3] = math.nan
    with pytest.raises(NonFiniteError, match="18 of 18 examples"):
        take(loaded, make_data(tmp_path))


def test_data_that_changed(cells: TinyCells, tmp_path: Path) -> None:
    data = make_data(tmp_path)
    make_data(tmp_path, long=1)
    with pytest.raises(TextError, match="has changed"):
        take(cells.load(LLAMA, "fp32"), data)


def test_it_makes_no_items_of_its_own(cells: TinyCells, tmp_path: Path) -> None:
    resolved = cells.load(LLAMA, "fp32").resolved
    assert COMPLETION.items(CompletionOptions(), resolved, tmp_path) == []
    assert COMPLETION.misfit(CompletionOptions(), resolved) is None
