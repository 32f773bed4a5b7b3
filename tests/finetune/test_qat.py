"""Quantization-aware training: what the layers compute, what is trained, and the conversion."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional
from torchao.quantization import IntxWeightOnlyConfig, PerGroup, quantize_
from torchao.quantization.qat import QATConfig
from torchao.quantization.qat.linear import FakeQuantizedLinear
from transformers import AutoModelForCausalLM, get_scheduler

from qbench.core.checkpoint import Checkpoint
from qbench.core.errors import MeasurementError
from qbench.core.spec import PrecisionRef, TuningRef
from qbench.finetune import methods
from qbench.finetune.artifact import artifact_folder, has_artifact
from qbench.finetune.qat.adapters import adapt
from qbench.finetune.qat.layers import fake_quantize, weight_grid
from qbench.finetune.qat.qat import QatOptions
from qbench.finetune.serve.deployment import ServedModel, load_deployed, served_precision
from qbench.finetune.train.examples import NOT_SCORED, collate
from qbench.precisions.integer.config import torchao_config
from qbench.precisions.integer.options import IntegerOptions
from qbench.precisions.inventory import logical_weights
from tests.finetune.trainings import (
    KEY,
    Done,
    StoppedHereError,
    make_course,
    make_options,
    train,
)
from tests.precisions.tiny_cells import all_options, load_fresh
from tests.tiny_models import make_tiny_model

if TYPE_CHECKING:
    from pathlib import Path

    from qbench.core.spec import Deployment

FORMATS: dict[str, dict[str, Any]] = {
    "symmetric groups": {"bits": 4, "granularity": "group", "group": 32},
    "asymmetric groups": {
        "bits": 4, "granularity": "group", "group": 32, "mapping": "asymmetric"
    },
    "three bits a row": {"bits": 3},
    "two asymmetric bits a row": {"bits": 2, "mapping": "asymmetric"},
    "one scale": {"bits": 8, "granularity": "tensor"},
    "one scale and zero point": {"bits": 5, "granularity": "tensor", "mapping": "asymmetric"},
    "int8 products": {"activations": "dynamic"},
    "rounded inputs": {"bits": 4, "activations": "dynamic"},
}  # fmt: skip


def integer(dtype: str = "fp32", **options: Any) -> PrecisionRef:
    chosen = all_options("integer", dtype=dtype, **options)
    return PrecisionRef(label="trained-for", name="integer", options=chosen)


def qat(base: Path, precision: PrecisionRef, **changes: Any) -> Done:
    return train(base, "qat", trained_for=precision, **changes)


def served(base: Path, precision: PrecisionRef, deployment: Deployment) -> Any:
    """The artifact of the last training, as it is deployed."""
    tuning = TuningRef(label="qat", arm="qat", method="qat", precision=precision)
    return load_deployed(
        ServedModel(
            Checkpoint(base, "cpu"),
            tuning,
            deployment,
            served_precision(tuning, deployment),
            artifact_folder(KEY),
        )
    )


def ids() -> torch.Tensor:
    return torch.randint(2, 250, (3, 20), generator=torch.Generator().manual_seed(1))


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=ids()).logits.float()
    return found


def naively_rounded(weight: torch.Tensor, options: IntegerOptions) -> torch.Tensor:
    """The formulas of the README, block by block, in plain Python numbers."""
    low, high = -(2 ** (options.bits - 1)), 2 ** (options.bits - 1) - 1
    whole = options.granularity == "tensor"
    size = weight.numel() if whole else options.group or weight.shape[1]
    blocks = []
    for block in weight.reshape(-1, size):
        if options.mapping == "symmetric":
            scale, zero = block.abs().max() / ((high - low) / 2), torch.tensor(0.0)
        else:
            least, most = block.min().clamp(max=0), block.max().clamp(min=0)
            scale = (most - least) / (high - low)
            zero = (low - (least / scale).round()).clamp(low, high)
        # Times the reciprocal, as torchao does: the largest weight lies halfway between two codes.
        codes = ((block * (1 / scale)).round() + zero).clamp(low, high)
        blocks.append((codes - zero) * scale)
    return torch.stack(blocks).reshape(weight.shape)


@pytest.mark.parametrize("name", FORMATS)
def test_a_layer_computes_with_naively_rounded_weights(base: Path, name: str) -> None:
    options = IntegerOptions(dtype="fp32", **{**FORMATS[name], "activations": "none"})
    model = load_fresh(base, "fp32").model
    fake_quantize(model, options)
    layer = model.get_submodule("model.layers.0.mlp.down_proj")
    inputs = torch.randn(5, layer.in_features, generator=torch.Generator().manual_seed(0))
    expected = inputs @ naively_rounded(layer.weight.detach(), options).T
    torch.testing.assert_close(layer(inputs), expected, rtol=1e-5, atol=1e-5)


def test_inputs_are_rounded_token_by_token(base: Path) -> None:
    model = load_fresh(base, "fp32").model
    fake_quantize(model, IntegerOptions(dtype="fp32", activations="dynamic"))
    layer = model.get_submodule("model.layers.0.mlp.down_proj")
    inputs = torch.randn(2, 3, layer.in_features, generator=torch.Generator().manual_seed(0))
    scale = 2 * inputs.abs().amax(dim=-1, keepdim=True) / 255
    rounded = (inputs / scale).round().clamp(-128, 127) * scale
    torch.testing.assert_close(layer.activation_fake_quantizer(inputs), rounded)


def test_the_gradient_passes_the_rounding() -> None:
    weight = torch.tensor([[0.9, -1.0, 0.3, 0.04]], requires_grad=True)
    rounded = weight_grid(IntegerOptions(bits=4, dtype="fp32"))(weight)
    (rounded * torch.tensor([[1.0, 2.0, 3.0, 4.0]])).sum().backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert weight.grad.tolist() == [[1.0, 2.0, 3.0, 4.0]]


@pytest.mark.parametrize("mapping", ["symmetric", "asymmetric"])
def test_a_clipped_value_gets_no_gradient(mapping: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(200, 64, generator=generator).requires_grad_()
    coming = torch.randn(200, 64, generator=generator)
    options = IntegerOptions(bits=4, dtype="fp32", mapping=mapping, granularity="group", group=32)
    (found,) = torch.autograd.grad(weight_grid(options)(weight), weight, coming)
    # 15 steps from end to end: symmetric levels reach from -8 to 7, the largest value is at 7.5,
    # which rounds to 8 or, by an error of fp32's, to 7.
    blocks = weight.detach().reshape(-1, 32)
    highest = (blocks == blocks.abs().amax(dim=1, keepdim=True)).reshape(weight.shape)
    stopped = found == 0
    assert not (stopped & ~highest).any()
    share = (stopped & highest).sum() / highest.sum()
    assert 0.5 < share < 1 if mapping == "symmetric" else share == 0
    torch.testing.assert_close(found[~stopped], coming[~stopped])


def test_every_weight_is_trained(base: Path) -> None:
    before = dict(load_fresh(base, "fp32").model.named_parameters())
    done = qat(base, integer(bits=4))
    assert done.training.trained_weights == sum(weight.numel() for weight in before.values())
    assert not [name for name, old in before.items() if torch.equal(old, done.weights[name])]


def test_equals_a_training_by_hand_with_torchao(base: Path) -> None:
    """torchao's own preparation, AdamW, autocast and seeds: the same weights, bit for bit."""
    done = qat(base, integer(bits=4, granularity="group", group=32), seed=3, weight_decay=0.1)
    loaded = load_fresh(base, "fp32")
    options = make_options("qat", weight_decay=0.1)
    curriculum = make_course(loaded, options, seed=3)
    model = loaded.model.requires_grad_(requires_grad=True).train()
    head = model.get_output_embeddings()
    config = IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(32))
    quantize_(
        model,
        QATConfig(config, step="prepare"),
        lambda module, _: isinstance(module, torch.nn.Linear) and module is not head,
    )
    matrices = [weight for weight in model.parameters() if weight.dim() > 1]
    vectors = [weight for weight in model.parameters() if weight.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=options.learning_rate)
    steps = options.steps or 0
    scheduler = get_scheduler(
        "linear", optimizer, num_warmup_steps=int(0.03 * steps), num_training_steps=steps
    )
    losses = []
    for step in range(steps):
        (rows,) = curriculum.step_batches(step)
        batch = collate(rows, pad_id=curriculum.pad_id, length=curriculum.length)
        with torch.autocast("cpu", torch.bfloat16):
            found = model(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                use_cache=False,
            ).logits
        targets = functional.pad(batch["labels"][:, 1:], (0, 1), value=NOT_SCORED)
        loss = functional.cross_entropy(
            found.float().flatten(0, 1), targets.flatten(), ignore_index=NOT_SCORED, reduction="sum"
        ) / sum(row.scored for row in rows)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(list(model.parameters()), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert done.training.progress.losses == losses
    for name, weight in model.named_parameters():
        assert torch.equal(weight, done.weights[name]), name


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "int8 products"])
def test_before_and_after_conversion_agree(base: Path, name: str) -> None:
    precision = integer(**FORMATS[name])
    qat(base, precision, steps=2)
    before = logits(served(base, precision, "fake-quantized"))
    after = logits(served(base, precision, "quantized"))
    # As a check that rounding does anything: the weights behind it compute something else.
    plain = logits(AutoModelForCausalLM.from_pretrained(artifact_folder(KEY)))
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)
    assert (plain - before).abs().max() > 1e-3


