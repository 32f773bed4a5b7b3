"""A checkpoint that is already quantized is what the same model is, quantized on loading."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from qbench.core.errors import MeasurementError, ModelError
from qbench.core.spec import Cell, Item, PrecisionRef, ResolvedModel, StaticBytes, TuningRef
from qbench.plan.items import why_not_taken, why_skipped
from qbench.precisions import precisions
from qbench.precisions.inventory import inventory, logical_weights
from qbench.precisions.stored import StoredOptions
from qbench.predict.peaks import Peak, predicted_peak
from qbench.sources.models.resolve import parse_model, resolve_model
from tests.inline_runs import run_inline
from tests.precisions.tiny_cells import load_fresh, make_job, resolve
from tests.record_factory import make_environment
from tests.tiny_models import make_tiny_model
from tests.workplace import Workplace, write_text

if TYPE_CHECKING:
    from qbench.measures.loaded import LoadedModel

CASES: list[tuple[str, str, dict[str, Any]]] = [
    ("llama", "nf4", {}),
    ("llama", "nf4-dq", {"compute_dtype": "fp32", "dtype": "bf16"}),
    ("llama", "fp4", {"compute_dtype": "fp16"}),
    ("llama", "int8", {}),
    ("gpt2", "nf4-dq", {}),
    ("gpt2", "int8", {"dtype": "fp32"}),
    ("opt", "nf4", {"compute_dtype": "bf16", "dtype": "fp32"}),
    ("opt", "int8", {}),
]
SUITE = """\
models: [{source: ./quantized, original: ./original}, {source: ./original}]
precisions: [fp32, nf4-dq, stored]
measure:
  footprint:
  memory: {prompt_tokens: 4, new_tokens: 2}
  quality: {text: text.txt, window: 32}
  weight_error:
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, LoadedModel]]:
    """For each case the folder of the quantized checkpoint, and the model it was saved from."""
    made = {}
    for architecture, precision, options in CASES:
        folder = tmp_path_factory.mktemp(f"{architecture}-{precision}")
        original = make_tiny_model(folder / "original", architecture, hidden=128, tied=True)
        loaded = load_fresh(original, precision, **options)
        loaded.model.save_pretrained(folder / "quantized")
        made[f"{architecture}-{precision}"] = (folder / "quantized", loaded)
    return made


def load_stored(folder: Path) -> LoadedModel:
    from qbench.running.loading import load

    resolved = resolve_model(parse_model(str(folder), base=folder))
    return load(make_job(resolved, "stored"), lambda phase: None)


def measured_bytes(loaded: LoadedModel) -> StaticBytes:
    by_kind = dict.fromkeys(StaticBytes.model_fields, 0)
    for held in inventory(loaded.model):
        by_kind[held.kind] += held.tensor.untyped_storage().nbytes()
    return StaticBytes(**by_kind)


@pytest.mark.slow
@pytest.mark.parametrize("case", [f"{a}-{p}" for a, p, _ in CASES])
def test_the_same_bytes_logits_and_verification(
    case: str, saved: dict[str, tuple[Path, LoadedModel]]
) -> None:
    folder, loaded = saved[case]
    stored = load_stored(folder)
    ids = torch.arange(20).reshape(1, 20)
    with torch.inference_mode():
        expected = loaded.model(input_ids=ids).logits
        assert torch.equal(stored.model(input_ids=ids).logits, expected)
    assert stored.predicted == measured_bytes(stored) == loaded.predicted
    assert stored.verification.faults == ()
    assert stored.verification.details == {
        **loaded.verification.details,
        "stored": "bitsandbytes",
    }
    assert stored.resolved.quantization == "bitsandbytes"
    shape = stored.resolved.shape
    assert shape is not None
    assert shape.weights == logical_weights(stored.model) == logical_weights(loaded.model)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["llama-nf4-dq", "llama-fp4", "llama-int8", "gpt2-nf4-dq"])
