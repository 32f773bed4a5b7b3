"""LoRA: a frozen base with a product of two thin matrices beside chosen layers, through PEFT.

W' = W + alpha/rank · B·A, with A (rank, in) and B (out, rank); only A and B are trained. Hu et al.
2021, arXiv 2106.09685. On a base of 4-bit codes it is QLoRA: Dettmers et al. 2023, 2305.14314.

By hand, the same adapter is `torch.manual_seed(seed)` directly before `get_peft_model(model, …)` on
the model as its precision loads it: nothing of the base is upcast, the adapter itself is fp32.
"""

from __future__ import annotations

import copy
import math
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qbench.core.errors import MeasurementError
from qbench.core.names import what_there_is
from qbench.core.number_types import FP16, FP32
from qbench.core.packages import missing_packages
from qbench.finetune.lora_extra import argument_conflict, saved_modules_fault
from qbench.finetune.lora_options import CHANGES_THE_BASE, LoraOptions
from qbench.finetune.optimizers import optimizer_unavailable
from qbench.finetune.options import TrainingOptions, computes_in_fp16
from qbench.finetune.trainable import Trainable
from qbench.precisions import is_quantized, options_of, precisions, products_of
from qbench.precisions.computing import computed_in

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel

    from qbench.core.record import Environment
    from qbench.core.spec import Deployment, PrecisionRef

_INIT: dict[str, bool | str] = {
    "default": True,
    "gaussian": "gaussian",
    "pissa": "pissa",
    "olora": "olora",
    "loftq": True,  # put in after PEFT's own, which expects a base that is not quantized
}
_REFUSALS = (
    AttributeError,
    ImportError,
    IndexError,
    KeyError,
    NotImplementedError,
    TypeError,
    ValueError,
)
"""What PEFT raises for options that do not go together, or not with the model."""


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters on a frozen base; on a quantized one, QLoRA."""

    name: str = "lora"
    summary: str = "low-rank adapters on a frozen base; on a quantized base this is QLoRA"
    needs: tuple[str, ...] = ("peft",)
    options: type[TrainingOptions] = LoraOptions

    def conflicts(self, precision: PrecisionRef, options: LoraOptions) -> str | None:
        """What PEFT refuses or gets wrong (0.21, tried), and what no plain adapter can hold."""
        held = precisions()[precision.name]
        return (
            held.untrainable(options_of(precision), self.name, options)
            or self._wrong_options(precision, options)
            or argument_conflict(precision, options)
        )

    def _wrong_options(self, precision: PrecisionRef, options: LoraOptions) -> str | None:
        init = options.init
        if options.compute == FP32 and computes_in_fp16(precision):
            return (
                "without autocast the base computes in fp16, whose gradients need a loss scale,"
                " which is not done; use compute: bf16"
            )
        if init in CHANGES_THE_BASE:
            if is_quantized(precision):
                return (
                    f"init {init} takes its part out of the weights, and {precision.name} holds"
                    " codes; use init: default, or a 16- or 32-bit precision"
                )
            if not options.is_plain:
                return (
                    f"init {init} is saved as a plain adapter, which can hold no dora, bias or"
                    " extra beside it; leave them out, or use init: default"
                )
        products = products_of(precision)
        if init == "loftq" and (products is None or products.kind != "4bit"):
            return (
                f"init loftq begins with what 4-bit codes lost, and {precision.name} has none;"
                f" use {', '.join(_four_bit())}, or init: default"
            )
        return None

    def unavailable(self, options: LoraOptions, environment: Environment) -> str | None:
        """Needs PEFT and what its optimizer needs; LoftQ needs a GPU."""
        if options.init == "loftq" and environment.device_type != "cuda":
            return "init loftq needs CUDA in PEFT; use init: default here"
        return missing_packages(self.needs, environment) or optimizer_unavailable(
            options.optimizer, environment
        )

    def load_precision(self, precision: PrecisionRef, options: LoraOptions) -> PrecisionRef:
        """The precision itself: the base is frozen."""
        return precision

    def deployments(self, precision: PrecisionRef) -> tuple[Deployment, ...]:
        """All of them; those that concern a quantized base, on one alone."""
        held = precisions()[precision.name]
        quantized: tuple[Deployment, ...] = (
            "merged-requantized",
            *(("merged-dequantized",) if held.dequantizes else ()),
            *(("merged-in-place",) if held.merges_in_place else ()),
        )
        return (
            "attached",
            *(("attached-fp16",) if computed_in(precision, FP16) is not None else ()),
            "merged",
            *(quantized if is_quantized(precision) else ("quantized",)),
            "adapter-int8",
            "adapter-nf4",
        )

    def prepare(
        self,
        model: PreTrainedModel,
        options: LoraOptions,
        *,
        precision: PrecisionRef,
        seed: int,
        folder: Path,
    ) -> Trainable:
        """Injects adapters into the model, beside layers that stay as they are."""
        import torch
        from peft import get_peft_model, replace_lora_weights_loftq

        _check_targets(model, options)
        _check_saved_modules(model, options)
        try:
            config = _config(model, options)
            torch.manual_seed(seed)
            with _what_is_ignored_refused():
                tuned = get_peft_model(model, config)
            if options.init == "loftq":
                replace_lora_weights_loftq(tuned, model_path=str(folder))
        except (*_REFUSALS, RuntimeWarning) as error:
            first_line = next(iter(str(error).splitlines()), type(error).__name__)
            raise MeasurementError(
                f"PEFT cannot make this adapter: {first_line}; change the options of lora that it"
                " names"
            ) from error
        if options.init not in CHANGES_THE_BASE:
            return Trainable(tuned, lambda target: _save(tuned, target))
        initial = _adapter_weights(tuned)
        return Trainable(tuned, lambda target: _save_difference(tuned, initial, target))


def _four_bit() -> list[str]:
    """The precisions whose layers are bitsandbytes' 4-bit ones, which PEFT can fill anew."""
    found = {name: held.products(held.options()) for name, held in precisions().items()}
    return [name for name, one in found.items() if one is not None and one.kind == "4bit"]


