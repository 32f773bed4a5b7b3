"""Equal work in every cell: fixed ids, fixed lengths, a cache that grows by what is decoded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from qbench.measures.workload import Workload, make_workload
from qbench.precisions.kv_cache import kv_caches
from qbench.precisions.kv_layers import make_cache
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


CHUNKED = [
    Variant("llama", "llama"),
    Variant("mistral-window", "mistral", {"sliding_window": 24}),
    Variant("qwen3", "qwen3"),
    Variant("gpt2-tied", "gpt2", {"tied": True}),
    Variant("opt", "opt"),
]


def in_chunks(loaded: LoadedModel, chunk: int | None) -> Workload:
    point = GridPoint(batch=2, prompt_tokens=70, new_tokens=4, prefill_chunk=chunk)
    return make_workload(loaded.model, point, 0)


def last_logits(model: Any, work: Workload, cache: Any = None) -> tuple[Any, Any]:
    """The logits after the prompt and after each decoded token, and the cache."""
    import torch

    seen: list[Any] = []
    hook = model.register_forward_hook(lambda module, args, made: seen.append(made.logits[:, -1]))
    with torch.inference_mode():
        cache = work.decode(model, work.prefill(model, cache))
    hook.remove()
    return torch.stack(seen[-1 - work.continuation.shape[1] :]), cache


@pytest.mark.parametrize("chunk", [1, 7, 16, 35, 64, 69])
@pytest.mark.parametrize("variant", CHUNKED, ids=lambda variant: variant.label)
def test_a_prompt_in_chunks_leaves_what_one_forward_does(
    variant: Variant, chunk: int, cells: TinyCells
) -> None:
    """Chunks that divide the prompt and do not, and shorter and longer than a window."""
    import torch

    model = cells.load(variant, "fp32").model
    whole, kept = last_logits(model, in_chunks(cells.load(variant, "fp32"), None))
    work = in_chunks(cells.load(variant, "fp32"), chunk)
    parts, cache = last_logits(model, work)
    assert torch.allclose(parts, whole, atol=1e-4, rtol=1e-4)
    assert torch.equal(parts.argmax(-1), whole.argmax(-1))
    for found, expected in zip(cache.layers, kept.layers, strict=True):
        assert found.keys.shape == expected.keys.shape
        assert torch.allclose(found.keys, expected.keys, atol=1e-4)
        assert torch.allclose(found.values, expected.values, atol=1e-4)


@pytest.mark.parametrize("kind", ["fp8", "int8", "int4"])
def test_chunks_read_a_quantized_cache_where_one_forward_reads_none(
    kind: str, cells: TinyCells
) -> None:
    """Each chunk after the first sees codes of those before, as new tokens do: not equal, near."""
    import torch

    loaded = cells.load(VARIANTS[0], "fp32")
    logits = {}
    for chunk in (None, 16):
        cache = make_cache(kv_caches()[kind], loaded.model)
        logits[chunk], cache = last_logits(loaded.model, in_chunks(loaded, chunk), cache)
        assert cache.get_seq_length() == 74
    own, _ = last_logits(loaded.model, in_chunks(loaded, None))
    # The first logits follow one forward, which read nothing back.
    assert torch.allclose(logits[None][0], own[0], atol=1e-5)
    assert not torch.allclose(logits[16][0], own[0], atol=1e-5)
    assert (logits[16] - own).abs().mean() < 0.2 * own.abs().mean()


def test_each_forward_of_a_prompt_in_chunks_asks_for_one_positions_logits(
    cells: TinyCells,
) -> None:
    import torch

    loaded = cells.load(VARIANTS[0], "fp32")
    seen: list[tuple[int, int]] = []
    hooks = [
        loaded.model.get_output_embeddings().register_forward_hook(
            lambda module, inputs, logits: seen.append((-1, logits.shape[1]))
        ),
        loaded.model.get_input_embeddings().register_forward_hook(
            lambda module, inputs, made: seen.append((made.shape[1], -1))
        ),
    ]
    with torch.inference_mode():
        in_chunks(loaded, 32).prefill(loaded.model)
    for hook in hooks:
        hook.remove()
    assert seen == [(32, -1), (-1, 1), (32, -1), (-1, 1), (6, -1), (-1, 1)]
