"""Several adapters on one base: what each further one takes, and how long it takes to switch.

One base serves many tasks when each has an adapter of its own. Copies of the cell's adapter are
attached beside it, and taken off again: the model is left as it was.
"""

from __future__ import annotations

import statistics
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import Field

from qbench.core.errors import MeasurementError
from qbench.core.options import plain_options, typed_options
from qbench.core.record import MetricDefinition
from qbench.core.spec import Frozen, Item
from qbench.finetune.artifact import artifact_folder
from qbench.finetune.serve.adapter_storage import WEIGHTS_FILE, code_name, store_adapter
from qbench.measures.loaded import Outcome, make_metric
from qbench.measures.measurement import Measurement
from qbench.measures.timing import Clock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from transformers import PreTrainedModel

    from qbench.core.spec import Deployment, ResolvedModel
    from qbench.finetune.serve.attach import Adapter
    from qbench.measures.loaded import LoadedModel

ROUNDS = 5
"""Times that every adapter is switched to, after one round that is not counted."""

_STORED: dict[Deployment, str] = {
    "adapter-int8": "8-bit blocks of 256",
    "adapter-nf4": "NF4 blocks of 64",
}


def _stored_bytes(kind: Deployment) -> str:
    """The metric of an adapter that is stored so."""
    return f"adapters.file_bytes_{code_name(kind)}"


METRICS = (
    MetricDefinition(
        name="adapters.bytes_each",
        unit="B",
        better="lower",
        title="each further adapter",
        formula="bytes of the tensors that one more attached adapter adds, as it is served",
    ),
    MetricDefinition(
        name="adapters.switch_time",
        unit="s",
        better="lower",
        title="switching adapters",
        formula="median time of PEFT's set_adapter from one of `count` attached adapters to the"
        " next; all of them stay on the device",
    ),
    MetricDefinition(
        name="adapters.file_bytes",
        unit="B",
        better="lower",
        title="adapter on disk",
        formula="bytes of adapter_model.safetensors as it was trained",
    ),
    *(
        MetricDefinition(
            name=_stored_bytes(kind),
            unit="B",
            better="lower",
            title=f"adapter on disk, {code_name(kind)}",
            formula=f"bytes of a safetensors file with its matrices in {form}; what that costs is"
            f" what the cell {kind} measures",
        )
        for kind, form in _STORED.items()
    ),
)


class AdaptersOptions(Frozen):
    """Options of `adapters`."""

    count: int = Field(default=4, ge=2)
    """Adapters on the base at once, the cell's own among them."""


class AdaptersParams(Frozen):
    """What the one item attaches, as it stands in its record."""

    count: int


@dataclass(frozen=True)
class Adapters(Measurement):
    """What several adapters on one base cost."""

    name: str = "adapters"
    summary: str = "several adapters on one base: bytes of each, time to switch, sizes on disk"
    needs: tuple[str, ...] = ("peft", "bitsandbytes")
    options: type[Frozen] = AdaptersOptions
    metrics: tuple[MetricDefinition, ...] = METRICS
    of_machine: bool = True

    def misfit(self, options: AdaptersOptions, model: ResolvedModel) -> None:
        """Any base can hold several adapters."""

    def items(self, options: AdaptersOptions, model: ResolvedModel, base: Path) -> list[Item]:
        """One item; for cells that serve an attached adapter."""
        params = plain_options(AdaptersParams(count=options.count))
        return [Item(measurement=self.name, slug=f"n{options.count}", params=params)]

    def measure(self, loaded: LoadedModel, item: Item) -> Outcome:
        """Attaches copies, switches between all, and takes the copies off again.

        Raises `MeasurementError` for a cell that serves no attached adapter.
        """
        from peft.functional import set_adapter

        from qbench.finetune.serve.attach import ADAPTER, adapter_bytes, read_adapter

        if loaded.cell.deploy != "attached" or loaded.artifact_key is None:
            raise MeasurementError(
                f"{loaded.cell.label} serves no attached adapter; measure `adapters` on cells that"
                " are deployed as `attached`"
            )
        folder = artifact_folder(loaded.artifact_key)
        further = [
            f"further_{number}"
            for number in range(1, typed_options(AdaptersParams, item.params).count)
        ]
        clock = Clock(*loaded.devices)
        meter = loaded.meter
        meter.boundary()
        level_before_bytes = meter.level_bytes()
        with _attached(loaded, read_adapter(folder), further):
            peak_bytes = meter.read().used_bytes
            meter.boundary()
            level_bytes = meter.level_bytes()
            bytes_each = adapter_bytes(loaded.model, further[0])
            switches = [
                clock.time(partial(set_adapter, loaded.model, name, inference_mode=True))
                for _ in range(1 + ROUNDS)
                for name in (*further, ADAPTER)
            ]
        times_s = [seconds for _, seconds, _ in switches[len(further) + 1 :]]
        values = {
            "adapters.bytes_each": bytes_each,
            "adapters.file_bytes": (folder / WEIGHTS_FILE).stat().st_size,
            **{_stored_bytes(kind): len(store_adapter(folder, kind)) for kind in _STORED},
        }
        return Outcome(
            metrics=(
                *(make_metric(METRICS, name, value) for name, value in values.items()),
                make_metric(
                    METRICS, "adapters.switch_time", statistics.median(times_s), samples=times_s
                ),
            ),
            details={
                "count": 1 + len(further),
                "method": meter.method,
                "level_before_bytes": level_before_bytes,
                "level_with_all_bytes": level_bytes,
                "peak_while_attaching_bytes": peak_bytes,
            },
        )


@contextmanager
def _attached(loaded: LoadedModel, adapter: Adapter, names: list[str]) -> Iterator[None]:
    """Copies of the adapter beside the model's own, for as long as this lasts."""
    from peft.functional import delete_adapter, set_adapter

    from qbench.finetune.serve.attach import ADAPTER, attach_adapter, cast_adapter
    from qbench.precisions.computing import compute_type

    model: PreTrainedModel = loaded.model
    configs: dict[str, Any] = dict(model.peft_config)
    try:
        for name in names:
            attach_adapter(model, adapter, name)
            cast_adapter(model, compute_type(loaded.cell.precision))
        yield
    finally:
        set_adapter(model, ADAPTER, inference_mode=True)
        for name in names:
            delete_adapter(model, name, prefix="lora_")
        model.peft_config = configs
        model.eval()
        model.requires_grad_(requires_grad=False)


ADAPTERS = Adapters()
