"""Layers that are quantized as they are read, of a model laid over two GPUs."""

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
import json, sys, torch
from pathlib import Path
from qbench.core.checkpoint import Checkpoint
from qbench.precisions import precisions
from qbench.precisions.placement import describe_placement
from qbench.precisions.verification import linear_layers
found = {}
precision = precisions()["int4-g32"]
logits = []
for device in ("cpu", "auto"):
    model = precision.load(Checkpoint(Path(sys.argv[1]), device), precision.options())
    ids = torch.arange(12).reshape(1, 12).to(model.device)
    with torch.inference_mode():
        logits.append(model(input_ids=ids).logits.cpu())
places = {str(layer.weight.device) for _, layer in linear_layers(model)}
placement = describe_placement(model)
print(json.dumps({
    "places": sorted(places),
    "static": placement["static_bytes"],
    "equal": torch.equal(*logits),
}))
"""


@pytest.mark.parametrize("architecture", ["qwen2", "gpt2"])
def test_each_layer_is_quantized_on_its_gpu(architecture: str, workplace: Workplace) -> None:
    folder = make_tiny_model(workplace.folder / "model", architecture, layers=6, tokenizer=False)
    place = with_gpus(workplace, "h100", "h100")
    done = subprocess.run(
        [sys.executable, "-c", WITHIN, str(folder)],
        env=place.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["places"] == ["cuda:0", "cuda:1"]
    assert all(found["static"].values())
    assert found["equal"]