def test_its_peaks_are_those_of_the_same_precision(
    case: str, saved: dict[str, tuple[Path, LoadedModel]]
) -> None:
    folder, loaded = saved[case]
    sizes = {"batch": 2, "prompt_tokens": 32, "new_tokens": 2}
    item = Item(measurement="memory", slug="x", params=sizes)

    def peak(model: ResolvedModel, precision: PrecisionRef) -> Peak | None:
        return predicted_peak(Cell(model=model.ref, precision=precision), model, item)

    expected = peak(loaded.resolved, loaded.cell.precision)
    assert expected is not None
    assert expected.total
    name = PrecisionRef(label="stored", name="stored", options={})
    assert peak(resolve(folder), name) == expected


def test_a_layer_that_was_left_out_is_counted_and_named(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    original = make_tiny_model(tmp_path / "original", "llama", hidden=128)
    config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=["down_proj", "lm_head"])
    model = AutoModelForCausalLM.from_pretrained(
        original, quantization_config=config, dtype=torch.bfloat16, device_map={"": "cpu"}
    )
    model.save_pretrained(tmp_path / "quantized")
    stored = load_stored(tmp_path / "quantized")
    assert stored.predicted == measured_bytes(stored)
    assert stored.verification.details["quantized_modules"] == 2 * 6
    assert len(stored.verification.details["left_out"]) == 2 + 1
    assert "left unquantized" in stored.verification.warnings[0]


def test_a_quantization_state_that_is_not_whole_is_named(tmp_path: Path) -> None:
    loaded = load_fresh(make_tiny_model(tmp_path / "original", "llama", hidden=128), "nf4")
    loaded.model.save_pretrained(tmp_path / "quantized")
    file = tmp_path / "quantized" / "model.safetensors"
    name = "model.layers.0.mlp.down_proj.weight"
    kept = {key: one for key, one in load_file(file).items() if key != f"{name}.absmax"}
    save_file(kept, file, metadata={"format": "pt"})
    with pytest.raises(MeasurementError, match=f"{name}: the files lack its 'absmax'.*download"):
        load_stored(tmp_path / "quantized")


@pytest.mark.slow
def test_an_architecture_that_only_transformers_knows(tmp_path: Path) -> None:
    loaded = load_fresh(make_tiny_model(tmp_path / "original", "stablelm", hidden=128), "nf4-dq")
    loaded.model.save_pretrained(tmp_path / "quantized")
    stored = load_stored(tmp_path / "quantized")
    assert stored.resolved.shape is not None
    assert stored.resolved.shape.origin == "meta"
    assert stored.predicted == measured_bytes(stored)


def model_of(folder: Path, tmp_path: Path, **quantization: Any) -> ResolvedModel:
    """A copy of a model that its configuration calls quantized, and that holds some codes."""
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    held = load_file(copy / "model.safetensors")
    save_file({**held, "codes": torch.zeros(1, dtype=torch.uint8)}, copy / "model.safetensors")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "quantization_config": quantization}))
    return resolve_model(parse_model(str(copy), base=tmp_path))


def cell_of(model: ResolvedModel, precision: str, tuned_in: str | None = None) -> Cell:
    held = PrecisionRef(label=precision, name=precision)
    tuning = None
    if tuned_in is not None:
        base = PrecisionRef(label=tuned_in, name=tuned_in)
        tuning = TuningRef(label="lora", arm="lora", method="lora", precision=base)
    return Cell(model=model.ref, precision=held, tuning=tuning)


@pytest.mark.parametrize(
    ("method", "packages"),
    [
        ("gptq", ("gptqmodel, optimum", "pip install 'qbench-llm[gptq]'")),
        ("awq", ("gptqmodel", "pip install 'qbench-llm[gptq]'")),
        ("compressed-tensors", ("pip install 'qbench-llm[compressed-tensors]'",)),
    ],
)
def test_a_package_that_is_missing_is_named(
    method: str, packages: tuple[str, ...], tiny_model: Path, tmp_path: Path
) -> None:
    model = model_of(tiny_model, tmp_path, quant_method=method)
    environment = make_environment(versions={"accelerate": "1.0"})
    reason = why_skipped(cell_of(model, "stored"), model, environment)
    assert reason is not None
    assert all(package in reason for package in packages)
    assert "pip install" in reason


