"""Which kernel multiplies 4-bit codes on a GPU, and what records say of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.gpu_standin.machines import with_gpus

if TYPE_CHECKING:
    from qbench.core.record import Record
    from tests.workplace import Workplace

pytestmark = pytest.mark.slow

SUITE = """\
models: [{model}]
precisions:
  - bf16
  - int4-g32
  - {{name: as-simulated, int4-g32: {{kernel: simulated}}}}
reference: bf16
measure:
  footprint:
  memory: {{prompt_tokens: 32, new_tokens: 2}}
  quality: {{text: text.txt, window: 32}}
"""


def records_on(workplace: Workplace, card: str) -> dict[tuple[str, str], Record]:
    place = with_gpus(workplace, card)
    place.write("suite.yaml", SUITE.format(model=place.model))
    done = place.call("run", "suite.yaml", "--device", "cuda", "--fresh")
    records = place.records().values()
    found = {(one.cell.precision.label, one.item.measurement): one for one in records}
    failed = {key: one.reason for key, one in found.items() if one.status != "ok"}
    assert (done.code, failed) == (0, {}), done.output + done.errors
    return found


def kernel(record: Record) -> Any:
    return record.details["loaded"]["kernel"]


def test_it_is_the_packed_one_where_it_runs(workplace: Workplace) -> None:
    found = records_on(workplace, "h100")
    packed, simulated = (found[label, "footprint"] for label in ("int4-g32", "as-simulated"))
    assert packed.cell.precision.options["kernel"] == "packed"
    assert kernel(packed) == "packed (torchao, tinygemm)"
    assert kernel(simulated) == "simulated: kernel: simulated was asked for"
    assert packed.value("memory.static") == packed.value("memory.static.predicted")
    assert packed.value("bits_per_weight.nominal") is None
    assert simulated.value("bits_per_weight.nominal") is not None
    packed, simulated = (found[label, "quality"] for label in ("int4-g32", "as-simulated"))
    assert packed.value("perplexity") == pytest.approx(simulated.value("perplexity"), rel=5e-3)
    peaks = found["int4-g32", "memory"]
    inference, predicted = (
        peaks.value(f"memory.peak.{name}") for name in ("inference", "predicted")
    )
    assert inference == pytest.approx(predicted, rel=0.05)


def test_before_ampere_it_is_simulated_and_the_record_says_why(workplace: Workplace) -> None:
    found = records_on(workplace, "t4")["int4-g32", "footprint"]
    assert "kernel" not in found.cell.precision.options
    assert kernel(found) == "simulated: the packed kernel needs CUDA and compute capability 8.0"