def test_before_and_after_conversion_to_int8_products_each_layer_agrees(base: Path) -> None:
    """Layer by layer: a token's largest input lies halfway between two codes.

    Sums of whole numbers differ by 1e-7 from those in fp32, which decides where it goes in the next
    layer: whole models differ by steps of 8 bits.
    """
    precision = integer(**FORMATS["int8 products"])
    qat(base, precision, steps=2)
    before, after = (
        served(base, precision, deployment) for deployment in ("fake-quantized", "quantized")
    )
    for name, layer in before.named_modules():
        if isinstance(layer, FakeQuantizedLinear):
            inputs = torch.randn(7, layer.in_features, generator=torch.Generator().manual_seed(0))
            torch.testing.assert_close(
                after.get_submodule(name)(inputs), layer(inputs), rtol=1e-5, atol=1e-5
            )


def test_in_bf16_the_codes_are_those_that_were_trained_with(base: Path) -> None:
    precision = integer("bf16", bits=4, granularity="group", group=32, mapping="asymmetric")
    done = qat(base, precision, steps=3)
    converted = served(base, precision, "quantized")
    for name, layer in done.loaded.model.named_modules():
        if not isinstance(layer, FakeQuantizedLinear):
            continue
        rounded: Any = layer.weight_fake_quantizer
        held = converted.get_submodule(name).weight
        scale = held.scale.float().repeat_interleave(32, dim=1)
        zero = held.zero_point.float().repeat_interleave(32, dim=1)
        codes = (rounded(layer.weight).detach() / scale + zero).round()
        assert torch.equal(codes, held.qdata.float()), name


