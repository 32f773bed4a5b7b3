"""The linear layers by themselves, from one row to many: the time, the kernel, the floor.

A model's speed is that of its linear layers, more or less. A quantized one reads fewer bytes, which
helps while there are few rows; with many it computes as much as any other, and dequantizing comes
on top. From which number of rows on that makes it slower than bf16 is told by timing each size of
layer that the loaded model has, in turns with plain layers of that size in bf16 (and fp32, which
people take on a CPU) in the same process.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, PositiveFloat

from qbench.core.aliases import Also
from qbench.core.cpu import MULTIPLY_BF16, cpu_features
from qbench.core.errors import MeasurementError
from qbench.core.gpu import gpu_probes
from qbench.core.number_types import BF16, FP32, torch_type
from qbench.core.options import plain_options, typed_options
from qbench.core.spec import Frozen, Item
from qbench.measures.kernels.layers import layer_sizes, total
from qbench.measures.kernels.limits import Limits
from qbench.measures.kernels.metrics import METRICS
from qbench.measures.kernels.ran import called_operators, what_ran
from qbench.measures.kernels.timing import in_turns, timed_rounds
from qbench.measures.loaded import Outcome, make_metric
from qbench.measures.measurement import Measurement, repeated
from qbench.measures.options import GridRepeats, OneOrMorePositive
from qbench.measures.other_programs import DeviceWatch
from qbench.measures.roofline.clocks import clock_details, clock_warnings, gpu_states
from qbench.measures.timing import UNSTABLE_SPREAD, iqr
from qbench.precisions import options_of, precisions, products_of
from qbench.precisions.layer_probe import device_of
from qbench.sources.models.experts import experts_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import torch

    from qbench.core.record import Metric, MetricDefinition
    from qbench.core.spec import ResolvedModel
    from qbench.measures.kernels.layers import LayerSize
    from qbench.measures.kernels.ran import Ran
    from qbench.measures.loaded import LoadedModel
    from qbench.precisions.products import ProductKind, Products

ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
OWN = "own"
"""The cell's own layers, beside those in plain types."""
_ON_CPU_ALONE = "fp32 is timed on a CPU alone: on a GPU people compare with 16 bits"
_OF_EXPERTS = (
    "the experts of its mixture are left out: each of them sees its own share of the rows, and"
    " the times are those of the other linear layers"
)
_WITHOUT_OUTLIERS = (
    "the inputs are drawn from a normal distribution, without the outlier columns that a trained"
    " model's activations have: LLM.int8 multiplies such columns apart, which takes more time"
)


class KernelsOptions(Frozen):
    """Options of `kernels`."""

    rows: Annotated[OneOrMorePositive, Also("batch_sizes")] = ROWS
    """Rows of the layers' inputs: the batch in decode, batch x prompt tokens in prefill."""
    repeats: GridRepeats = 5
    """Processes of their own that each number of rows is taken in, interleaved over the cells."""
    min_seconds: Annotated[PositiveFloat, Also("min_run_time")] = 0.2
    """The fewest seconds that the calls of one size of layer take, in 5 rounds; as many in bf16."""
    seed: int = Field(default=0, ge=0)
    """Draws the inputs."""


class KernelsPoint(Frozen):
    """What is measured at one number of rows."""

    rows: int
    min_seconds: float
    seed: int


@dataclass(frozen=True)
class Kernels(Measurement):
    """How long the linear layers take."""

    name: str = "kernels"
    summary: str = "time and kernel of the linear layers by rows, beside bf16's; needs no text"
    options: type[Frozen] = KernelsOptions
    metrics: tuple[MetricDefinition, ...] = METRICS
    by_default: bool = False
    of_machine: bool = True

    def items(self, options: KernelsOptions, model: ResolvedModel, base: Path) -> list[Item]:
        """One item a number of rows and repeat: all sizes of layer."""
        points = (
            KernelsPoint(rows=rows, min_seconds=options.min_seconds, seed=options.seed)
            for rows in options.rows
        )
        told = ((f"rows-{point.rows}", plain_options(point)) for point in points)
        return repeated(self.name, told, options.repeats)

    def measure(self, loaded: LoadedModel, item: Item) -> Outcome:
        """Times each size of layer in turns with plain ones, then asks which kernel ran."""
        import torch

        point = typed_options(KernelsPoint, item.params)
        sizes = layer_sizes(loaded.model)
        if not sizes:
            raise MeasurementError(
                "the model has no linear layer to time beside its head and its experts: leave"
                " kernels out of what is measured of it"
            )
        beside = [BF16, FP32] if loaded.device == "cpu" else [BF16]
        each: dict[str, list[list[float]]] = {name: [] for name in (OWN, *beside)}
        calls: dict[str, Callable[[], Any]] = {}
        with gpu_probes(loaded.devices) as probes:
            before = gpu_states(probes)
            others = DeviceWatch(loaded.device, probes)
            for size in sizes:
                inputs = _inputs(size, point, loaded)
                calls[size.label] = in_turns(size.layers[:1], inputs)
                timed = {OWN: in_turns(size.turning, inputs)}
                weight = _drawn(size.outputs, size.inputs, point.seed)
                timed |= {name: _plain(size, weight, inputs, name) for name in beside}
                rounds = timed_rounds(
                    timed,
                    device=device_of(size.layers[0]),
                    min_seconds=point.min_seconds,
                    after_each=others.look,
                )
                for name, seconds in rounds.items():
                    each[name].append(seconds)
            disturbed = others.found()
            after = gpu_states(probes)
        with torch.inference_mode():
            called = called_operators(calls)
        products = products_of(loaded.cell.precision, loaded.model.config.to_dict())
        ran = [
            what_ran(called[size.label], coded=size.coded, kind=_kind(loaded, size))
            for size in sizes
        ]
        limits = Limits(loaded, sizes, point.rows)
        sums = {name: _sums(sizes, rounds) for name, rounds in each.items()}
        return Outcome(
            metrics=(*_time_metrics(sums), *limits.metrics(statistics.median(sums[OWN]))),
            series={
                f"{size.label}.{name}_s": rounds[at]
                for name, rounds in each.items()
                for at, size in enumerate(sizes)
            },
            details={
                "rows": point.rows,
                "sizes": [
                    {
                        **_described(size, one, {name: each[name][at] for name in each}),
                        **limits.of(at),
                    }
                    for at, (size, one) in enumerate(zip(sizes, ran, strict=True))
                ],
                "inputs": str(loaded.model.dtype).removeprefix("torch."),
                "multiplied_in": limits.dtype,
                "gpu": clock_details(before, after),
                "other_programs": disturbed.details,
            },
            warnings=(
                *_caveats(loaded, products),
                *_instability(sums),
                *disturbed.warnings("the timed calls"),
                *clock_warnings(before, after),
            ),
        )


