"""The record of a training: what it cost and what it gained."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

import pytest
from transformers import AutoModelForCausalLM

from qbench.core.errors import MeasurementError
from qbench.core.spec import Item
from qbench.finetune import methods
from qbench.finetune.artifact import artifact_folder, has_artifact, read_artifact
from qbench.finetune.train.checkpoint import Progress
from qbench.measures.training.memory import MEMORY_KINDS
from qbench.measures.training.steps import StepTeller
from qbench.measures.training.training import TRAINING, TrainingItemOptions
from qbench.precisions.inventory import logical_weights
from qbench.sources.data.tuning import TuningDataOptions, resolve_tuning_data
from tests.powercap import RANGE_UJ, Drawing, Powercap
from tests.precisions.tiny_cells import load_fresh
from tests.tiny_models import make_tiny_model

if TYPE_CHECKING:
    from qbench.measures.loaded import LoadedModel, Outcome, Steps

KEY = "0123456789abcdef"
LORA: dict[str, Any] = {"rank": 4, "learning_rate": 1e-2}
FULL: dict[str, Any] = {"learning_rate": 1e-3}
MIB = 2**20


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("training") / "base", "mistral", context=160)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty functions to learn, as JSON lines."""
    path = tmp_path_factory.mktemp("data") / "functions.jsonl"
    rows = [
        {"instruction": f"Add {at}.", "output": f"def add_{at}(x):\n    return x + {at}\n"}
        for at in range(20)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def make_item(data: Path, method: str, **options: Any) -> Item:
    asked = TuningDataOptions(dataset=str(data), train=12, validation=4, test=4)
    chosen = methods()[method].options(**{"batch": 4, "steps": 10, **options})
    return Item(
        measurement="training",
        slug=method,
        params={
            "data": resolve_tuning_data(asked, base=data.parent).model_dump(mode="json"),
            "method": method,
            "options": chosen.model_dump(mode="json"),
            "seed": 0,
        },
    )


def measure(base: Path, item: Item, precision: str = "fp32") -> tuple[LoadedModel, Outcome]:
    loaded = replace(load_fresh(base, precision), artifact_key=KEY)
    return loaded, TRAINING.measure(loaded, item)


def values(outcome: Outcome) -> dict[str, float | None]:
    return {m.name.removeprefix("training."): m.value for m in outcome.metrics}


def number(outcome: Outcome, name: str) -> float:
    value = values(outcome)[name]
    assert value is not None
    return value


@pytest.mark.parametrize(
    ("method", "precision", "options"),
    [
        ("full", "fp32", FULL),
        *(("lora", name, LORA) for name in ("fp32", "bf16", "int8", "fp4", "nf4", "nf4-dq")),
    ],
)
def test_every_arm_learns_and_is_recorded_in_full(
    base: Path, data: Path, method: str, precision: str, options: dict[str, Any]
) -> None:
    _, outcome = measure(base, make_item(data, method, **options), precision)
    assert [m.name for m in outcome.metrics] == [d.name for d in TRAINING.metrics]
    found = values(outcome)
    unknown = {name for name, value in found.items() if value is None}
    assert all(name.startswith("energy") for name in unknown)  # not told everywhere
    assert number(outcome, "heldout_loss_after") < number(outcome, "heldout_loss_before") - 0.5
    losses = outcome.series["step_loss"]
    assert len(losses) == len(outcome.series["step_learning_rate"]) == 10
    assert found["loss"] == pytest.approx(fmean(losses[-1:]))
    assert outcome.series["validation_step"] == [0, 10]
    assert outcome.series["validation_loss"] == [
        found["heldout_loss_before"],
        found["heldout_loss_after"],
    ]
    assert has_artifact(KEY)
    json.dumps(outcome.details)


def test_energy_is_by_tokens_and_by_the_examples_that_were_packed(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    powercap = Powercap(tmp_path / "powercap")
    counter = powercap.add("intel-rapl:0", "package-0")
    monkeypatch.setattr("qbench.measures.roofline.energy.POWERCAP", powercap.folder)
    # All twelve examples in each step, in fewer blocks.
    base = make_tiny_model(tmp_path / "base", "mistral", context=640)
    options = {**LORA, "packing": True, "max_tokens": 640, "steps": 4}
    blocks = measure(base, make_item(data, "lora", **options, batch=1))[1].details["sequences"]
    assert 1 < blocks < 12
    with Drawing(counter, 0, RANGE_UJ, step_uj=80_000):
        _, outcome = measure(base, make_item(data, "lora", **options, batch=blocks))
    tokens = outcome.details["tokens"] / 4
    ratio = number(outcome, "energy.example") / number(outcome, "energy")
    assert ratio == pytest.approx(tokens / 12)
    total = number(outcome, "energy") * outcome.details["tokens"]
    assert number(outcome, "energy.total") == pytest.approx(total)
    assert outcome.details["energy_method"] == "RAPL's counters of package-0"


def test_shares_are_of_the_logical_weights_and_the_checkpoint(base: Path, data: Path) -> None:
    loaded, outcome = measure(base, make_item(data, "lora", **LORA), "nf4")
    # q: 64 → 64, v: 64 → 32, in two layers; a 4-bit weight is one weight, not half of one.
    trained = 2 * 4 * ((64 + 64) + (64 + 32))
    logical = logical_weights(AutoModelForCausalLM.from_pretrained(base))
    assert number(outcome, "trainable_weights") == trained
    assert number(outcome, "trainable_share") == pytest.approx(trained / logical)
    saved = (artifact_folder(KEY) / "adapter_model.safetensors").stat().st_size
    assert number(outcome, "adapter_bytes") == saved
    checkpoint = (base / "model.safetensors").stat().st_size
    assert number(outcome, "adapter_share") == pytest.approx(saved / checkpoint)
    info = read_artifact(KEY, base_fingerprint=loaded.resolved.fingerprint)
    assert (info.method, info.precision, info.seed, info.steps) == ("lora", "nf4", 0, 10)


def test_full_tuning_trains_all(base: Path, data: Path) -> None:
    _, outcome = measure(base, make_item(data, "full", **FULL))
    assert number(outcome, "trainable_share") == 1
    assert number(outcome, "memory.adapters") == 0
    assert outcome.details["adapters_on"] == []


def test_its_steps_are_told_while_it_goes_on_each_once(base: Path, data: Path) -> None:
    told: list[Steps] = []
    item = make_item(data, "lora", **LORA, validate_every=4)
    loaded = replace(load_fresh(base, "fp32"), artifact_key=KEY, steps=told.append)
    series = TRAINING.measure(loaded, item).series
    assert {steps.of for steps in told} == {10}
    for name, row in (("loss", "step_loss"), ("learning_rate", "step_learning_rate")):
        assert [value for steps in told for value in getattr(steps, name)] == series[row]
    assert [steps.first for steps in told] == [
        sum(len(earlier.loss) for earlier in told[:at]) for at in range(len(told))
    ]
    assert [step for steps in told for step in steps.validation] == list(
        zip(map(int, series["validation_step"]), series["validation_loss"], strict=True)
    )


def test_fast_steps_are_told_together() -> None:
    told: list[Steps] = []
    teller, progress = StepTeller(100, told.append), Progress()
    for step in range(100):
        progress.losses.append(float(step))
        progress.learning_rates.append(0.0)
        teller(progress)
    assert [(steps.first, len(steps.loss)) for steps in told] == [(0, 1), (1, 99)]


def test_times_leave_out_the_first_step_and_the_measured_one(base: Path, data: Path) -> None:
    _, outcome = measure(base, make_item(data, "lora", **LORA))
    metrics = {m.name.removeprefix("training."): m for m in outcome.metrics}
    parts = [metrics[name].samples for name in ("forward_time", "backward_time", "optimizer_time")]
    steps = metrics["step_time"].samples
    assert steps is not None
    assert len(steps) == 8
    for step, part in zip(steps, zip(*(p or () for p in parts), strict=True), strict=True):
        assert step == pytest.approx(sum(part))
    assert metrics["step_time"].value == pytest.approx(median(steps))
    assert metrics["total_time"].value == pytest.approx(sum(steps) + 2 * median(steps))
    assert outcome.details["untimed_steps"] == [0, 1]
    others = outcome.details["other_programs"]
    assert others["seconds"] >= sum(steps)  # of all steps but the first
    assert others["reason"] is None or others["used_cpus"] is None


def test_two_steps_have_no_times_and_one_no_memory(base: Path, data: Path) -> None:
    _, two = measure(base, make_item(data, "lora", steps=2))
    assert values(two)["step_time"] is None
    assert values(two)["memory.peak"] is not None
    _, one = measure(base, make_item(data, "lora", steps=1))
    reasons = {m.name: m.reason for m in one.metrics if m.value is None}
    assert "but one" in (reasons["training.memory.peak"] or "")
    assert "train for more" in (reasons["training.total_time"] or "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "precision", "options"),
    [
        ("lora", "fp32", LORA),
        ("lora", "bf16", LORA | {"target": "all-linear", "dropout": 0.1}),
        ("lora", "nf4", LORA | {"checkpointing": True}),
        ("lora", "nf4-dq", LORA | {"accumulate": 2, "optimizer": "paged_adamw_32bit"}),
        ("lora", "int8", LORA),
        ("full", "fp32", FULL),
    ],
)
def test_hardly_anything_of_the_peak_is_unexplained(
    base: Path, data: Path, method: str, precision: str, options: dict[str, Any]
) -> None:
    _, outcome = measure(base, make_item(data, method, **options), precision)
    kinds = {kind: number(outcome, f"memory.{kind}") for kind in MEMORY_KINDS}
    peak = kinds.pop("peak")
    assert sum(kinds.values()) == pytest.approx(peak)
    assert abs(kinds["unexplained"]) < 0.02 * peak
    assert kinds["activations_predicted"] > 0.1 * peak
    activations = outcome.details["activations"]
    assert activations["logits_and_loss"] > 0


def test_what_is_not_predicted_has_a_reason(base: Path, data: Path) -> None:
    _, outcome = measure(base, make_item(data, "lora", **LORA, dora=True))
    found = {m.name: m for m in outcome.metrics}
    assert found["training.memory.peak"].value is not None
    for kind in ("activations_predicted", "unexplained"):
        metric = found[f"training.memory.{kind}"]
        assert metric.value is None
        assert "dora" in (metric.reason or "")


def test_says_which_layers_were_trained(base: Path, data: Path) -> None:
    _, outcome = measure(base, make_item(data, "lora", **LORA))
    assert outcome.details["adapters_on"] == ["q_proj", "v_proj"]
    assert outcome.details["sequences"] == 12
    assert outcome.details["tokens"] > 0
    assert outcome.details["left_out"] == {"train": 0, "validation": 0}


def test_examples_that_are_too_long_are_a_warning(base: Path, tmp_path: Path) -> None:
    rows = [
        {"instruction": f"Add {at}.", "output": f"return x + {at}" * (40 if at % 4 == 0 else 1)}
        for at in range(20)
    ]
    path = tmp_path / "uneven.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    _, outcome = measure(base, make_item(path, "lora", **LORA))
    left_out = outcome.details["left_out"]
    assert sum(left_out.values()) > 0
    # On a busy machine the time of a step gets warnings of its own.
    (words,) = (one for one in outcome.warnings if "examples longer" in one)
    assert "left out" in words
    assert "max_tokens" in words


def test_a_paged_optimizer_on_a_cpu_is_a_warning(base: Path, data: Path) -> None:
    item = make_item(data, "lora", **LORA, optimizer="paged_adamw_8bit")
    _, outcome = measure(base, item)
    assert any("unpaged" in words for words in outcome.warnings)


def test_training_again_replaces_the_artifact(base: Path, data: Path) -> None:
    measure(base, make_item(data, "lora", **LORA))
    first = (artifact_folder(KEY) / "adapter_model.safetensors").read_bytes()
    measure(base, make_item(data, "lora", **LORA, steps=5))
    assert (artifact_folder(KEY) / "adapter_model.safetensors").read_bytes() != first
    assert read_artifact(KEY).steps == 5


def test_needs_a_key_for_what_it_makes(base: Path, data: Path) -> None:
    with pytest.raises(MeasurementError, match="needs the key"):
        TRAINING.measure(load_fresh(base, "fp32"), make_item(data, "lora"))


def test_a_suite_does_not_ask_for_it(base: Path) -> None:
    loaded = load_fresh(base, "fp32")
    assert TRAINING.items(TrainingItemOptions(), loaded.resolved, Path()) == []
