"""Predicted activations against the peak that the training loop measures."""

from __future__ import annotations

import random
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest
from torch.nn.attention import SDPBackend, sdpa_kernel

from qbench.core.checkpoint import Checkpoint
from qbench.core.spec import PrecisionRef
from qbench.finetune import methods
from qbench.precisions import precisions, products_of
from qbench.precisions.products import Products, floating
from qbench.predict.activations import predict_activations
from qbench.predict.shapes import (
    DecoderShape,
    LayerSort,
    TrainingSetup,
    lacks_kernel,
    unpredicted,
)
from qbench.predict.stated_shapes import decoder_shape
from tests.precisions.tiny_cells import TinyCells, Variant, typed_options_of
from tests.predict.second_step import measure_second_step

if TYPE_CHECKING:
    from pathlib import Path

TOLERANCE = 0.001
"""Share of the peak that may stay unexplained; found: a few bytes of scalars."""
_ALL_LINEAR = {
    "gpt2": frozenset({"c_attn", "c_proj", "c_fc"}),
    "opt": frozenset({"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"}),
}
_GATED = frozenset({"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"})
_SIZES = {"context": 512, "tokenizer": False}


@dataclass(frozen=True)
class _Case:
    architecture: str = "mistral"
    precision: str = "bf16"
    method: str = "lora"
    batch: int = 2
    tokens: int = 64
    padded: bool = False
    attention: str = "sdpa"
    """Or `eager`, or `math`: sdpa's kernel that keeps all scores."""
    options: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        changed = [f"{name}-{value}" for name, value in {**self.options, **self.config}.items()]
        marks = [
            *(["padded"] if self.padded else []),
            *([self.attention] * (self.attention != "sdpa")),
        ]
        sizes = f"{self.batch}x{self.tokens}"
        return "-".join([self.architecture, self.precision, self.method, sizes, *changed, *marks])


