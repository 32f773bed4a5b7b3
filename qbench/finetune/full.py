"""Full tuning: every weight is trained.

The master weights are fp32 whatever the forward pass computes in: bfloat16 has 8 bits of mantissa,
so that an update of less than 1/512 of a weight is rounded away. Pure bf16 is an arm of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from qbench.core.number_types import BF16, FP16, FP32, MasterType, TorchNames
from qbench.finetune.artifact import copy_tokenizer
from qbench.finetune.optimizers import optimizer_unavailable
from qbench.finetune.options import PositiveNumber, TrainingOptions
from qbench.finetune.trainable import Trainable
from qbench.precisions import is_quantized, products_of
from qbench.precisions.floating import in_type

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

    from qbench.core.record import Environment
    from qbench.core.spec import Deployment, PrecisionRef


class FullOptions(TrainingOptions):
    """Options of `full`."""

    learning_rate: PositiveNumber = 2e-5
    """The highest, reached after the warm-up; about a tenth of LoRA's."""
    master_weights: Annotated[MasterType, TorchNames] = FP32
    """Type that the weights are kept and updated in."""


@dataclass(frozen=True)
class Full:
    """Every weight of the model is trained."""

    name: str = "full"
    summary: str = "every weight is trained; fp32 master weights unless the suite says bf16"
    needs: tuple[str, ...] = ()
    options: type[TrainingOptions] = FullOptions

    def conflicts(self, precision: PrecisionRef, options: FullOptions) -> str | None:
        """Codes cannot be trained, and neither in fp16 without a loss scale."""
        if is_quantized(precision):
            return (
                f"full tuning changes every weight, and those of {precision.name} are codes, which"
                " have no gradient; use method lora, or a 16- or 32-bit precision"
            )
        products = products_of(precision)
        own = None if products is None else products.rest
        if own == FP16:
            return (
                "full tuning in fp16 needs a loss scale, which is not done: small gradients are"
                " zero in fp16; use precision bf16"
            )
        if own == FP32 and options.master_weights == BF16:
            return "fp32 weights cannot be kept in bf16 master weights; use precision bf16"
        return None

    def unavailable(self, options: FullOptions, environment: Environment) -> str | None:
        """What its optimizer needs."""
        return optimizer_unavailable(options.optimizer, environment)

    def load_precision(self, precision: PrecisionRef, options: FullOptions) -> PrecisionRef:
        """The master weights' type."""
        return in_type(options.master_weights)

    def deployments(self, precision: PrecisionRef) -> tuple[Deployment, ...]:
        """Its weights in 16 bits, and rounded to codes: there is no adapter."""
        return ("merged", "quantized")

    def prepare(
        self,
        model: PreTrainedModel,
        options: FullOptions,
        *,
        precision: PrecisionRef,
        seed: int,
        folder: Path,
    ) -> Trainable:
        """All weights require a gradient; saved as transformers does, in the type they are in."""
        model.requires_grad_(requires_grad=True)

        def save(target: Path) -> None:
            model.save_pretrained(target)
            copy_tokenizer(folder, target)

        return Trainable(model, save)


FULL = Full()
