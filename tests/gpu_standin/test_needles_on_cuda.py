"""Needles on GPUs: of a model on one, or laid over two, they are what they are on a CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.copying_model import make_copying_model
from tests.gpu_standin.machines import measured, with_gpus

if TYPE_CHECKING:
    from tests.workplace import Workplace

pytestmark = pytest.mark.slow

SUITE = """\
models: [{{source: ./copying{more}}}]
precisions: [fp32]
measure:
  needle: {{lengths: 400, needles: 2, depths: [0, 60], prefill_chunk: 128, batch: 2}}
"""


@pytest.mark.parametrize("cards", [("h100",), ("h100", "h100")], ids=["one", "two"])
def test_what_is_found_is_what_a_cpu_finds(workplace: Workplace, cards: tuple[str]) -> None:
    make_copying_model(workplace.folder / "copying")
    place = with_gpus(workplace, *cards)
    place.write("suite.yaml", SUITE.format(more=""))
    expected = measured(place, "cpu")["fp32"]
    place.write("suite.yaml", SUITE.format(more=", device_map: auto" if len(cards) > 1 else ""))
    found = measured(place, "cuda")["fp32"]
    assert found.series["item_retrieval"] == expected.series["item_retrieval"] == [1.0] * 4
    assert found.series["item_nll"] == pytest.approx(expected.series["item_nll"], rel=0.01)
    assert found.details["ids_sha256"] == expected.details["ids_sha256"]
