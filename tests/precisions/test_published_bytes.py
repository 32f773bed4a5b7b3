"""The storage arithmetic on the shape of Mistral-7B, against figures computed by hand."""

from __future__ import annotations

import pytest

from qbench.core.spec import ModelShape, TensorShape
from qbench.precisions import precisions
from tests.precisions.tiny_cells import typed_options_of

LAYERS = 32
LINEAR = {
    "q_proj": (4096, 4096),
    "k_proj": (1024, 4096),
    "v_proj": (1024, 4096),
    "o_proj": (4096, 4096),
    "gate_proj": (14336, 4096),
    "up_proj": (14336, 4096),
    "down_proj": (4096, 14336),
}


def mistral_7b() -> ModelShape:
    """The tensors of mistralai/Mistral-7B-v0.1, without rotary buffers."""
    tensors = [
        TensorShape(name="embed_tokens.weight", shape=(32000, 4096), role="embedding"),
        TensorShape(name="lm_head.weight", shape=(32000, 4096), role="head"),
        TensorShape(name="norm.weight", shape=(4096,), role="norm"),
    ]
    for layer in range(LAYERS):
        tensors += [
            TensorShape(name=f"{layer}.{name}.weight", shape=shape, role="linear")
            for name, shape in LINEAR.items()
        ]
        tensors += [
            TensorShape(name=f"{layer}.norm_{at}.weight", shape=(4096,), role="norm")
            for at in range(2)
        ]
    return ModelShape(tensors=tuple(tensors), origin="header")


def test_weights_of_mistral_7b() -> None:
    assert mistral_7b().weights == 7_241_732_096


@pytest.mark.parametrize(
    ("name", "expected_bytes"),
    [
        ("fp32", 28_966_928_384),
        ("bf16", 14_483_464_192),
        ("fp16", 14_483_464_192),
        ("int8", 7_509_647_360),
        ("fp4", 4_450_703_360),
        ("nf4", 4_450_703_360),
        ("nf4-dq", 4_125_481_856),
    ],
)
def test_static_bytes_of_mistral_7b(name: str, expected_bytes: int) -> None:
    assert precisions()[name].storage(mistral_7b(), typed_options_of(name)).total == expected_bytes


def test_the_rest_in_fp32_takes_two_bytes_a_weight_more() -> None:
    rest = 131_072_000 + 131_072_000 + 266_240
    storage = precisions()["nf4"].storage
    wide = storage(mistral_7b(), typed_options_of("nf4", dtype="fp32"))
    narrow = storage(mistral_7b(), typed_options_of("nf4"))
    assert wide.total - narrow.total == 2 * rest


def test_odd_sizes_round_up_to_whole_bytes_and_blocks() -> None:
    weight = TensorShape(name="odd.weight", shape=(13, 5), role="linear")
    shape = ModelShape(tensors=(weight,), origin="header")
    single = precisions()["nf4"].storage(shape, typed_options_of("nf4"))
    double = precisions()["nf4-dq"].storage(shape, typed_options_of("nf4-dq"))
    eight = precisions()["int8"].storage(shape, typed_options_of("int8"))
    # 65 weights: 33 bytes, two blocks of 64, one nested block.
    assert (single.linear, single.quantization_state) == (33, 2 * 4 + 64)
    assert (double.linear, double.quantization_state) == (33, 2 * 1 + 4 + 4 + 64 + 1024)
    assert (eight.linear, eight.quantization_state) == (65, 13 * 4)


def test_a_transposed_weight_has_its_output_rows_last() -> None:
    weight = TensorShape(name="c_attn.weight", shape=(64, 192), role="linear", transposed=True)
    shape = ModelShape(tensors=(weight,), origin="header")
    assert (
        precisions()["int8"].storage(shape, typed_options_of("int8")).quantization_state == 192 * 4
    )