def test_what_does_not_go_together_is_skipped_with_the_reason(
    tiny_model: Path, tmp_path: Path
) -> None:
    original = resolve_model(parse_model(str(tiny_model), base=tmp_path))
    quantized = model_of(tiny_model, tmp_path, load_in_4bit=True)
    packages = ("bitsandbytes", "accelerate", "peft")
    environment = make_environment(versions=dict.fromkeys(packages, "1"))
    cases = {
        ("nf4", None): "cannot be held in another precision; add `stored`",
        ("nf4", "nf4"): "tunes original models",
        ("stored", "stored"): "tunes original models",
        ("stored", None): None,
    }
    for (precision, tuned_in), words in cases.items():
        reason = why_skipped(cell_of(quantized, precision, tuned_in), quantized, environment)
        assert (words is None) == (reason is None)
        assert words is None or words in str(reason)
    for precision, tuned_in in [("stored", None), ("bf16", "stored")]:
        reason = why_skipped(cell_of(original, precision, tuned_in), original, environment)
        assert "the checkpoint is not quantized" in str(reason)
    item = Item(measurement="weight_error", slug="linear")
    assert "codes alone" in str(why_not_taken(cell_of(quantized, "stored"), item))


@pytest.mark.parametrize("precision", ["fp32", "nf4", "stored"])
def test_a_configuration_that_outlived_its_codes(
    precision: str, tiny_model: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(tiny_model, tmp_path / "stale"))
    config = json.loads((copy / "config.json").read_text())
    stale = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (copy / "config.json").write_text(json.dumps({**config, "quantization_config": stale}))
    model = resolve_model(parse_model(str(copy), base=tmp_path))
    reason = str(why_skipped(cell_of(model, precision), model, make_environment()))
    assert "quantized (bitsandbytes), and none of its weights is" in reason
    assert "remove quantization_config from config.json" in reason


def test_a_method_that_is_not_known_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    model = model_of(tiny_model, tmp_path, quant_method="Tomorrows")
    reason = str(why_skipped(cell_of(model, "stored"), model, make_environment()))
    assert "quantized by tomorrows, for which transformers has no loader" in reason
    assert "expected one of bitsandbytes, gptq, awq" in reason


def test_a_quantization_that_does_not_say_how_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no quant_method; expected the method's name"):
        model_of(tiny_model, tmp_path, bits=4)


def test_random_weights_of_a_quantized_checkpoint_are_refused(
    tiny_model: Path, tmp_path: Path
) -> None:
    model = model_of(tiny_model, tmp_path, load_in_8bit=True)
    with pytest.raises(ModelError, match="give the original model"):
        resolve_model(parse_model(f"random:{model.folder}", base=tmp_path))


