"""Decoded positions against a loop that decodes window by window with transformers' own caches."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from qbench.core.errors import MeasurementError
from qbench.measures.quality.decoded import DECODED, DecodedOptions
from qbench.measures.quality.reference_states import has_states
from tests.measures.test_quality import make_text, write_text
from tests.precisions.tiny_cells import TinyCells, Variant

if TYPE_CHECKING:
    from pathlib import Path

    from qbench.core.spec import Item
    from qbench.measures.loaded import LoadedModel

KEY = "0123456789abcdef"
LLAMA = Variant("llama", "llama", {"context": 256})
GPT2 = Variant("gpt2", "gpt2", {"context": 256})
# What transformers is asked for; groups of 16, the width of a head, in these models.
OWN_CACHES: dict[str, dict[str, Any]] = {
    "fp8": {"backend": "fp8"},
    "int8": {"backend": "hqq", "nbits": 8, "axis_key": 1, "axis_value": 1, "q_group_size": 16},
    "int4": {"backend": "hqq", "nbits": 4, "axis_key": 1, "axis_value": 1, "q_group_size": 16},
    "int2": {"backend": "hqq", "nbits": 2, "axis_key": 1, "axis_value": 1, "q_group_size": 8},
}


def with_cache(loaded: LoadedModel, kind: str | None) -> LoadedModel:
    return replace(loaded, cell=loaded.cell.model_copy(update={"kv_cache": kind}))


def make_item(loaded: LoadedModel, text: Path, *, reference: bool = False, **options: Any) -> Item:
    chosen = DecodedOptions.model_validate({"text": str(text), **options})
    [item] = DECODED.items(chosen, loaded.resolved, text.parent)
    return item.model_copy(update={"states_key": KEY, "makes_states": reference})


def decoded_logits(loaded: LoadedModel, ids: list[int], prompt: int, cache: Any) -> np.ndarray:
    """Logits after each token behind the prompt, but the last; (tokens, vocabulary) in fp64."""
    import torch

    model, found = loaded.model, []
    with torch.inference_mode():
        out = model(input_ids=torch.tensor([ids[:prompt]]), past_key_values=cache, use_cache=True)
        for token in ids[prompt:-1]:
            out = model(
                input_ids=torch.tensor([[token]]),
                past_key_values=out.past_key_values,
                use_cache=True,
            )
            found.append(out.logits[0, -1].float().double().numpy())
    return np.stack(found)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    moved = logits - logits.max(1, keepdims=True)
    return moved - np.log(np.exp(moved).sum(1, keepdims=True))


@pytest.mark.slow
@pytest.mark.parametrize("variant", [LLAMA, GPT2], ids=lambda variant: variant.label)
@pytest.mark.parametrize(
    ("kind", "new_tokens"), [("fp8", 9), ("int8", 9), ("int4", 9), ("int2", 9), ("int4", 134)]
)
def test_divergence_and_perplexity_equal_a_naive_loop(
    cells: TinyCells, tmp_path: Path, variant: Variant, kind: str, new_tokens: int
) -> None:
    from transformers import QuantizedCache

    if variant is GPT2 and kind == "int2":
        options = {**OWN_CACHES[kind], "q_group_size": 16}  # of its 4 heads
    else:
        options = OWN_CACHES[kind]
    text = make_text(900)
    path = write_text(tmp_path, text)
    reference, held = cells.load(variant, "fp32"), cells.load(variant, "bf16")
    cell, prompt = with_cache(held, kind), 13
    # Windows one at a time in both, as the naive loop takes them.
    asked = {"limit": 3, "prompt_tokens": prompt, "new_tokens": new_tokens, "batch": 1}
    DECODED.measure(reference, make_item(reference, path, reference=True, **asked))
    assert has_states(KEY)
    outcome = DECODED.measure(cell, make_item(cell, path, **asked))

    tokens = reference.tokenizer(text, add_special_tokens=False)["input_ids"]
    bos, length = reference.tokenizer.bos_token_id, prompt + new_tokens + 1
    step = length - 1
    size = max(reference.tokenizer.get_vocab().values()) + 1
    kl, nll, same = [], [], []
    for start in range(3):
        ids = [bos, *tokens[start * step : (start + 1) * step]]
        assert len(ids) == length
        wanted = decoded_logits(reference, ids, prompt, None)[:, :size]
        cache = QuantizedCache(config=cell.model.config, **options)
        found = decoded_logits(cell, ids, prompt, cache)[:, :size]
        p, q = log_softmax(wanted), log_softmax(found)
        kl.append((np.exp(p) * (p - q)).sum(1))
        nll.append(-q[np.arange(new_tokens), ids[prompt + 1 :]])
        same.append(wanted.argmax(1) == found.argmax(1))
    values = {metric.name: metric.value for metric in outcome.metrics}
    assert values["decoded.tokens"] == 3 * new_tokens
    assert values["decoded.kl.mean"] == pytest.approx(np.mean(kl), abs=1e-7)
    assert values["decoded.kl.max"] == pytest.approx(np.max(kl), abs=1e-6)
    assert values["decoded.kl.median"] == pytest.approx(np.median(kl), abs=1e-6)
    assert values["decoded.perplexity"] == pytest.approx(math.exp(np.mean(nll)), rel=1e-6)
    assert values["decoded.top1_agreement"] == pytest.approx(np.mean(same))
    assert outcome.series["window_kl_sum"] == pytest.approx([one.sum() for one in kl], abs=1e-5)
    assert outcome.details["kv_cache"] == kind


def test_windows_of_a_batch_do_not_touch_each_other(cells: TinyCells, tmp_path: Path) -> None:
    path = write_text(tmp_path, make_text(900))
    loaded = cells.load(LLAMA, "fp32")
    cell = with_cache(loaded, "int8")
    found = []
    for batch in (1, 3):
        asked = {"limit": 3, "prompt_tokens": 30, "new_tokens": 6, "batch": batch}
        DECODED.measure(loaded, make_item(loaded, path, reference=True, **asked))
        found.append(DECODED.measure(cell, make_item(cell, path, **asked)).series)
    assert found[0]["window_nll"] == pytest.approx(found[1]["window_nll"], rel=1e-4)
    assert len(set(found[0]["window_nll"])) == 3


def test_fewer_bits_cost_more_and_the_own_cache_nothing(cells: TinyCells, tmp_path: Path) -> None:
    path = write_text(tmp_path, make_text(900))
    loaded = cells.load(LLAMA, "fp32")
    asked = {"limit": 4, "prompt_tokens": 40, "new_tokens": 8}
    DECODED.measure(loaded, make_item(loaded, path, reference=True, **asked))
    found = {}
    for kind in (None, "int8", "int4", "int2"):
        cell = with_cache(loaded, kind)
        outcome = DECODED.measure(cell, make_item(cell, path, **asked))
        [found[kind]] = [one.value for one in outcome.metrics if one.name == "decoded.kl.mean"]
    assert found[None] == 0
    assert 0 < found["int8"] < found["int4"] < found["int2"]


def test_a_text_that_is_too_short_is_named(cells: TinyCells, tmp_path: Path) -> None:
    path = write_text(tmp_path, "x = 1\n")
    loaded = cells.load(LLAMA, "fp32")
    item = make_item(loaded, path, prompt_tokens=100, new_tokens=100)
    with pytest.raises(MeasurementError, match=r"too short for a prompt of 100 and 100 decoded"):
        DECODED.measure(loaded, item)


def test_windows_beyond_the_context_are_a_problem(cells: TinyCells) -> None:
    model = cells.load(LLAMA, "fp32").resolved
    options = DecodedOptions(prompt_tokens=200, new_tokens=56)
    problem = DECODED.misfit(options, model)
    assert problem is not None
    assert problem.remedy == "set prompt_tokens to at most 199"
    assert DECODED.misfit(DecodedOptions(prompt_tokens=199, new_tokens=56), model) is None
