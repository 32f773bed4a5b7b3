"""LoRA and QLoRA: equal to PEFT by hand, saved as PEFT saves, on layers that are there."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from qbench.core.errors import MeasurementError
from qbench.finetune.artifact import artifact_folder
from qbench.precisions.verification import linear_layers
from tests.finetune.trainings import KEY, make_examples, train
from tests.precisions.tiny_cells import load_fresh
from tests.tiny_models import make_tiny_model

if TYPE_CHECKING:
    from pathlib import Path

BATCH, STEPS, SEED, RATE = 4, 6, 3, 1e-2
QUANTIZED = ("int8", "fp4", "nf4", "nf4-dq")


def encode(folder: Path, count: int) -> list[tuple[list[int], int]]:
    """Ids of each example with the length of its prompt, `<s>` included, in plain words."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    made = []
    for example in make_examples("add", count):
        prompt = tokenizer(example.prompt, add_special_tokens=False)["input_ids"]
        completion = tokenizer(example.completion, add_special_tokens=False)["input_ids"]
        ids = [tokenizer.bos_token_id, *prompt, *completion, tokenizer.eos_token_id]
        made.append((ids, 1 + len(prompt)))
    return made


def train_by_hand(folder: Path) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The same training as anyone would write it on PEFT, its loss transformers' own."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    torch.manual_seed(SEED)
    model = get_peft_model(
        model,
        LoraConfig(
            task_type="CAUSAL_LM",
            r=4,
            lora_alpha=8,
            lora_dropout=0.1,
            target_modules=["q_proj", "v_proj"],
        ),
    )
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=RATE, weight_decay=0.0)
    examples = encode(folder, 10)
    width = max(len(ids) for ids, _ in examples)
    orders = [np.random.default_rng([SEED, epoch]).permutation(10) for epoch in range(3)]
    order = np.concatenate(orders)
    torch.manual_seed(SEED)
    model.train()
    losses = []
    for step in range(STEPS):
        ids = torch.zeros(BATCH, width, dtype=torch.int64)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
        for row, index in enumerate(order[step * BATCH : (step + 1) * BATCH]):
            tokens, prompt = examples[index]
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
            labels[row, prompt : len(tokens)] = torch.tensor(tokens[prompt:])
        optimizer.param_groups[0]["lr"] = RATE * (STEPS - step) / STEPS
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    named = {name: w.detach() for name, w in model.named_parameters() if w.requires_grad}
    return losses, named


def test_equals_a_training_by_hand(base: Path) -> None:
    losses, weights = train_by_hand(base)
    done = train(
        base,
        seed=SEED,
        compute="fp32",
        dropout=0.1,
        learning_rate=RATE,
        batch=BATCH,
        steps=STEPS,
        target=("q_proj", "v_proj"),
    )
    assert done.training.progress.losses == pytest.approx(losses, rel=1e-6)
    by_hand = {name.removeprefix("base_model.model."): w for name, w in weights.items()}
    assert set(done.weights) == set(by_hand)
    for name, weight in done.weights.items():
        torch.testing.assert_close(weight, by_hand[name], rtol=1e-4, atol=1e-6)


def test_the_default_target_is_pefts(base: Path) -> None:
    names = train(base, steps=1).training.trained_names
    assert {name.split(".")[-4] for name in names} == {"q_proj", "v_proj"}


@pytest.mark.parametrize("precision", ["fp32", *QUANTIZED])
@pytest.mark.parametrize("target", ["default", "all-linear", ("up_proj", "lm_head")])
def test_trains_r_times_inputs_and_outputs(base: Path, precision: str, target: Any) -> None:
    model = load_fresh(base, "fp32").model
    names = {"default": ("q_proj", "v_proj"), "all-linear": ("_proj",)}.get(target, target)
    shapes = [
        module.weight.shape
        for name, module in [*linear_layers(model), ("lm_head", model.lm_head)]
        if name.endswith(tuple(names))
    ]
    expected = sum(3 * (outputs + inputs) for outputs, inputs in shapes)
    done = train(base, precision=precision, rank=3, target=target, steps=1)
    assert done.training.trained_weights == expected
    assert all(weight.dtype == torch.float32 for weight in done.weights.values())


