"""Several adapters on one base: exact bytes, and a model that is left as it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from qbench.core.checkpoint import Checkpoint
from qbench.core.errors import MeasurementError
from qbench.core.spec import Cell
from qbench.finetune.artifact import artifact_folder
from qbench.finetune.serve.adapter_storage import store_adapter
from qbench.finetune.serve.deployment import ServedModel, load_deployed, served_precision
from qbench.measures.adapters import ADAPTERS, ROUNDS, AdaptersOptions
from qbench.measures.footprint import FOOTPRINT, FootprintOptions
from qbench.precisions import options_of, precisions
from qbench.predict.static import adapter_static_bytes
from tests.finetune.made_adapters import make_adapter, tuning_ref
from tests.precisions.tiny_cells import load_fresh

if TYPE_CHECKING:
    from qbench.core.spec import Deployment
    from qbench.measures.loaded import LoadedModel, Outcome

KEY = "0123456789abcdef"
RANK = 4


def serve(
    base: Path, precision: str, deployment: Deployment = "attached", **config: Any
) -> LoadedModel:
    """A served cell of a made-up artifact, as the worker hands it to a measurement."""
    config = {"target_modules": None, "r": RANK, **config}
    adapter = make_adapter(base, artifact_folder(KEY), **config)
    options = {
        "rank": RANK,
        "target": config["target_modules"] or "default",
        "dora": config.get("use_dora", False),
        "init": "default",
        "extra": {},
    }
    tuning = tuning_ref(precision, options=options)
    served = served_precision(tuning, deployment)
    model = load_deployed(
        ServedModel(Checkpoint(base, "cpu"), tuning, deployment, served, adapter.folder)
    )
    loaded = load_fresh(base, served.name)
    shape = loaded.resolved.shape
    assert shape is not None
    assert loaded.predicted is not None
    adapters = adapter_static_bytes(shape, loaded.resolved.architecture, tuning, deployment, served)
    return replace(
        loaded,
        model=model,
        cell=Cell(model=loaded.cell.model, precision=served, tuning=tuning, deploy=deployment),
        verification=precisions()[served.name].verify(model, options_of(served)),
        predicted=loaded.predicted.model_copy(update={"adapters": adapters}),
        artifact_key=KEY,
    )


def measure(loaded: LoadedModel, count: int = 3) -> Outcome:
    (item,) = ADAPTERS.items(AdaptersOptions(count=count), loaded.resolved, Path())
    return ADAPTERS.measure(loaded, item)


def values(outcome: Outcome) -> dict[str, float | None]:
    return {metric.name: metric.value for metric in outcome.metrics}


def state(loaded: LoadedModel) -> dict[str, Any]:
    """Everything about the model that a measurement could leave changed."""
    import torch

    model: Any = loaded.model
    with torch.inference_mode():
        logits = model(input_ids=torch.arange(1, 17)[None]).logits
    return {
        "modules": [(name, type(module).__name__) for name, module in model.named_modules()],
        "training": any(module.training for module in model.modules()),
        "parameters": [
            (name, tuple(p.shape), p.dtype, p.requires_grad, p.double().sum().item())
            for name, p in model.named_parameters()
        ],
        "active": [
            (
                name,
                list(module.active_adapters),
                sorted(getattr(module, "r", ())),
                sorted(getattr(module, "scaling", ())),
            )
            for name, module in model.named_modules()
            if hasattr(module, "active_adapters") and hasattr(module, "base_layer")
        ],
        "configs": list(model.peft_config),
        "logits": logits.tolist(),
    }


@pytest.mark.parametrize("name", ["fp32", "bf16", "int8", "nf4"])
def test_bytes_are_those_of_the_tensors_and_files(name: str, tiny_model: Path) -> None:
    loaded = serve(tiny_model, name)
    found = values(measure(loaded))
    # Two layers, query (64 to 64) and value (64 to 32).
    weights = 2 * RANK * ((64 + 64) + (64 + 32))
    folder = artifact_folder(KEY)
    assert found["adapters.bytes_each"] == weights * (4 if name == "fp32" else 2)
    stored = (folder / "adapter_model.safetensors").stat().st_size
    assert found["adapters.file_bytes"] == stored > 4 * weights
    assert found["adapters.file_bytes_int8"] == len(store_adapter(folder, "adapter-int8"))
    assert found["adapters.file_bytes_nf4"] == len(store_adapter(folder, "adapter-nf4"))


def test_modules_and_rows_count_with_each_further_adapter(tiny_model: Path) -> None:
    whole = {"modules_to_save": ["lm_head"], "trainable_token_indices": [3, 5]}
    loaded = serve(tiny_model, "bf16", **whole)
    head: Any = loaded.model.get_output_embeddings()
    factors = 2 * RANK * ((64 + 64) + (64 + 32)) * 2
    rows = 2 * 64 * (4 + 4)  # each with what it was before, in fp32
    expected = factors + head.weight.numel() * 2 + rows
    assert values(measure(loaded))["adapters.bytes_each"] == expected


def test_every_switch_is_timed_and_every_metric_recorded(tiny_model: Path) -> None:
    outcome = measure(serve(tiny_model, "bf16"), count=3)
    assert {metric.name for metric in outcome.metrics} == {one.name for one in ADAPTERS.metrics}
    (switch,) = [metric for metric in outcome.metrics if metric.name == "adapters.switch_time"]
    assert switch.samples is not None
    assert len(switch.samples) == 3 * ROUNDS
    assert switch.value == pytest.approx(sorted(switch.samples)[len(switch.samples) // 2])
    assert outcome.details["count"] == 3


@pytest.mark.parametrize("name", ["bf16", "int8", "nf4-dq"])
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"use_dora": True},
        {"target_modules": "all-linear", "lora_dropout": 0.1},
        {"modules_to_save": ["lm_head", "norm"]},
        {"trainable_token_indices": [3, 5]},
    ],
    ids=["plain", "dora", "dropout", "modules", "token rows"],
)
def test_the_model_is_left_as_it_was(name: str, config: dict[str, Any], tiny_model: Path) -> None:
    if name == "int8" and "use_dora" in config:
        pytest.skip("PEFT cannot do DoRA on int8")
    loaded = serve(tiny_model, name, **config)
    before = state(loaded)
    measure(loaded)
    assert state(loaded) == before


def test_a_failure_leaves_the_model_as_it_was(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from qbench.finetune.serve import attach

    loaded = serve(tiny_model, "bf16")
    before = state(loaded)
    cast, calls = attach.cast_adapter, []

    def fail(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == 2:
            raise MemoryError("no memory left")
        cast(*arguments)

    monkeypatch.setattr(attach, "cast_adapter", fail)
    with pytest.raises(MemoryError):
        measure(loaded, count=4)
    assert state(loaded) == before


@pytest.mark.parametrize("deployment", ["merged", "adapter-nf4"])
def test_a_cell_without_its_adapter_attached_is_refused(
    deployment: Deployment, tiny_model: Path
) -> None:
    with pytest.raises(MeasurementError, match="measure `adapters` on cells that"):
        measure(serve(tiny_model, "bf16", deployment))


def test_one_adapter_is_no_several() -> None:
    with pytest.raises(ValueError, match="greater than or equal to 2"):
        AdaptersOptions(count=1)


@pytest.mark.parametrize("name", ["fp32", "int8", "nf4"])
@pytest.mark.parametrize("dora", [False, True])
def test_the_footprint_tells_what_the_adapter_takes(
    name: str, tiny_model: Path, *, dora: bool
) -> None:
    if name == "int8" and dora:
        pytest.skip("PEFT cannot do DoRA on int8")
    loaded = serve(tiny_model, name, use_dora=dora)
    untuned = load_fresh(tiny_model, name)
    (item,) = FOOTPRINT.items(FootprintOptions(), loaded.resolved, Path())
    outcome = FOOTPRINT.measure(loaded, item)
    found, plain = values(outcome), values(FOOTPRINT.measure(untuned, item))
    weights = 2 * RANK * ((64 + 64) + (64 + 32))
    magnitudes = 2 * (64 + 32) if dora else 0
    size = 4 if name == "fp32" else 2
    assert found["memory.static.adapters"] == weights * size + magnitudes * 4
    assert "memory.static.adapters" not in plain
    assert outcome.warnings == ()
    assert found["memory.static.predicted"] == found["memory.static"]
    plain_static = plain["memory.static"]
    assert plain_static is not None
    assert found["memory.static"] == plain_static + weights * size + magnitudes * 4
    assert found["bits_per_weight.linear"] == plain["bits_per_weight.linear"]


@pytest.mark.parametrize("deployment", ["merged", "merged-requantized", "merged-in-place"])
def test_a_merged_adapter_takes_nothing(deployment: Deployment, tiny_model: Path) -> None:
    loaded = serve(tiny_model, "nf4", deployment)
    (item,) = FOOTPRINT.items(FootprintOptions(), loaded.resolved, Path())
    outcome = FOOTPRINT.measure(loaded, item)
    assert values(outcome)["memory.static.adapters"] == 0
    assert outcome.warnings == ()
