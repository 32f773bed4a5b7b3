"""A whole run on a GPU, by the command, as a user starts it."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

from qbench.core.store import read_folder

if TYPE_CHECKING:
    from tests.workplace import Workplace

pytestmark = pytest.mark.gpu

DEVICE = "cuda"
SUITE = """\
models: [{model}]
precisions: [bf16, int8, nf4]
reference: bf16
finetune:
  data:
    dataset: functions.jsonl
    recipe: {{prompt: "{{{{ instruction }}}}", completion: "{{{{ output }}}}"}}
    train: 12
    validation: 4
    test: 4
  methods: [{{method: lora, precision: [bf16, nf4], steps: 4, batch: 4}}]
  deploy: [attached]
measure:
  footprint:
  memory: {{prompt_tokens: 16, new_tokens: 4}}
  latency: {{prompt_tokens: 16, new_tokens: 4, repeats: 2, min_iterations: 2, min_seconds: 0.1}}
  quality: {{text: text.txt, window: 32}}
"""


def test_every_measurement_of_every_cell_is_taken(workplace: Workplace) -> None:
    rows = [
        {"instruction": f"Add {at}.", "output": f"def add_{at}(x):\n    return x + {at}\n"}
        for at in range(20)
    ]
    workplace.write("functions.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    workplace.write("suite.yaml", SUITE.format(model=workplace.model))
    # A workplace hides the GPUs from what it starts, unless told otherwise.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0")
    place = workplace.with_environment(CUDA_VISIBLE_DEVICES=visible)
    done = place.call("run", "suite.yaml", "--device", DEVICE)
    assert done.code == 0, done.output + done.errors
    records, unreadable = read_folder(workplace.folder / "results")
    assert not unreadable
    assert {record.status for record in records} == {"ok"}
    assert {record.environment.device_type for record in records} == {DEVICE}
    peaks = [one.value("memory.device") for one in records if one.item.measurement == "memory"]
    assert peaks
    assert all(peak is None or peak > 0 for peak in peaks)