def _kind(loaded: LoadedModel, size: LayerSize) -> ProductKind | None:
    """How layers of a size multiply, as far as their precision tells."""
    cell = loaded.cell.precision
    products = precisions()[cell.name].products_of_layer(
        size.names[0], options_of(cell), loaded.model.config.to_dict()
    )
    return None if products is None else products.kind


def _inputs(size: LayerSize, point: KernelsPoint, loaded: LoadedModel) -> torch.Tensor:
    """Of one size of layer, (1, rows, inputs) as a model's layers get them, in the model's type."""
    drawn = _drawn(point.rows, size.inputs, point.seed)[None]
    return drawn.to(device_of(size.layers[0]), loaded.model.dtype)


def _drawn(rows: int, columns: int, seed: int) -> torch.Tensor:
    """A matrix of a normal distribution, on the CPU: the same on every device."""
    import torch

    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def _plain(
    size: LayerSize, weight: torch.Tensor, inputs: torch.Tensor, dtype: str
) -> Callable[[], Any]:
    """A call of plain linear layers of the size, in a floating type, in turns as the cell's own."""
    import torch

    held = torch_type(dtype)
    count = size.turns(size.outputs * size.inputs * held.itemsize)
    layers = []
    for _ in range(count):
        layer = torch.nn.Linear(size.inputs, size.outputs, bias=size.bias, device="meta")
        layer = layer.to(held).to_empty(device=inputs.device).requires_grad_(requires_grad=False)
        layer.weight.copy_(weight)
        if layer.bias is not None:
            layer.bias.zero_()
        layers.append(layer)
    return in_turns(layers, inputs.to(held))


def _sums(sizes: Sequence[LayerSize], rounds: Sequence[Sequence[float]]) -> list[float]:
    """The seconds of all layers of the model, a figure a round."""
    return [total(sizes, of_round) for of_round in zip(*rounds, strict=True)]


def _time_metrics(sums: dict[str, list[float]]) -> list[Metric]:
    own = sums[OWN]
    made = [make_metric(METRICS, "kernels.time", statistics.median(own), samples=own)]
    for name, suffix in ((BF16, ""), (FP32, f".{FP32}")):
        found = sums.get(name)
        ratios = None if found is None else [a / b for a, b in zip(own, found, strict=True)]
        for metric, values in ((f"kernels.time.{name}", found), (f"kernels.ratio{suffix}", ratios)):
            value = None if values is None else statistics.median(values)
            made.append(make_metric(METRICS, metric, value, reason=_ON_CPU_ALONE, samples=values))
    return made


def _described(size: LayerSize, ran: Ran, rounds: dict[str, list[float]]) -> dict[str, Any]:
    """One size of layer, for the record."""
    return {
        "size": size.label,
        "outputs": size.outputs,
        "inputs": size.inputs,
        "bias": size.bias,
        "layers": size.count,
        "first": size.names[0],
        "class": type(size.layers[0]).__name__,
        "in_turns": len(size.turning),
        "seconds": {name: statistics.median(each) for name, each in rounds.items()},
        "kernel": ran.kernel,
        "kernel_reason": ran.reason,
        "operators": list(ran.operators),
    }


def _caveats(loaded: LoadedModel, products: Products | None) -> list[str]:
    found = []
    members = () if products is None else products.members or (products,)
    if any(one is not None and one.kind == "outliers" for one in members):
        found.append(_WITHOUT_OUTLIERS)
    if loaded.device == "cpu" and not MULTIPLY_BF16 & set(cpu_features()):
        found.append(
            f"this CPU does not multiply bf16 (it has none of {', '.join(sorted(MULTIPLY_BF16))}):"
            " torch converts it, and fp32 is what to compare with"
        )
    if loaded.device != "cpu" and not loaded.has_flash:
        found.append(
            "this GPU does not multiply bf16, which came with compute capability 8.0: torch"
            " computes it in fp32, slowly, so that a format looks better beside it than it is"
        )
    if experts_of(loaded.model.config.to_dict())[0]:
        found.append(_OF_EXPERTS)
    return found


def _instability(sums: dict[str, list[float]]) -> list[str]:
    return [
        f"the times of {'the layers' if name == OWN else name} are unstable: the middle half of"
        f" their {len(rounds)} rounds spans {iqr(rounds) / statistics.median(rounds):.0%} of the"
        " median; close other programs, or raise min_seconds"
        for name, rounds in sums.items()
        if iqr(rounds) > UNSTABLE_SPREAD * statistics.median(rounds)
    ]


KERNELS = Kernels()
