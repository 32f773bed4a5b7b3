"""A matrix of models and cells that the real planner lays out, for GPUs that are not here.

Nothing is downloaded and nothing runs: the models are commits of checkpoints whose configurations
ship with qbench, as a team has that follows its own checkpoints. The commits are made up.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

from qbench.plan.plan import make_plan
from qbench.plan.suite.suite import load_suite_text
from qbench.predict.devices import parse_memory
from qbench.sources.models.known_configs import HUB_IDS

if TYPE_CHECKING:
    from pathlib import Path

    from qbench.plan.plan import Plan

NODE_GPUS = 8
"""GPUs of a node, which a model with `device_map` is laid over."""
_LARGE = ("70B", "72B", "405B", "235B", "8x22B")
"""In the names of models whose 16-bit weights leave no room on one GPU of 141 GB."""
_REST = """\
precisions: [bf16, int8, fp4, nf4, nf4-dq, int8-wo]
reference: bf16
kv_cache: [fp8, int8]
finetune:
  data: {recipe: reverse-instruction, train: 2000, validation: 100, test: 200}
  methods:
    - {name: lora, method: lora, precision: bf16, steps: 500, batch: 4, max_tokens: 1024,
       packing: true, checkpointing: true, target: all-linear}
    - {name: qlora, method: lora, precision: [int8, nf4, nf4-dq], steps: 500, batch: 4,
       max_tokens: 1024, packing: true, checkpointing: true, target: all-linear}
  deploy: [attached, merged]
measure:
  footprint: {}
  memory: {batch: [1, 8], prompt_tokens: 512, new_tokens: 64}
  latency: {batch: [1, 8, 32], prompt_tokens: 512, new_tokens: 64, repeats: 5}
  weight_error: {}
  quality: {text: bundled:stdlib-heldout, window: 1024}
  tasks: {names: [stdlib-choice, stdlib-completion], limit: 400, batch: 8}
  generation: {count: 8, new_tokens: 128}
timeout_s: 86400
"""
"""Of each model 18 cells of weights and caches, and 12 of four trainings and what they serve."""


def matrix_suite(models: int) -> str:
    """The text of a suite of so many models, 30 cells each."""
    ids = list(HUB_IDS)
    lines = ["name: matrix", "models:"]
    for at in range(models):
        hub_id, turn = ids[at % len(ids)], at // len(ids)
        commit = hashlib.sha256(f"{hub_id} {turn}".encode()).hexdigest()[:40]
        name = f"{hub_id.rpartition('/')[2].lower()}-{turn}"
        spread = ", device_map: auto" if any(size in hub_id for size in _LARGE) else ""
        lines.append(f"  - {{source: {hub_id}@{commit}, name: {name}{spread}}}")
    return "\n".join([*lines, _REST])


def matrix_plan(models: int, folder: Path, *, gpu: str = "h200") -> Plan:
    """What the planner makes of it, on nodes of `NODE_GPUS` of a GPU; needs no hub.

    `folder` is where results would lie. Raises `SuiteError`.
    """
    os.environ["HF_HUB_OFFLINE"] = "1"
    suite = load_suite_text(matrix_suite(models), "matrix.yaml", folder)
    return make_plan(suite, folder / "results", gpu=parse_memory(f"{NODE_GPUS}x{gpu}"))
