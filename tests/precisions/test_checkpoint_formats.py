"""Checkpoints of other libraries: their bytes by headers, their layers held against the files."""

from __future__ import annotations

import json
import re
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torchao.quantization import (
    Float8WeightOnlyConfig,
    Int8DynamicActivationInt8WeightConfig,
    Int8WeightOnlyConfig,
    IntxWeightOnlyConfig,
)
from torchao.quantization.granularity import PerGroup

from qbench.core.errors import QbenchError
from qbench.core.spec import Item, StaticBytes
from qbench.measures.footprint import Footprint
from qbench.plan.items import why_skipped
from qbench.precisions import precisions
from qbench.precisions.checkpoint_formats.definitions import definition
from qbench.precisions.checkpoint_formats.files import CheckpointFiles
from qbench.precisions.checkpoint_formats.methods import METHODS
from qbench.precisions.checkpoint_formats.words import unpacked
from qbench.precisions.inventory import inventory
from qbench.precisions.stored import StoredOptions
from qbench.running.loading import load
from qbench.sources.models.resolve import parse_model, resolve_model
from tests.precisions.made_checkpoints import (
    load_original,
    make_bitnet,
    make_compressed,
    make_fp8,
    make_fp8_of_tensors,
    make_mxfp4,
    make_mxfp8,
    make_torchao,
    write_checkpoint,
)
from tests.precisions.test_stored import cell_of, measured_bytes, model_of
from tests.precisions.tiny_cells import load_fresh, make_job
from tests.record_factory import make_environment
from tests.tiny_models import make_tiny_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from qbench.measures.loaded import LoadedModel
    from qbench.precisions.verification import Verification

    Make = Callable[[Path, Path], Path]

MIXTURE = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 32}
PRESETS = ("W4A16", "W4A16_ASYM", "W8A8", "FP8", "FP8_DYNAMIC", "NVFP4A16", "MXFP4A16")
KINDS: dict[str, tuple[str, Make]] = {
    **{
        f"compressed-tensors-{preset}": ("llama", partial(make_compressed, preset=preset))
        for preset in PRESETS
    },
    "bitnet": ("llama", make_bitnet),
    "fp8": ("llama", make_fp8),
    "fp8 of tensors": ("llama", make_fp8_of_tensors),
    "mxfp8": ("llama", make_mxfp8),
    "fp8-qwen3_moe": ("qwen3_moe", make_fp8),
    "fp8-mixtral": ("mixtral", make_fp8),
    "mxfp4": ("gpt_oss", make_mxfp4),
    "torchao-int8": ("llama", partial(make_torchao, config=Int8WeightOnlyConfig())),
    "torchao-w8a8": (
        "llama",
        partial(make_torchao, config=Int8DynamicActivationInt8WeightConfig()),
    ),
    "torchao-int4": (
        "llama",
        partial(make_torchao, config=IntxWeightOnlyConfig(torch.int4, granularity=PerGroup(32))),
    ),
    "torchao-fp8": ("llama", partial(make_torchao, config=Float8WeightOnlyConfig())),
}
QUICK = ("compressed-tensors-W4A16", "fp8-mixtral", "mxfp4", "torchao-int4")
EACH = [
    pytest.param(kind, marks=() if kind in QUICK else pytest.mark.slow, id=kind) for kind in KINDS
]
FOUR_BITS = ("W4A16", "FP4", "mxfp4", "int4")


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {}
    for architecture in ("llama", "qwen3_moe", "mixtral", "gpt_oss"):
        options: dict[str, Any] = {} if architecture == "llama" else MIXTURE
        if architecture == "qwen3_moe":
            options = {**options, "moe_intermediate_size": 96}
        made[architecture] = make_tiny_model(
            tmp_path_factory.mktemp(architecture) / "original",
            architecture,
            hidden=128,
            dtype="bfloat16",
            **options,
        )
    return made


def load_checkpoint(folder: Path) -> LoadedModel:
    resolved = resolve_model(parse_model(str(folder), base=folder))
    # BitNet's layers are compiled where they first compute, which takes 20 s and changes nothing.
    with torch.compiler.set_stance("force_eager"):
        return load(make_job(resolved, "stored"), lambda phase: None)


def verify_again(loaded: LoadedModel) -> Verification:
    return precisions()["stored"].verify(loaded.model, StoredOptions())


