"""Loss and divergence over the places of a window, and over windows, against naive loops."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from qbench.measures.quality.quality import QUALITY, QualityOptions
from tests.measures import naive_perplexity as naive
from tests.measures.test_quality import LONG, make_text, values, write_text
from tests.precisions.tiny_cells import TinyCells, Variant

if TYPE_CHECKING:
    from pathlib import Path

    from qbench.core.spec import Item
    from qbench.measures.loaded import LoadedModel

LLAMA = Variant("llama", "llama", LONG)
STARTS = [0, 16, 32, 64, 128, 256, 512]


def items(loaded: LoadedModel, path: Path, **options: Any) -> list[Item]:
    chosen = QualityOptions.model_validate({"text": str(path), **options})
    return QUALITY.items(chosen, loaded.resolved, path.parent)


def summed(places: list[tuple[int, float]]) -> dict[int, tuple[int, float]]:
    """By the first place of its range, how many there are and their sum."""
    found: dict[int, tuple[int, float]] = {}
    for place, value in places:
        start = max(one for one in STARTS if one <= place)
        count, total = found.get(start, (0, 0.0))
        found[start] = (count + 1, total + value)
    return found


@pytest.mark.parametrize("window", [10, 16, 33, 300])
def test_losses_by_position(window: int, cells: TinyCells, tmp_path: Path) -> None:
    text = make_text(400)
    loaded, folder = cells.load(LLAMA, "fp32"), cells.folder(LLAMA)
    (item,) = items(loaded, write_text(tmp_path, text), window=window)
    outcome = QUALITY.measure(loaded, item)
    tokens, bos = naive.text_ids(folder, text), naive.bos_id(folder)
    assert bos is not None
    places = []
    for start in range(0, len(tokens), window - 1):
        losses = naive.losses(loaded.model, [bos, *tokens[start : start + window - 1]])
        places += list(enumerate(losses, 1))
    expected = summed(places)
    found = outcome.details["by_position"]
    assert found["from"] == list(expected)
    assert found["tokens"] == [count for count, _ in expected.values()]
    assert found["nll"] == pytest.approx([total for _, total in expected.values()], rel=1e-5)
    assert found["kl"] is None
    total = math.fsum(found["nll"]) / sum(found["tokens"])
    assert math.exp(total) == pytest.approx(values(outcome)["perplexity"], rel=1e-12)


def test_divergence_by_position(cells: TinyCells, tmp_path: Path) -> None:
    import torch

    text, window = make_text(300), 100
    reference, cell = cells.load(LLAMA, "fp32"), cells.load(LLAMA, "nf4")
    path = write_text(tmp_path, text)
    options = {"window": window, "batch": 1}
    asked = {"states_key": "fedcba9876543210"}
    (item,) = items(reference, path, **options)
    QUALITY.measure(reference, item.model_copy(update={**asked, "makes_states": True}))
    found = QUALITY.measure(cell, item.model_copy(update=asked)).details["by_position"]
    folder = cells.folder(LLAMA)
    tokens, bos = naive.text_ids(folder, text), naive.bos_id(folder)
    vocabulary = max(reference.tokenizer.get_vocab().values()) + 1
    places = []
    for start in range(0, len(tokens), window - 1):
        ids = torch.tensor([[bos, *tokens[start : start + window - 1]]])
        with torch.no_grad():
            wanted, own = (
                one.model(input_ids=ids).logits[0, :-1, :vocabulary].double().log_softmax(-1)
                for one in (reference, cell)
            )
        places += list(enumerate((wanted.exp() * (wanted - own)).sum(-1).tolist(), 1))
    expected = summed(places)
    assert found["from"] == list(expected)
    assert found["kl"] == pytest.approx([total for _, total in expected.values()], rel=1e-3)


def test_each_window_of_a_list_is_scored_by_itself(cells: TinyCells, tmp_path: Path) -> None:
    text = make_text(500)
    loaded, folder = cells.load(LLAMA, "fp32"), cells.folder(LLAMA)
    tokens, bos = naive.text_ids(folder, text), naive.bos_id(folder)
    made = items(loaded, write_text(tmp_path, text), window=[16, 128, 512, "context"])
    assert [item.params["window"] for item in made] == [16, 128, 512, 2048]
    for item in made:
        found = values(QUALITY.measure(loaded, item))
        expected = naive.default(loaded.model, tokens, item.params["window"], bos)
        assert found["perplexity"] == pytest.approx(expected.perplexity, rel=1e-5)
        assert found["tokens"] == expected.count
