"""Layers quantized as they are read: the same as quantized afterwards, with less memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import torch

from qbench.core.checkpoint import Checkpoint
from qbench.core.errors import ModelError
from qbench.precisions import precisions
from qbench.precisions.by_layer import load_layer_by_layer
from qbench.precisions.loading import load_pretrained
from qbench.precisions.plain_layers import plain_linear_layers, replace_conv1d
from qbench.sources.models.resolve import fetch_model, parse_model, resolve_model
from tests.precisions.tiny_cells import load_fresh, typed_options_of
from tests.tiny_models import ARCHITECTURES, make_tiny_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import nn
    from transformers import PreTrainedModel

CUSTOM = """\
import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedConfig
from transformers.modeling_outputs import CausalLMOutput


class OddConfig(PreTrainedConfig):
    model_type = "odd"

    def __init__(self, hidden_size=32, vocab_size=64, tie_word_embeddings=True, **options):
        self.hidden_size, self.vocab_size = hidden_size, vocab_size
        self.tie_word_embeddings = tie_word_embeddings
        super().__init__(**options)


class OddForCausalLM(PreTrainedModel):
    config_class = OddConfig
    _tied_weights_keys = {"head.weight": "embed.weight", "second.weight": "first.weight"}
    _keep_in_fp32_modules_strict = ["wide"]

    def __init__(self, config):
        super().__init__(config)
        size = config.hidden_size
        self.embed = nn.Embedding(config.vocab_size, size)
        self.first = nn.Linear(size, size)
        self.second = nn.Linear(size, size, bias=False)
        self.wide = nn.Linear(size, size)
        self.again = self.wide
        self.last = nn.Linear(size, size)
        self.head = nn.Linear(size, config.vocab_size, bias=False)
        self.post_init()

    def _init_weights(self, module):
        if isinstance(module, nn.Linear):
            module.weight.data.fill_(0.5)

    def get_input_embeddings(self):
        return self.embed

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids, **ignored):
        found = self.second(self.first(self.embed(input_ids)))
        found = self.again(self.wide(found.float())).to(found.dtype)
        return CausalLMOutput(logits=self.head(self.last(found)))
"""


def rounded(name: str, layer: nn.Linear) -> None:
    """Halves of a row's largest value: an own format, whose weights stay numbers."""
    step = layer.weight.data.abs().amax(dim=1, keepdim=True) / 2
    layer.weight.data = (layer.weight.data / step).round() * step


def afterwards(
    checkpoint: Checkpoint, dtype: str, quantize: Callable[[str, nn.Linear], Any]
) -> PreTrainedModel:
    """What must come out: the whole model is loaded, then its layers are quantized."""
    model = load_pretrained(checkpoint, dtype=dtype)
    replace_conv1d(model)
    for name, layer in plain_linear_layers(model).items():
        quantize(name, layer)
    return model


def assert_same(found: PreTrainedModel, expected: PreTrainedModel) -> None:
    tensors, others = found.state_dict(), expected.state_dict()
    assert list(tensors) == list(others)
    for name, tensor in tensors.items():
        assert tensor.dtype == others[name].dtype, name
        assert torch.equal(tensor, others[name]), name
    classes = {name: type(module) for name, module in found.named_modules()}
    assert classes == {name: type(module) for name, module in expected.named_modules()}
    assert found.config.to_dict() == expected.config.to_dict()
    assert vars(found).keys() == vars(expected).keys()
    assert not found.training
    assert not any(parameter.requires_grad for parameter in found.parameters())


@pytest.mark.parametrize("dtype", ["bf16", "auto"])
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_same_as_quantized_afterwards(
    architecture: str, *, tied: bool, dtype: str, tmp_path: Path
) -> None:
    # Several shards, so that biases and weights of a layer may lie in different ones.
    folder = make_tiny_model(
        tmp_path, architecture, tied=tied, tokenizer=False, max_shard_size="40KB"
    )
    assert len(list(folder.glob("*.safetensors"))) > 2
    checkpoint = Checkpoint(folder, "cpu")
    found = load_layer_by_layer(checkpoint, dtype=dtype, quantize=rounded)
    assert_same(found, afterwards(checkpoint, dtype, rounded))