@pytest.mark.parametrize("kind", EACH)
def test_what_is_loaded_is_what_the_files_say(
    kind: str, originals: dict[str, Path], tmp_path: Path
) -> None:
    architecture, make = KINDS[kind]
    folder = make(originals[architecture], tmp_path / "quantized")
    loaded = load_checkpoint(folder)
    found = loaded.verification
    assert found.faults == ()
    assert found.details["not_checked"] == []
    assert loaded.predicted == measured_bytes(loaded)
    assert 0.6 < found.details["quantized_share"] < 1
    ids = torch.arange(40).reshape(2, 20)
    with torch.inference_mode():
        expected = load_original(originals[architecture])(input_ids=ids).logits.float()
        difference = loaded.model(input_ids=ids).logits.float() - expected
    if kind == "bitnet":
        return
    allowed = 0.5 if any(name in kind for name in FOUR_BITS) else 0.3
    assert 0 < difference.norm() / expected.norm() < allowed, "random weights, of two layers"


@pytest.mark.parametrize("kind", ["compressed-tensors-W4A16", "fp8-mixtral", "mxfp4"])
def test_where_numbers_are_loaded_the_bytes_of_the_codes_are_told(
    kind: str, originals: dict[str, Path], tmp_path: Path
) -> None:
    architecture, make = KINDS[kind]
    folder = make(originals[architecture], tmp_path / "quantized")
    loaded = load_checkpoint(folder)
    held = measured_bytes(loaded)
    in_file = sum(t.nbytes for t in load_file(folder / "model.safetensors").values())
    shape = loaded.resolved.shape
    assert shape is not None
    packed = precisions()["stored"].packed_bytes(shape, StoredOptions())
    assert packed == in_file + held.buffers
    assert packed < 0.8 * held.total
    outcome = Footprint().measure(loaded, Item(measurement="footprint", slug="model"))
    values = {metric.name: metric.value for metric in outcome.metrics}
    nominal = values["bits_per_weight.nominal"]
    assert nominal == pytest.approx(8 * packed / shape.weights)
    said = " ".join(loaded.verification.warnings)
    assert "are those of bf16" in said
    assert ("inputs of its layers are rounded" in said) == kind.startswith("fp8")


def test_4_bit_codes_of_torchao_count_as_such(originals: dict[str, Path], tmp_path: Path) -> None:
    make = KINDS["torchao-int4"][1]
    loaded = load_checkpoint(make(originals["llama"], tmp_path / "quantized"))
    held, shape = measured_bytes(loaded), loaded.resolved.shape
    assert shape is not None
    codes = sum(t.numel for t in shape.tensors if t.role == "linear")
    packed = precisions()["stored"].packed_bytes(shape, StoredOptions())
    assert packed == held.total - codes / 2 - codes / 32, "half a byte a code, no zero points"
    outcome = Footprint().measure(loaded, Item(measurement="footprint", slug="model"))
    values = {metric.name: metric.value for metric in outcome.metrics}
    assert values["bits_per_weight.linear.nominal"] == 4 + 16 / 32
    assert values["bits_per_weight.nominal"] == pytest.approx(8 * packed / shape.weights)


@pytest.mark.parametrize("kind", ["fp8-mixtral", "mxfp4", "compressed-tensors-W8A8"])
def test_what_is_not_as_the_files_say_is_a_fault(
    kind: str, originals: dict[str, Path], tmp_path: Path
) -> None:
    architecture, make = KINDS[kind]
    loaded = load_checkpoint(make(originals[architecture], tmp_path / "quantized"))
    changed = [
        parameter
        for name, parameter in loaded.model.named_parameters()
        if name.endswith(("layers.1.mlp.experts.down_proj", "layers.1.mlp.down_proj.weight"))
    ]
    assert len(changed) == 1
    changed[0].data[..., 0] *= 1.5
    (fault,) = verify_again(loaded).faults
    assert "layers.1.mlp" in fault
    assert "what was loaded is not what the checkpoint's codes say" in fault
    assert "weight off by" in fault


def test_blocks_that_a_library_cuts_wrongly(tmp_path: Path) -> None:
    original = make_tiny_model(
        tmp_path / "original", "llama", hidden=128, intermediate=192, dtype="bfloat16"
    )
    loaded = load_checkpoint(make_fp8(original, tmp_path / "quantized"))
    faults = loaded.verification.faults
    assert len(faults) == 2 * 3, "192 rows or columns are a block of 128 and one of 64"
    assert all("mlp" in fault and "weight off by" in fault for fault in faults)
    assert "leave the cell out" in loaded.verification.remedy


