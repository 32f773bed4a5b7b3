"""PEFT's further arguments: served with PEFT's own numbers, or refused before a training."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import pytest
import torch
from pydantic import ValidationError

from qbench.core.checkpoint import Checkpoint
from qbench.core.errors import MeasurementError
from qbench.finetune.lora_extra import REFUSED, SERVED
from qbench.finetune.lora_options import LoraOptions, lora_arguments
from qbench.finetune.serve.deployment import ServedModel, load_deployed, served_precision
from qbench.plan.plan import Plan, make_plan
from qbench.plan.suite.suite import load_suite_text
from qbench.precisions.inventory import inventory, logical_weights
from qbench.precisions.verification import linear_layers
from tests.finetune.made_adapters import (
    MadeAdapter,
    load_by_hand,
    mark,
    precision_ref,
    tuning_ref,
)
from tests.finetune.trainings import train
from tests.precisions.tiny_cells import load_fresh
from tests.tiny_models import make_tiny_model

if TYPE_CHECKING:
    from pathlib import Path

    from qbench.core.spec import Deployment

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*ensure_weight_tying",
    "ignore:Model has `tie",
    "ignore:.*lora_bias=True",
    "ignore:.*lora_B.bias",  # PEFT takes the bias for a factor that was not gathered
)

CASES: dict[str, dict[str, Any]] = {
    "head": {"modules_to_save": ["lm_head"]},
    "embedding": {"modules_to_save": ["embed_tokens"]},
    "norms": {"modules_to_save": ["norm"]},
    "both, tied": {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    "token rows": {"trainable_token_indices": [5, 6, 7]},
    "rows of one": {"trainable_token_indices": {"embed_tokens": [5, 6]}},
    "patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 5}},
    "one layer": {"layers_to_transform": [1]},
    "excluded": {"exclude_modules": ["v_proj"]},
    "biases": {"bias": "all"},
    "parameters": {"target_parameters": ["mlp.down_proj.weight"]},
    "velora": {"velora_config": {}},
    "bdlora": {
        "use_bdlora": {
            "target_modules_bd_a": ["q_proj"],
            "target_modules_bd_b": ["v_proj"],
            "nblocks": 2,
        }
    },
}
IDS = torch.arange(1, 49).reshape(2, 24)


@pytest.fixture(scope="module", params=["llama", "tied"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base whose layers have biases, with a head of its own or a tied one."""
    folder = tmp_path_factory.mktemp("base") / request.param
    tied = request.param == "tied"
    return make_tiny_model(folder, "llama", tied=tied, attention_bias=True, mlp_bias=True)


def make(base: Path, folder: Path, **config: Any) -> MadeAdapter:
    """An adapter with everything that is trained moved at random."""
    from peft import LoraConfig, get_peft_model

    model = load_by_hand(base)
    arguments = {"target_modules": ["q_proj", "v_proj"], **config}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = get_peft_model(
            model, LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=12, **arguments)
        )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in made.parameters():
            if weight.requires_grad:
                weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    made.save_pretrained(folder, save_embedding_layers=False)
    mark(folder)
    return MadeAdapter(base, folder, 3.0)


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=IDS).logits
    return found


def by_peft(adapter: MadeAdapter, precision: str = "fp32", **options: Any) -> Any:
    from peft import PeftModel

    base = load_fresh(adapter.base, precision, **options).model
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return PeftModel.from_pretrained(base, str(adapter.folder)).eval()


def deploy(
    adapter: MadeAdapter, deployment: Deployment, precision: str = "fp32", **options: Any
) -> Any:
    tuning = tuning_ref(precision, **options)
    served = served_precision(tuning, deployment)
    if deployment == "merged-dequantized":
        served = precision_ref("fp32")
    return load_deployed(
        ServedModel(Checkpoint(adapter.base, "cpu"), tuning, deployment, served, adapter.folder)
    )


