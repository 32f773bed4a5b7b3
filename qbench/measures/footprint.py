"""Static bytes by kind, logical weights, bits per weight, disk bytes and cold load time.

Measured from the storages of the loaded model, quantization state included, and compared with the
arithmetic from shapes: the two are equal to the byte, or the record warns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbench.core.record import MetricDefinition
from qbench.core.spec import Frozen, Item, StaticBytes
from qbench.measures.loaded import Outcome, make_metric
from qbench.measures.measurement import Measurement
from qbench.predict.bits import LogicalWeights, bits_per_weight

if TYPE_CHECKING:
    from pathlib import Path

    from qbench.core.spec import ResolvedModel
    from qbench.measures.loaded import LoadedModel

_KIND_TITLES = {
    "linear": "weights of the linear layers",
    "quantization_state": "block maxima, scales and code tables",
    "embeddings_and_head": "embeddings and output head",
    "norms": "norms",
    "biases": "biases of the linear layers",
    "buffers": "buffers",
    "adapters": "attached adapters",
    "other": "other parameters",
}

METRICS = (
    MetricDefinition(
        name="memory.static",
        unit="B",
        better="lower",
        title="static bytes",
        formula="unique storages of parameters and buffers, plus the quantization state",
    ),
    *(
        MetricDefinition(
            name=f"memory.static.{kind}",
            unit="B",
            better="lower",
            title=title,
            formula="the share of memory.static that is of this kind"
            + ("; of tuned cells only" if kind == "adapters" else ""),
        )
        for kind, title in _KIND_TITLES.items()
    ),
    MetricDefinition(
        name="memory.static.predicted",
        unit="B",
        better="neither",
        title="static bytes by arithmetic",
        formula="from the tensors' shapes and the format's storage, without loading anything",
    ),
    MetricDefinition(
        name="weights",
        unit="1",
        varies_by="nothing",
        better="neither",
        title="logical weights",
        formula="elements of all parameters, tied ones once, packed ones unpacked",
    ),
    MetricDefinition(
        name="bits_per_weight.linear",
        unit="bit",
        varies_by="nothing",
        better="lower",
        title="bits per weight of the linear layers",
        formula="8 x (linear + quantization_state bytes) / logical weights of the linear layers",
    ),
    MetricDefinition(
        name="bits_per_weight.embeddings_and_head",
        unit="bit",
        varies_by="nothing",
        better="lower",
        title="bits per weight of embeddings and output head",
        formula="8 x embeddings_and_head bytes / their logical weights, tied ones once",
    ),
    MetricDefinition(
        name="bits_per_weight.model",
        unit="bit",
        varies_by="nothing",
        better="lower",
        title="bits per weight of the whole model",
        formula="8 x memory.static / weights",
        also_called=("BPW",),
    ),
    MetricDefinition(
        name="bits_per_weight.linear.nominal",
        unit="bit",
        varies_by="nothing",
        better="neither",
        title="bits per weight of the linear layers, were the codes packed",
        formula="bits_per_weight.linear with each code, and each zero point that is not 0, at the"
        " format's own width; of formats that are stored wider alone, such as int4 held in int8",
    ),
    MetricDefinition(
        name="bits_per_weight.nominal",
        unit="bit",
        varies_by="nothing",
        better="neither",
        title="bits per weight of the whole model, were the codes packed",
        formula="bits_per_weight.model with the linear layers as in bits_per_weight.linear.nominal,"
        " and experts that are one tensor likewise",
    ),
    MetricDefinition(
        name="quantized_share",
        unit="1",
        varies_by="nothing",
        better="neither",
        title="share of the weights that is quantized",
        formula="logical weights in verified quantized layers / weights",
    ),
    MetricDefinition(
        name="disk_bytes",
        unit="B",
        better="lower",
        title="checkpoint on disk",
        formula="bytes of the safetensors or GGUF files that are loaded",
    ),
    MetricDefinition(
        name="load_time",
        unit="s",
        better="lower",
        title="cold load time",
        formula="from_pretrained to the model being on the device, files dropped from the cache of"
        " the operating system first where it allows that; in a process that has imported all:"
        " cold_start is from the start of one to its first token",
    ),
)


class FootprintOptions(Frozen):
    """`footprint` has no options."""


@dataclass(frozen=True)
class Footprint(Measurement):
    """What the model takes at rest."""

    name: str = "footprint"
    summary: str = "static bytes by kind, bits per weight, disk bytes, cold load time"
    options: type[Frozen] = FootprintOptions
    metrics: tuple[MetricDefinition, ...] = METRICS
    trusts_kernels: bool = False

    def misfit(self, options: Frozen, model: ResolvedModel) -> None:
        """Any model has a footprint."""

    def items(self, options: Frozen, model: ResolvedModel, base: Path) -> list[Item]:
        """One item: the model."""
        return [Item(measurement=self.name, slug="model")]

    def measure(self, loaded: LoadedModel, item: Item) -> Outcome:
        """Sums the storages by kind."""
        from qbench.precisions.inventory import inventory

        by_kind = dict.fromkeys(StaticBytes.model_fields, 0)
        weights_by_kind = dict.fromkeys(StaticBytes.model_fields, 0)
        for held in inventory(loaded.model):
            by_kind[held.kind] += held.tensor.untyped_storage().nbytes()
            weights_by_kind[held.kind] += held.logical_weights
        static = StaticBytes(**by_kind)
        weights = LogicalWeights(
            model=sum(weights_by_kind.values()),
            linear=weights_by_kind["linear"],
            embeddings_and_head=weights_by_kind["embeddings_and_head"],
        )
        bits = bits_per_weight(static, weights)
        predicted = None if loaded.predicted is None else loaded.predicted.total
        values: dict[str, float | None] = {
            "memory.static": static.total,
            **{
                f"memory.static.{kind}": size
                for kind, size in by_kind.items()
                if kind != "adapters" or loaded.cell.tuning is not None
            },
            "memory.static.predicted": predicted,
            "weights": weights.model,
            **{f"bits_per_weight.{part}": value for part, value in bits.items()},
            "quantized_share": loaded.verification.details.get("quantized_share"),
            "disk_bytes": loaded.resolved.disk_bytes,
            "load_time": None if loaded.has_random_weights else loaded.load_time_s,
        }
        nominal = loaded.verification.details.get("nominal_linear_bytes")
        if nominal is not None:
            rest = static.total - static.linear - static.quantization_state
            other = loaded.verification.details.get("nominal_other_bytes", static.other)
            rest += other - static.other
            values["bits_per_weight.linear.nominal"] = 8 * nominal / weights.linear
            values["bits_per_weight.nominal"] = 8 * (rest + nominal) / weights.model
        reasons = {
            "memory.static.predicted": loaded.resolved.shape_unknown or "its shapes are not known",
            "bits_per_weight.linear": "the model has no linear layers",
            "bits_per_weight.embeddings_and_head": "the model has neither embeddings nor a head",
            "quantized_share": "the precision does not say which weights it quantized",
            "disk_bytes": "the weights are random: there is no checkpoint"
            if loaded.has_random_weights
            else "the checkpoint's size is not known",
            "load_time": "the weights are random: they are made, not loaded",
        }
        return Outcome(
            metrics=tuple(
                make_metric(
                    METRICS, name, value, reason=None if value is not None else reasons[name]
                )
                for name, value in values.items()
            ),
            warnings=_differences(static, loaded.predicted),
        )


def _differences(found: StaticBytes, predicted: StaticBytes | None) -> tuple[str, ...]:
    """A warning that names each kind whose measured bytes are not the predicted ones."""
    if predicted is None or found == predicted:
        return ()
    kinds = [
        f"{kind} {getattr(found, kind)} where {getattr(predicted, kind)} was predicted"
        for kind in StaticBytes.model_fields
        if getattr(found, kind) != getattr(predicted, kind)
    ]
    return (
        (
            f"the measured static bytes differ from the arithmetic: {'; '.join(kinds)}."
            " Trust the measured ones, and report the model's architecture to qbench"
        ),
    )


FOOTPRINT = Footprint()