@pytest.mark.parametrize(
    "chosen",
    [
        {"granularity": "group", "group": 32},
        {"granularity": "group", "group": 32, "mapping": "asymmetric"},
        {"granularity": "channel"},
        {"granularity": "group", "group": 32, "activations": "dynamic"},
    ],
    ids=lambda chosen: "-".join(map(str, chosen.values())),
)
def test_in_bf16_each_layer_computes_the_same_before_and_after(
    base: Path, chosen: dict[str, Any]
) -> None:
    """To the bit: the levels that it trains with are those of the scales that are held."""
    precision = integer("bf16", bits=4, **chosen)
    qat(base, precision, steps=2)
    before, after = (
        served(base, precision, deployment) for deployment in ("fake-quantized", "quantized")
    )
    compared = 0
    for name, layer in before.named_modules():
        if isinstance(layer, FakeQuantizedLinear):
            generator = torch.Generator().manual_seed(0)
            inputs = torch.randn(7, layer.in_features, generator=generator).bfloat16()
            assert torch.equal(after.get_submodule(name)(inputs), layer(inputs)), name
            compared += 1
    assert compared
    assert torch.equal(logits(after), logits(before))


@pytest.mark.parametrize("name", ["symmetric groups", "asymmetric groups", "int8 products"])
def test_torchao_converts_the_trained_model_to_the_same(base: Path, name: str) -> None:
    precision = integer(**FORMATS[name])
    done = qat(base, precision, steps=2)
    model = done.loaded.model.eval()
    quantize_(
        model,
        QATConfig(torchao_config(IntegerOptions.model_validate(precision.options)), step="convert"),
    )
    assert torch.equal(logits(model), logits(served(base, precision, "quantized")))


