"""Layers that do not compute what they should are found and named; nothing trusts them then."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from qbench.core.cpu import cpu_features
from qbench.core.record import Record, content_key
from qbench.measures import measures
from qbench.plan.job import Task
from qbench.precisions import options_of, precisions
from qbench.precisions.layer_probe import relative_error
from qbench.running.worker import run_job
from tests.precisions.tiny_cells import TinyCells, Variant, load_fresh, make_job, resolve

if TYPE_CHECKING:
    from pathlib import Path

    from qbench.core.spec import Item
    from qbench.measures.loaded import LoadedModel

TINY = Variant("llama", "llama")
WIDTH_96 = Variant("llama-96", "llama", {"hidden": 96, "intermediate": 192, "layers": 1})
LAYER = "model.layers.1.mlp.up_proj"


def verify_again(loaded: LoadedModel) -> tuple[str, ...]:
    precision = loaded.cell.precision
    return precisions()[precision.name].verify(loaded.model, options_of(precision)).faults


def test_width_96_is_named_layer_by_layer_with_its_shape(cells: TinyCells) -> None:
    faults = cells.load(WIDTH_96, "nf4").verification.faults
    shapes = {
        "self_attn.q_proj": "96×96",
        "self_attn.k_proj": "48×96",
        "self_attn.v_proj": "48×96",
        "self_attn.o_proj": "96×96",
        "mlp.gate_proj": "192×96",
        "mlp.up_proj": "192×96",
    }
    # The only layer whose width is a multiple of 64, down_proj with 192, is right.
    assert len(faults) == len(shapes)
    for (name, shape), fault in zip(shapes.items(), faults, strict=True):
        assert fault.startswith(f"model.layers.0.{name} ({shape}): ")
        assert "does not compute what the layer's codes say" in fault


@pytest.mark.parametrize("name", ["fp32", "bf16", "fp16", "int8"])
def test_width_96_is_right_where_blocks_do_not_matter(name: str, cells: TinyCells) -> None:
    assert cells.load(WIDTH_96, name).verification.faults == ()


def tasks_of(folder: Path, results: Path) -> tuple[Task, ...]:
    text = results / "text.txt"
    text.write_text("def add(first, second):\n    return first + second\n" * 20)
    params: dict[str, dict[str, Any]] = {
        "footprint": {},
        "memory": {"prompt_tokens": 8, "new_tokens": 2},
        "latency": {"prompt_tokens": 8, "new_tokens": 2, "repeats": 1, "min_seconds": 0.01},
        "quality": {"text": str(text), "window": 32},
        "weight_error": {},
    }
    model = resolve(folder)
    items: list[Item] = []
    for name, given in params.items():
        measurement = measures()[name]
        items += measurement.items(measurement.options(**given), model, results)
    return tuple(
        Task(
            item=item,
            key=content_key(item.model_dump()),
            identity=item.model_dump(),
            path=str(results / f"{item.measurement}.json"),
        )
        for item in items
    )


def run_all(folder: Path, results: Path, precision: str) -> dict[str, Record]:
    """The records of all measurements of a model, by measurement."""
    job = make_job(resolve(folder), precision)
    run_job(job.model_copy(update={"tasks": tasks_of(folder, results)}), lambda event: None)
    return {
        name: Record.model_validate_json((results / f"{name}.json").read_text())
        for name in ("footprint", "memory", "latency", "quality", "weight_error")
    }


def test_measurements_that_trust_kernels_are_refused(tmp_path: Path, cells: TinyCells) -> None:
    records = run_all(cells.folder(WIDTH_96), tmp_path, "nf4")
    for name in ("memory", "latency", "quality"):
        record = records[name]
        assert (record.status, record.phase) == ("error", "verify")
        assert record.metrics == ()
        assert record.reason is not None
        assert "model.layers.0.self_attn.q_proj (96×96)" in record.reason
        assert len(record.details["loaded"]["faults"]) == 6
    footprint = records["footprint"]
    assert footprint.status == "ok"
    assert footprint.value("memory.static") == footprint.value("memory.static.predicted")
    assert any("q_proj (96×96)" in warning for warning in footprint.warnings)


def test_a_sound_model_is_measured(tmp_path: Path, cells: TinyCells) -> None:
    records = run_all(cells.folder(TINY), tmp_path, "nf4")
    assert {record.status for record in records.values()} == {"ok"}
    assert all(record.reason is None for record in records.values())
    assert records["footprint"].warnings == ()
    assert records["quality"].details["loaded"]["faults"] == []


@pytest.fixture
def damaged(cells: TinyCells, request: pytest.FixtureRequest) -> LoadedModel:
    """A model of the test's own, in the precision that the test names."""
    return load_fresh(cells.folder(TINY), request.param)


