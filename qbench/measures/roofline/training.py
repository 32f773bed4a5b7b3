"""How near a training step comes to the device's matrix rate, and the energy that it takes."""

from __future__ import annotations

import time
from statistics import median
from typing import TYPE_CHECKING, Any

from qbench.core.number_types import BF16, FP32
from qbench.core.record import MetricDefinition
from qbench.finetune.lora_options import LoraOptions
from qbench.measures.loaded import Outcome, make_metric
from qbench.measures.other_programs import DeviceWatch
from qbench.measures.roofline.clocks import clock_details, clock_warnings, gpu_states
from qbench.measures.roofline.energy import ENERGY_OF
from qbench.measures.roofline.operations import sizes_of, step_operations
from qbench.measures.roofline.rates import matrix_rate
from qbench.measures.timing import UNSTABLE_SPREAD, iqr
from qbench.measures.training.memory import adapted_layers
from qbench.precisions import products_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from qbench.core.gpu import GpuProbe, GpuState
    from qbench.core.number_types import FloatType
    from qbench.core.spec import PrecisionRef
    from qbench.finetune.options import TrainingOptions
    from qbench.finetune.train.checkpoint import Progress
    from qbench.finetune.train.make import Training
    from qbench.measures.loaded import LoadedModel
    from qbench.measures.other_programs import OtherPrograms
    from qbench.measures.roofline.energy import EnergyMeter

METRICS = (
    MetricDefinition(
        name="training.operations",
        unit="FLOP",
        better="neither",
        title="operations of a step",
        formula="forward and backward passes over the padded sequences, by arithmetic: 6 x trained"
        " and 4 x frozen weights x tokens of the linear layers and the head, 12 x width x visible"
        " pairs of each attention (of a packed block as of one sequence); what checkpointing"
        " computes again does not count",
    ),
    MetricDefinition(
        name="training.matrix_rate",
        unit="FLOP/s",
        better="neither",
        title="matrix rate",
        formula="as latency.matrix_rate, in the type that the step computes in, after the training",
    ),
    MetricDefinition(
        name="training.matrix_share",
        unit="1",
        varies_by="process",
        better="higher",
        title="share of the matrix rate reached by a step",
        formula="training.operations / training.step_time / training.matrix_rate",
    ),
    MetricDefinition(
        name="training.energy",
        unit="J",
        better="lower",
        title="energy a token",
        formula=f"{ENERGY_OF} over the timed steps without an evaluation after them / tokens that"
        " are no padding",
    ),
    MetricDefinition(
        name="training.energy.example",
        unit="J",
        better="lower",
        title="energy a trained example",
        formula="the same energy / examples trained on in those steps, each of a packed block"
        " counted",
    ),
    MetricDefinition(
        name="training.energy.total",
        unit="J",
        better="lower",
        title="energy of a training",
        formula="training.energy x tokens of all steps; evaluation, checkpoints and loading apart",
    ),
)
_LEAST_STEPS = 4
"""With fewer timed steps their spread says nothing."""
_NO_STEP = "no step was timed; train for more"


