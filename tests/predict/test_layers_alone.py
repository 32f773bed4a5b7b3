"""What holding layers of a reference in other formats takes: predicted, against what lives."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from qbench.finetune.train.live_bytes import LivePeak
from qbench.measures.sensitivity.options import SensitivityOptions
from qbench.measures.sensitivity.sensitivity import MEASUREMENT
from qbench.precisions.inventory import inventory
from qbench.precisions.mixed.members import format_of
from qbench.predict.peaks import predicted_peak
from tests.precisions.tiny_cells import TinyCells, Variant, open_cells

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qbench.core.spec import Item, PrecisionRef
    from qbench.measures.loaded import LoadedModel

# Few weights beside the rows that go through them: what a library and the verification need for a
# moment is of a layer's size, and not predicted.
MANY_ROWS = Variant("many-rows", "llama", {"hidden": 64, "intermediate": 256, "layers": 2})


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoadedModel]:
    with open_cells(tmp_path_factory) as cells:
        opened: TinyCells = cells
        yield opened.load(MANY_ROWS, "fp32")


def item_of(loaded: LoadedModel, **options: Any) -> Item:
    chosen = SensitivityOptions(
        text="bundled:stdlib-excerpt", window=128, limit=8, batch=8, **options
    )
    [item] = MEASUREMENT.items(chosen, loaded.resolved, Path())
    formats: list[PrecisionRef] = [format_of(label, "fp32") for label in ("nf4", "int8-wo")]
    params = {"rest": "fp32", "formats": [one.model_dump(mode="json") for one in formats]}
    return item.model_copy(
        update={
            "params": {**item.params, **params},
            "states_key": "0123456789abcdef",
            "makes_states": True,
        }
    )


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "by", ["layer", pytest.param("block", marks=SLOW), pytest.param("kind", marks=SLOW)]
)
def test_the_peak_is_foreseen(loaded: LoadedModel, by: str) -> None:
    item = item_of(loaded, by=by)
    peak = predicted_peak(loaded.cell, loaded.resolved, item, device="cpu")
    assert peak is not None
    assert peak.total is not None
    with LivePeak("cpu", [one.tensor for one in inventory(loaded.model)]) as live:
        MEASUREMENT.measure(loaded, item)
    assert 0.6 * peak.total < live.peak_bytes < 1.05 * peak.total
    # Another cell holds no layers.
    of_cell = item.model_copy(update={"makes_states": False})
    other = predicted_peak(loaded.cell, loaded.resolved, of_cell, device="cpu")
    assert other is not None
    assert other.total is not None
    assert other.total < peak.total
    block = predicted_peak(loaded.cell, loaded.resolved, item_of(loaded, by="block"))
    layer = predicted_peak(loaded.cell, loaded.resolved, item_of(loaded, by="layer"))
    assert block is not None
    assert layer is not None
    assert block.kinds["dequantized_weight"] > layer.kinds["dequantized_weight"]
