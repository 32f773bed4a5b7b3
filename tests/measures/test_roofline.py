"""Operations by arithmetic against torch's own counter; limits against hand-made arithmetic."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM

from qbench.core.options import typed_options
from qbench.measures.latency import LATENCY, LatencyOptions, LatencyPoint
from qbench.measures.roofline.latency import latency_limits, multiplied_in, weight_bytes_read
from qbench.measures.roofline.operations import (
    decode_operations,
    forward_operations,
    sizes_of,
    step_operations,
)
from qbench.measures.roofline.rates import READ_BYTES, matrix_rate, read_bandwidth
from qbench.predict.mixtures import mixture_of
from qbench.predict.shapes import DecoderShape, LayerSort
from qbench.predict.work import GridPoint
from qbench.sources.models.known_configs import known_configs
from qbench.sources.models.resolve import parse_model, resolve_model
from tests.precisions.tiny_cells import TinyCells, Variant

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BATCH, TOKENS = 3, 20
ARCHITECTURES = ("llama", "mistral", "qwen2", "gpt2", "opt")
MISTRAL = DecoderShape(
    model_type="mistral",
    hidden=4096,
    intermediate=14336,
    layers=32,
    heads=32,
    kv_heads=8,
    head_dim=128,
    vocabulary=32000,
    positions=0,
    tied=False,
)


def eager(cells: TinyCells, architecture: str) -> PreTrainedModel:
    """The tiny model, its attention made of plain products, which the counter can tell apart."""
    folder = cells.folder(Variant(architecture, architecture))
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager"
    )
    return model


def known(model: PreTrainedModel) -> DecoderShape:
    shape, reason = sizes_of(model.config.to_dict())
    assert shape is not None, reason
    return shape


def counted(counter: FlopCounterMode) -> tuple[int, int]:
    """Operations of plain products and of batched ones, as torch counts them."""
    counts: dict[str, int] = {}
    for operator, count in counter.get_flop_counts()["Global"].items():
        counts[str(operator)] = counts.get(str(operator), 0) + int(count)
    plain = sum(counts.get(f"aten.{name}", 0) for name in ("mm", "addmm"))
    batched = sum(counts.get(f"aten.{name}", 0) for name in ("bmm", "baddbmm"))
    assert plain + batched == sum(counts.values())
    return plain, batched


def ids(model: PreTrainedModel) -> torch.Tensor:
    return torch.randint(model.config.vocab_size, (BATCH, TOKENS))


def visible_share() -> float:
    """Of all pairs of positions, those that the causal mask leaves."""
    return (TOKENS + 1) / (2 * TOKENS)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("head_tokens", [1, TOKENS])
def test_a_forward_pass_as_torch_counts_it(
    architecture: str, head_tokens: int, cells: TinyCells
) -> None:
    model = eager(cells, architecture)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(input_ids=ids(model), use_cache=False, logits_to_keep=head_tokens)
    plain, batched = counted(counter)
    found = forward_operations(known(model), batch=BATCH, tokens=TOKENS, head_tokens=head_tokens)
    assert found.blocks + found.head == plain
    assert found.attention == pytest.approx(batched * visible_share())
    assert found.total == found.blocks + found.head + found.attention


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_decode_steps_as_torch_counts_them(architecture: str, cells: TinyCells) -> None:
    model = eager(cells, architecture)
    new, plain, batched = 5, 0, 0
    with torch.no_grad():
        cache = model(input_ids=ids(model), use_cache=True).past_key_values
        for _ in range(new):
            with FlopCounterMode(display=False) as counter:
                model(input_ids=ids(model)[:, :1], past_key_values=cache, use_cache=True)
            for_linear, for_attention = counted(counter)
            plain, batched = plain + for_linear, batched + for_attention
    found = decode_operations(known(model), batch=BATCH, prompt=TOKENS, new=new)
    assert new * (found.blocks + found.head) == plain
    assert new * found.attention == pytest.approx(batched)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_step_of_full_tuning_as_torch_counts_it(architecture: str, cells: TinyCells) -> None:
    model = eager(cells, architecture).train()
    inputs = ids(model)
    with FlopCounterMode(display=False) as counter:
        model(input_ids=inputs, use_cache=False).logits.sum().backward()
    plain, batched = counted(counter)
    found = step_operations(known(model), sequences=BATCH, tokens=TOKENS)
    assert found.blocks + found.head == plain
    assert found.attention == pytest.approx(batched * visible_share())
    assert found.adapters == 0


def test_a_step_of_lora_as_torch_counts_it(cells: TinyCells) -> None:
    from peft import LoraConfig, get_peft_model

    base = eager(cells, "mistral")
    shape = known(base)
    targets = frozenset({"q_proj", "v_proj", "down_proj"})
    settings: Any = LoraConfig(r=4, target_modules=sorted(targets))
    model: Any = get_peft_model(base, settings).train()
    with FlopCounterMode(display=False) as counter:
        model(input_ids=ids(base), use_cache=False).logits.sum().backward()
    plain, _ = counted(counter)
    found = step_operations(shape, sequences=BATCH, tokens=TOKENS, adapted=targets, rank=4)
    # torch leaves out the gradient of the first block's input, which nothing needs: through the
    # weights of its query, key and value, and through two adapters' first factors.
    first = [shape.linears[name] for name in ("q_proj", "k_proj", "v_proj")]
    unneeded = sum(one.inputs * one.outputs for one in first)
    unneeded += sum(4 * shape.linears[name].inputs for name in ("q_proj", "v_proj"))
    assert found.blocks + found.head + found.adapters == plain + 2 * BATCH * TOKENS * unneeded


def test_mistral_7b_by_hand() -> None:
    weights, head = 6_979_321_856, 4096 * 32000
    found = forward_operations(MISTRAL, batch=8, tokens=512, head_tokens=1)
    assert found.blocks == 2 * weights * 8 * 512
    assert found.head == 2 * head * 8
    assert found.attention == 4 * 4096 * 32 * 8 * (512 * 513 // 2)
    step = step_operations(
        MISTRAL, sequences=1, tokens=2048, adapted=frozenset({"q_proj", "v_proj"}), rank=64
    )
    assert step.adapters == 6 * 27_262_976 * 2048
    assert step.blocks + step.head == 4 * (weights + head) * 2048


@pytest.mark.parametrize(
    ("name", "norms"),
    [("Mixtral-8x7B-v0.1", 65 * 4096), ("Qwen3-30B-A3B", 97 * 2048 + 96 * 128)],
)
def test_of_experts_those_that_a_token_meets_compute(name: str, norms: int) -> None:
    """Two operations for each weight that it reads, but the head's and those that are no matrix."""
    mixture = mixture_of(resolve_model(parse_model(f"random:{name}", base=Path("/"))))
    shape, _ = sizes_of(json.loads((known_configs()[name] / "config.json").read_text()))
    assert mixture is not None
    assert shape is not None
    found = forward_operations(shape, batch=1, tokens=1, head_tokens=0)
    head = shape.hidden * shape.vocabulary
    assert found.blocks == 2 * ((mixture.read or 0) - head - norms)


