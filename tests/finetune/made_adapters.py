"""LoRA artifacts made up by plain PEFT, with weights that are all random, and naive merges."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qbench.core.spec import PrecisionRef, TuningRef
from qbench.precisions import precisions

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class MadeAdapter:
    """An artifact with what is needed to compute with it by hand."""

    base: Path
    folder: Path
    scale: float
    """What B·A counts: alpha/rank, or alpha/√rank."""

    def tensors(self) -> dict[str, torch.Tensor]:
        from safetensors.torch import load_file

        loaded: dict[str, torch.Tensor] = load_file(self.folder / "adapter_model.safetensors")
        return loaded

    def update(self, layer: str) -> torch.Tensor | None:
        """scale · B·A of a layer, (out, in); None for one without an adapter."""
        tensors = self.tensors()
        prefix = f"base_model.model.{layer}"
        if f"{prefix}.lora_A.weight" not in tensors:
            return None
        factors = tensors[f"{prefix}.lora_B.weight"], tensors[f"{prefix}.lora_A.weight"]
        product: torch.Tensor = self.scale * (factors[0] @ factors[1])
        return product

    def merged_into(self, weight: torch.Tensor, layer: str) -> torch.Tensor:
        """W + scale·B·A, or with magnitudes m: m · (W + scale·B·A) / its rows' lengths."""
        update = self.update(layer)
        if update is None:
            return weight
        magnitudes = self.tensors().get(f"base_model.model.{layer}.lora_magnitude_vector")
        merged = weight.float() + update
        if magnitudes is None:
            return merged
        lengths = merged.norm(dim=1, keepdim=True)
        stretched: torch.Tensor = magnitudes[:, None] * merged / lengths
        return stretched


def make_adapter(base: Path, folder: Path, *, seed: int = 1, **config: Any) -> MadeAdapter:
    """Saves an adapter whose every weight is random, and the mark of a whole artifact."""
    import torch
    from peft import LoraConfig, get_peft_model

    model = load_by_hand(base)
    options = {
        "r": 4,
        "lora_alpha": 12,
        "target_modules": "all-linear",
        "fan_in_fan_out": model.config.model_type == "gpt2",
        **config,
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`")
        made = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **options))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            noise = 0.1 * torch.randn(parameter.shape, generator=generator)
            if "lora_A" in name or "lora_B" in name:
                parameter.copy_(noise)
            elif "lora_magnitude" in name:
                parameter.mul_(1 + noise)
    made.save_pretrained(folder, save_embedding_layers=False)
    mark(folder)
    rank, alpha = options["r"], options["lora_alpha"]
    scale = alpha / rank**0.5 if options.get("use_rslora") else alpha / rank
    return MadeAdapter(base, folder, scale)


def mark(folder: Path, *, base_fingerprint: str = "of the tiny base") -> None:
    """Declares an artifact whole."""
    info = {
        "key": "0" * 16,
        "method": "lora",
        "precision": "bf16",
        "base_fingerprint": base_fingerprint,
        "seed": 0,
        "steps": 1,
    }
    (folder / "artifact.json").write_text(json.dumps(info))


def load_by_hand(folder: Path) -> PreTrainedModel:
    """The checkpoint in fp32, through transformers alone."""
    import torch
    from transformers import AutoModelForCausalLM

    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.eval()
    model.requires_grad_(requires_grad=False)
    return model


def precision_ref(name: str, **changes: Any) -> PrecisionRef:
    """A precision with its options filled in."""
    options = precisions()[name].options(**changes).model_dump(mode="json")
    return PrecisionRef(label=name, name=name, options=options)


def tuning_ref(
    precision: str = "bf16", method: str = "lora", options: dict[str, Any] | None = None, **of: Any
) -> TuningRef:
    """A tuning in a precision with the options `of` it."""
    return TuningRef(
        label=method,
        arm=method,
        method=method,
        precision=precision_ref(precision, **of),
        options=options or {},
    )