@pytest.mark.parametrize("precision", ["bf16", *QUANTIZED])
def test_the_base_stays_as_it_was_loaded(base: Path, precision: str) -> None:
    before = {
        name: (weight.dtype, weight.detach().clone())
        for name, weight in load_fresh(base, precision).model.named_parameters()
    }
    done = train(base, precision=precision, steps=3)
    frozen = {
        name.replace(".base_layer", ""): weight
        for name, weight in done.loaded.model.named_parameters()
        if not weight.requires_grad
    }
    assert set(frozen) == set(before)
    for name, weight in frozen.items():
        assert weight.dtype == before[name][0], name
        assert torch.equal(weight, before[name][1]), name


@pytest.mark.parametrize(
    ("precision", "options"),
    [
        *((precision, {}) for precision in ("fp32", "bf16", *QUANTIZED)),
        ("fp32", {"target": "all-linear", "rslora": True}),
        ("fp32", {"bias": "all"}),
        ("fp32", {"dora": True}),
        ("nf4", {"dora": True}),
        ("fp32", {"init": "gaussian"}),
        ("fp32", {"extra": {"modules_to_save": ["lm_head"]}}),
    ],
)
def test_plain_peft_loads_it_and_gives_the_same_logits(
    base: Path, precision: str, options: dict[str, Any]
) -> None:
    done = train(base, precision=precision, **options)
    ids = torch.tensor([encode(base, 1)[0][0]])
    model = done.loaded.model.eval()
    with torch.no_grad():
        expected = model(input_ids=ids).logits
        fresh = load_fresh(base, precision).model
        before = fresh(input_ids=ids).logits.clone()
        loaded = PeftModel.from_pretrained(fresh, artifact_folder(KEY)).eval()
        found = loaded(input_ids=ids).logits
    assert torch.equal(found, expected)
    assert not torch.allclose(found, before, atol=1e-2)


@pytest.mark.parametrize("init", ["pissa", "olora"])
@pytest.mark.parametrize("rslora", [False, True])
def test_what_takes_its_part_out_of_the_weights_is_saved_as_the_difference(
    base: Path, init: str, *, rslora: bool
) -> None:
    done = train(base, init=init, rslora=rslora, rank=4, compute="fp32")
    ids = torch.tensor([encode(base, 1)[0][0]])
    with torch.no_grad():
        expected = done.loaded.model.eval()(input_ids=ids).logits
        untouched = load_fresh(base, "fp32").model
        before = untouched(input_ids=ids).logits.clone()
        loaded = PeftModel.from_pretrained(untouched, artifact_folder(KEY)).eval()
        found = loaded(input_ids=ids).logits
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(found, before, atol=1e-2)
    config = json.loads((artifact_folder(KEY) / "adapter_config.json").read_text())
    assert config["r"] == 8


def test_pissa_begins_where_the_base_is(base: Path) -> None:
    losses = [train(base, init=init, compute="fp32").training for init in ("default", "pissa")]
    first, second = (training.progress.validation[0] for training in losses)
    assert first == pytest.approx(second, rel=1e-4)


def test_gpt2_is_stored_the_other_way_round(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "gpt2", "gpt2")
    done = train(folder, target=("c_attn",), rank=2)
    assert done.training.trained_weights == 2 * 2 * (64 + 3 * 64)
    assert done.training.progress.validation[6] < done.training.progress.validation[0]


def test_a_layer_that_is_not_there_is_named_with_those_that_are(base: Path) -> None:
    with pytest.raises(
        MeasurementError,
        match=r"no layer of this model is named 'q_prj'; did you mean 'q_proj'\? .*gate_proj",
    ):
        train(base, target=("v_proj", "q_prj"))


def test_an_architecture_that_peft_does_not_know_needs_names(base: Path) -> None:
    with pytest.raises(MeasurementError, match="no choice of layers for the architecture newest"):
        train(base, before=lambda loaded: setattr(loaded.model.config, "model_type", "newest"))


@pytest.mark.parametrize(
    "extra",
    [
        {"target_parameters": ["nowhere"]},
        {"rank_pattern": {"q_prj": 2}},
        {"alpha_pattern": {"q_proj": 2, "q_prj": 2}},
    ],
)
def test_names_that_peft_would_ignore_are_refused(base: Path, extra: dict[str, Any]) -> None:
    with pytest.raises(MeasurementError, match=r"PEFT cannot make this adapter: .*(was|not) match"):
        train(base, target=("q_proj",), extra=extra)


def test_what_peft_refuses_is_one_message(base: Path) -> None:
    with pytest.raises(MeasurementError, match=r"PEFT cannot make this adapter: .*layers_pattern"):
        train(base, target=("q_proj",), extra={"layers_pattern": "layers"})