def test_a_window_hides_what_lies_further_back() -> None:
    wide, narrow = (
        forward_operations(
            replace(MISTRAL, sorts=(LayerSort(window=window),) * MISTRAL.layers),
            batch=1,
            tokens=6,
            head_tokens=1,
        )
        for window in (6, 2)
    )
    assert wide == forward_operations(MISTRAL, batch=1, tokens=6, head_tokens=1)
    assert narrow.attention * (1 + 2 + 3 + 4 + 5 + 6) == wide.attention * (1 + 2 + 2 + 2 + 2 + 2)


def test_an_unknown_architecture_has_its_reason() -> None:
    shape, reason = sizes_of({"model_type": "mamba"})
    assert shape is None
    assert reason is not None
    assert reason.startswith("the operations of mamba are not known")


def test_rates_are_measured_once_and_plausible() -> None:
    bandwidth = read_bandwidth("cpu", 2**22)
    assert bandwidth.reason is None
    assert bandwidth.per_s is not None
    assert 1e8 < bandwidth.per_s < 1e13
    # A block of the next smaller power of two, within what tells anything.
    assert read_bandwidth("cpu", 2**23 - 1) is bandwidth
    least, _ = READ_BYTES
    assert read_bandwidth("cpu", 5) is read_bandwidth("cpu", least)
    for dtype in ("fp32", "bf16", "fp16", "int8"):
        rate = matrix_rate("cpu", dtype)
        assert rate.per_s is not None, rate.reason
        assert 1e8 < rate.per_s < 1e15
        assert matrix_rate("cpu", dtype) is rate
    unknown = matrix_rate("cpu", "nf4")
    assert unknown.per_s is None
    assert "nf4" in (unknown.reason or "")


@pytest.mark.parametrize(
    ("precision", "options", "dtype"),
    [
        ("fp32", {}, "fp32"),
        ("bf16", {}, "bf16"),
        ("int8", {}, "int8"),
        ("nf4", {}, "bf16"),
        ("nf4", {"compute_dtype": "fp32"}, "fp32"),
        ("int8-wo", {}, "bf16"),
        ("w8a8", {}, "int8"),
    ],
)
def test_the_rate_is_that_of_the_type_the_layers_multiply_in(
    precision: str, options: dict[str, Any], dtype: str, cells: TinyCells
) -> None:
    loaded = cells.load(Variant("llama", "llama"), precision, **options)
    assert multiplied_in(loaded, 1) == multiplied_in(loaded, 1000) == dtype


def test_few_rows_of_8_bit_activations_are_multiplied_in_fp32_on_cuda(cells: TinyCells) -> None:
    """`torch._int_mm` takes more than 16 rows there; a prompt has them, a decode step may not."""
    loaded = cells.load(Variant("llama", "llama"), "w8a8")
    on_gpu = replace(loaded, device="cuda:0")
    assert [multiplied_in(on_gpu, rows) for rows in (1, 16, 17, 512)] == ["fp32"] * 2 + ["int8"] * 2
    point = GridPoint(batch=16, prompt_tokens=8, new_tokens=4)
    times = {"prefill_s": 0.5, "decode_s": 0.01, "cache_bytes": 1200}
    limits = latency_limits(loaded, point, **times)
    assert (limits.details["multiplied_in"], limits.details["decode_multiplied_in"]) == (
        "int8",
        "int8",
    )
    assert limits.warnings == ()
    weights_alone = cells.load(Variant("llama", "llama"), "int8-wo")
    assert multiplied_in(replace(weights_alone, device="cuda:0"), 1) == "bf16"


