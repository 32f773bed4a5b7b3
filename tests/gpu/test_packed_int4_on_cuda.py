"""Packed 4-bit codes on a GPU: CUDA's own operators against their definition, and its bytes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from qbench.core.spec import Item
from qbench.measures.footprint import FOOTPRINT
from qbench.precisions.integer.packed import unpacked
from qbench.precisions.verification import linear_layers
from qbench.running.loading import load
from tests.precisions.tiny_cells import TinyCells, Variant, make_job, resolve

pytestmark = pytest.mark.gpu

DEVICE = "cuda:0"
TINY = Variant("mistral", "mistral", {"hidden": 256, "intermediate": 512, "context": 256})
GROUPS = (32, 64, 128, 256)


@pytest.fixture(autouse=True)
def _needs_ampere() -> None:
    if torch.cuda.get_device_capability(DEVICE) < (8, 0):
        pytest.skip("the packed kernel needs compute capability 8.0")


def test_cuda_puts_each_code_where_its_definition_says() -> None:
    codes = torch.randint(0, 16, (48, 1024), generator=torch.Generator().manual_seed(0))
    pairs = ((codes[:, ::2] << 4) | codes[:, 1::2]).to(torch.uint8).to(DEVICE)
    held = torch.ops.aten._convert_weight_to_int4pack(pairs, 8)
    assert torch.equal(unpacked(held).cpu().long(), codes)


@pytest.mark.parametrize("group", GROUPS)
def test_its_products_are_those_of_the_weights(group: int) -> None:
    generator = torch.Generator().manual_seed(group)
    codes = torch.randint(0, 16, (64, 1024), generator=generator)
    pairs = ((codes[:, ::2] << 4) | codes[:, 1::2]).to(torch.uint8).to(DEVICE)
    held = torch.ops.aten._convert_weight_to_int4pack(pairs, 8)
    constants = torch.randn(1024 // group, 64, 2, generator=generator).bfloat16()
    spread = constants.float().repeat_interleave(group, dim=0).transpose(0, 1)
    weight = (codes.float() - 8) * spread[..., 0] + spread[..., 1]
    given = torch.randn(5, 1024, generator=generator).bfloat16()
    found = torch.ops.aten._weight_int4pack_mm(given.to(DEVICE), held, group, constants.to(DEVICE))
    expected = given.float() @ weight.T
    assert float((found.cpu().float() - expected).norm() / expected.norm()) < 0.01


@pytest.mark.parametrize("name", ["int4-g32", "int4-g32-asym", "int4-g128"])
def test_a_model_is_held_in_it(name: str, cells: TinyCells) -> None:
    def on_gpu(kernel: str) -> Any:
        job = make_job(resolve(cells.folder(TINY)), name, kernel=kernel)
        return load(job.model_copy(update={"device": DEVICE}), lambda phase: None)

    packed, simulated = (on_gpu(kernel) for kernel in ("packed", "simulated"))
    assert packed.verification.faults == ()
    assert packed.verification.details["kernel"].startswith("packed")
    (item,) = (Item(measurement="footprint", slug="model"),)
    found = {one.name: one.value for one in FOOTPRINT.measure(packed, item).metrics}
    assert found["memory.static"] == found["memory.static.predicted"]
    ids = torch.arange(24, device=DEVICE).reshape(2, 12)
    with torch.inference_mode():
        logits, expected = (one.model(input_ids=ids).logits for one in (packed, simulated))
    assert float((logits - expected).norm() / expected.norm()) < 0.02
    layers = dict(linear_layers(simulated.model))
    for layer_name, layer in linear_layers(packed.model):
        codes = unpacked(layer.weight.qdata)[: layer.out_features, : layer.in_features]
        assert torch.equal(codes.to(torch.int8) - 8, layers[layer_name].weight.qdata)
