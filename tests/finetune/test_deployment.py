"""Every deployment against what its definition gives by hand, on tiny models."""

from __future__ import annotations

import copy
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from qbench.core.checkpoint import Checkpoint
from qbench.core.errors import MeasurementError
from qbench.finetune.serve.deployment import (
    ServedModel,
    deployed_checkpoint,
    load_deployed,
    served_precision,
)
from qbench.precisions import options_of, precisions
from qbench.precisions.inventory import inventory
from qbench.precisions.layer_probe import relative_error
from qbench.precisions.layer_weights import held_weight
from qbench.precisions.verification import linear_layers
from tests.finetune.made_adapters import (
    MadeAdapter,
    load_by_hand,
    make_adapter,
    mark,
    precision_ref,
    tuning_ref,
)
from tests.precisions.numpy_formats import four_bit, int8_rows, nested_bound, rounded
from tests.tiny_models import make_tiny_model

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from transformers import PreTrainedModel

    from qbench.core.spec import Deployment, PrecisionRef, TuningRef

QUANTIZED = ("int8", "fp4", "nf4", "nf4-dq")
EXACT: dict[str, dict[str, Any]] = {
    "int8": {"dtype": "fp32"},
    "fp4": {"compute_dtype": "fp32"},
    "nf4": {"compute_dtype": "fp32"},
    "nf4-dq": {"compute_dtype": "fp32"},
}
"""Options with which nothing but the quantization itself rounds."""
ARCHITECTURES = ("llama", "gpt2")
ATTACHED: tuple[Deployment, ...] = ("attached", "attached-fp16", "adapter-int8", "adapter-nf4")


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, MadeAdapter]:
    """A base of each architecture with an adapter on all its linear layers."""
    folder = tmp_path_factory.mktemp("made")
    return {
        name: make_adapter(make_tiny_model(folder / name, name), folder / f"{name}-adapter")
        for name in ARCHITECTURES
    }


@pytest.fixture(params=ARCHITECTURES)
def adapter(request: pytest.FixtureRequest, made: dict[str, MadeAdapter]) -> MadeAdapter:
    return made[request.param]


def deploy(
    adapter: MadeAdapter,
    deployment: Deployment,
    tuning: TuningRef,
    precision: PrecisionRef | None = None,
) -> PreTrainedModel:
    return load_deployed(
        ServedModel(
            Checkpoint(adapter.base, "cpu"),
            tuning,
            deployment,
            precision or served_precision(tuning, deployment),
            adapter.folder,
        )
    )


def logits(model: Any) -> torch.Tensor:
    import torch

    ids = torch.arange(1, 49).reshape(2, 24)
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=ids).logits
    return found


def plain_peft(adapter: MadeAdapter, precision: PrecisionRef, **how: Any) -> Any:
    """The same as a user loads it: the base, and `PeftModel.from_pretrained`."""
    from peft import PeftModel

    base = precisions()[precision.name].load(Checkpoint(adapter.base, "cpu"), options_of(precision))
    return PeftModel.from_pretrained(base, str(adapter.folder), **how).eval()


def own_weights(adapter: MadeAdapter) -> dict[str, torch.Tensor]:
    """The checkpoint's weights of the linear layers, (out, in), in fp32."""
    model = load_by_hand(adapter.base)
    turned = model.config.model_type == "gpt2"
    return {
        name: layer.weight.T.contiguous() if turned else layer.weight
        for name, layer in linear_layers(model)
    }


def served_weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """What the linear layers of a served model compute with, (out, in), in fp32."""
    from transformers.pytorch_utils import Conv1D

    return {
        name: (layer.weight.T if isinstance(layer, Conv1D) else held_weight(layer)).float()
        for name, layer in linear_layers(model)
    }


def quantize(weight: torch.Tensor, name: str) -> torch.Tensor:
    """Quantized and dequantized by numpy."""
    import torch

    values = weight.detach().float().contiguous().numpy()
    made = int8_rows(values) if name == "int8" else four_bit(values, name)
    return torch.from_numpy(np.ascontiguousarray(made)).float()


def nested_slack(weight: torch.Tensor, name: str) -> float:
    """How far double quantization may be from `quantize`, relative to the weight."""
    if name != "nf4-dq":
        return 0.0
    values = weight.detach().float().contiguous().numpy()
    return float(np.linalg.norm(nested_bound(values)) / np.linalg.norm(values))


