"""Quantization-aware training: all weights are tuned while the layers compute with rounded ones.

The forward pass of a linear layer rounds its weights (and, where the format does, its inputs) to
the levels of the integer format; the backward pass takes the rounding for the identity, so that
the weights behind it, in fp32, learn (Bengio et al. 2013, arXiv 1308.3432; Jacob et al. 2018,
arXiv 1712.05877). A value that is clipped to the last level gets no gradient in that step: of
symmetric formats that is the largest of a block where it is positive. Conversion then rounds these
weights to the very codes that were trained with.

With a rank, LoRA's adapters are trained in place of all weights, through the same rounding.

Everything else is as in full tuning: same loop, data, order and seeds, and fp32 master weights. So
what QAT wins back is what it is below a model tuned by `full` for as many steps and then rounded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Self

from pydantic import PositiveInt, model_validator

from qbench.core.aliases import Also
from qbench.core.number_types import FP32
from qbench.core.packages import missing_packages
from qbench.finetune.optimizers import optimizer_unavailable
from qbench.finetune.options import PositiveNumber, TrainingOptions
from qbench.finetune.trainable import Trainable
from qbench.precisions import is_quantized, options_of, precisions
from qbench.precisions.floating import in_type
from qbench.precisions.integer.options import DYNAMIC, FOR_QAT

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

    from qbench.core.record import Environment
    from qbench.core.spec import Deployment, PrecisionRef
    from qbench.precisions.integer.options import IntegerOptions


class QatOptions(TrainingOptions):
    """Options of `qat`; `precision` is the integer format that is trained for."""

    learning_rate: PositiveNumber = 2e-5
    """The highest, reached after the warm-up; as in full tuning. With a rank some ten times it."""
    rank: Annotated[PositiveInt | None, Also("r", "lora_r", "lora_rank")] = None
    """Of LoRA's adapters, trained in place of all weights; null trains these. Their product is
    added to the weights before these are rounded, so that codes alone are left to serve."""
    alpha: Annotated[PositiveNumber | None, Also("lora_alpha")] = None
    """The adapters count alpha/rank times; twice the rank unless given."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.alpha is not None and self.rank is None:
            raise ValueError("`rank` beside `alpha`; without adapters there is nothing to scale")
        return self


def rounding_of(precision: PrecisionRef) -> IntegerOptions:
    """The integers that are trained for; raises ValueError for a precision that has none."""
    found = precisions()[precision.name].rounding(options_of(precision))
    if found is None:
        raise ValueError(f"{precision.name} is no integer format")
    return found


@dataclass(frozen=True)
class Qat:
    """All weights are trained through the rounding that conversion will do."""

    name: str = "qat"
    summary: str = "every weight is trained while the layers compute with integers' levels"
    needs: tuple[str, ...] = ("torchao",)
    options: type[TrainingOptions] = QatOptions

    def conflicts(self, precision: PrecisionRef, options: QatOptions) -> str | None:
        """Integers alone are trained for, and of them what rounding to nearest makes."""
        chosen = precisions()[precision.name].rounding(options_of(precision))
        if chosen is None:
            if not is_quantized(precision):
                return (
                    f"QAT trains for an integer format, and {precision.name} is none; give"
                    f" precision: {FOR_QAT}, for example, or use method full"
                )
            return (
                f"QAT trains for an integer format, and {precision.name} is none; give precision:"
                f" {FOR_QAT}, for example. Training against the codes of {precision.name} is QLoRA:"
                f" {{method: lora, precision: {precision.name}}}"
            )
        if chosen.weights != "rtn":
            return (
                f"{chosen.weights} chooses other codes than rounding to nearest, which is what QAT"
                " trains through; use it on a model that was tuned with method full"
            )
        if chosen.scales != "minmax":
            return (
                f"QAT trains through scales of the extremes, and scales: {chosen.scales} chooses"
                " others; use it on a model that was tuned with method full"
            )
        if chosen.activations == "static":
            return (
                "static activations take their scales from a calibration after the training, so"
                f" QAT cannot train through them; use activations: dynamic, such as {DYNAMIC}"
            )
        return None

    def unavailable(self, options: QatOptions, environment: Environment) -> str | None:
        """What adapters and its optimizer need; the precision asks for torchao itself."""
        missing = missing_packages(("peft",), environment) if options.rank else None
        return missing or optimizer_unavailable(options.optimizer, environment)

    def load_precision(self, precision: PrecisionRef, options: QatOptions) -> PrecisionRef:
        """The master weights' type."""
        return in_type(FP32)

    def deployments(self, precision: PrecisionRef) -> tuple[Deployment, ...]:
        """After conversion, and before it."""
        return ("quantized", "fake-quantized")

    def prepare(
        self,
        model: PreTrainedModel,
        options: QatOptions,
        *,
        precision: PrecisionRef,
        seed: int,
        folder: Path,
    ) -> Trainable:
        """All weights, or the adapters, require a gradient.

        All weights are saved, in fp32 and under the names of the checkpoint.
        """
        from qbench.finetune.qat.layers import fake_quantize, save_plain

        chosen = rounding_of(precision)
        if options.rank is not None:
            from qbench.finetune.qat.adapters import adapt, save_merged

            tuned, turned = adapt(model, chosen, options.rank, options.alpha, seed)
            return Trainable(tuned, lambda target: save_merged(model, turned, target))
        turned = fake_quantize(model, chosen)
        model.requires_grad_(requires_grad=True)
        return Trainable(model, lambda target: save_plain(model, turned, target))


QAT = Qat()