def test_the_shares_of_a_latency_record(cells: TinyCells) -> None:
    loaded = cells.load(Variant("llama", "llama"), "bf16")
    options = LatencyOptions(
        batch=2, prompt_tokens=8, new_tokens=4, repeats=1, min_iterations=1, min_seconds=0.001
    )
    (item,) = LATENCY.items(options, loaded.resolved, Path())
    point = typed_options(LatencyPoint, item.params)
    limits = latency_limits(loaded, point, prefill_s=0.5, decode_s=0.01, cache_bytes=1200)
    found = {one.name.removeprefix("latency."): one.value for one in limits.metrics}
    rate = matrix_rate("cpu", "bf16").per_s
    assert rate is not None
    assert found["matrix_rate"] == rate
    assert loaded.predicted is not None
    vocabulary = loaded.model.config.vocab_size
    # Without the input embedding; the cache holds 8 of 12 tokens at first and all at the end.
    read = loaded.predicted.total - vocabulary * 64 * 2 + 1200 * 10 / 12
    assert found["decode.read_bytes"] == pytest.approx(read)
    bandwidth = read_bandwidth("cpu", read).per_s
    assert bandwidth is not None
    assert found["read_bandwidth"] == bandwidth
    assert found["decode.read_floor"] == pytest.approx(read / bandwidth)
    assert found["decode.read_share"] == pytest.approx(read / bandwidth / 0.01)
    block = 64 * 64 + 2 * 64 * 32 + 64 * 64 + 3 * 64 * 128
    operations = 2 * 2 * 8 * 2 * block + 2 * 2 * 64 * vocabulary + 4 * 2 * 36 * 64 * 2
    assert found["prefill.operations"] == operations
    assert found["prefill.matrix_share"] == pytest.approx(operations / 0.5 / rate)
    assert limits.details["multiplied_in"] == "bf16"


@pytest.mark.parametrize(
    ("architecture", "sizes", "chosen", "experts"),
    [
        ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}, 2, 4),
        ("qwen3_moe", {"num_experts": 8, "num_experts_per_tok": 3, "head_dim": 16}, 3, 8),
        (
            "granitemoe",
            {"num_local_experts": 4, "num_experts_per_tok": 1, "intermediate_size": 96},
            1,
            4,
        ),
    ],
)
def test_of_experts_those_that_a_token_is_sent_to_are_read(
    architecture: str, sizes: dict[str, int], chosen: int, experts: int
) -> None:
    from transformers import AutoConfig

    shape = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = AutoConfig.for_model(
        architecture, **shape, **sizes, num_key_value_heads=2, vocab_size=64
    )
    model = AutoModelForCausalLM.from_config(config)
    weights = {name: 4 * weight.numel() for name, weight in model.named_parameters()}
    buffers = {one.data_ptr(): 4 * one.numel() for one in model.buffers()}
    stacked = {name: size for name, size in weights.items() if model.get_parameter(name).dim() == 3}
    assert len(stacked) == 4  # two in each of the two layers
    head = 0 if config.tie_word_embeddings else weights["model.embed_tokens.weight"]
    unread = sum(stacked.values()) * (experts - chosen) // experts + head
    expected = sum(weights.values()) + sum(buffers.values()) - unread
    assert weight_bytes_read(model) == (expected, None)
    config.num_experts_per_tok = 0  # as good as not told
    read, reason = weight_bytes_read(model)
    assert read is None
    assert "how many of its experts" in (reason or "")


def test_tables_of_positions_are_looked_up_and_tied_embeddings_read(cells: TinyCells) -> None:
    model = cells.load(Variant("gpt2", "gpt2"), "fp32").model
    weights = {name: 4 * weight.numel() for name, weight in model.named_parameters()}
    looked_up = ["transformer.wpe.weight"]
    if not model.config.tie_word_embeddings:
        looked_up.append("transformer.wte.weight")
    expected = sum(weights.values()) - sum(weights[name] for name in looked_up)
    assert weight_bytes_read(model) == (expected, None)


def test_what_is_not_known_of_a_model_is_left_out_with_its_reason(cells: TinyCells) -> None:
    loaded = cells.load(Variant("stablelm", "stablelm"), "fp32")
    point = GridPoint(batch=1, prompt_tokens=4, new_tokens=2)
    limits = latency_limits(loaded, point, prefill_s=0.1, decode_s=0.1, cache_bytes=64)
    metrics = {one.name.removeprefix("latency."): one for one in limits.metrics}
    assert metrics["decode.read_share"].value is not None
    for name in ("prefill.operations", "prefill.matrix_share"):
        assert metrics[name].value is None
        assert "stablelm" in (metrics[name].reason or "")