def assert_names_only(faults: tuple[str, ...], what: str) -> None:
    assert len(faults) == 1
    assert faults[0].startswith(f"{LAYER} (128×64)")
    assert what in faults[0]


@pytest.mark.parametrize("damaged", ["fp4", "nf4", "nf4-dq"], indirect=True)
def test_a_lost_quantization_state(damaged: LoadedModel) -> None:
    layer = damaged.model.get_submodule(LAYER)
    # Else bitsandbytes takes the one from the other when the layer computes.
    layer.weight.quant_state = layer.quant_state = None
    assert_names_only(verify_again(damaged), "holds no quantization state")


@pytest.mark.parametrize("damaged", ["fp4", "nf4"], indirect=True)
def test_a_block_maximum_that_is_no_number(damaged: LoadedModel) -> None:
    damaged.model.get_submodule(LAYER).weight.quant_state.absmax[3] = float("nan")
    assert_names_only(verify_again(damaged), "64 of its weights are infinite or not numbers")


@pytest.mark.parametrize("damaged", ["fp4", "nf4"], indirect=True)
def test_a_code_table_of_another_format(damaged: LoadedModel) -> None:
    state = damaged.model.get_submodule(LAYER).weight.quant_state
    state.code = state.code.flip(0)
    assert_names_only(verify_again(damaged), "does not compute what the layer's codes say")


@pytest.mark.parametrize("damaged", ["nf4"], indirect=True)
def test_a_layer_of_another_format(damaged: LoadedModel) -> None:
    damaged.model.get_submodule(LAYER).weight.quant_state.quant_type = "fp4"
    assert_names_only(verify_again(damaged), "fp4")


@pytest.mark.parametrize("damaged", ["int8"], indirect=True)
def test_a_lost_scale(damaged: LoadedModel) -> None:
    layer = damaged.model.get_submodule(LAYER)
    layer.state.SCB = layer.state.SCB[:-1]
    assert_names_only(verify_again(damaged), "127 scales for 128 output rows")


@pytest.mark.parametrize("damaged", ["nf4", "int8"], indirect=True)
def test_a_layer_that_was_never_quantized(damaged: LoadedModel) -> None:
    import torch

    parent, _, own_name = LAYER.rpartition(".")
    setattr(damaged.model.get_submodule(parent), own_name, torch.nn.Linear(64, 128, bias=False))
    before = damaged.verification.details
    precision = damaged.cell.precision
    details = precisions()[precision.name].verify(damaged.model, options_of(precision)).details
    assert details["left_out"] == [LAYER, "lm_head"]
    assert details["quantized_modules"] == before["quantized_modules"] - 1
    assert details["quantized_weights"] == before["quantized_weights"] - 64 * 128
    assert details["quantized_share"] < before["quantized_share"]


@pytest.mark.parametrize("damaged", ["nf4"], indirect=True)
def test_a_model_without_a_quantized_layer(damaged: LoadedModel) -> None:
    import torch

    for name, module in list(damaged.model.named_modules()):
        if isinstance(module, torch.nn.Linear) and name != "lm_head":
            plain = torch.nn.Linear(module.in_features, module.out_features, bias=False)
            damaged.model.set_submodule(name, plain)
    assert verify_again(damaged) == ("no linear layer of the model was quantized",)


@pytest.mark.parametrize("damaged", ["bf16"], indirect=True)
def test_a_floating_layer_of_another_type(damaged: LoadedModel) -> None:
    damaged.model.get_submodule(LAYER).float()
    assert_names_only(verify_again(damaged), "torch.float32")


@pytest.mark.skipif("avx512_bf16" not in cpu_features(), reason="this CPU has no AVX512-BF16")
@pytest.mark.parametrize("damaged", ["fp4", "nf4", "nf4-dq"], indirect=True)
def test_weights_that_the_cpu_kernel_repacked(damaged: LoadedModel) -> None:
    import torch

    layer: Any = damaged.model.get_submodule(LAYER)
    layer.support_avx512bf16_for_cpu = True
    with torch.inference_mode():
        damaged.model(input_ids=torch.tensor([[1, 2, 3]]))
    assert_names_only(verify_again(damaged), "repacked")