@contextmanager
def _what_is_ignored_refused() -> Iterator[None]:
    """Raises what PEFT only warns of: names that it matched with nothing, and left out."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", r".*(no|not) .*matched|.*not match", RuntimeWarning)
        yield


def _config(model: PreTrainedModel, options: LoraOptions) -> LoraConfig:
    from peft import LoraConfig
    from transformers.pytorch_utils import Conv1D

    target: str | list[str] | None
    if options.target == "default":
        target = None
    else:
        target = options.target if isinstance(options.target, str) else list(options.target)
    # GPT-2 stores its weights the other way round; PEFT sets this itself, with a warning a layer.
    transposed = any(isinstance(module, Conv1D) for module in model.modules())
    return LoraConfig(
        **{
            "task_type": "CAUSAL_LM",
            "r": options.rank,
            "lora_alpha": options.scale_alpha,
            "lora_dropout": options.dropout,
            "target_modules": target,
            "bias": options.bias,
            "use_rslora": options.rslora,
            "use_dora": options.dora,
            "init_lora_weights": _INIT[options.init],
            "fan_in_fan_out": transposed,
            **options.extra,
        }
    )


def _check_targets(model: PreTrainedModel, options: LoraOptions) -> None:
    """Raises `MeasurementError` for a name that no layer has, with those that there are.

    PEFT fails only if none of the names exists, and passes over one that is misspelled.
    """
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as DEFAULTS
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    linear = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D | nn.Embedding)
    ]
    there = sorted({name.rpartition(".")[2] for name in linear})
    architecture = model.config.model_type
    if options.target == "default" and architecture not in DEFAULTS:
        raise MeasurementError(
            f"target default: PEFT has no choice of layers for the architecture {architecture};"
            f" give all-linear, or names among {', '.join(there)}"
        )
    if isinstance(options.target, str):
        return
    for wanted in options.target:
        if not any(name == wanted or name.endswith(f".{wanted}") for name in linear):
            raise MeasurementError(
                f"target: no layer of this model is named {wanted!r};"
                f" {what_there_is(wanted, there)}"
            )


def _check_saved_modules(model: PreTrainedModel, options: LoraOptions) -> None:
    """As in the plan, for models whose shapes were not known there."""
    holds_codes = {
        name: any(not one.is_floating_point() for one in module.parameters(recurse=False))
        for name, module in model.named_modules()
    }
    fault = saved_modules_fault(options.extra.get("modules_to_save"), holds_codes)
    if fault is not None:
        raise MeasurementError(fault)


def _save(tuned: PeftModel, folder: Path) -> None:
    # Asked to find out by itself whether embeddings belong to it, PEFT would ask the hub.
    tuned.save_pretrained(folder, save_embedding_layers=False)


def _adapter_weights(tuned: PeftModel) -> dict[str, Any]:
    from peft import get_peft_model_state_dict

    weights = get_peft_model_state_dict(tuned, save_embedding_layers=False)
    return {name: weight.detach().cpu().clone() for name, weight in weights.items()}


def _save_difference(tuned: PeftModel, initial: dict[str, Any], folder: Path) -> None:
    """A plain adapter on the untouched base, of twice the rank: B·A − B₀·A₀ = [B, −B₀]·[A; A₀]."""
    import torch
    from safetensors.torch import save_file

    doubled = {}
    for name, weight in _adapter_weights(tuned).items():
        is_a = "lora_A" in name or "lora_embedding_A" in name
        beside = [weight, initial[name]] if is_a else [weight, -initial[name]]
        doubled[name] = torch.cat(beside, dim=0 if is_a else 1)
    save_file(doubled, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = copy.deepcopy(tuned.peft_config["default"])
    # The same scale: alpha/rank, or alpha/√rank.
    config.lora_alpha *= math.sqrt(2) if config.use_rslora else 2
    config.r *= 2
    config.init_lora_weights = True
    config.inference_mode = True
    config.base_model_name_or_path = tuned.get_base_model().name_or_path
    config.save_pretrained(folder)


LORA = Lora()
