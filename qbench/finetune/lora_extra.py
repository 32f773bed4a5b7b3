"""Which further arguments of PEFT's `LoraConfig` are served here, and why the others are not.

An argument is let through when the tuned model can be served with it, attached and merged, with
PEFT's own numbers. What cannot is refused while the suite is read, and what depends on the model,
the precision or the deployment in the plan: before a training is started.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.core.names import what_there_is
from qbench.finetune.targets import (
    TIED_HEAD,
    is_tied,
    module_name,
    targeted,
    tied_matrices,
    token_embeddings,
    under,
)
from qbench.precisions import is_quantized

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qbench.core.spec import Deployment, ModelShape, PrecisionRef
    from qbench.finetune.lora_options import LoraOptions

SERVED = (
    "exclude_modules",
    "modules_to_save",
    "layers_to_transform",
    "layers_pattern",
    "rank_pattern",
    "alpha_pattern",
    "trainable_token_indices",
    "velora_config",
    "lora_bias",
    "target_parameters",
    "use_bdlora",
    "ensure_weight_tying",
)
"""Arguments that may stand under `extra`."""

_GRADIENTS_FIRST = "needs passes over the data before the training, which are not made here"
_OTHER_LOSS = "adds a term to the loss, which the training here does not have"
_QALORA = "is written for GPTQ's layers alone: elsewhere PEFT trains plain LoRA under its name"
_MEGATRON = "is for layers of Megatron, which are not loaded here"
REFUSED: dict[str, str] = {
    "fan_in_fan_out": "follows from the model's layers, and is set by them",
    "megatron_config": _MEGATRON,
    "megatron_core": _MEGATRON,
    "loftq_config": "belongs to the option `init: loftq`, which sets it",
    "eva_config": _GRADIENTS_FIRST,
    "corda_config": _GRADIENTS_FIRST,
    "lora_ga_config": _GRADIENTS_FIRST,
    "alora_invocation_tokens": (
        "switches the adapter on within a sequence, through PEFT's wrapper, which the model that is"
        " measured does not have"
    ),
    "use_qalora": _QALORA,
    "qalora_group_size": _QALORA,
    "monteclora_config": _OTHER_LOSS,
    "layer_replication": (
        "gives the tuned model more layers than its base, and its merged weights no checkpoint of"
        " the base's configuration"
    ),
    "runtime_config": "is not saved with an adapter",
    "arrow_config": "chooses among several adapters, and one is trained here",
    "kasa_config": _OTHER_LOSS,
}
"""The other arguments of PEFT 0.21, each with what is wrong with it."""

TIED_MERGE = (
    "the adapter is on the embedding or the output head, which share one matrix: merged, each would"
    " change the other; serve it attached, or leave them out of `target` and of the dictionary of"
    " trainable_token_indices (a list trains the rows of both)"
)
NO_BIAS_TO_MERGE = (
    "lora_bias is merged into the layers' own biases, and {layer} has none; serve it attached, or"
    " leave lora_bias out"
)
NO_SCALE_IN_PLACE = (
    "PEFT merges the bias of lora_bias into quantized layers without its scale; leave"
    " merged-in-place out, or lora_bias"
)
_UNQUANTIZED_ALONE = {"velora_config": "VeLoRA", "use_bdlora": "BD-LoRA"}
_MERGES_INTO_BIASES: frozenset[Deployment] = frozenset(
    {"merged", "merged-requantized", "merged-dequantized", "quantized"}
)


def refused_argument(name: str) -> str:
    """What is wrong with an argument of `LoraConfig` that is not among those served."""
    return REFUSED.get(name, "is not known to this qbench, nor whether it can be served")


def argument_conflict(precision: PrecisionRef, options: LoraOptions) -> str | None:
    """What does not go with the precision, or with the target; None if all does."""
    extra = options.extra
    for name, title in _UNQUANTIZED_ALONE.items():
        if extra.get(name) is not None and is_quantized(precision):
            return f"PEFT has {title} for layers that are not quantized; use bf16, or leave it out"
    if options.target == "all-linear" and extra.get("layers_to_transform") is not None:
        return (
            "PEFT chooses layers_to_transform among layers that are named; give target as a list"
            " of names beside it"
        )
    return None


def adapter_misfit(
    options: LoraOptions,
    precision: PrecisionRef,
    deployment: Deployment | None,
    shape: ModelShape | None,
    architecture: str,
) -> str | None:
    """What of the arguments does not fit the model, or this deployment of it; None if all does.

    `precision` is what is trained in, `deployment` None for the training. What the shapes do not
    tell is found when the model is there.
    """
    extra = options.extra
    if shape is None:
        return None
    quantized = is_quantized(precision)
    holds_codes = {
        module_name(tensor): tensor.role == "linear" and quantized for tensor in shape.tensors
    }
    if is_tied(shape):
        holds_codes[TIED_HEAD] = False
    reason = saved_modules_fault(extra.get("modules_to_save"), holds_codes) or _rows_fault(
        extra.get("trainable_token_indices"), shape
    )
    if reason is not None or deployment is None:
        return reason
    if not deployment.startswith(("merged", "quantized")):
        return reason
    if is_tied(shape) and _divides_tied(options, shape):
        return TIED_MERGE
    return (
        _bias_misfit(options, deployment, shape, architecture) if extra.get("lora_bias") else None
    )


def saved_modules_fault(wanted: Any, holds_codes: Mapping[str, bool]) -> str | None:
    """What is wrong with `modules_to_save`, by the model's modules and whether they hold codes.

    PEFT takes every module whose name ends so, with all below it, and passes over a name that
    none has.
    """
    for name in wanted or ():
        ends = [module for module in holds_codes if under(module, str(name))]
        if not ends:
            known = sorted({module.rpartition(".")[2] for module in holds_codes})
            return (
                f"modules_to_save {name!r}: no module of the model has that name;"
                f" {what_there_is(str(name), known)}"
            )
        codes = next((module for module in ends if holds_codes[module]), None)
        if codes is not None:
            return (
                f"modules_to_save {name!r}: {codes} holds codes, which cannot be trained; leave it"
                " out, or train in bf16"
            )
    return None


def why_one_alone(options: LoraOptions) -> str | None:
    """Why a base holds no second adapter beside one of these options; None if it can."""
    if options.bias != "none":
        return (
            f"with bias: {options.bias} an adapter changes its base's own biases, and PEFT"
            " attaches no second one to it; leave `bias` out to measure several adapters"
        )
    if options.extra.get("target_parameters"):
        return "PEFT attaches one adapter alone with target_parameters"
    return None


def _divides_tied(options: LoraOptions, shape: ModelShape) -> bool:
    """Whether an adapter is on one of two layers that share a matrix, and not on the other."""
    matrices = tied_matrices(shape)
    target = options.target
    named = [] if isinstance(target, str) else list(target)
    if any(f".{matrix}".endswith(f".{name}") for name in named for matrix in matrices):
        return True
    rows = options.extra.get("trainable_token_indices")
    if not isinstance(rows, dict):
        return False
    of_head = [name for name in rows if TIED_HEAD.endswith(name)]
    # Named with the same rows, both follow one adapter; so does a head that is not named.
    return bool(of_head) and (len(rows) == 1 or len({str(ids) for ids in rows.values()}) > 1)


def _rows_fault(wanted: Any, shape: ModelShape) -> str | None:
    rows = next((tensor.shape[0] for tensor in token_embeddings(shape)), None)
    lists = wanted.values() if isinstance(wanted, dict) else [wanted or ()]
    for index in [one for indices in lists for one in indices]:
        if not isinstance(index, int) or index < 0 or (rows is not None and index >= rows):
            return (
                f"trainable_token_indices: found {index!r}, expected token ids from 0 to"
                f" {'…' if rows is None else rows - 1}, the rows of the model's embedding"
            )
    return None


def _bias_misfit(
    options: LoraOptions, deployment: Deployment, shape: ModelShape, architecture: str
) -> str | None:
    if deployment == "merged-in-place":
        return NO_SCALE_IN_PLACE
    narrowed = {"exclude_modules", "layers_to_transform"} & set(options.extra)
    layers = None if narrowed else targeted(shape, architecture, options.target)
    biased = {tensor.name for tensor in shape.tensors if tensor.name.endswith(".bias")}
    for layer in layers or ():
        if f"{module_name(layer)}.bias" not in biased and deployment in _MERGES_INTO_BIASES:
            return NO_BIAS_TO_MERGE.format(layer=module_name(layer))
    return None
