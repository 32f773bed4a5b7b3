"""What every method satisfies, and what of its options is known without a model."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from pydantic import ValidationError

from qbench.core.docstrings import field_docs
from qbench.core.spec import PrecisionRef
from qbench.finetune import methods
from qbench.finetune.lora_options import LoraOptions, lora_arguments, own_options
from qbench.finetune.options import TrainingOptions, count_steps, misfit, sequence_tokens
from qbench.precisions import precisions
from tests.precisions.tiny_cells import all_options
from tests.record_factory import make_environment

FLOATING = ("fp32", "bf16", "fp16")
QUANTIZED = ("int8", "fp4", "nf4", "nf4-dq")
WITH_PACKAGES = {"peft": "0.21.0", "bitsandbytes": "0.50.2"}


def ref(precision: str, **options: Any) -> PrecisionRef:
    chosen = all_options(precision, **options)
    return PrecisionRef(label=precision, name=precision, options=chosen)


def options(method: str, **changes: Any) -> TrainingOptions:
    return methods()[method].options(**changes)


@pytest.mark.parametrize("name", methods())
def test_a_method_has_what_the_table_needs(name: str) -> None:
    method = methods()[name]
    assert method.name == name
    assert method.summary
    assert issubclass(method.options, TrainingOptions)
    method.options()
    assert set(method.options.model_fields) <= set(field_docs(method.options))
    for precision in precisions():
        deployments = method.deployments(ref(precision))
        assert deployments
        assert len(set(deployments)) == len(deployments)


@pytest.mark.parametrize(
    ("method", "precision", "changes", "words"),
    [
        *(("full", name, {}, "are codes, which have no gradient") for name in QUANTIZED),
        ("full", "fp16", {}, "loss scale"),
        ("full", "fp32", {"master_weights": "bf16"}, "use precision bf16"),
        ("lora", "int8", {"dora": True}, "DoRA on int8 fails"),
        *(
            ("lora", name, {"init": init}, "holds codes")
            for name in QUANTIZED
            for init in ("pissa", "olora")
        ),
        ("lora", "fp32", {"init": "pissa", "dora": True}, "plain adapter"),
        ("lora", "fp32", {"init": "olora", "bias": "all"}, "plain adapter"),
        *(("lora", name, {"init": "loftq"}, "4-bit codes lost") for name in (*FLOATING, "int8")),
        ("lora", "fp16", {"compute": "fp32"}, "loss scale"),
    ],
)
def test_what_cannot_be_trained_has_a_reason(
    method: str, precision: str, changes: dict[str, Any], words: str
) -> None:
    reason = methods()[method].conflicts(ref(precision), options(method, **changes))
    assert reason is not None
    assert words in reason


@pytest.mark.parametrize(
    ("method", "precision", "changes"),
    [
        *(("lora", name, {}) for name in (*FLOATING, *QUANTIZED)),
        *(("lora", name, {"dora": True}) for name in (*FLOATING, "fp4", "nf4", "nf4-dq")),
        *(("lora", name, {"init": "pissa"}) for name in FLOATING),
        *(("lora", name, {"init": "loftq"}) for name in ("fp4", "nf4", "nf4-dq")),
        ("full", "bf16", {}),
        ("full", "bf16", {"master_weights": "bf16"}),
        ("full", "fp32", {}),
    ],
)
def test_what_can_be_trained_has_none(method: str, precision: str, changes: dict[str, Any]) -> None:
    assert methods()[method].conflicts(ref(precision), options(method, **changes)) is None


def test_4_bit_layers_that_compute_in_fp16_need_autocast() -> None:
    precision = ref("nf4", compute_dtype="fp16")
    assert methods()["lora"].conflicts(precision, options("lora")) is None
    assert methods()["lora"].conflicts(precision, options("lora", compute="fp32")) is not None


def test_full_tuning_loads_its_master_weights() -> None:
    full = methods()["full"]
    assert full.load_precision(ref("bf16"), options("full")).name == "fp32"
    pure = options("full", master_weights="bf16")
    assert full.load_precision(ref("bf16"), pure).name == "bf16"


def test_lora_loads_the_precision_itself() -> None:
    precision = ref("nf4", compute_dtype="fp16")
    assert methods()["lora"].load_precision(precision, options("lora")) == precision


def test_deployments_follow_from_the_method_and_the_base() -> None:
    lora, full = methods()["lora"], methods()["full"]
    on_quantized = {"merged-requantized", "merged-dequantized", "merged-in-place"}
    assert full.deployments(ref("bf16")) == ("merged", "quantized")
    assert methods()["qat"].deployments(ref("int4-g32")) == ("quantized", "fake-quantized")
    assert not on_quantized & set(lora.deployments(ref("bf16")))
    assert on_quantized < set(lora.deployments(ref("nf4")))
    assert {"attached", "attached-fp16", "adapter-int8", "adapter-nf4"} < set(
        lora.deployments(ref("fp32"))
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rank": 0}, "greater than 0"),
        ({"rank": 2.5}, "int"),
        ({"dropout": 1.0}, "less than 1"),
        ({"learning_rate": 0.0}, "greater than 0"),
        ({"learning_rate": float("nan")}, "finite"),
        ({"epochs": float("inf")}, "finite"),
        ({"warmup_share": 1.0}, "less than 1"),
        ({"optimizer": "sgd"}, "adamw"),
        ({"target": []}, "at least 1"),
        ({"target": [""]}, "at least 1"),
        ({"max_tokens": 1}, "greater than or equal to 2"),
        ({"extra": {"use_bdlorra": True}}, "did you mean 'use_bdlora"),
        ({"extra": {"lora_alpha": 8}}, "`alpha` beside `extra` in place of 'lora_alpha'"),
    ],
)
def test_options_refuse_what_makes_no_sense(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        LoraOptions(**changes)


def test_lists_of_a_suite_serve_as_target() -> None:
    made = LoraOptions.model_validate_json('{"target": ["q_proj"], "epochs": 2}', strict=True)
    assert made.target == ("q_proj",)


def test_the_arguments_of_lora_are_those_that_its_class_takes() -> None:
    import peft

    taken = set(inspect.signature(peft.LoraConfig).parameters)
    # What PEFT keeps for itself stands in its base class.
    own = set(inspect.signature(peft.PeftConfig).parameters)
    options = {"r", "lora_alpha", "lora_dropout", "target_modules", "bias"}
    options |= {"use_rslora", "use_dora", "init_lora_weights"}
    assert options < {*own_options()}
    assert {*lora_arguments()} | options == taken - own


def test_alpha_is_twice_the_rank_unless_given() -> None:
    assert LoraOptions(rank=64).scale_alpha == 128
    assert LoraOptions(rank=64, alpha=8).scale_alpha == 8


def test_lora_learns_ten_times_faster_by_default() -> None:
    made = {name: methods()[name].options().learning_rate for name in ("full", "lora")}
    assert made["lora"] == pytest.approx(10 * made["full"])


def test_a_machine_without_the_packages_is_told_which() -> None:
    lora, full = methods()["lora"], methods()["full"]
    without = make_environment(versions={"peft": None, "bitsandbytes": None})
    assert lora.unavailable(options("lora"), without) == "needs peft: pip install qbench-llm"
    assert full.unavailable(options("full"), without) is None
    reason = full.unavailable(options("full", optimizer="adamw_8bit"), without)
    assert reason is not None
    assert "needs bitsandbytes" in reason


def test_loftq_needs_a_gpu() -> None:
    lora = methods()["lora"]
    on_cpu = make_environment(versions=WITH_PACKAGES)
    on_gpu = make_environment(versions=WITH_PACKAGES, device_type="cuda")
    chosen = options("lora", init="loftq")
    assert "needs CUDA" in (lora.unavailable(chosen, on_cpu) or "")
    assert lora.unavailable(chosen, on_gpu) is None
    assert lora.unavailable(options("lora"), on_cpu) is None


@pytest.mark.parametrize(
    ("changes", "sequences", "steps"),
    [
        ({"batch": 4, "epochs": 1.0}, 10, 3),
        ({"batch": 4, "epochs": 2.0}, 10, 5),
        ({"batch": 4, "epochs": 0.1}, 10, 1),
        ({"batch": 4, "accumulate": 2, "epochs": 2.0}, 10, 3),
        ({"batch": 4, "steps": 7}, 10, 7),
    ],
)
def test_steps_of_the_epochs(changes: dict[str, Any], sequences: int, steps: int) -> None:
    assert count_steps(TrainingOptions(**changes), sequences) == steps


def test_a_sequence_is_as_long_as_the_context_but_512_at_most() -> None:
    assert sequence_tokens(TrainingOptions(), 128) == 128
    assert sequence_tokens(TrainingOptions(), 4096) == 512
    assert sequence_tokens(TrainingOptions(), None) == 512
    assert sequence_tokens(TrainingOptions(max_tokens=1024), 4096) == 1024


def test_a_sequence_beyond_the_context_is_a_misfit(tiny_model: Any) -> None:
    from tests.precisions.tiny_cells import resolve

    model = resolve(tiny_model)
    assert model.context_tokens == 128
    assert misfit(TrainingOptions(max_tokens=128), model) is None
    assert misfit(TrainingOptions(), model) is None
    wrong = misfit(TrainingOptions(max_tokens=129), model)
    assert wrong is not None
    assert (wrong.place, wrong.found) == ("max_tokens", "129")
    assert "128" in (wrong.expected or "")