def test_a_checkpoint_that_lacks_tensors_is_refused(tmp_path: Path, cells: TinyCells) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    folder = tmp_path / "holes"
    shutil.copytree(cells.folder(TINY), folder)
    tensors = load_file(folder / "model.safetensors")
    del tensors[f"{LAYER}.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    records = run_all(folder, tmp_path, "bf16")
    assert {record.status for record in records.values()} == {"error"}
    assert all(f"{LAYER}.weight" in str(record.reason) for record in records.values())


@pytest.mark.parametrize("precision", ["nf4", "nf4-dq", "int8"])
def test_a_tensor_that_lies_the_other_way_round(
    tmp_path: Path, cells: TinyCells, precision: str
) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    folder = tmp_path / "turned"
    shutil.copytree(cells.folder(TINY), folder)
    tensors = load_file(folder / "model.safetensors")
    tensors[f"{LAYER}.weight"] = tensors[f"{LAYER}.weight"].T.contiguous()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    records = run_all(folder, tmp_path, precision)
    for name in ("memory", "latency", "quality"):
        assert records[name].status == "error"
        reason = str(records[name].reason)
        assert f"{LAYER} (128×64): the checkpoint holds its weights as 64×128" in reason
        assert "one that matches its config.json" in reason
        assert "another device" not in reason


RWKV = Variant("rwkv", "rwkv", {"rescale_every": 1, "attention_hidden_size": 64})


def test_layers_that_become_another_format_in_the_first_forward_pass(cells: TinyCells) -> None:
    """RWKV rescales what its blocks give, and quantizes anew: to fp4, whatever it was."""
    found = cells.load(RWKV, "nf4").verification
    assert [fault.partition(" (")[0] for fault in found.faults] == [
        f"rwkv.blocks.{block}.{layer}"
        for block in (0, 1)
        for layer in ("attention.output", "feed_forward.value")
    ]
    assert all("holds the code book" in fault for fault in found.faults)
    assert found.remedy.endswith("leave the cell out")


def test_layers_that_are_rescaled_in_the_first_forward_pass(cells: TinyCells) -> None:
    """RWKV divides the scales of int8, which must lie where it looks for them."""
    import torch

    cell, reference = cells.load(RWKV, "int8"), cells.load(RWKV, "fp32")
    assert cell.verification.faults == ()
    ids = torch.arange(5, 45)[None]
    with torch.inference_mode():
        found, expected = (one.model(input_ids=ids).logits.float() for one in (cell, reference))
    assert relative_error(found, expected) < 0.05


@pytest.mark.parametrize("precision", ["nf4", "nf4-dq", "int8", "int4-g32", "w8a8"])
def test_what_changes_while_it_is_measured(
    tmp_path: Path, cells: TinyCells, precision: str
) -> None:
    """Layers that are sound when verified, and have other constants after so many passes."""
    import torch

    from qbench.precisions.inventory import inventory
    from qbench.running.loading import load
    from qbench.running.worker import _take

    job = make_job(resolve(cells.folder(TINY)), precision)
    loaded = load(job, lambda phase: None)
    assert loaded.verification.faults == ()
    layer = loaded.model.get_submodule(LAYER)

    def spoil(*_: Any) -> None:
        held = [one for one in inventory(loaded.model) if one.module == LAYER]
        state = next(one.tensor for one in held if one.kind == "quantization_state")
        with torch.no_grad():
            state.mul_(2)

    tasks = {task.item.measurement: task for task in tasks_of(cells.folder(TINY), tmp_path)}
    before, _ = _take(job, tasks["latency"], loaded, job.environment)
    assert before.status == "ok"
    handle = layer.register_forward_hook(spoil)
    record, _ = _take(job, tasks["memory"], loaded, job.environment)
    handle.remove()
    assert record.status == "error"
    assert record.reason is not None
    assert record.reason.startswith(f"{LAYER}: the model or a library changed their codes")
    footprint, _ = _take(job, tasks["footprint"], loaded, job.environment)
    assert footprint.status == "ok"
    assert any(f"{LAYER}: the model or a library changed" in one for one in footprint.warnings)


@pytest.mark.parametrize("precision", ["nf4", "int8", "int8-wo"])
def test_a_model_that_multiplies_with_packed_codes_itself(cells: TinyCells, precision: str) -> None:
    mamba = Variant("mamba", "mamba", {"state_size": 8})
    found = cells.load(mamba, precision).verification
    assert "backbone.layers.0.mixer.dt_proj" in found.faults[0]
    assert "the model's own code multiplies with its weight" in found.faults[0]
    assert found.remedy.startswith("No machine can hold the model in this precision")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "nf4", "nf4-dq", "int8", "int8-wo", "w8a8"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_checkpoint_that_holds_no_numbers(
    tmp_path: Path, cells: TinyCells, precision: str, value: float
) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    folder = tmp_path / "spoilt"
    shutil.copytree(cells.folder(TINY), folder)
    tensors = load_file(folder / "model.safetensors")
    tensors[f"{LAYER}.weight"][3, 5] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    records = run_all(folder, tmp_path, precision)
    for record in (records["quality"], records["weight_error"]):
        assert record.status == "nan"
        assert f"{LAYER}.weight (1 of 8192 values)" in str(record.reason)
        assert "a good copy of the checkpoint" in str(record.reason)
        assert "kernel" not in str(record.reason)
    assert records["footprint"].status == "ok"