def test_a_stopped_training_goes_on_to_the_same_weights(base: Path) -> None:
    precision = integer(bits=3)
    whole = qat(base, precision)
    with pytest.raises(StoppedHereError):
        qat(base, precision, key="fedcba9876543210", every_steps=2, stop_after=3)
    assert not has_artifact("fedcba9876543210")
    resumed = qat(base, precision, key="fedcba9876543210", every_steps=2)
    assert resumed.training.progress.resumed_at == [2]
    assert resumed.training.progress.losses == whole.training.progress.losses
    assert resumed.training.progress.validation == whole.training.progress.validation
    for name, weight in whole.weights.items():
        assert torch.equal(weight, resumed.weights[name]), name


def test_it_lowers_the_loss_of_the_rounded_model(base: Path) -> None:
    losses = qat(base, integer(bits=3), steps=20, schedule="constant").training.progress.validation
    assert losses[20] < losses[0] - 0.1


@pytest.mark.parametrize("architecture", ["gpt2", "opt", "qwen2"])
def test_other_architectures_are_saved_as_they_were(tmp_path: Path, architecture: str) -> None:
    folder = make_tiny_model(tmp_path / architecture, architecture, tied=architecture == "qwen2")
    precision = integer(bits=4)
    done = qat(folder, precision, steps=2)
    assert done.training.trained_weights == logical_weights(load_fresh(folder, "fp32").model)
    trained = done.loaded.model.eval()
    expected = logits(trained)
    torch.testing.assert_close(
        logits(served(folder, precision, "quantized")), expected, rtol=1e-5, atol=1e-5
    )
    untuned = dict(AutoModelForCausalLM.from_pretrained(folder).named_parameters())
    saved = dict(AutoModelForCausalLM.from_pretrained(artifact_folder(KEY)).named_parameters())
    assert {name: weight.shape for name, weight in saved.items()} == {
        name: weight.shape for name, weight in untuned.items()
    }


def test_layers_that_the_group_does_not_divide_are_trained_unrounded(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "odd", "mistral", intermediate=80)
    done = qat(folder, integer(bits=4, granularity="group", group=64), steps=2)
    rounded = {
        name.rpartition(".")[2]
        for name, module in done.loaded.model.named_modules()
        if isinstance(module, FakeQuantizedLinear)
    }
    assert rounded == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj"}


def test_a_group_that_divides_no_layer_is_refused(base: Path) -> None:
    with pytest.raises(MeasurementError, match="no linear layer has a width that group 96 divides"):
        qat(base, integer(bits=4, granularity="group", group=96))


@pytest.mark.parametrize(
    ("precision", "words"),
    [
        ("nf4", "{method: lora, precision: nf4}"),
        ("int8", "QLoRA"),
        ("bf16", "use method full"),
        ("int4-g32-gptq", "gptq chooses other codes"),
        ("w8a8-smooth", "smoothquant chooses other codes"),
        ("w8a8-static", "calibration after the training"),
    ],
)
def test_what_cannot_be_trained_for_has_a_reason(precision: str, words: str) -> None:
    held = PrecisionRef(label=precision, name=precision, options=all_options(precision))
    reason = methods()["qat"].conflicts(held, QatOptions())
    assert reason is not None
    assert words in reason


