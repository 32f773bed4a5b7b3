"""Equal work in every cell: fixed ids, fixed lengths, a cache that grows by what is decoded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from qbench.measures.workload import Workload, make_workload
from qbench.predict.work import GridPoint
from tests.precisions.tiny_cells import TinyCells, Variant

if TYPE_CHECKING:
    from qbench.measures.loaded import LoadedModel

VARIANTS = [
    Variant("llama", "llama"),
    Variant("gpt2-tied", "gpt2", {"tied": True}),
    Variant("opt", "opt"),
]


def make(loaded: LoadedModel, seed: int = 0) -> Workload:
    return make_workload(loaded.model, GridPoint(batch=2, prompt_tokens=7, new_tokens=3), seed)


def test_equal_seeds_give_equal_ids_in_every_precision(cells: TinyCells) -> None:
    import torch

    works = [make(cells.load(VARIANTS[0], name)) for name in ("fp32", "int8", "nf4")]
    for work in works[1:]:
        assert torch.equal(work.prompt, works[0].prompt)
        assert torch.equal(work.continuation, works[0].continuation)
    other = make(cells.load(VARIANTS[0], "fp32"), seed=1)
    assert not torch.equal(other.prompt, works[0].prompt)


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.label)
def test_ids_are_the_models_and_shapes_as_asked_for(variant: Variant, cells: TinyCells) -> None:
    loaded = cells.load(variant, "fp32")
    work = make(loaded)
    assert work.prompt.shape == (2, 7)
    assert work.continuation.shape == (2, 3)
    rows = loaded.model.get_input_embeddings().weight.shape[0]
    assert 0 <= int(work.prompt.min()) <= int(work.prompt.max()) < rows


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.label)
def test_decoding_with_the_cache_equals_one_long_forward(
    variant: Variant, cells: TinyCells
) -> None:
    import torch

    model = cells.load(variant, "fp32").model
    work = make(cells.load(variant, "fp32"))
    with torch.inference_mode():
        cache = work.prefill(model)
        assert cache.get_seq_length() == 7
        cache = work.decode(model, cache)
        whole = model(
            input_ids=torch.cat([work.prompt, work.continuation], dim=1), use_cache=True
        ).past_key_values
    assert cache.get_seq_length() == 10
    for found, expected in zip(cache.layers, whole.layers, strict=True):
        assert torch.allclose(found.keys, expected.keys, atol=1e-5)
        assert torch.allclose(found.values, expected.values, atol=1e-5)


def test_prefill_asks_for_the_logits_of_the_last_position_alone(cells: TinyCells) -> None:
    import torch

    loaded = cells.load(VARIANTS[0], "fp32")
    seen: list[int] = []
    hook = loaded.model.get_output_embeddings().register_forward_hook(
        lambda module, inputs, logits: seen.append(logits.shape[1])
    )
    with torch.inference_mode():
        make(loaded).prefill(loaded.model)
    hook.remove()
    assert seen == [1]