def test_the_header_of_a_gptq_checkpoint_gives_its_bytes(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = make_tiny_model(tmp_path / "model", "llama", dtype="float16", layers=1)
    held = load_file(folder / "model.safetensors")
    expected = {"codes": 0, "state": 0}
    for name in [name for name in held if name.endswith("_proj.weight")]:
        rows, columns = held.pop(name).shape
        parts = {
            "qweight": torch.zeros(columns // 8, rows, dtype=torch.int32),
            "qzeros": torch.zeros(columns // 64, rows // 8, dtype=torch.int32),
            "scales": torch.zeros(columns // 64, rows, dtype=torch.float16),
            "g_idx": torch.zeros(columns, dtype=torch.int32),
        }
        held |= {name.replace("weight", part): tensor for part, tensor in parts.items()}
        expected["codes"] += rows * columns // 2
        expected["state"] += sum(t.nbytes for part, t in parts.items() if part != "qweight")
    save_file(held, folder / "model.safetensors")
    model = model_of(folder, tmp_path, quant_method="gptq", bits=4, group_size=64)
    assert model.shape is not None
    found = precisions()["stored"].storage(model.shape, StoredOptions())
    assert (found.linear, found.quantization_state) == (expected["codes"], expected["state"])
    plain = sum(t.nbytes for name, t in held.items() if "_proj." not in name)
    assert found.total - found.buffers == sum(expected.values()) + plain


class Words(torch.nn.Module):
    """A layer of GPTQ's 4-bit words; a kernel that keeps them in bytes computes from these."""

    def __init__(self, held: dict[str, torch.Tensor], *, repacks: bool) -> None:
        super().__init__()
        self.in_features, self.out_features = len(held["g_idx"]), held["scales"].shape[1]
        for name, tensor in held.items():
            self.register_buffer(name, tensor)
        self.repacks = repacks

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        shifts = torch.arange(0, 32, 4, dtype=torch.int32)
        if self.qweight.dtype == torch.int32:
            codes = (self.qweight[:, None] >> shifts[:, None] & 15).reshape(self.in_features, -1)
            if self.repacks:
                self.qweight = codes.to(torch.uint8)
        else:
            codes = self.qweight.int()
        zeros = (self.qzeros[:, :, None] >> shifts & 15).reshape(len(self.qzeros), -1) + 1
        groups = self.g_idx.long()
        return inputs @ ((codes - zeros[groups]) * self.scales[groups])


def make_words(weight: torch.Tensor, group: int = 32) -> dict[str, torch.Tensor]:
    """GPTQ's tensors of a weight (out, in), by round-to-nearest."""
    columns = weight.T.reshape(-1, group, len(weight))
    scales = columns.abs().amax(1) / 7
    codes = ((columns / scales[:, None]).round() + 8).reshape(weight.T.shape).int()
    shifts = torch.arange(0, 32, 4, dtype=torch.int32)
    zeros = torch.full((len(scales), len(weight) // 8, 8), 7, dtype=torch.int32)
    return {
        "qweight": (codes.reshape(-1, 8, len(weight)) << shifts[:, None]).sum(1, dtype=torch.int32),
        "qzeros": (zeros << shifts).sum(-1, dtype=torch.int32),
        "scales": scales,
        "g_idx": (torch.arange(weight.shape[1]) // group).int(),
    }


@pytest.mark.parametrize("case", ["as it is", "repacks", "another kernel"])
def test_layers_of_words_are_held_against_their_file(case: str, tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "model", "llama")
    model = load_fresh(folder, "fp32").model
    held = load_file(folder / "model.safetensors")
    names = [name for name, _ in model.named_modules() if name.endswith("up_proj")]
    weights = sum(model.get_submodule(name).weight.numel() for name in names)
    for name in names:
        words = make_words(held.pop(f"{name}.weight"))
        held |= {f"{name}.{own}": tensor for own, tensor in words.items()}
        layer = Words(words, repacks=case == "repacks")
        if case == "another kernel":
            layer.qzeros = layer.qzeros + 1  # as one that takes its second form for its first
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, layer)
    save_file(held, folder / "model.safetensors")
    resolved = model_of(folder, tmp_path, quant_method="gptq", bits=4, group_size=32)
    model.name_or_path = resolved.folder
    logical = logical_weights(model)
    found = precisions()["stored"].verify(model, StoredOptions())
    details = found.details
    assert (details["quantized_modules"], details["linear_modules"]) == (len(names), 2 * 7)
    assert details["stored"] == "gptq"
    assert len(details["left_out"]) == 2 * 6 + 1
    if case == "another kernel":
        assert len(found.faults) == len(names)
        assert all("output off by" in fault for fault in found.faults)
        return
    assert found.faults == ()
    assert details["largest_output_error"] < 1e-5
    assert details["quantized_weights"] == weights
    assert details["quantized_share"] == weights / logical
    repacked = [text for text in found.warnings if "in an order of their own" in text]
    assert bool(repacked) == (case == "repacks")
    kept = {"linear", "quantization_state"}
    size = sum(one.tensor.nbytes for one in inventory(model) if one.kind in kept)
    expected = size - weights // 2 if repacked else None
    assert details.get("nominal_linear_bytes") == expected, "as the file has them"
    codes = [one for one in inventory(model) if one.kind == "linear" and one.module in names]
    assert sum(one.logical_weights for one in codes) == weights
    assert sum(one.tensor.nbytes for one in codes) == (weights if repacked else weights // 2)


def test_layers_of_a_format_that_is_not_written_out_are_named(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "model", "llama")
    model = load_fresh(folder, "fp32").model
    held = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.up_proj"
    held[f"{name}.weight"] = torch.zeros(held[f"{name}.weight"].shape, dtype=torch.uint8)
    save_file(held, folder / "model.safetensors")
    model.name_or_path = model_of(folder, tmp_path, quant_method="quark").folder
    found = precisions()["stored"].verify(model, StoredOptions())
    assert found.details["not_checked"] == [name]
    assert f"1 layers ({name}) are not compared" in found.warnings[0]


def test_a_model_without_codes_is_a_fault(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "model", "llama")
    model = load_fresh(folder, "fp32").model
    model.name_or_path = model_of(folder, tmp_path, quant_method="awq").folder
    found = precisions()["stored"].verify(model, StoredOptions())
    assert found.faults == ("no layer of the model holds codes",)


def test_a_suite_measures_it_beside_its_original(tmp_path: Path) -> None:
    folder = tmp_path / "place"
    folder.mkdir()
    write_text(folder)
    original = make_tiny_model(folder / "original", "llama", hidden=128)
    shutil.copytree(original, folder / "quantized")
    (folder / "quantized" / "model.safetensors").unlink()
    load_fresh(original, "nf4-dq").model.save_pretrained(folder / "quantized")
    place = Workplace(folder, original)
    place.write("suite.yaml", SUITE)
    planned = place.call_here("plan", "suite.yaml")
    assert planned.code == 0
    ran = run_inline(place)
    assert not ran.result.failed, ran.output
    assert place.call_here("report").code == 0
    records = {
        (record.cell.slug, record.item.measurement): record for record in place.records().values()
    }
    for name in ("footprint", "memory", "quality"):
        stored = records["quantized--stored", name]
        on_loading = records["original--nf4-dq", name]
        assert (stored.status, on_loading.status) == ("ok", "ok"), stored.reason
        assert records["quantized--nf4-dq", name].status == "skipped"
        assert "add `stored`" in (records["quantized--nf4-dq", name].reason or "")
        assert "not quantized" in (records["original--stored", name].reason or "")
        if name == "footprint":
            for metric in on_loading.metrics:
                if metric.name not in ("load_time", "disk_bytes"):
                    assert stored.value(metric.name) == metric.value, metric.name
        if name == "quality":
            for metric in on_loading.metrics:
                assert stored.value(metric.name) == metric.value, metric.name
            assert stored.value("kl.mean")
    assert records["quantized--stored", "weight_error"].status == "skipped"
    assert not records["quantized--stored", "quality"].reference
    assert records["quantized--stored", "quality"].item.held_against == "fp32"
    assert records["original--nf4-dq", "quality"].item.held_against == "fp32"
    assert records["original--fp32", "quality"].reference
    (page,) = (folder / "reports").glob("*.md")
    text = page.read_text(encoding="utf-8")
    assert "of the predictions from fp32's, in nats" in text
    first = text[text.index("| precision") :].split("\n\n")[0]
    rows = first.splitlines()[2:]
    named = [line.split("|")[1].strip() for line in rows]
    assert named == ["fp32 (reference)", "nf4-dq", "quantized (stored)"]
    on_loading, as_stored = ([cell.strip() for cell in line.split("|")] for line in rows[-2:])
    assert on_loading[-4:] == as_stored[-4:], "perplexity, its change from fp32's, and KL"
    assert float(as_stored[-3])
    (html,) = (folder / "reports").glob("*.html")
    assert "quantized (stored)" in html.read_text(encoding="utf-8")
    told = place.call_here("recommend", "results").output
    assert "quantized (stored)" in told
    static = records["quantized--stored", "footprint"].value("memory.static")
    assert f"{static:,.0f}" in planned.output
