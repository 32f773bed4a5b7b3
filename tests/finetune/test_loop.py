"""The loop: what it sees, what a step is, and what stops it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch

from qbench.core.errors import MeasurementError, NonFiniteError, OutOfMemoryError
from qbench.finetune.artifact import checkpoint_folder, has_artifact
from qbench.finetune.train.examples import Encoded, collate
from qbench.finetune.train.loop import Curriculum
from qbench.sources.data.splits import Example
from tests.finetune.trainings import (
    CONTEXT,
    KEY,
    make_course,
    make_examples,
    make_options,
    make_splits,
    train,
)
from tests.precisions.tiny_cells import load_fresh
from tests.tiny_models import make_tiny_model

if TYPE_CHECKING:
    from pathlib import Path

    from qbench.measures.loaded import LoadedModel
    from qbench.sources.data.splits import Splits


def make_plain_course(count: int = 5, **changes: Any) -> Curriculum:
    sequences = [Encoded([at], [at]) for at in range(count)]
    values: dict[str, Any] = {
        "train": sequences,
        "validation": sequences,
        "steps": 10,
        "batch": 2,
        "accumulate": 1,
        "seed": 0,
        "pad_id": 0,
        "length": 1,
    }
    return Curriculum(**(values | changes))


def seen(curriculum: Curriculum, steps: int) -> list[int]:
    batches = [batch for step in range(steps) for batch in curriculum.step_batches(step)]
    return [row.ids[0] for batch in batches for row in batch]


def uneven_splits() -> Splits:
    """Completions of very different lengths."""
    examples = [
        Example(f"long-{at}", "def f(x):\n", "    return x" + " + 1" * (1 + 5 * (at % 4)) + "\n")
        for at in range(8)
    ]
    return replace(make_splits(), train=examples)


def test_each_epoch_sees_every_example_once_in_an_order_of_its_own() -> None:
    order = seen(make_plain_course(), 5)
    assert sorted(order[:5]) == sorted(order[5:]) == [0, 1, 2, 3, 4]
    assert order[:5] != order[5:]


def test_the_order_follows_from_the_seed_alone() -> None:
    one, other = make_plain_course(20), make_plain_course(20, seed=1)
    assert seen(one, 10) == seen(make_plain_course(20), 10)
    assert seen(one, 10) != seen(other, 10)
    # However it is cut into batches, and wherever one begins to look.
    assert seen(make_plain_course(20, batch=1, accumulate=2), 10) == seen(one, 10)
    late = make_plain_course(20)
    assert late.step_batches(13) == one.step_batches(13)
    assert late.step_batches(2) == one.step_batches(2)


def test_the_same_seed_gives_the_same_training(base: Path) -> None:
    first, second = (train(base, dropout=0.2, key=key) for key in ("one", "two"))
    assert first.training.progress.losses == second.training.progress.losses
    assert all(torch.equal(weight, second.weights[n]) for n, weight in first.weights.items())
    other = train(base, dropout=0.2, seed=1)
    assert other.training.progress.losses != first.training.progress.losses


def test_accumulated_batches_are_one_large_one(base: Path) -> None:
    splits = uneven_splits()
    whole = train(base, splits=splits, batch=4, compute="fp32")
    parts = train(base, splits=splits, batch=1, accumulate=4, compute="fp32")
    assert parts.training.progress.losses == pytest.approx(whole.training.progress.losses, rel=1e-5)
    for name, weight in whole.weights.items():
        torch.testing.assert_close(parts.weights[name], weight, rtol=1e-3, atol=1e-5)


def test_a_long_gradient_is_clipped(base: Path) -> None:
    # Adam does not see a gradient's length, until it is as short as its epsilon.
    free, clipped = (train(base, clip=clip, steps=1) for clip in (None, 1e-14))
    start = train(base, learning_rate=1e-30, steps=1).weights
    moved = [
        max(float((weight - start[name]).abs().max()) for name, weight in done.weights.items())
        for done in (free, clipped)
    ]
    assert moved[0] == pytest.approx(1e-2, rel=0.1)
    assert moved[1] < 1e-4


@pytest.mark.parametrize("precision", ["bf16", "nf4"])
def test_computing_activations_again_changes_no_number(base: Path, precision: str) -> None:
    kept = train(base, precision=precision, dropout=0.1)
    again = train(base, precision=precision, dropout=0.1, checkpointing=True)
    assert again.training.progress.losses == kept.training.progress.losses
    assert again.training.progress.memory is not None
    assert kept.training.progress.memory is not None
    assert again.training.progress.memory["peak"] < kept.training.progress.memory["peak"]


def test_evaluating_changes_no_number(base: Path) -> None:
    often = train(base, dropout=0.1, validate_every=2).training.progress
    seldom = train(base, dropout=0.1).training.progress
    assert list(often.validation) == [0, 2, 4, 6]
    assert list(seldom.validation) == [0, 6]
    assert often.losses == seldom.losses
    assert often.validation[6] == seldom.validation[6]


def test_the_validation_loss_is_that_of_each_example_alone(base: Path) -> None:
    done = train(base, compute="fp32", learning_rate=1e-30, steps=1)
    model = load_fresh(base, "fp32").model
    total, count = 0.0, 0
    for one in done.training.curriculum.validation:
        ids = torch.tensor([one.ids])
        with torch.no_grad():
            log_probabilities = model(ids).logits[0].log_softmax(-1)
        for at, label in enumerate(one.labels):
            if label != -100:
                total -= float(log_probabilities[at - 1, label])
                count += 1
    assert done.training.progress.validation[0] == pytest.approx(total / count, rel=1e-5)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", [0.0, 0.5, 1.0, 0.75, 0.5, 0.25]),
        ("cosine", [0.0, 0.5, 1.0, 0.853553, 0.5, 0.146447]),
        ("constant", [0.0, 0.5, 1.0, 1.0, 1.0, 1.0]),
    ],
)
def test_the_learning_rate_follows_its_schedule(
    base: Path, schedule: str, expected: list[float]
) -> None:
    done = train(base, schedule=schedule, warmup_share=0.34, learning_rate=1e-3)
    rates = [rate / 1e-3 for rate in done.training.progress.learning_rates]
    assert rates == pytest.approx(expected, abs=1e-5)


def test_packed_examples_fill_sequences(base: Path) -> None:
    done = train(base, packing=True, max_tokens=100, batch=1, steps=4)
    curriculum = done.training.curriculum
    padded = make_course(done.loaded, make_options("lora", batch=1))
    assert len(curriculum.train) < len(padded.train)
    assert padded.length < curriculum.length <= 100
    assert sum(len(row.ids) for row in curriculum.train) == sum(
        len(row.ids) for row in padded.train
    )
    progress = done.training.progress
    assert progress.validation[4] < progress.validation[0]


@pytest.mark.parametrize("architecture", ["mistral", "qwen2", "gpt2"])
def test_a_packed_example_counts_as_it_does_alone(architecture: str, tmp_path: Path) -> None:
    """One step over the same examples: in one block, and each in a row of its own."""
    dropout = {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}
    options = dropout if architecture == "gpt2" else {}
    folder = make_tiny_model(tmp_path / "model", architecture, **options)
    target = {"gpt2": ("c_attn",)}.get(architecture, ("q_proj", "v_proj"))
    few = {"splits": make_splits(train=3), "loss_on": "all"}
    common = {"steps": 1, "compute": "fp32", "target": target, **few}
    packed = train(folder, packing=True, max_tokens=128, batch=1, **common)
    padded = train(folder, batch=3, **common)
    (block,) = packed.training.curriculum.train
    assert len(block.lengths) == 3
    assert packed.training.packed_apart is True
    assert padded.training.packed_apart is None
    assert packed.training.warnings == ()
    losses = [done.training.progress.losses for done in (packed, padded)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for name, weight in packed.weights.items():
        torch.testing.assert_close(weight, padded.weights[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("architecture", "target"), [("bloom", "query_key_value"), ("opt", "q_proj")]
)
def test_what_cannot_be_kept_apart_is_told(architecture: str, target: str, tmp_path: Path) -> None:
    """Bloom's attention goes by distance and takes no positions, OPT's makes a mask of its own."""
    folder = make_tiny_model(tmp_path / architecture, architecture)
    done = train(folder, packing=True, max_tokens=128, batch=1, steps=1, target=(target,))
    assert done.training.packed_apart is False
    assert any("each saw those before it" in one for one in done.training.warnings)
    batch = collate(done.training.curriculum.train[:1], pad_id=0, length=None)
    assert set(batch) == {"input_ids", "attention_mask", "labels"}


def test_prompts_are_learned_only_when_asked(base: Path) -> None:
    loaded = load_fresh(base, "fp32")
    scored = {
        loss_on: sum(
            row.scored for row in make_course(loaded, make_options("lora", loss_on=loss_on)).train
        )
        for loss_on in ("completion", "all")
    }
    assert scored["completion"] < scored["all"]


def test_tokens_are_counted_without_padding(base: Path) -> None:
    done = train(base, splits=uneven_splits(), batch=4, steps=2)
    curriculum = done.training.curriculum
    expected = [
        sum(len(row.ids) for batch in curriculum.step_batches(step) for row in batch)
        for step in range(2)
    ]
    assert done.training.progress.tokens == expected
    assert expected[0] < 4 * curriculum.length


def test_memory_is_measured_in_the_second_step_whose_times_do_not_count(base: Path) -> None:
    progress = train(base, precision="nf4").training.progress
    assert progress.untimed == [0, 1]
    assert len(progress.forward_s) == progress.step == 6
    memory = progress.memory
    assert memory is not None
    kinds = {kind: value for kind, value in memory.items() if kind != "peak"}
    assert all(value > 0 for value in kinds.values())
    assert memory["peak"] > sum(kinds.values())
    # fp32 factors, their gradients, and two moments with a step count for each of 8.
    assert memory["adapters"] == memory["gradients"] == 4 * 4 * (2 * 64 + 64 + 32) * 2
    assert memory["optimizer_state"] == 2 * memory["adapters"] + 8 * 4


def test_one_step_alone_measures_no_memory(base: Path) -> None:
    assert train(base, steps=1).training.progress.memory is None


@pytest.mark.parametrize("precision", ["fp32", "nf4"])
def test_a_loss_that_explodes_stops_with_its_step(base: Path, precision: str) -> None:
    with pytest.raises(NonFiniteError, match=r"became (nan|inf) at step \d of 6; lower the learn"):
        train(base, precision=precision, learning_rate=1e37, clip=None, every_steps=1)
    assert not has_artifact(KEY)
    assert not checkpoint_folder(KEY).exists()


def test_a_model_that_explodes_with_the_last_step_is_found(base: Path) -> None:
    with pytest.raises(NonFiniteError, match=r"validation loss is (nan|inf) after step 1 of 1"):
        train(base, learning_rate=1e37, steps=1)


def out_of_memory(after: int) -> Any:
    """Lets the model fail as torch does, after so many forward passes."""

    def prepare(loaded: LoadedModel) -> None:
        calls = 0

        def fail(module: torch.nn.Module, arguments: Any) -> None:
            nonlocal calls
            calls += 1
            if calls > after:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

        loaded.model.model.register_forward_pre_hook(fail)

    return prepare


def test_out_of_memory_names_the_step_and_what_to_lower(base: Path) -> None:
    with pytest.raises(OutOfMemoryError) as caught:
        train(base, before=out_of_memory(3))  # one evaluation, two steps
    words = str(caught.value)
    assert "in step 3 of 6" in words
    assert "lower batch (now 4; accumulate more)" in words
    assert "checkpointing: true" in words
    assert "paged_adamw_8bit" in words


def test_out_of_memory_advises_nothing_that_is_done(base: Path) -> None:
    with pytest.raises(OutOfMemoryError) as caught:
        train(base, before=out_of_memory(0), batch=1, checkpointing=True, optimizer="adamw_8bit")
    words = str(caught.value)
    assert "the evaluation after step 0 of 6" in words
    assert "max_tokens" in words
    assert not any(advice in words for advice in ("batch", "checkpointing", "paged"))


def test_another_error_of_the_model_is_left_as_it_is(base: Path) -> None:
    def prepare(loaded: LoadedModel) -> None:
        def fail(module: torch.nn.Module, arguments: Any) -> None:
            raise RuntimeError("shapes do not match")

        loaded.model.model.register_forward_pre_hook(fail)

    with pytest.raises(RuntimeError, match="shapes do not match"):
        train(base, before=prepare)


def test_examples_that_are_too_long_are_counted(base: Path) -> None:
    loaded = load_fresh(base, "fp32")
    splits = uneven_splits()
    most = max(
        len(row.ids) for row in make_course(loaded, make_options("lora"), splits=splits).train
    )
    curriculum = make_course(loaded, make_options("lora", max_tokens=most - 1), splits=splits)
    assert curriculum.left_out == {"train": 2, "validation": 0}
    assert len(curriculum.train) == 6


def test_a_sequence_beyond_the_context_names_both(base: Path) -> None:
    loaded = load_fresh(base, "fp32")
    with pytest.raises(MeasurementError, match="max_tokens is 129, but the model's context is 128"):
        make_course(loaded, make_options("lora", max_tokens=CONTEXT + 1))


def test_an_empty_split_is_named(base: Path) -> None:
    loaded = load_fresh(base, "fp32")
    splits = replace(make_splits(), validation=[])
    with pytest.raises(MeasurementError, match="the validation split is empty"):
        make_course(loaded, make_options("lora"), splits=splits)


def test_a_tokenizer_of_another_model_is_found_out(base: Path) -> None:
    from qbench.finetune.train.make import prepare_curriculum

    loaded = load_fresh(base, "fp32")
    with pytest.raises(MeasurementError, match="the model's embedding has 50 rows"):
        prepare_curriculum(
            make_splits(),
            loaded.tokenizer,
            make_options("lora"),
            seed=0,
            context_tokens=CONTEXT,
            vocabulary=50,
        )


def test_examples_are_told_apart_by_their_split() -> None:
    assert make_examples("add", 2) != make_examples("sum", 2)
