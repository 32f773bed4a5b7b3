"""Sensitivities on GPUs: of a model on one, or laid over two, they are what they are on a CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from qbench.precisions.mixed.sensitivities import Sensitivities
from tests.gpu_standin.machines import with_gpus
from tests.tiny_models import make_tiny_model

if TYPE_CHECKING:
    from qbench.core.record import Record
    from tests.workplace import Workplace

pytestmark = pytest.mark.slow

SUITE = """\
models: [{{source: ./untied{more}}}]
precisions: [fp32, nf4, int8]
reference: fp32
measure:
  sensitivity: {{text: text.txt, window: 32, limit: 3, batch: 2, formats: [nf4, int8, fp8]}}
"""


def measured(place: Workplace, device: str) -> dict[str, Record]:
    """The suite's records on a device by cell, all of them `ok`."""
    done = place.call("run", "suite.yaml", "--device", device, "--fresh")
    records = place.records().values()
    reasons = {record.cell.slug: record.reason for record in records if record.status != "ok"}
    assert (done.code, reasons) == (0, {}), done.output + done.errors
    kind = "cpu" if device == "cpu" else "cuda"
    return {one.cell.precision.label: one for one in records if one.environment.device_type == kind}


@pytest.mark.parametrize("cards", [("h100",), ("h100", "h100")], ids=["one", "two"])
def test_each_layer_costs_what_it_does_on_a_cpu(workplace: Workplace, cards: tuple[str]) -> None:
    make_tiny_model(workplace.folder / "untied", "llama", layers=4)
    place = with_gpus(workplace, *cards)
    place.write("suite.yaml", SUITE.format(more=""))
    expected = measured(place, "cpu")
    place.write("suite.yaml", SUITE.format(more=", device_map: auto" if len(cards) > 1 else ""))
    found = measured(place, "cuda")
    tables = [
        Sensitivities.model_validate(one["fp32"].details["sensitivities"])
        for one in (expected, found)
    ]
    for on_cpu, on_gpu in zip(*(table.units for table in tables), strict=True):
        assert on_gpu.name == on_cpu.name
        for label, cost in on_gpu.costs.items():
            assert cost.kl == pytest.approx(on_cpu.costs[label].kl, rel=0.02), (on_gpu.name, label)
            assert cost.bytes == on_cpu.costs[label].bytes
    assert found["fp32"].details["inexact_blocks"] == []
    assert found["fp32"].details["whole_forwards"] is None
    for label in ("nf4", "int8"):
        kl = [one[label].value("sensitivity.kl.mean") for one in (expected, found)]
        assert kl[1] == pytest.approx(kl[0], rel=0.02)