CORRUPT: dict[str, tuple[str, str, str]] = {
    # kind, the end of a tensor's name, words of the message
    "no scales": ("fp8-mixtral", "o_proj.weight_scale_inv", "o_proj: corrupt: found codes and no"),
    "fewer scales": (
        "compressed-tensors-W4A16",
        "o_proj.weight_scale",
        "o_proj: corrupt: found 128×3 scales for 128×128 weights",
    ),
    "no codes": ("compressed-tensors-W4A16", "o_proj.weight_packed", "o_proj"),
    "no blocks' scales": ("mxfp4", "experts.down_proj_scales", "found no down_proj_scales"),
    "no torchao scales": ("torchao-int4", "o_proj._weight_scale", "found no _weight_scale"),
    "no codes of an expert": ("fp8-mixtral", "experts.2.w1.weight", "experts"),
}


@pytest.mark.parametrize("case", CORRUPT)
def test_a_corrupt_checkpoint_is_told_as_such(
    case: str, originals: dict[str, Path], tmp_path: Path
) -> None:
    kind, end, words = CORRUPT[case]
    architecture, make = KINDS[kind]
    path = make(originals[architecture], tmp_path / "quantized") / "model.safetensors"
    held = load_file(path)
    name = next(one for one in held if one.endswith(end))
    if case == "fewer scales":
        held[name] = held[name][:, :3].contiguous()
    else:
        del held[name]
    with safe_open(path, "pt") as opened:
        metadata = opened.metadata()
    save_file(held, path, metadata=metadata)
    with pytest.raises(QbenchError, match=re.escape(words)):
        load_checkpoint(path.parent)


@pytest.mark.parametrize(
    ("kind", "changed"),
    [
        ("fp8-mixtral", {"weight_block_size": "128"}),
        ("fp8-mixtral", {"weight_block_size": [128, "x"]}),
    ],
)
def test_a_configuration_that_makes_no_sense_is_told_as_such(
    kind: str, changed: dict[str, Any], originals: dict[str, Path], tmp_path: Path
) -> None:
    architecture, make = KINDS[kind]
    path = make(originals[architecture], tmp_path / "quantized") / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"] |= changed
    path.write_text(json.dumps(config))
    with pytest.raises(QbenchError, match=r"w1: corrupt: found a weight_block_size of"):
        load_checkpoint(path.parent)