def assert_close(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    assert found.shape == expected.shape
    assert relative_error(found, expected) <= tolerance


# --- attached


@pytest.mark.parametrize("name", ["fp32", "bf16", *QUANTIZED])
def test_attached_gives_the_logits_of_plain_peft(adapter: MadeAdapter, name: str) -> None:
    tuning = tuning_ref(name)
    # As it is served: the factors in the type that the base computes in, as PEFT makes them there.
    peft = plain_peft(adapter, tuning.precision, autocast_adapter_dtype=False)
    if name == "int8":
        for parameter_name, parameter in peft.named_parameters():
            if "lora_" in parameter_name:
                parameter.data = parameter.data.bfloat16()
    found = logits(deploy(adapter, "attached", tuning))
    assert (found == logits(peft)).all()


@pytest.mark.parametrize("name", ["fp32", *QUANTIZED])
def test_attached_gives_the_same_as_peft_by_its_defaults(adapter: MadeAdapter, name: str) -> None:
    tuning = tuning_ref(name, **EXACT.get(name, {}))
    found = logits(deploy(adapter, "attached", tuning))
    assert (found == logits(plain_peft(adapter, tuning.precision))).all()


@pytest.mark.parametrize("deployment", ATTACHED)
@pytest.mark.parametrize("name", ["bf16", "int8", "nf4"])
def test_an_attached_model_is_plain_frozen_and_verified(
    adapter: MadeAdapter, name: str, deployment: Deployment
) -> None:
    import torch

    tuning = tuning_ref(name)
    served = served_precision(tuning, deployment)
    model = deploy(adapter, deployment, tuning)
    plain = load_by_hand(adapter.base)
    assert type(model) is type(plain)
    assert type(model.base_model) is type(plain.base_model)
    assert type(model.get_output_embeddings()) is type(plain.get_output_embeddings())
    assert not model.training
    assert not any(module.training for module in model.modules())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    verified = precisions()[served.name].verify(model, options_of(served))
    assert verified.faults == ()
    assert verified.warnings == ()
    assert [name for name, _ in linear_layers(model)] == list(own_weights(adapter))
    assert verified.details["linear_modules"] == len(own_weights(adapter))
    ids = torch.tensor([[1, 2, 3]])
    made = model.generate(ids, max_new_tokens=2, do_sample=False, pad_token_id=0)
    assert made.shape == (1, 5)


@pytest.mark.parametrize("name", QUANTIZED)
def test_what_an_adapter_is_attached_to_is_held_against_its_codes(
    adapter: MadeAdapter, name: str
) -> None:
    tuning = tuning_ref(name)
    model = deploy(adapter, "attached", tuning)
    precision = precisions()[name]
    found = precision.verify(model, options_of(tuning.precision)).details
    assert found["quantized_modules"] == len(own_weights(adapter))
    assert found["quantized_weights"] == sum(w.numel() for w in own_weights(adapter).values())
    assert found["left_out"] == ["lm_head"]
    # A layer whose state is damaged is found behind its adapter, by its own name.
    place, layer = linear_layers(model)[0]
    if name == "int8":
        layer.state.SCB = layer.state.SCB[:-1]  # where it is after a forward
    else:
        layer.weight.quant_state.code = layer.weight.quant_state.code * 0.5
    (fault,) = precision.verify(model, options_of(tuning.precision)).faults
    assert fault.startswith(f"{place} (")


def test_adapters_are_counted_as_a_kind_of_their_own(adapter: MadeAdapter) -> None:
    tuning = tuning_ref("nf4")
    held = list(inventory(deploy(adapter, "attached", tuning)))
    untuned = precisions()["nf4"].load(
        Checkpoint(adapter.base, "cpu"), options_of(tuning.precision)
    )
    weights = sum(4 * sum(weight.shape) for weight in own_weights(adapter).values())
    adapters = [one for one in held if one.kind == "adapters"]
    assert sum(one.tensor.untyped_storage().nbytes() for one in adapters) == 2 * weights
    assert sum(one.logical_weights for one in adapters) == 0  # none of the checkpoint
    others = [(one.module, one.kind, one.tensor.shape) for one in held if one.kind != "adapters"]
    assert sorted(others) == sorted((o.module, o.kind, o.tensor.shape) for o in inventory(untuned))


def test_an_adapter_on_the_head_leaves_the_head_a_head(
    tmp_path: Path, made: dict[str, MadeAdapter]
) -> None:
    base = made["llama"].base
    adapter = make_adapter(base, tmp_path / "head", target_modules=["lm_head", "q_proj"])
    model = deploy(adapter, "attached", tuning_ref("bf16"))
    assert [name for name, _ in linear_layers(model)] == list(own_weights(adapter))
    kinds = {one.module: one.kind for one in inventory(model) if one.kind != "adapters"}
    assert kinds["lm_head"] == "embeddings_and_head"
    merged = deploy(adapter, "merged", tuning_ref("fp32"))
    expected = adapter.merged_into(load_by_hand(base).lm_head.weight, "lm_head")
    assert_close(merged.get_output_embeddings().weight, expected, 1e-6)


# --- merged


@pytest.mark.parametrize("name", ["fp32", "bf16", "int8", "nf4"])
def test_merged_is_the_original_weight_and_the_update_rounded_once(
    adapter: MadeAdapter, name: str
) -> None:
    tuning = tuning_ref(name)
    served = served_precision(tuning, "merged")
    model = deploy(adapter, "merged", tuning)
    assert type(model) is type(load_by_hand(adapter.base))
    assert precisions()[served.name].verify(model, options_of(served)).faults == ()
    found = served_weights(model)
    for layer, weight in own_weights(adapter).items():
        expected = adapter.merged_into(weight, layer).detach().contiguous().numpy()
        # To one unit in the last place: the product's sums may run in another order.
        unit = 2e-7 if served.name == "fp32" else 2**-8
        np.testing.assert_allclose(
            found[layer].detach(), rounded(expected, served.name), rtol=unit, atol=1e-7
        )
    assert model.get_input_embeddings().weight.dtype == model.dtype


@pytest.mark.parametrize(
    "config",
    [
        {"use_rslora": True},
        {"use_dora": True},
        {"target_modules": None},
        {"r": 3, "lora_dropout": 0.5},
    ],
    ids=["rslora", "dora", "default targets", "dropout"],
)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_merged_variants_are_their_definitions_and_equal_attached(
    architecture: str, config: dict[str, Any], made: dict[str, MadeAdapter], tmp_path: Path
) -> None:
    adapter = make_adapter(made[architecture].base, tmp_path / "adapter", **config)
    tuning = tuning_ref("fp32")
    merged = deploy(adapter, "merged", tuning)
    found = served_weights(merged)
    for layer, weight in own_weights(adapter).items():
        assert_close(found[layer], adapter.merged_into(weight, layer), 1e-6)
    assert_close(logits(merged), logits(deploy(adapter, "attached", tuning)), 1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_pissa_saved_as_a_plain_adapter_comes_out_right(
    architecture: str, made: dict[str, MadeAdapter], tmp_path: Path
) -> None:
    base = made[architecture].base
    tuned = make_pissa(base)
    begun = factors(tuned)
    expected = train_a_little(tuned)
    save_difference(tuned, begun, tmp_path / "plain")
    adapter = MadeAdapter(base, tmp_path / "plain", 1.0)
    deployments: tuple[Deployment, ...] = ("attached", "merged")
    for deployment in deployments:
        assert_close(logits(deploy(adapter, deployment, tuning_ref("fp32"))), expected, 1e-5)
    # Without the part that it took out of the base it is refused.
    tuned.save_pretrained(tmp_path / "half", save_embedding_layers=False)
    mark(tmp_path / "half")
    half = MadeAdapter(base, tmp_path / "half", 1.0)
    for deployment in deployments:
        with pytest.raises(MeasurementError, match="initialised with pissa"):
            deploy(half, deployment, tuning_ref("fp32"))


def make_pissa(base: Path) -> Any:
    from peft import LoraConfig, get_peft_model

    model = load_by_hand(base)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=4,
        lora_alpha=4,
        init_lora_weights="pissa",
        fan_in_fan_out=model.config.model_type == "gpt2",
        target_modules="all-linear",
    )
    return get_peft_model(model, config).eval()


def factors(tuned: Any) -> dict[str, torch.Tensor]:
    from peft import get_peft_model_state_dict

    weights = get_peft_model_state_dict(tuned, save_embedding_layers=False)
    return {name: weight.detach().clone() for name, weight in weights.items()}


def train_a_little(tuned: Any) -> torch.Tensor:
    """Moves the factors as a training would; returns the logits."""
    import torch

    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_" in name:
                parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return logits(tuned)


def save_difference(tuned: Any, begun: dict[str, torch.Tensor], folder: Path) -> None:
    """B·A − B₀·A₀ as a plain adapter of twice the rank: [B, −B₀]·[A; A₀]."""
    import torch
    from safetensors.torch import save_file

    ended = factors(tuned)
    doubled = {
        name: torch.cat([ended[name], begun[name]])
        if "lora_A" in name
        else torch.cat([ended[name], -begun[name]], dim=1)
        for name in ended
    }
    config = copy.copy(tuned.peft_config["default"])
    config.r, config.lora_alpha, config.init_lora_weights = 8, 8, True
    folder.mkdir()
    config.save_pretrained(folder)
    save_file(doubled, folder / "adapter_model.safetensors")
    mark(folder)


@pytest.mark.parametrize("name", QUANTIZED)
def test_requantized_is_the_merged_weight_quantized(adapter: MadeAdapter, name: str) -> None:
    tuning = tuning_ref(name, **EXACT[name])
    model = deploy(adapter, "merged-requantized", tuning)
    assert precisions()[name].verify(model, options_of(tuning.precision)).faults == ()
    found = served_weights(model)
    for layer, weight in own_weights(adapter).items():
        merged = adapter.merged_into(weight, layer)
        assert_close(found[layer], quantize(merged, name), 2e-3 + nested_slack(merged, name))


@pytest.mark.parametrize("name", QUANTIZED)
def test_dequantized_is_the_quantized_base_and_the_update(adapter: MadeAdapter, name: str) -> None:
    tuning = tuning_ref(name, **EXACT[name])
    model = deploy(adapter, "merged-dequantized", tuning, precision_ref("fp32"))
    found = served_weights(model)
    quantized = precisions()[name].load(
        Checkpoint(adapter.base, "cpu"), options_of(tuning.precision)
    )
    for layer, held in linear_layers(quantized):
        assert_close(found[layer], adapter.merged_into(held_weight(held), layer), 1e-6)
    for layer, weight in own_weights(adapter).items():
        # Where a weight lies midway between two levels either is the nearest.
        expected = adapter.merged_into(quantize(weight, name), layer)
        assert_close(found[layer], expected, 3e-3 + nested_slack(weight, name))
    # In fp32 it is the attached model again; int8 rounds the activations of that as well.
    attached = logits(deploy(adapter, "attached", tuning))
    assert_close(logits(model), attached, 0.03 if name == "int8" else 1e-5)
    held = deploy(adapter, "merged-dequantized", tuning)
    assert {str(p.dtype) for p in held.parameters()} == {"torch.bfloat16"}


@pytest.mark.parametrize("name", QUANTIZED)
def test_in_place_is_the_quantized_base_and_the_update_quantized_again(
    adapter: MadeAdapter, name: str
) -> None:
    from bitsandbytes.nn import Linear4bit

    tuning = tuning_ref(name, **EXACT[name])
    model = deploy(adapter, "merged-in-place", tuning)
    assert precisions()[name].verify(model, options_of(tuning.precision)).faults == ()
    assert not any("lora" in name for name, _ in model.named_modules())
    found = served_weights(model)
    for layer, weight in own_weights(adapter).items():
        merged = adapter.merged_into(quantize(weight, name), layer)
        slack = nested_slack(weight, name) + nested_slack(merged, name)
        assert_close(found[layer], quantize(merged, name), 2e-3 + 3 * slack)
    layers = [module for module in model.modules() if isinstance(module, Linear4bit)]
    assert all(layer.support_avx512bf16_for_cpu is False for layer in layers)
    # Nothing is repacked by computing.
    logits(model)
    assert precisions()[name].verify(model, options_of(tuning.precision)).faults == ()


@pytest.mark.parametrize("deployment", ATTACHED)
def test_no_attached_4_bit_layer_is_repacked(
    deployment: Deployment, made: dict[str, MadeAdapter]
) -> None:
    from bitsandbytes.nn import Linear4bit

    model = deploy(made["llama"], deployment, tuning_ref("nf4-dq"))
    layers = [module for module in model.modules() if isinstance(module, Linear4bit)]
    assert layers
    assert all(layer.support_avx512bf16_for_cpu is False for layer in layers)


def test_merged_weights_are_made_once_and_made_again_when_deleted(
    made: dict[str, MadeAdapter], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QBENCH_CACHE", str(tmp_path))
    adapter = made["llama"]
    tuning = tuning_ref("nf4")

    def folder(deployment: Deployment) -> Path:
        return deployed_checkpoint(
            ServedModel(
                Checkpoint(adapter.base, "cpu"),
                tuning,
                deployment,
                served_precision(tuning, deployment),
                adapter.folder,
            )
        ).folder

    merged = folder("merged")
    written = (merged / "model.safetensors").stat().st_mtime_ns
    # Deployments that begin with the same weights share them.
    assert folder("merged-requantized") == merged
    assert folder("merged-dequantized") != merged
    assert folder("attached") == adapter.base
    assert (merged / "model.safetensors").stat().st_mtime_ns == written
    assert (merged / "config.json").read_text() == (adapter.base / "config.json").read_text()
    shutil.rmtree(merged)
    assert (folder("merged") / "model.safetensors").is_file()
    # One bit, another merge's folder: not what was merged.
    right = (merged / "model.safetensors").read_bytes()
    (merged / "model.safetensors").write_bytes(right[:-1] + bytes([right[-1] ^ 1]))
    assert (folder("merged") / "model.safetensors").read_bytes() == right
    shutil.rmtree(merged)
    folder("merged-dequantized").rename(merged)
    assert (merged / "model.safetensors").read_bytes() != right
    assert (folder("merged") / "model.safetensors").read_bytes() == right
    assert not list(merged.parent.glob(".*"))


# --- stored adapters


@pytest.mark.parametrize("name", ["fp32", "int8", "nf4"])
@pytest.mark.parametrize("deployment", ["adapter-int8", "adapter-nf4"])
def test_a_stored_adapter_computes_with_what_was_stored(
    deployment: Deployment, name: str, made: dict[str, MadeAdapter]
) -> None:
    from qbench.finetune.serve.adapter_storage import load_stored, store_adapter

    adapter = made["llama"]
    tuning = tuning_ref(name, **EXACT.get(name, {}))
    model = deploy(adapter, deployment, tuning)
    expected = load_stored(store_adapter(adapter.folder, deployment))
    held = dict(model.named_parameters())
    for place, tensor in expected.items():
        own = place.removeprefix("base_model.model.").replace(".weight", ".default.weight")
        assert (held[own] == tensor).all()
    whole = logits(deploy(adapter, "attached", tuning))
    assert (
        0 < relative_error(logits(model), whole) < (0.05 if deployment == "adapter-int8" else 0.3)
    )


# --- full tuning


@pytest.mark.parametrize("name", ["fp32", "bf16", "int8", "nf4"])
def test_full_tuning_is_served_from_its_own_weights(
    name: str, tmp_path: Path, made: dict[str, MadeAdapter]
) -> None:
    artifact = make_tiny_model(tmp_path / "tuned", "llama", seed=7, tokenizer=False)
    tuned = MadeAdapter(made["llama"].base, artifact, 1.0)
    tuning = tuning_ref("bf16", method="full")
    assert served_precision(tuning, "merged").label == "bf16"
    precision = precision_ref(name, **EXACT.get(name, {}))
    model = deploy(tuned, "merged", tuning, precision)
    expected = precisions()[name].load(Checkpoint(artifact, "cpu"), options_of(precision))
    assert (logits(model) == logits(expected)).all()
    with pytest.raises(MeasurementError, match="full tuning leaves no adapter: found attached"):
        deploy(tuned, "attached", tuning)


# --- what it is held in


@pytest.mark.parametrize(
    ("name", "options", "deployment", "label"),
    [
        ("nf4", {}, "attached", "nf4"),
        ("nf4", {}, "adapter-int8", "nf4"),
        ("int8", {}, "adapter-nf4", "int8"),
        ("int8", {}, "merged-in-place", "int8"),
        ("nf4-dq", {}, "merged-requantized", "nf4-dq"),
        ("fp32", {}, "attached-fp16", "fp16"),
        ("bf16", {}, "attached-fp16", "fp16"),
        ("fp16", {}, "attached-fp16", "fp16"),
        ("int8", {}, "attached-fp16", "int8-dtype=fp16"),
        ("int8", {"threshold": 5.5}, "attached-fp16", "int8-dtype=fp16-threshold=5.5"),
        ("nf4", {}, "attached-fp16", "nf4-compute_dtype=fp16"),
        ("nf4", {"dtype": "fp32"}, "attached-fp16", "nf4-compute_dtype=fp16"),
        ("fp32", {}, "merged", "fp32"),
        ("bf16", {}, "merged", "bf16"),
        ("nf4", {}, "merged", "bf16"),
        ("int8", {}, "merged-dequantized", "bf16"),
    ],
)
def test_what_each_deployment_is_held_in(
    name: str, options: dict[str, Any], deployment: Deployment, label: str
) -> None:
    served = served_precision(tuning_ref(name, **options), deployment)
    assert served.label == label
    assert served.name == label.partition("-compute")[0].partition("-dtype")[0]
    # All options, as a suite would resolve them.
    filled = precisions()[served.name].options.model_validate(served.options)
    assert filled.model_dump(mode="json") == served.options


@pytest.mark.parametrize("name", ["bf16", "int8", "nf4"])
def test_fp16_is_what_it_computes_in(name: str, made: dict[str, MadeAdapter]) -> None:
    import torch

    model = deploy(made["llama"], "attached-fp16", tuning_ref(name))
    assert model.dtype == torch.float16
    factors = [p for n, p in model.named_parameters() if "lora_" in n]
    assert {p.dtype for p in factors} == {torch.float16}
    assert logits(model).isfinite().all()


# --- bad input


def test_an_adapter_of_another_base_is_named(made: dict[str, MadeAdapter], tmp_path: Path) -> None:
    other = make_tiny_model(tmp_path / "wide", "llama", hidden=128)
    wrong = MadeAdapter(other, made["llama"].folder, 1.0)
    with pytest.raises(MeasurementError, match=r"does not fit this model \(size mismatch"):
        deploy(wrong, "attached", tuning_ref("bf16"))
    deeper = make_tiny_model(tmp_path / "deep", "llama", layers=3)
    on_names = make_adapter(made["llama"].base, tmp_path / "names", target_modules=["q_proj"])
    wrong = MadeAdapter(deeper, on_names.folder, 1.0)
    with pytest.raises(MeasurementError, match=r"it lacks model\.layers\.2\..*on another base"):
        deploy(wrong, "attached", tuning_ref("nf4"))
    shallow = make_tiny_model(tmp_path / "flat", "llama", layers=1)
    wrong = MadeAdapter(shallow, made["llama"].folder, 1.0)
    with pytest.raises(MeasurementError, match=r"the model has no .*layers\.1"):
        deploy(wrong, "merged", tuning_ref("bf16"))
    wrong = MadeAdapter(made["gpt2"].base, made["llama"].folder, 1.0)
    with pytest.raises(MeasurementError, match="does not fit this model"):
        deploy(wrong, "attached", tuning_ref("bf16"))


@pytest.mark.parametrize("deployment", ["attached", "merged", "adapter-nf4"])
def test_a_damaged_artifact_is_one_clear_message(
    deployment: Deployment, made: dict[str, MadeAdapter], tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(made["llama"].folder, damaged)
    (damaged / "adapter_model.safetensors").write_bytes(b"not tensors")
    adapter = MadeAdapter(made["llama"].base, damaged, 1.0)
    with pytest.raises(MeasurementError, match="delete the folder and run the training again"):
        deploy(adapter, deployment, tuning_ref("bf16"))
    shutil.rmtree(damaged)
    with pytest.raises(MeasurementError, match="delete the folder and run the training again"):
        deploy(adapter, deployment, tuning_ref("bf16"))


def test_a_tied_head_with_an_adapter_is_not_merged_wrongly(tmp_path: Path) -> None:
    base = make_tiny_model(tmp_path / "tied", "llama", tied=True)
    adapter = make_adapter(base, tmp_path / "adapter", target_modules=["lm_head"])
    tuning = tuning_ref("fp32")
    assert logits(deploy(adapter, "attached", tuning)).isfinite().all()
    with pytest.raises(MeasurementError, match="share one matrix"):
        deploy(adapter, "merged", tuning)
