"""Mixes on GPUs: kernels that the device decides on for each member, and layers over two cards."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.gpu_standin.machines import with_gpus
from tests.tiny_models import make_tiny_model

if TYPE_CHECKING:
    from tests.workplace import Workplace

pytestmark = pytest.mark.slow

WITHIN = """
import json, sys
from pathlib import Path
from qbench.core.checkpoint import Checkpoint
from qbench.core.spec import StaticBytes
from qbench.precisions import precisions
from qbench.precisions.inventory import inventory
from qbench.precisions.verification import linear_layers
from qbench.sources.models.resolve import parse_model, resolve_model
folder, mixed = Path(sys.argv[1]), precisions()["mixed"]
options = mixed.options(layers={
    "*.0.*.q_proj": "fp8", "*.0.*": "nf4", "*.mlp.*": "int4-g128", "*.q_proj": "int8",
    "*.k_proj": "hqq4", "*.v_proj": "gguf-q4_0", "*": "w8a8",
})
decided = mixed.for_device(options, "cuda", bf16=True)
options = mixed.options.model_validate({**options.model_dump(), **decided})
model = mixed.load(Checkpoint(folder, "cuda:0"), options)
found = mixed.verify(model, options)
sizes = dict.fromkeys(StaticBytes.model_fields, 0)
for held in inventory(model):
    sizes[held.kind] += held.tensor.untyped_storage().nbytes()
shape = resolve_model(parse_model(str(folder), base=folder)).shape
spread = mixed.load(Checkpoint(folder, "auto"), options)
print(json.dumps({
    "faults": found.faults,
    "members": list(found.details["members"]),
    "as counted": StaticBytes(**sizes) == mixed.storage(shape, options),
    "faults of both": mixed.verify(spread, options).faults,
    "places": sorted({str(layer.weight.device) for _, layer in linear_layers(spread)}),
}))
"""


def test_each_member_is_held_as_the_device_takes_it(workplace: Workplace) -> None:
    sizes = {"layers": 6, "hidden": 128, "intermediate": 256, "tokenizer": False}
    folder = make_tiny_model(workplace.folder / "model", "llama", **sizes)
    done = subprocess.run(
        [sys.executable, "-c", WITHIN, str(folder)],
        env=with_gpus(workplace, "h100", "h100").environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["faults"] == found["faults of both"] == []
    assert found["as counted"]
    assert found["places"] == ["cuda:0", "cuda:1"]
    packed = "int4-g128-kernel=packed"
    assert found["members"] == ["fp8", "nf4", packed, "int8", "hqq4", "gguf-q4_0", "w8a8"]
