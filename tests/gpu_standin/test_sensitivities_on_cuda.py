"""Sensitivities on GPUs: of a model on one, or laid over two, they are what they are on a CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from qbench.precisions.mixed.sensitivities import Sensitivities
from tests.gpu_standin.machines import measured, with_gpus
from tests.tiny_models import make_tiny_model

if TYPE_CHECKING:
    from tests.workplace import Workplace

pytestmark = pytest.mark.slow

SUITE = """\
models: [{{source: ./untied{more}}}]
precisions: [fp32, nf4, int8]
reference: fp32
measure:
  sensitivity: {{text: text.txt, window: 32, limit: 3, batch: 2, formats: [nf4, int8, fp8]}}
"""


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