_QUANTIZED = ("int8", "fp4", "nf4", "nf4-dq")
_CHECKPOINTING = {"checkpointing": True}
CASES = [
    *(_Case(precision=p, options=o) for p in ("bf16", *_QUANTIZED) for o in ({}, _CHECKPOINTING)),
    *(_Case(precision="fp32", method="full", options=o) for o in ({}, _CHECKPOINTING)),
    *(
        _Case(batch=batch, tokens=tokens)
        for batch, tokens in ((1, 64), (8, 64), (1, 512), (4, 128))
    ),
    *(
        _Case(precision="fp32", method="full", batch=batch, tokens=tokens, options=options)
        for batch, tokens in ((1, 64), (8, 64), (1, 512))
        for options in ({}, _CHECKPOINTING)
    ),
    _Case(precision="bf16", method="full", options={"master_weights": "bf16"}),
    _Case(precision="fp32"),
    _Case(precision="fp32", options={"compute": "fp32"}),
    _Case(precision="nf4", options={"compute": "fp32"}),
    _Case(precision="fp32", method="full", options={"compute": "fp32", **_CHECKPOINTING}),
    _Case(options={"target": ("q_proj", "v_proj"), "rank": 64}),
    _Case(options={"dropout": 0.1}),
    _Case(options={"dropout": 0.1, **_CHECKPOINTING}),
    _Case(padded=True),
    _Case(padded=True, precision="nf4", options=_CHECKPOINTING),
    _Case(attention="eager"),
    _Case(attention="eager", precision="fp32", method="full"),
    _Case(options={"accumulate": 2}),
    _Case(precision="fp32", method="full", options={"accumulate": 3, **_CHECKPOINTING}),
    _Case(options={"optimizer": "adamw_8bit"}),
    _Case(precision="fp32", method="full", options={"optimizer": "paged_adamw_8bit"}),
    *(
        _Case(architecture, precision, method, options=options)
        for architecture in ("llama", "qwen2", "qwen3", "gpt2", "opt")
        for precision, method in (("fp32", "full"), ("bf16", "lora"), ("nf4", "lora"))
        for options in ({}, _CHECKPOINTING)
    ),
    *(_Case(name, "int8", options=_CHECKPOINTING) for name in ("gpt2", "opt")),
    *(_Case(name, attention="eager") for name in ("gpt2", "opt")),
    *(_Case(name, padded=True) for name in ("gpt2", "opt")),
    _Case("gpt2", "fp32", "full", config={"attn_pdrop": 0.0}),
    _Case("gpt2", config={"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}),
    _Case("llama", "fp32", "full", config={"attention_bias": True, "mlp_bias": True}),
    _Case("mistral", "fp32", "full", config={"tied": True}),
    _Case("mistral", config={"kv_heads": 4}),
    _Case("qwen3", "int8", options=_CHECKPOINTING, padded=True),
    _Case("qwen3", "fp32", "full", config={"attention_bias": True}, attention="eager"),
    _Case("mistral", config={"attention_dropout": 0.1}),
    *(
        _Case(attention="math", padded=padded, options=options)
        for padded in (False, True)
        for options in ({}, _CHECKPOINTING)
    ),
    _Case("llama", attention="math", config={"kv_heads": 4}),
    _Case("opt", attention="math"),
    _Case("mistral", "fp32", "full", attention="math"),
]


def slow(case: _Case) -> bool:
    """Of these every layer is as llama's are, which are tried with each precision."""
    return case.architecture in {"qwen2", "qwen3"} and case.precision in {"fp32", "bf16"}


@pytest.mark.parametrize(
    "case",
    [pytest.param(one, marks=[pytest.mark.slow] if slow(one) else []) for one in CASES],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:Paged optimizers are not supported on CPU")
def test_the_peak_is_explained(case: _Case, cells: TinyCells) -> None:
    folder = cells.folder(Variant("model", case.architecture, _SIZES | case.config))
    model = _load(case, folder)
    shape, reason = decoder_shape(model.config.to_dict())
    assert shape is not None, reason
    kernel = sdpa_kernel(SDPBackend.MATH) if case.attention == "math" else nullcontext()
    with kernel:
        found, options = _measure(case, model, folder)
    setup = _setup(case, options)
    assert unpredicted(shape, setup) is None
    predicted = predict_activations(shape, setup)
    peak = found.pop("peak")
    assert abs(peak - sum(found.values()) - predicted.total) <= TOLERANCE * peak


def _load(case: _Case, folder: Path) -> Any:
    model = precisions()[case.precision].load(
        Checkpoint(folder, "cpu"), typed_options_of(case.precision)
    )
    model.set_attn_implementation("eager" if case.attention == "eager" else "sdpa")
    return model


def _measure(case: _Case, model: Any, folder: Path) -> tuple[dict[str, int], Any]:
    """What the training loop measures in its second step."""
    chosen = {"target": "all-linear", "rank": 8} if case.method == "lora" else {}
    options = methods()[case.method].options(**{"batch": case.batch, **chosen, **case.options})
    held = PrecisionRef(label=case.precision, name=case.precision)
    made, longest = random.Random(0), case.tokens - 3 * case.padded
    rows = [[made.randrange(2, 250) for _ in range(longest)] for _ in range(case.batch)]
    found = measure_second_step(model, folder, case.method, held, options, rows, length=case.tokens)
    return found, options


def _products(precision: str) -> Products:
    found = products_of(PrecisionRef(label=precision, name=precision))
    assert found is not None
    return found


def _setup(case: _Case, options: Any) -> TrainingSetup:
    setup = TrainingSetup(
        batch=case.batch,
        tokens=case.tokens,
        method="full" if case.method == "full" else "lora",
        products=_products(case.precision),
        compute=options.compute,
        checkpointing=options.checkpointing,
        attention="eager" if case.attention == "eager" else "sdpa",
        padded=case.padded,
        by_definition=case.attention == "math",
        accumulate=options.accumulate,
        optimizer=options.optimizer,
    )
    if case.method == "full":
        return setup
    targets = _ALL_LINEAR.get(case.architecture, _GATED)
    return replace(
        setup,
        targets=targets if options.target == "all-linear" else frozenset(options.target),
        rank=options.rank,
        adapter_dropout=options.dropout > 0,
    )


_SHAPE = DecoderShape(
    model_type="mistral",
    hidden=256,
    intermediate=576,
    layers=4,
    heads=8,
    kv_heads=2,
    head_dim=32,
    vocabulary=2048,
    positions=0,
    tied=True,
)
_SETUP = TrainingSetup(
    batch=2,
    tokens=128,
    method="lora",
    products=floating("bf16"),
    targets=frozenset({"q_proj", "v_proj"}),
    rank=8,
)


def test_what_a_block_keeps_by_hand() -> None:
    kept = predict_activations(_SHAPE, _SETUP).per_layer
    hidden, attended, shared, intermediate = 256, 8 * 32, 2 * 32, 576
    a_token = (
        2 * (4 * hidden + 4)  # two norms: the input in fp32, and its scale
        + 2 * (2 * hidden + 2 * 8)  # two adapters: a copy of the input, and A·x
        + 2 * attended + 2 * shared + 2 * shared  # rotated query and key, value
        + 2 * attended + 4 * 8  # output and log-sum-exp
        + 3 * 2 * intermediate  # gate, silu(gate), up
    )  # fmt: skip
    assert kept == 256 * a_token


def test_more_tokens_take_more_and_checkpointing_less() -> None:
    plain = predict_activations(_SHAPE, _SETUP)
    assert predict_activations(_SHAPE, replace(_SETUP, tokens=256)).total > 1.9 * plain.total
    saved = predict_activations(_SHAPE, replace(_SETUP, checkpointing=True))
    assert saved.total < plain.total
    assert saved.checkpoint_inputs > 0 == plain.checkpoint_inputs


def test_the_parts_sum_to_the_total() -> None:
    found = predict_activations(_SHAPE, _SETUP)
    parts = {name: size for name, size in vars(found).items() if name != "per_layer"}
    assert found.total == sum(parts.values())


def test_checkpointing_does_not_free_what_int8_keeps_of_its_own() -> None:
    """bitsandbytes holds on to the inputs of int8 layers, whatever autograd saves."""
    every = replace(_SETUP, targets=_GATED, checkpointing=True)
    as_int8 = predict_activations(
        _SHAPE, replace(every, products=Products("outliers", "bf16", "bf16"))
    )
    as_nf4 = predict_activations(_SHAPE, replace(every, products=Products("4bit", "bf16", "bf16")))
    # Two norms' outputs, the attention's and the product of gate and up, of every block.
    inputs = 2 * (3 * 256 + 576) * 256 * 4
    assert as_int8.total - as_nf4.total > 0.5 * inputs


def test_an_unknown_architecture_has_a_reason() -> None:
    assert decoder_shape({"model_type": "mamba"}) == (
        None,
        "the activations of mamba are not known here",
    )
    for config, word in (
        ({"model_type": "llama", "hidden_act": "gelu"}, "gelu"),
        ({"model_type": "opt", "hidden_size": 8, "num_attention_heads": 2,
          "do_layer_norm_before": False}, "norms"),
        ({"model_type": "opt", "hidden_size": 8, "num_attention_heads": 2,
          "word_embed_proj_dim": 4}, "projected"),
        ({"model_type": "gpt2", "n_embd": 8, "n_head": 2, "activation_function": "relu"}, "relu"),
    ):  # fmt: skip
        shape, reason = decoder_shape(config)
        assert shape is None
        assert word in str(reason)


def test_what_is_not_predicted_has_a_reason() -> None:
    assert unpredicted(_SHAPE, _SETUP) is None
    on_head = unpredicted(_SHAPE, replace(_SETUP, targets=frozenset({"lm_head", "q_proj"})))
    assert on_head == "the activations of an adapter on lm_head are not known"
    assert "fp16" in str(unpredicted(_SHAPE, replace(_SETUP, products=floating("fp16"))))
    assert "phi3 keeps" in str(unpredicted(replace(_SHAPE, model_type="phi3"), _SETUP))
    mixed = replace(_SHAPE, sorts=(LayerSort(window=64), LayerSort()) * 2)
    assert "several kinds" in str(unpredicted(mixed, _SETUP))


@pytest.mark.parametrize(
    ("changes", "flash", "lacking"),
    [
        ({}, True, False),
        ({}, False, True),  # bf16 by autocast, before Ampere
        ({"padded": True}, False, True),
        ({"compute": "fp32"}, False, True),  # the base's own type is bf16
        (
            {"compute": "fp32", "products": floating("fp32")},
            True,
            True,
        ),  # fp32, fewer heads of keys
        ({"compute": "fp32", "products": floating("fp32"), "padded": True}, True, False),
        ({"compute": "fp32", "products": floating("fp16")}, True, False),
        ({"compute": "fp32", "products": floating("fp16")}, False, True),
        ({"compute": "fp32", "products": floating("fp16"), "padded": True}, False, False),
        ({"compute": "fp32", "products": Products("4bit", "bf16", "bf16")}, False, True),
        ({"attention": "eager"}, False, False),
        ({"device": "cpu"}, False, False),
    ],
)
def test_attention_without_a_kernel_on_cuda(
    changes: dict[str, Any],
    *,
    flash: bool,
    lacking: bool,
) -> None:
    setup = replace(_SETUP, **{"device": "cuda", **changes})
    assert lacks_kernel(_SHAPE, setup, flash=flash) is lacking


def test_without_a_kernel_the_scores_are_kept() -> None:
    """4 bytes a score of each head and layer, beside what is kept anyway."""
    setup = replace(_SETUP, device="cuda", tokens=1024)
    kept = predict_activations(_SHAPE, setup).total
    more = predict_activations(_SHAPE, replace(setup, by_definition=True)).total
    scores = 4 * setup.batch * _SHAPE.heads * setup.tokens**2
    assert more - kept > _SHAPE.layers * scores
