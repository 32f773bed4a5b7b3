"""GGUF's block formats, byte for byte: by the package gguf, and by what llama.cpp makes."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from qbench.core.spec import TensorShape
from qbench.precisions import precisions
from qbench.precisions.gguf.layouts import LAYOUTS
from qbench.precisions.gguf.mixes import MIXES, fallback, types_of
from qbench.precisions.names import own_name
from qbench.sources.models.gguf_types import BY_NAME, TYPES
from qbench.sources.models.resolve import parse_model, resolve_model
from tests.precisions.tiny_cells import Variant, load_fresh, resolve, typed_options_of
from tests.tiny_models import make_tiny_model

if TYPE_CHECKING:
    from tests.precisions.tiny_cells import TinyCells

BY_LLAMA_CPP = {
    "Q4_0": "58228796d1e0af57",
    "Q4_1": "3f5db80d7dc7c481",
    "Q5_0": "6c4f584f3c03a9f0",
    "Q5_1": "5af316c62b58056e",
    "Q8_0": "62945c4312265bb2",
    "MXFP4": "6f89f8aef481da56",
    "Q2_K": "2e07b9dc4b3c55ff",
    "Q3_K": "df179f5a6765bde3",
    "Q4_K": "23869249fe8cd5c4",
    "Q5_K": "3469a226d8a47fd1",
    "Q6_K": "ca0bf0f3b1baf466",
}
"""First digits of the sha256 of what `quantize_row_*_ref` of llama.cpp's ggml-quants.c (compiled by
gcc for x86-64, ggml of June 2026) makes of `reference_weights`."""
PUBLISHED_BYTES = {
    "q8_0": 7_695_857_952,
    "q6_k": 5_942_065_440,
    "q5_k_m": 5_131_409_696,
    "q4_k_m": 4_368_439_584,
    "q4_k_s": 4_140_373_664,
    "q4_0": 4_108_916_384,
    "q3_k_m": 3_518_986_016,
}
"""Sizes of the GGUF files of Mistral-7B-Instruct-v0.2 on a hub."""
MOST_METADATA = 2 * 10**6
"""Of such a file: vocabulary and settings; and its norms are in fp32."""


def reference_weights() -> np.ndarray[Any, np.dtype[np.float32]]:
    """65,536 weights that any machine makes alike, with a few rows that are out of the ordinary."""
    numbers = np.arange(256 * 256, dtype=np.uint64) * np.uint64(2654435761) % np.uint64(2**32)
    even = (numbers.astype(np.float64) / 2**32 - 0.5).reshape(256, 256)
    weights = (even * np.abs(even) * 8).astype(np.float32) * np.float32(0.0625)
    weights[3], weights[5, :128], weights[7], weights[9] = 0, 0, 0.25, -0.25
    return weights


@pytest.mark.parametrize("kind", BY_LLAMA_CPP)
def test_blocks_are_those_of_llama_cpp(kind: str) -> None:
    import torch

    from qbench.precisions.gguf.quantize import to_blocks

    made = to_blocks(torch.from_numpy(reference_weights()), kind)
    assert made.shape == (256, BY_NAME[kind].row_bytes(256))
    assert hashlib.sha256(made.numpy().tobytes()).hexdigest()[:16] == BY_LLAMA_CPP[kind]


def test_sizes_of_blocks_are_the_packages() -> None:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    for number, one in TYPES.items():
        theirs = GGMLQuantizationType(number)
        assert (theirs.name, GGML_QUANT_SIZES[theirs]) == (one.name, (one.weights, one.bytes))


@pytest.mark.parametrize("kind", LAYOUTS)
def test_any_block_is_decoded_as_the_package_decodes_it(kind: str) -> None:
    import torch
    from gguf import GGMLQuantizationType, dequantize

    from qbench.precisions.gguf.layouts import decode, read, write

    random = np.random.default_rng(0)
    layout = LAYOUTS[kind]
    blocks = random.integers(0, 256, (64, BY_NAME[kind].bytes), dtype=np.uint8)
    for at in (layout.scale_at, layout.minimum_at):
        if at is not None:  # any bytes may be infinite as fp16
            halves = random.standard_normal((64, 1)).astype(np.float16)
            blocks[:, at : at + 2] = halves.view(np.uint8)
    if layout.scale_at is None:
        blocks[:, 0] %= 250  # larger exponents are beyond fp32
    own = decode(torch.from_numpy(blocks), kind).numpy()
    assert np.array_equal(own, dequantize(blocks, GGMLQuantizationType[kind]))
    written = torch.zeros(64, BY_NAME[kind].bytes, dtype=torch.uint8)
    codes = read(torch.from_numpy(blocks), layout.codes)
    write(written, layout.codes, codes)
    assert torch.equal(read(written, layout.codes), codes)


@pytest.mark.parametrize("mix", PUBLISHED_BYTES)
def test_bytes_are_those_of_published_files(mix: str) -> None:
    ref = parse_model("random:Mistral-7B-Instruct-v0.2", base=Path())
    shape = resolve_model(ref).shape
    assert shape is not None
    name = f"gguf-{mix}"
    found = precisions()[name].storage(shape, typed_options_of(name)).total
    assert 0 < PUBLISHED_BYTES[mix] - found < MOST_METADATA


def layers_of(count: int, *, queries: int = 4096, keys: int = 1024) -> list[TensorShape]:
    sizes = {
        "self_attn.q_proj": (queries, 4096),
        "self_attn.k_proj": (keys, 4096),
        "self_attn.v_proj": (keys, 4096),
        "self_attn.o_proj": (4096, 4096),
        "mlp.gate_proj": (14336, 4096),
        "mlp.up_proj": (14336, 4096),
        "mlp.down_proj": (4096, 14336),
    }
    linear = [
        TensorShape(name=f"model.layers.{layer}.{name}.weight", shape=shape, role="linear")
        for layer in range(count)
        for name, shape in sizes.items()
    ]
    return [
        *linear,
        TensorShape(name="model.embed_tokens.weight", shape=(32000, 4096), role="embedding"),
        TensorShape(name="lm_head.weight", shape=(32000, 4096), role="head"),
    ]


def places(chosen: dict[str, str | None], part: str, kind: str) -> list[int]:
    """Numbers of the layers whose part has a type."""
    return [
        int(re.findall(r"\d+", name)[0])
        for name, own in chosen.items()
        if part in name and own == kind
    ]


def test_which_layers_get_more_bits() -> None:
    """Of 32 layers, as `llama-quantize` logs it."""
    sensitive = [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]
    four = types_of(layers_of(32), "q4_k_m")
    assert places(four, "v_proj", "Q6_K") == places(four, "down_proj", "Q6_K") == sensitive
    assert len(places(four, "layers", "Q4_K")) == 7 * 32 - 2 * len(sensitive)
    assert (four["model.embed_tokens.weight"], four["lm_head.weight"]) == ("Q4_K", "Q6_K")
    small = types_of(layers_of(32), "q4_k_s")
    assert places(small, "v_proj", "Q5_K") == places(small, "down_proj", "Q5_K") == [0, 1, 2, 3]
    three = types_of(layers_of(32), "q3_k_m")
    assert places(three, "v_proj", "Q5_K") == places(three, "down_proj", "Q5_K") == [0, 1]
    assert places(three, "o_proj", "Q4_K") == list(range(32))
    two = types_of(layers_of(32), "q2_k")
    assert places(two, "v_proj", "Q4_K") == places(two, "down_proj", "Q3_K") == list(range(32))
    assert places(types_of(layers_of(32, keys=4096), "q2_k"), "v_proj", "Q3_K") == list(range(32))
    # The 70B model shares its values among 8 queries.
    assert len(places(types_of(layers_of(80), "q4_k_m"), "v_proj", "Q5_K")) == 40
    assert set(types_of(layers_of(2), "q3_k_l", pure=True).values()) == {"Q3_K"}
    assert "lm_head.weight" not in types_of(layers_of(2), "q3_k_l", embeddings=False)


def test_a_tied_embedding_has_the_heads_type() -> None:
    tied = layers_of(2)[:-1]
    assert types_of(tied, "q4_0")["model.embed_tokens.weight"] == "Q6_K"
    assert types_of(tied, "q8_0")["model.embed_tokens.weight"] == "Q8_0"


def test_a_mixture_of_eight_experts_keeps_more_of_its_attention() -> None:
    experts = TensorShape(
        name="model.layers.0.mlp.experts.gate_up_proj", shape=(8, 28672, 4096), role="other"
    )
    chosen = types_of([*layers_of(32), experts], "q4_k_m")
    assert len(places(chosen, "v_proj", "Q8_0")) == len(places(chosen, "k_proj", "Q8_0")) == 32
    assert len(places(chosen, "o_proj", "Q5_K")) == 32


def test_narrow_rows_have_the_type_that_llama_cpp_takes() -> None:
    found = {kind: fallback(kind, 704) for kind in ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")}
    assert list(found.values()) == ["Q4_0", "Q4_0", "Q5_0", "Q5_1", "Q8_0"]
    assert fallback("Q4_K", 720) is None


@pytest.mark.parametrize(
    ("name", "hidden", "words"),
    [
        ("gguf-q4_k_m", 64, "linear layers are 64, 128 wide: none would be Q4_K; llama.cpp would"),
        ("gguf-q4_k_m", 64, "take Q5_0 instead: choose gguf-q5_0"),
        ("gguf-q8_0", 24, "no GGUF type has shorter blocks than 32; choose another precision"),
        ("gguf-q8_0", 64, None),
    ],
)
def test_a_model_without_a_row_of_whole_blocks_is_refused(
    name: str, hidden: int, words: str | None, tmp_path: Path
) -> None:
    model = resolve(make_tiny_model(tmp_path, "llama", hidden=hidden, heads=2, layers=1))
    misfit = precisions()[name].misfit(typed_options_of(name), model)
    if words is None:
        assert misfit is None
    else:
        assert misfit is not None
        assert words in misfit


def test_what_is_replaced_or_left_is_named(cells: TinyCells) -> None:
    wide = Variant("gguf-mixed", "llama", {"hidden": 256, "intermediate": 336, "layers": 1})
    loaded = cells.load(wide, "gguf-q4_k_m")
    details, (replaced, left) = loaded.verification.details, loaded.verification.warnings
    assert details["left_out"] == ["model.layers.0.mlp.down_proj"]
    assert "1 linear layers have others" in replaced
    assert "model.layers.0.mlp.down_proj: 336 wide, bf16" in replaced
    assert "left unquantized" in left
    # The values of the only layer, and the head.
    assert details["blocks"] == {"Q4_K": 6, "Q6_K": 2}
    assert details["tables"] == {"model.embed_tokens": "Q4_K", "lm_head": "Q6_K"}


SHAPES = [
    Variant("llama", "llama", {"hidden": 256, "intermediate": 512, "layers": 1}),
    # Its embedding multiplies what it returns, and its head shares it.
    Variant("gemma2", "gemma2", {"hidden": 256, "layers": 1, "tied": True}),
    Variant("gpt2", "gpt2", {"hidden": 256, "layers": 1, "tied": True}),
]


@pytest.mark.parametrize("variant", SHAPES, ids=lambda variant: variant.label)
def test_the_model_computes_with_the_weights_that_the_package_makes(
    variant: Variant, cells: TinyCells
) -> None:
    import torch
    from gguf import GGMLQuantizationType, dequantize
    from transformers import AutoModelForCausalLM
    from transformers.pytorch_utils import Conv1D

    folder = cells.folder(variant)
    held: Any = cells.load(variant, "gguf-q4_k_m", dtype="fp32").model
    plain: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    count = 0
    with torch.no_grad():
        for name, layer in held.named_modules():
            if getattr(layer, "kind", None) is None:
                continue
            blocks = layer.weight.numpy()
            weight = torch.from_numpy(dequantize(blocks, GGMLQuantizationType[layer.kind]))
            own = plain.get_submodule(name)
            own.weight.copy_(weight.T if isinstance(own, Conv1D) else weight)
            count += 1
        ids = torch.arange(2, 40)[None]
        assert count > 4
        assert torch.allclose(held(ids).logits, plain(ids).logits, atol=1e-4)


@pytest.mark.slow
def test_more_bits_come_nearer(cells: TinyCells) -> None:
    """Of the bundled model, against its own weights: at equal bits K-quants beat plain blocks."""
    from qbench.sources.bundled import bundled_models

    folder = bundled_models()["tiny-mistral"]
    original: Any = load_fresh(folder, "fp32").model
    names = [name for name, one in original.named_modules() if name.endswith("mlp.up_proj")]
    errors = {}
    for mix in ("q8_0", "q6_k", "q5_k_s", "q5_0", "q4_k_s", "q4_1", "q4_0", "q3_k_s", "q2_k"):
        name = f"gguf-{mix}"
        loaded = load_fresh(folder, name, pure=True, dtype="fp32")
        found = loaded.model
        errors[mix] = sum(
            float(
                (
                    precisions()[name].weights(found.get_submodule(one))
                    - original.get_submodule(one).weight
                ).norm()
            )
            for one in names
        )
    assert list(errors) == sorted(errors, key=errors.__getitem__)


def test_a_changed_block_is_a_fault(cells: TinyCells) -> None:
    import torch

    variant = Variant("gguf-faulty", "llama", {"layers": 1})
    name = "gguf-q8_0"
    loaded = load_fresh(cells.folder(variant), name)
    layer: Any = loaded.model.get_submodule("model.layers.0.mlp.up_proj")
    head: Any = loaded.model.get_submodule("lm_head")
    layer.weight[0, :2] = torch.tensor([0, 124], dtype=torch.uint8)  # infinity
    head.kind = "Q5_1"
    found = precisions()[name].verify(loaded.model, typed_options_of(name))
    assert any("up_proj" in fault and "infinite" in fault for fault in found.faults)
    assert any("lm_head: holds Q5_1 where Q8_0 were expected" in fault for fault in found.faults)


def test_times_are_not_llama_cpps_and_nothing_trains_on_it() -> None:
    held = precisions()["gguf-q4_0"]
    options = typed_options_of("gguf-q4_0")
    assert "llama.cpp multiplies with the blocks" in str(held.unlike_served(options, "cpu"))
    assert "a format to serve" in str(held.untrainable(options, "lora", options))


def test_every_mixture_has_its_names() -> None:
    names = {name for name in precisions() if name.startswith("gguf-")}
    assert names == {f"gguf-{mix}" for mix in MIXES}
    assert own_name("Q4_K_M") == own_name("q4_k") == "gguf-q4_k_m"
    assert not any(precisions()[name].by_default for name in names)


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kind", ["Q8_0", "Q5_0", "Q4_1", "MXFP4", "Q2_K", "Q3_K", "Q4_K", "Q6_K"])
def test_weights_that_are_no_numbers_are_not_hidden(kind: str, broken: float) -> None:
    import torch

    from qbench.precisions.gguf.layouts import decode
    from qbench.precisions.gguf.quantize import to_blocks

    weights = torch.randn(2, 512, generator=torch.Generator().manual_seed(0))
    weights[1, 70] = broken
    made = decode(to_blocks(weights, kind), kind)
    assert bool(made[0].isfinite().all())
    assert not bool(made[1, 70].isfinite())
    assert bool(made[1, 256:].isfinite().all())
