"""What a measurement gets, a loaded model with the facts of its loading, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from qbench.core.errors import MeasurementError
from qbench.core.record import Metric, usual_variation
from qbench.precisions.kv_cache import kv_caches
from qbench.precisions.kv_layers import make_cache
from qbench.precisions.loading import TOKENIZER_FAULTS, load_tokenizer
from qbench.precisions.nonfinite import nonfinite_tensors
from qbench.precisions.placement import devices_of
from qbench.predict.gpu_models import AMPERE

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from qbench.core.checkpoint import Checkpoint
    from qbench.core.record import MetricDefinition, VariesBy
    from qbench.core.spec import Cell, ResolvedModel, StaticBytes
    from qbench.measures.peaks import Peak, PeakMeter
    from qbench.precisions.first_pass import Constants
    from qbench.precisions.verification import Verification


Progress = Callable[[int, int], None]
"""Given what is done, and all there is of it."""


def _untold(done: int, total: int) -> None:
    """Where nobody watches."""


@dataclass(frozen=True)
class Steps:
    """Steps of a training that have ended since it told of some the last time."""

    of: int
    """Steps of the whole training."""
    first: int
    """The first one that it tells of, counted from 0."""
    loss: list[float]
    """Mean over each step's scored tokens, in nat."""
    learning_rate: list[float]
    validation: list[tuple[int, float]]
    """Steps taken before an evaluation, and the loss that it found, in nat a token."""


TellSteps = Callable[[Steps], None]
"""Given what a training has done since the last time."""


def _untold_steps(steps: Steps) -> None:
    """Where nobody watches."""


@dataclass(frozen=True)
class LoadedModel:
    """A model built once for all that is measured on it."""

    model: PreTrainedModel
    cell: Cell
    resolved: ResolvedModel
    checkpoint: Checkpoint
    """What was fetched: of a tuned model, its base."""
    device: str
    """The job's, where a model that is spread over several GPUs has its first part."""
    verification: Verification
    predicted: StaticBytes | None
    """Static bytes by arithmetic; None where the shapes are not known without loading."""
    meter: PeakMeter
    level_before_bytes: int
    """Memory in use just before the model was loaded: of the process on a CPU, else torch's."""
    used_before_bytes: dict[str, int]
    """Memory of each GPU that anyone held before the job used it; without those of which NVML does
    not tell, such as a CPU."""
    load_peak: Peak
    load_time_s: float
    trust_code: bool = False
    """Whether the suite lets Python of its tasks and metrics run."""
    artifact_key: str | None = None
    """Of the tuned model that the cell is, or that its training makes; None for an untuned one."""
    constants: Constants = field(default_factory=dict)
    """Of the quantized layers as they were verified, to be compared with what they are later."""
    progress: Progress = _untold
    """Told, while an item is taken, how many of its parts are done, and of how many."""
    steps: TellSteps = _untold_steps
    """Told, while the model is trained, what its steps gave."""

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The model's own tokenizer; raises `MeasurementError` if it has none.

        That of a bundled model for random weights, which come without one: its ids may lie beyond
        the model's vocabulary.
        """
        try:
            return load_tokenizer(self.checkpoint, bundled=self.has_random_weights)
        except TOKENIZER_FAULTS as error:
            raise MeasurementError(
                f"{self.checkpoint.folder}: no tokenizer that transformers can load beside the"
                f" model ({_first_line(error)}); save one there with tokenizer.save_pretrained()"
            ) from error

    def check_ids(self, highest: int) -> None:
        """Raises `MeasurementError` where the highest of some ids has no embedding."""
        rows = self.model.get_input_embeddings().weight.shape[0]
        if highest >= rows:
            raise MeasurementError(
                f"the tokenizer gives id {highest}, but the model's embedding has {rows} rows: the"
                f" tokenizer in {self.checkpoint.folder} is not this model's"
            )

    @cached_property
    def vocabulary(self) -> int:
        """One more than the tokenizer's highest id; ids may have gaps.

        Columns of the logits beyond it pad the model's head.
        """
        rows: int = self.model.get_output_embeddings().weight.shape[0]
        highest: int = max(self.tokenizer.get_vocab().values())
        return min(highest + 1, rows)

    @cached_property
    def nonfinite_tensors(self) -> list[str]:
        """The checkpoint's tensors that hold NaN or infinity; all of it is read to know them."""
        return nonfinite_tensors(self.checkpoint.folder)

    @property
    def has_random_weights(self) -> bool:
        """Whether only the shape is the model's own."""
        return self.cell.model.kind == "random"

    @cached_property
    def devices(self) -> tuple[str, ...]:
        """Where the model lies, as torch names it: the job's device, or several GPUs."""
        return (self.device,) if self.cell.model.device_map is None else devices_of(self.model)

    @property
    def has_flash(self) -> bool:
        """Whether the device has a flash attention for 16-bit types; a CPU has its own."""
        import torch

        if not self.device.startswith("cuda"):
            return True
        return torch.cuda.get_device_capability(self.device) >= AMPERE

    def new_cache(self) -> Any:
        """An empty cache of the cell's kind; None where it is the model's own, which makes it.

        Raises `MeasurementError` for a model that does not take one of that kind.
        """
        if self.cell.kv_cache is None:
            return None
        return make_cache(kv_caches()[self.cell.kv_cache], self.model)

    @property
    def torch_device(self) -> torch.device:
        """The device that the model's inputs go to."""
        device: torch.device = self.model.device
        return device


@dataclass(frozen=True)
class UnbuiltCell:
    """A cell whose model a measurement has built in processes of its own."""

    cell: Cell
    resolved: ResolvedModel
    checkpoint: Checkpoint
    """What was fetched: of a tuned model, its base."""
    device: str
    job: dict[str, Any]
    """All that a process needs to build the model, as JSON: `qbench.running.alone.build` reads
    it."""


@dataclass(frozen=True)
class Outcome:
    """What one item's measurement found."""

    metrics: tuple[Metric, ...]
    series: dict[str, list[float]] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def make_metric(
    definitions: tuple[MetricDefinition, ...],
    name: str,
    value: float | None,
    *,
    reason: str | None = None,
    samples: list[float] | None = None,
    varies_by: VariesBy | None = None,
) -> Metric:
    """A metric with the unit and direction of its definition; `varies_by` overrides that one.

    Raises ValueError for a missing value without a reason, and for one that is not finite.
    """
    definition = next(definition for definition in definitions if definition.name == name)
    if value is None and not reason:
        raise ValueError(f"{name}: a missing value needs a reason")
    if value is not None:
        reason = None
    if value is not None and not abs(value) < float("inf"):
        raise ValueError(f"{name}: {value} is not a finite number")
    return Metric(
        name=name,
        unit=definition.unit,
        better=definition.better,
        value=None if value is None else float(value),
        reason=reason,
        samples=None if samples is None else tuple(samples),
        varies_by=varies_by or definition.varies_by or usual_variation(definition.unit),
    )


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return text[0] if text else type(error).__name__
