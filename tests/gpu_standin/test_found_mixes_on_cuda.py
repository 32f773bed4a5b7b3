"""Found mixes, on two GPUs side by side: after what they are found from, with its kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.gpu_standin.machines import with_gpus
from tests.tiny_models import make_tiny_model

if TYPE_CHECKING:
    from tests.workplace import Workplace

pytestmark = pytest.mark.slow

SUITE = """\
models: [./model]
reference: bf16
precisions:
  - bf16
  - nf4
  - {mixed: {budget: 7 bits, from: [nf4, int4-g32, int8-wo]}, name: mix}
measure:
  footprint:
  sensitivity: {text: text.txt, window: 32, limit: 3, by: kind, formats: [nf4]}
"""


def test_they_are_found_and_held_as_the_device_takes_them(workplace: Workplace) -> None:
    sizes = {"layers": 2, "hidden": 128, "intermediate": 256}
    make_tiny_model(workplace.folder / "model", "llama", **sizes)
    place = with_gpus(workplace, "h100", "h100")
    place.write("suite.yaml", SUITE)
    done = place.call("run", "suite.yaml", "--gpus", "0,1", "--only", "mix")
    records = place.records().values()
    reasons = {one.cell.slug: one.reason for one in records if one.status != "ok"}
    assert (done.code, reasons) == (0, {}), done.output + done.errors
    (mix,) = (
        one for one in records if (one.cell.label, one.item.measurement) == ("mix", "footprint")
    )
    loaded = mix.details["loaded"]
    assert loaded["faults"] == []
    assert mix.value("bits_per_weight.linear") == loaded["mix"]["bits_per_weight"] <= 7
    (table,) = (
        one.details["sensitivities"]["formats"] for one in records if "sensitivities" in one.details
    )
    assert table["int4-g32"]["options"]["kernel"] == "packed"
    assert set(loaded["mix"]["units"].values()) <= {*table, "bf16"}