def assert_same(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert float((found - expected).norm() / expected.norm()) < 1e-5


# --- served


def test_every_argument_of_the_installed_peft_is_decided() -> None:
    assert sorted(lora_arguments()) == sorted((*SERVED, *REFUSED))


@pytest.mark.parametrize("case", CASES)
def test_attached_and_merged_are_pefts_own(case: str, whole: Path, tmp_path: Path) -> None:
    adapter = make(whole, tmp_path / "adapter", **CASES[case])
    peft, untuned, served = by_peft(adapter), load_by_hand(whole), deploy(adapter, "attached")
    attached = logits(served)
    assert torch.equal(attached, logits(peft))
    assert float((attached - logits(untuned)).norm() / attached.norm()) > 0.01
    # What the adapter brought is none of the base's weights.
    assert logical_weights(served) == logical_weights(untuned)
    layers = [[name for name, _ in linear_layers(model)] for model in (served, untuned)]
    assert layers[0] == layers[1]
    held = [one for one in inventory(served) if one.kind != "adapters"]
    assert sorted((o.module, o.kind, o.tensor.shape) for o in held) == sorted(
        (o.module, o.kind, o.tensor.shape) for o in inventory(untuned)
    )
    merged = deploy(adapter, "merged")
    assert_same(logits(merged), attached)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_same(logits(merged), logits(peft.merge_and_unload()))


@pytest.mark.parametrize("case", ["head", "token rows", "biases", "parameters"])
def test_on_a_quantized_base_they_are_pefts_own(case: str, whole: Path, tmp_path: Path) -> None:
    adapter = make(whole, tmp_path / "adapter", **CASES[case])
    exact = {"compute_dtype": "fp32"}
    expected = logits(by_peft(adapter, "nf4", **exact))
    assert torch.equal(logits(deploy(adapter, "attached", "nf4", **exact)), expected)
    assert_same(logits(deploy(adapter, "merged-dequantized", "nf4", **exact)), expected)
    in_place = logits(deploy(adapter, "merged-in-place", "nf4", **exact))
    assert in_place.isfinite().all()


def test_a_bias_of_lora_is_merged_into_the_layers_own(whole: Path, tmp_path: Path) -> None:
    adapter = make(whole, tmp_path / "adapter", lora_bias=True)
    attached = logits(deploy(adapter, "attached"))
    assert torch.equal(attached, logits(by_peft(adapter)))
    assert_same(logits(deploy(adapter, "merged")), attached)


@pytest.mark.parametrize(
    "extra",
    [
        {"modules_to_save": ["lm_head", "norm"]},
        {"trainable_token_indices": [5, 6]},
        {"lora_bias": True},
    ],
)
@pytest.mark.parametrize("precision", ["bf16", "nf4"])
def test_a_training_with_them_is_served_as_it_ended(
    base: Path, precision: str, extra: dict[str, Any]
) -> None:
    from qbench.finetune.artifact import artifact_folder
    from tests.finetune.trainings import KEY

    done = train(base, precision=precision, target=("q_proj",), extra=extra, steps=2)
    assert done.training.progress.losses[-1] > 0
    served = deploy(MadeAdapter(base, artifact_folder(KEY), 1.0), "attached", precision)
    # In training the factors are in fp32, served they are in the base's type.
    found, ended = logits(served).float(), logits(done.loaded.model.eval()).float()
    assert float((found - ended).norm() / ended.norm()) < 0.01
    assert not any(weight.requires_grad for weight in served.parameters())


def test_a_head_that_is_trained_apart_is_no_longer_tied(tmp_path: Path) -> None:
    base = make_tiny_model(tmp_path / "tied", "llama", tied=True)
    model = deploy(make(base, tmp_path / "adapter", modules_to_save=["lm_head"]), "merged")
    assert model.config.tie_word_embeddings is False


# --- refused while the suite is read


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_served_is_refused_with_its_reason(name: str) -> None:
    with pytest.raises(ValidationError) as caught:
        LoraOptions(extra={name: {"any": 1}})
    assert f"no '{name}', which {REFUSED[name]}" in str(caught.value)
    with pytest.raises(ValidationError, match=f"no '{name}'"):
        LoraOptions(extra={name: {}})


def test_an_argument_that_is_left_off_is_no_matter() -> None:
    assert LoraOptions(extra={"use_qalora": False, "layer_replication": None}).extra


# --- refused in the plan

SUITE = """\
models: {model}
precisions: [fp32]
finetune:
  data: {{dataset: bundled:stdlib-instruct}}
  methods: [{{method: lora, precision: {precision}, target: {target}, {options}}}]
  deploy: [attached, merged, merged-in-place]
measure: {{footprint: }}
"""


def plan(
    model: Path, tmp_path: Path, options: str, precision: str = "fp32", target: str = "[q_proj]"
) -> Plan:
    written = SUITE.format(model=model, precision=precision, target=target, options=options)
    suite = load_suite_text(written, "suite.yaml", tmp_path)
    return make_plan(suite, tmp_path / "results", device="cpu")


def skips(made: Plan) -> dict[str, str | None]:
    return {
        cell.cell.deploy or "training": cell.skip
        for cell in made.every
        if cell.cell.tuning is not None
    }


@pytest.mark.parametrize(
    ("options", "precision", "words"),
    [
        ("extra: {modules_to_save: [lm_haed]}", "fp32", "did you mean 'lm_head"),
        ("extra: {modules_to_save: [mlp]}", "nf4", "mlp.down_proj holds codes"),
        ("extra: {trainable_token_indices: [3, 999999]}", "fp32", "found 999999, expected"),
        ("extra: {velora_config: {rank: 1}}", "nf4", "for layers that are not quantized"),
    ],
)
def test_what_does_not_fit_skips_training_and_deployments(
    base: Path, tmp_path: Path, options: str, precision: str, words: str
) -> None:
    found = skips(plan(base, tmp_path, options, precision))
    assert {"training", "attached", "merged"} <= set(found)
    assert all(words in (reason or "") for reason in found.values())


def test_what_goes_with_the_model_is_planned(base: Path, tmp_path: Path) -> None:
    options = "extra: {modules_to_save: [lm_head, norm]}"
    assert set(skips(plan(base, tmp_path, options, "nf4")).values()) == {None}


def test_a_bias_without_one_to_merge_into_skips_the_merged_deployments(
    base: Path, tmp_path: Path
) -> None:
    found = skips(plan(base, tmp_path, "extra: {lora_bias: true}", "nf4"))
    assert found["training"] is None
    assert found["attached"] is None
    assert "q_proj has none" in (found["merged"] or "")
    assert "without its scale" in (found["merged-in-place"] or "")


@pytest.mark.parametrize(
    ("target", "options"),
    [
        ("[lm_head]", ""),
        ("[q_proj]", "extra: {trainable_token_indices: {embed_tokens: [5], lm_head: [6]}}"),
        ("[q_proj]", "extra: {trainable_token_indices: {lm_head: [6]}}"),
    ],
)
def test_a_tied_matrix_with_two_updates_skips_the_merged_deployments_alone(
    tmp_path: Path, target: str, options: str
) -> None:
    tied = make_tiny_model(tmp_path / "tied", "llama", tied=True)
    found = skips(plan(tied, tmp_path, options, target=target))
    assert found["training"] is None
    assert found["attached"] is None
    assert "share one matrix" in (found["merged"] or "")
    untied = make_tiny_model(tmp_path / "untied", "llama")
    assert set(skips(plan(untied, tmp_path, options, target=target)).values()) == {None}


def test_rows_of_a_tied_matrix_that_differ_are_not_merged_wrongly(tmp_path: Path) -> None:
    tied = make_tiny_model(tmp_path / "tied", "llama", tied=True)
    rows = {"embed_tokens": [5], "lm_head": [6]}
    adapter = make(tied, tmp_path / "adapter", trainable_token_indices=rows)
    assert torch.equal(logits(deploy(adapter, "attached")), logits(by_peft(adapter)))
    with pytest.raises(MeasurementError, match="share one matrix"):
        deploy(adapter, "merged")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("bias: all", "attaches no second one"),
        ("extra: {target_parameters: [mlp.down_proj.weight]}", "one adapter alone"),
        ("extra: {trainable_token_indices: [3]}", None),
    ],
)
def test_several_adapters_are_skipped_where_peft_has_one(
    base: Path, tmp_path: Path, options: str, words: str | None
) -> None:
    made = plan(base, tmp_path, options)
    (task,) = [t for t in made.tasks if t.item.measurement == "adapters"]
    assert (task.skip is None) if words is None else (words in (task.skip or ""))
