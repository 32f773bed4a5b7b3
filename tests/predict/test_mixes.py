"""Predicted peaks of mixes against the tensors that really live while a tiny model runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from qbench.precisions.mixed.options import MixedOptions
from qbench.predict.peaks import load_peak, work_peak
from qbench.predict.work import GridPoint
from tests.live_peaks import prefill_and_decode
from tests.precisions.tiny_cells import TinyCells, Variant, load_fresh, make_job, resolve

if TYPE_CHECKING:
    from qbench.predict.peaks import Peak

BATCH, TOKENS = 2, 96
POINT = GridPoint(batch=BATCH, prompt_tokens=TOKENS, new_tokens=2)
TOLERANCE = 0.002
"""Share of the peak that may differ, as for other precisions."""
LLAMA = Variant("model", "llama", {"context": 512, "tokenizer": False, "intermediate": 768})
GPT2 = Variant("model", "gpt2", {"context": 512, "tokenizer": False})


def mixed(layers: dict[str, Any]) -> dict[str, Any]:
    return MixedOptions.model_validate({"layers": layers}).model_dump(mode="json")


def peak_of(
    variant: Variant, layers: dict[str, Any], cells: TinyCells, point: GridPoint = POINT
) -> Peak:
    """As planned; nothing is loaded."""
    job = make_job(resolve(cells.folder(variant)), "mixed", **mixed(layers))
    return work_peak(job.cell, job.model, point, device="cpu", counted=True)


@pytest.mark.parametrize(
    ("variant", "layers"),
    [
        (LLAMA, {"*.0.*": "nf4", "*.self_attn*": "fp8", "*": "hqq4"}),
        (GPT2, {"*.0.*": "nf4", "*.attn*": "fp8", "*": "hqq4"}),
        (LLAMA, {"*.0.*": "hqq4", "*": "bf16"}),
        (LLAMA, {"*.mlp.*": "int8", "*": "int4-g32"}),
        (GPT2, {"*.1.*": "gguf-q8_0", "*": "nf4"}),
    ],
    ids=str,
)
def test_prefill_and_decode(variant: Variant, layers: dict[str, Any], cells: TinyCells) -> None:
    loaded = load_fresh(cells.folder(variant), "mixed", **mixed(layers))
    ids = torch.randint(200, (BATCH, TOKENS), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        loaded.model(input_ids=ids[:, :1])  # int8 moves its scales the first time
        _, prefill, decode = prefill_and_decode(loaded.model, ids)
    found = peak_of(variant, layers, cells)
    assert found.total == pytest.approx(max(prefill, decode), rel=TOLERANCE)


def test_the_block_that_takes_most_decides(cells: TinyCells) -> None:
    few = GridPoint(batch=1, prompt_tokens=2, new_tokens=1)
    whole, one, none = (
        peak_of(LLAMA, layers, cells, few).kinds["dequantized_weight"]
        for layers in ({"*": "hqq4"}, {"*.0.*.k_proj": "hqq4", "*": "bf16"}, {"*": "bf16"})
    )
    assert none == 0
    assert 0 < one < whole


def test_a_member_of_unknown_products_makes_the_peak_unknown(cells: TinyCells) -> None:
    found = peak_of(LLAMA, {"*.down_proj": "quanto-int8", "*": "nf4"}, cells)
    assert found.total is None
    assert "not known" in (found.reason or "")
    job = make_job(
        resolve(cells.folder(LLAMA)), "mixed", **mixed({"*.down_proj": "quanto-int8", "*": "nf4"})
    )
    loading = load_peak(job.cell, job.model)
    assert loading is not None
    assert job.predicted is not None
    assert loading.total == job.predicted.total


def test_without_a_map_the_peak_says_what_to_write(cells: TinyCells) -> None:
    found = peak_of(LLAMA, {}, cells)
    assert found.total is None
    assert "give it a map" in (found.reason or "")