class StepWatch:
    """Notes after each step what the device drew for it, how GPUs run, and what disturbs it."""

    def __init__(
        self,
        steps: int,
        probes: Mapping[str, GpuProbe],
        energy: EnergyMeter,
        device: str,
    ) -> None:
        """`steps`: of the whole training, on this device; the last one is watched too."""
        self._steps = steps
        self._device = device
        self._others: DeviceWatch | None = None
        self._probes = probes
        self._energy = energy
        self._last: tuple[float, float] | None = None
        self.spent: dict[int, tuple[float, float]] = {}
        """Joules and seconds of each step, from 0, since the one before it ended."""
        self.before: dict[str, GpuState] = {}
        """After the first step that was taken here, which warms the GPU up."""
        self.after: dict[str, GpuState] = {}
        self.others: OtherPrograms | None = None
        """What disturbed the steps after the first, and the evaluations between them."""

    def __call__(self, progress: Progress) -> None:
        """A step has ended."""
        joules, at = self._energy.read_j(), time.perf_counter()
        if joules is not None:
            if self._last is not None:
                last_joules, last_at = self._last
                self.spent[progress.step - 1] = joules - last_joules, at - last_at
            self._last = joules, at
        self.before = self.before or gpu_states(self._probes)
        if self._others is None:
            self._others = DeviceWatch(self._device, self._probes)
        self._others.look()
        if progress.step == self._steps:
            self.others = self._others.found()
            self.after = gpu_states(self._probes)

    def energy(
        self, progress: Progress, count: Callable[[int], int]
    ) -> tuple[float | None, str | None]:
        """Joules for each of what a step, from 0, has a `count` of; or None and the reason."""
        # What was measured or evaluated in a step's time is not the step's.
        apart = {*progress.untimed, *(steps - 1 for steps in progress.validation)}
        spent = {step: one for step, one in self.spent.items() if step not in apart}
        if self._last is not None and not spent:
            return None, _NO_STEP
        joules = sum(one for one, _ in spent.values()) if self._last is not None else None
        things = sum(count(step) for step in spent)
        return self._energy.per(joules, things, sum(seconds for _, seconds in spent.values()))

    @property
    def details(self) -> dict[str, Any]:
        """For the record."""
        return {
            "energy_method": self._energy.method,
            "gpu": clock_details(self.before, self.after),
            **({} if self.others is None else {"other_programs": self.others.details}),
        }

    @property
    def warnings(self) -> tuple[str, ...]:
        """What made the times of the steps unstable, each with its remedy."""
        disturbed = () if self.others is None else self.others.warnings("the steps")
        return (*disturbed, *clock_warnings(self.before, self.after))


def training_limits(
    training: Training,
    options: TrainingOptions,
    loaded: LoadedModel,
    held: PrecisionRef,
    watch: StepWatch,
) -> Outcome:
    """What of a training's outcome is about the device; `held` as the base was loaded.

    Measures the matrix rate, so it must not run while anything is timed.
    """
    dtype = step_type(options, held)
    rate = matrix_rate(loaded.device, dtype)
    operations, unknown = _operations(training, options, loaded)
    steps_s = _timed_s(training.progress)
    share = None
    if operations is not None and rate.per_s is not None and steps_s:
        share = operations / median(steps_s) / rate.per_s
    progress = training.progress
    a_token, no_energy = watch.energy(progress, progress.tokens.__getitem__)
    found = {
        "operations": (operations, unknown),
        "matrix_rate": (rate.per_s, rate.reason),
        "matrix_share": (share, unknown or rate.reason or _NO_STEP),
        "energy": (a_token, no_energy),
        "energy.example": watch.energy(progress, training.curriculum.step_examples),
        "energy.total": (None if a_token is None else a_token * sum(progress.tokens), no_energy),
    }
    return Outcome(
        metrics=tuple(
            make_metric(METRICS, f"training.{name}", value, reason=reason)
            for name, (value, reason) in found.items()
        ),
        details={"multiplied_in": dtype, **watch.details},
        warnings=(*_instability(steps_s), *watch.warnings),
    )


def step_type(options: TrainingOptions, held: PrecisionRef) -> FloatType:
    """The type that a step's products are taken in: autocast's, else that of the layers."""
    if options.compute == BF16:
        return BF16
    products = products_of(held)
    return FP32 if products is None else products.compute


def _operations(
    training: Training, options: TrainingOptions, loaded: LoadedModel
) -> tuple[int | None, str | None]:
    shape, unknown = sizes_of(loaded.model.config.to_dict())
    if shape is None:
        return None, unknown
    curriculum = training.curriculum
    adapted, rank = None, 0
    if isinstance(options, LoraOptions):
        adapted, rank = frozenset(adapted_layers(training.trained_names)), options.rank
    done = step_operations(
        shape,
        sequences=curriculum.batch * curriculum.accumulate,
        tokens=curriculum.length,
        adapted=adapted,
        rank=rank,
    )
    return done.total, None


def _timed_s(progress: Progress) -> list[float]:
    parts = zip(progress.forward_s, progress.backward_s, progress.optimizer_s, strict=True)
    untimed = set(progress.untimed)
    return [sum(times) for step, times in enumerate(parts) if step not in untimed]


def _instability(steps_s: list[float]) -> tuple[str, ...]:
    if len(steps_s) < _LEAST_STEPS or iqr(steps_s) <= UNSTABLE_SPREAD * median(steps_s):
        return ()
    words = (
        f"the time of a step is unstable: the middle half of its {len(steps_s)} timed steps spans"
        f" {iqr(steps_s) / median(steps_s):.0%} of the median; close other programs, or train for"
        " more steps"
    )
    return (words,)