@pytest.mark.parametrize("device", ["cpu", "auto"])
@pytest.mark.parametrize("architecture", ["qwen2", "gpt2"])
def test_the_same_with_random_weights(architecture: str, device: str, tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "full", architecture, tokenizer=False)
    place = tmp_path / "random"
    place.mkdir()
    config = json.loads((folder / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(config))
    model = resolve_model(parse_model(f"random:{place}", base=place))
    checkpoint = Checkpoint(fetch_model(model), device)
    found = load_layer_by_layer(checkpoint, dtype="bf16", quantize=rounded)
    assert_same(found, afterwards(checkpoint, "bf16", rounded))


def test_a_model_of_its_own_code_with_shared_layers_and_types(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    (tmp_path / "odd.py").write_text(CUSTOM)
    config = {
        "model_type": "odd",
        "architectures": ["OddForCausalLM"],
        "tie_word_embeddings": True,
        "auto_map": {
            "AutoConfig": "odd.OddConfig",
            "AutoModelForCausalLM": "odd.OddForCausalLM",
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    sizes: dict[str, tuple[int, ...]] = {"embed.weight": (64, 32)}
    for name in ("first", "again", "wide", "last"):
        sizes |= {f"{name}.weight": (32, 32), f"{name}.bias": (32,)}
    generator = torch.Generator().manual_seed(0)
    made = {name: torch.randn(size, generator=generator) for name, size in sizes.items()}
    made |= {f"again.{own}": made[f"wide.{own}"].clone() for own in ("weight", "bias")}
    save_file(made, tmp_path / "model.safetensors", metadata={"format": "pt"})
    checkpoint = Checkpoint(tmp_path, "cpu", trust_remote_code=True)
    seen = []

    def noted(name: str, layer: nn.Linear) -> None:
        seen.append((name, layer.weight.dtype, layer.bias is not None))
        rounded(name, layer)

    found = load_layer_by_layer(checkpoint, dtype="bf16", quantize=noted)
    # A matrix under two names is rounded once for each, as it is afterwards: they are apart then.
    assert sorted(seen) == [
        ("first", torch.bfloat16, True),
        ("last", torch.bfloat16, True),
        ("second", torch.bfloat16, False),
        ("wide", torch.float32, True),
    ]
    assert_same(found, afterwards(checkpoint, "bf16", rounded))


def test_what_is_returned_stands_in_the_place_of_the_layer(tmp_path: Path) -> None:
    class Other(torch.nn.Module):
        held: torch.Tensor

        def __init__(self, plain: nn.Linear) -> None:
            super().__init__()
            self.register_buffer("held", plain.weight.data.clone())
            self.bias = plain.bias

        def forward(self, given: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.linear(given, self.held, self.bias)

    folder = make_tiny_model(tmp_path, "qwen2", tokenizer=False)
    checkpoint = Checkpoint(folder, "cpu")
    found = load_layer_by_layer(checkpoint, dtype="fp32", quantize=lambda name, layer: Other(layer))
    assert sum(isinstance(module, Other) for module in found.modules()) == 14
    plain = load_pretrained(checkpoint, dtype="fp32")
    ids = torch.arange(12).reshape(1, 12)
    with torch.inference_mode():
        assert torch.equal(found(input_ids=ids).logits, plain(input_ids=ids).logits)


@pytest.mark.parametrize(
    ("architecture", "fault"),
    [
        ("llama", "missing weight"),
        ("llama", "wide weight"),
        *(
            (architecture, f"{fault} {own}")
            for architecture in ("gpt2", "qwen2")
            for fault in ("missing", "wide")
            for own in ("weight", "bias")
        ),
    ],
)
def test_a_checkpoint_that_does_not_match_is_told_as_ever(
    architecture: str, fault: str, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    folder = make_tiny_model(tmp_path, architecture, tokenizer=False)
    file = folder / "model.safetensors"
    held = load_file(file)
    own = fault.split()[1]
    name = next(one for one in held if one.endswith(own) and ("c_attn" in one or "q_proj" in one))
    tensor = held.pop(name)
    if not fault.startswith("missing"):
        held[name] = torch.cat([tensor, tensor])
    save_file(held, file, metadata={"format": "pt"})
    checkpoint = Checkpoint(folder, "cpu")
    seen: list[str] = []
    with pytest.raises(ModelError) as expected:
        load_pretrained(checkpoint, dtype="bf16")
    with pytest.raises(ModelError) as found:
        load_layer_by_layer(checkpoint, dtype="bf16", quantize=lambda one, _: seen.append(one))
    assert name in str(found.value)
    assert str(found.value) == str(expected.value)
    assert name.rpartition(".")[0] not in seen


def test_what_goes_wrong_with_a_layer_is_raised_as_it_is(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path, "llama", tokenizer=False)
    seen = []

    def fail(name: str, layer: nn.Linear) -> None:
        seen.append(name)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    with pytest.raises(torch.OutOfMemoryError, match=r"Tried to allocate") as raised:
        load_layer_by_layer(Checkpoint(folder, "cpu"), dtype="bf16", quantize=fail)
    assert len(seen) == 1  # the first, and none after it
    assert raised.value.__notes__ == [f"while {seen[0]} was quantized"]


@pytest.mark.parametrize("name", ["int8-wo", "int4-g32-asym", "w8a8"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_integers_are_the_same_as_quantized_afterwards(
    architecture: str, name: str, tmp_path: Path
) -> None:
    from qbench.precisions.integer.layers import quantize_layer

    folder = make_tiny_model(tmp_path, architecture)
    options: Any = typed_options_of(name)

    def quantize(_: str, layer: nn.Linear) -> None:
        quantize_layer(layer, options, torch.bfloat16)

    found = load_fresh(folder, name)
    expected = afterwards(Checkpoint(folder, "cpu"), "bf16", quantize)
    ids = torch.arange(24).reshape(2, 12)
    with torch.inference_mode():
        assert torch.equal(found.model(input_ids=ids).logits, expected(input_ids=ids).logits)
    for one, other in zip(found.model.parameters(), expected.parameters(), strict=True):
        held: Any = one
        if hasattr(held, "qdata"):
            assert held.qdata.equal(other.qdata)
            assert held.scale.equal(other.scale)
        else:
            assert held.equal(other)


RESIDENT = """
import json, resource, sys
from pathlib import Path
import torch, transformers, torchao.quantization
from qbench.core.checkpoint import Checkpoint
from qbench.precisions import precisions
from qbench.precisions.inventory import inventory
small, large, name = sys.argv[1:]
precision = precisions()[name]
precision.load(Checkpoint(Path(small), "cpu"), precision.options())
Path("/proc/self/clear_refs").write_text("5")
def read(field):
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) * 1024
before = read("VmRSS")
model = precision.load(Checkpoint(Path(large), "cpu"), precision.options())
held = sum(one.tensor.untyped_storage().nbytes() for one in inventory(model))
print(json.dumps({"peak": read("VmHWM") - before, "held": held}))
"""


@pytest.mark.parametrize(
    ("name", "whole"),
    [("int4-g32", False), ("w8a8", False), ("int4-g32-gptq", True), ("w8a8-static", True)],
)
def test_what_is_calibrated_is_made_of_the_whole_model(name: str, *, whole: bool) -> None:
    assert precisions()[name].loads_whole(typed_options_of(name)) is whole


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="resident peaks are Linux'")
def test_the_resident_peak_is_the_quantized_model_and_a_layer(tmp_path: Path) -> None:
    from transformers import AutoConfig

    folders = []
    for size, layers in (("small", 1), ("large", 12)):
        config = AutoConfig.for_model(
            "llama",
            hidden_size=1024,
            intermediate_size=2816,
            num_hidden_layers=layers,
            num_attention_heads=16,
            num_key_value_heads=4,
            vocab_size=1000,
        )
        config.save_pretrained(tmp_path / size)
        model = resolve_model(parse_model(f"random:{tmp_path / size}", base=tmp_path))
        folders.append(str(fetch_model(model)))
    done = subprocess.run(
        [sys.executable, "-c", RESIDENT, *folders, "int4-g32"],
        # As the allocator gives back the layers of large models; of these it keeps some.
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    largest = 1024 * 2816
    whole = 2 * 12 * (1024 * 1024 * 2 + 2 * 1024 * 256 + 3 * largest)
    # A layer in bf16 and fp32, and what torchao makes on the way from there to its codes.
    assert found["peak"] < found["held"] + 24 * largest < whole