@pytest.mark.parametrize("precision", ["int8-wo", "int4-g32", "int4-g32-asym", "w8a8", "integer"])
def test_what_can_be_trained_for_has_none(precision: str) -> None:
    held = PrecisionRef(label=precision, name=precision, options=all_options(precision))
    assert methods()["qat"].conflicts(held, QatOptions()) is None


def test_it_has_no_other_deployments(base: Path) -> None:
    precision = integer(bits=4)
    with pytest.raises(MeasurementError, match="expected quantized or fake-quantized"):
        served(base, precision, "merged")


def test_a_grid_keeps_no_tensors() -> None:
    """What a layer kept of its scales would be memory that no record knows of."""
    grid = weight_grid(IntegerOptions(bits=4))
    before = replace(grid)
    grid(torch.randn(4, 8))
    assert grid == before


def test_adapters_are_trained_through_the_rounding_of_their_sum(base: Path) -> None:
    precision = integer(bits=4, granularity="group", group=32, mapping="asymmetric")
    done = qat(base, precision, rank=4, learning_rate=1e-2, steps=20)
    losses = done.training.progress.validation
    assert losses[20] < losses[0] - 0.1
    names = {name.rpartition(".lora_")[2].partition(".")[0] for name in done.weights}
    assert names == {"A", "B"}
    # Served are codes alone: those of the sum that was trained with.
    trained = logits(done.loaded.model.eval())
    for deployment in ("fake-quantized", "quantized"):
        torch.testing.assert_close(
            logits(served(base, precision, deployment)), trained, rtol=1e-4, atol=1e-4
        )


def test_an_adapted_layer_computes_with_its_rounded_sum(base: Path) -> None:
    options = IntegerOptions(bits=3, dtype="fp32")
    model = load_fresh(base, "fp32").model
    adapt(model, options, rank=4, alpha=4.0, seed=0)
    layer = model.get_submodule("model.layers.0.mlp.down_proj")
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    torch.nn.init.normal_(b, std=0.05)
    inputs = torch.randn(5, layer.in_features, generator=torch.Generator().manual_seed(0))
    summed = (layer.base_layer.weight + b @ a).detach()
    expected = inputs @ naively_rounded(summed, options).T
    torch.testing.assert_close(layer(inputs), expected, rtol=1e-5, atol=1e-5)


def test_adapters_begin_as_those_of_lora(base: Path) -> None:
    models = [load_fresh(base, "fp32").model for _ in range(2)]
    adapt(models[0], IntegerOptions(bits=4), rank=4, alpha=None, seed=5)
    torch.manual_seed(5)
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear")
    get_peft_model(models[1], config)
    found, expected = (
        {name: weight for name, weight in model.named_parameters() if "lora_" in name}
        for model in models
    )
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    trained = {name for name, weight in models[0].named_parameters() if weight.requires_grad}
    assert trained == found.keys()


def test_a_stopped_training_of_adapters_goes_on_to_the_same(base: Path) -> None:
    precision = integer(bits=4)
    whole = qat(base, precision, rank=4)
    with pytest.raises(StoppedHereError):
        qat(base, precision, rank=4, key="fedcba9876543210", every_steps=2, stop_after=3)
    resumed = qat(base, precision, rank=4, key="fedcba9876543210", every_steps=2)
    assert resumed.training.progress.losses == whole.training.progress.losses


def test_adapters_of_gpt2_are_saved_the_other_way_round(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "gpt2", "gpt2")
    precision = integer(bits=4)
    done = qat(folder, precision, rank=4, learning_rate=1e-2, steps=3)
    torch.testing.assert_close(
        logits(served(folder, precision, "quantized")),
        logits(done.loaded.model.eval()),
        rtol=1e-4,
        atol=1e-4,
    )


def test_alpha_goes_with_a_rank() -> None:
    with pytest.raises(ValueError, match="`rank` beside `alpha`"):
        methods()["qat"].options(alpha=8)