def spelled(codes: list[int], bits: int) -> list[int]:
    """Codes one after the other, low bits first, in words of 32 bits: by Python's own numbers."""
    number = sum(code << bits * place for place, code in enumerate(codes))
    words = -(-len(codes) * bits // 32)
    return [number >> 32 * word & 0xFFFFFFFF for word in range(words)]


def as_words(rows: list[list[int]]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.int64).to(torch.int32)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_words_are_unpacked(bits: int) -> None:
    generator = torch.Generator().manual_seed(bits)
    codes = torch.randint(0, 2**bits, (3, 40), generator=generator)
    words = as_words([spelled(row, bits) for row in codes.tolist()])
    assert torch.equal(unpacked(words, bits, 40).long(), codes)


INPUTS, OUTPUTS, GROUP = 64, 24, 32


@pytest.mark.parametrize("method", ["gptq", "gptq_v2", "gptq by g_idx", "awq"])
def test_words_of_gptq_and_awq(method: str, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)

    def random(*shape: int) -> torch.Tensor:
        return torch.randint(1, 15, shape, generator=generator)

    codes, zeros = random(INPUTS, OUTPUTS), random(INPUTS // GROUP, OUTPUTS)
    scales = torch.rand(INPUTS // GROUP, OUTPUTS, generator=generator).half()
    groups = torch.arange(INPUTS) // GROUP
    if "g_idx" in method:
        groups = groups[torch.randperm(INPUTS, generator=generator)]
    tensors = {"layer.scales": scales}
    if method == "awq":
        order = [0, 2, 4, 6, 1, 3, 5, 7]
        for name, matrix in (("qweight", codes), ("qzeros", zeros)):
            shuffled = matrix.reshape(len(matrix), -1, 8)[:, :, order].flatten(1)
            tensors[f"layer.{name}"] = as_words([spelled(row, 4) for row in shuffled.tolist()])
    else:
        kept = zeros if method == "gptq_v2" else zeros - 1
        columns = [spelled(column, 4) for column in codes.T.tolist()]
        tensors["layer.qweight"] = as_words(columns).T
        tensors["layer.qzeros"] = as_words([spelled(row, 4) for row in kept.tolist()])
        tensors["layer.g_idx"] = groups.int()
    original = make_tiny_model(tmp_path / "original", "llama")
    folder = write_checkpoint(
        original,
        tmp_path / "quantized",
        tensors,
        bits=4,
        quant_method=method[:4].strip(),
        checkpoint_format="gptq_v2" if method == "gptq_v2" else "gptq",
    )
    with CheckpointFiles(folder) as files:
        defined = definition(files.modules["layer"], files.quantization)
        assert defined is not None
        assert defined.shape == (OUTPUTS, INPUTS)
        parts = [defined.rows(slice(0, 16)), defined.rows(slice(16, OUTPUTS))]
    expected = torch.empty(OUTPUTS, INPUTS)
    for row in range(OUTPUTS):
        for column in range(INPUTS):
            group = int(groups[column])
            steps = int(codes[column, row]) - int(zeros[group, row])
            expected[row, column] = steps * float(scales[group, row])
    assert torch.equal(torch.cat(parts), expected)


@pytest.mark.parametrize("method", METHODS)
def test_each_method_runs_or_says_what_it_needs(
    method: str, tiny_model: Path, tmp_path: Path
) -> None:
    model = model_of(tiny_model, tmp_path, quant_method=method)
    assert model.quantization == method
    here = make_environment(versions=dict.fromkeys(METHODS[method].needs))
    reason = why_skipped(cell_of(model, "stored"), model, here)
    assert reason is not None
    assert "qbench does not measure" not in reason
    assert any(words in reason for words in ("pip install", "needs a GPU", "give the original"))
    nearest = METHODS[method].nearest
    assert (f"such as {nearest}" in reason) == (nearest in precisions())


@pytest.mark.parametrize("qtype", ["qint8", "qint4"])
def test_what_quanto_saved_is_known_by_its_tensors(
    qtype: str, originals: dict[str, Path], tmp_path: Path
) -> None:
    from optimum.quanto import QuantizedModelForCausalLM

    model = load_original(originals["llama"])
    made = QuantizedModelForCausalLM.quantize(model, weights=qtype, exclude="lm_head")
    made.save_pretrained(tmp_path / "quantized")
    resolved = resolve_model(parse_model(str(tmp_path / "quantized"), base=tmp_path))
    assert resolved.quantization == "quanto"
    here = make_environment()
    assert "give the original" in str(why_skipped(cell_of(resolved, "stored"), resolved, here))
    other = str(why_skipped(cell_of(resolved, "bf16"), resolved, here))
    assert "already quantized (quanto)" in other


def test_a_gpu_of_another_kind_is_named(tiny_model: Path, tmp_path: Path) -> None:
    model = model_of(tiny_model, tmp_path, quant_method="fbgemm_fp8")
    installed = dict.fromkeys(METHODS["fbgemm_fp8"].needs, "1")
    gpu = make_environment(versions=installed).model_copy(
        update={"device": "NVIDIA A100", "device_type": "cuda", "capability": (8, 0)}
    )
    reason = str(why_skipped(cell_of(model, "stored"), model, gpu))
    assert "compute capability 9.0 or later; found NVIDIA A100, which has 8.0" in reason
    newer = gpu.model_copy(update={"capability": (9, 0)})
    assert why_skipped(cell_of(model, "stored"), model, newer) is None


@pytest.mark.parametrize("architecture", ["qwen3_moe", "mixtral", "gpt_oss"])
@pytest.mark.parametrize("precision", ["nf4", "int8", "int8-wo"])
def test_experts_that_stay_as_they_were_are_named_and_counted(
    architecture: str, precision: str, originals: dict[str, Path]
) -> None:
    folder = originals[architecture]
    loaded = load_fresh(folder, precision)
    resolved = resolve_model(parse_model(str(folder), base=folder))
    assert resolved.shape is not None
    predicted = make_job(resolved, precision).predicted
    by_kind = dict.fromkeys(StaticBytes.model_fields, 0)
    experts = 0
    for held in inventory(loaded.model):
        by_kind[held.kind] += held.tensor.untyped_storage().nbytes()
        experts += held.logical_weights if held.tensor.dim() == 3 else 0
    assert predicted == StaticBytes(**by_kind)
    named = loaded.verification.details["left_out"]
    assert any(name.endswith("experts") for name in named) or any(
        "experts" in words for words in loaded.verification.warnings
    )
    itemsize = 4 if precision == "fp32" else 2
    assert by_kind["other"] >= experts * itemsize > 0.3 * sum(by_kind.values())
