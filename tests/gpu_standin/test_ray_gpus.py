"""How many GPUs a model with `device_map` is laid over on a node of a Ray cluster."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.gpu_standin.machines import with_gpus

if TYPE_CHECKING:
    from tests.workplace import Workplace

SUITE = """\
models: [{{source: {}, device_map: auto}}]
precisions: [{}]
measure: {{memory: {{prompt_tokens: 8, new_tokens: 2}}}}
"""
LOOK = """
import json, sys
from pathlib import Path
from qbench.plan.suite.suite import load_suite
from qbench.running.executors.executor import Asked
from qbench.running.executors.ray.node import Gpus, look

asked = Asked(load_suite(Path("suite.yaml")), Path("results"))
for arguments in json.loads(sys.argv[1]):
    found, plan = look(asked, "cuda", Gpus(*arguments), None, None)
    assert found.error is None, found.error
    print(len(found.environment.gpus_memory_bytes), len(plan.environment.gpus_memory_bytes))
"""


def test_as_many_as_it_is_predicted_to_need(workplace: Workplace) -> None:
    place = with_gpus(workplace, "h100", "h100", "h100", "h100")
    asked = [(4, False), (3, False), (3, True)]

    def seen(model: str, precision: str) -> list[list[int]]:
        place.write("suite.yaml", SUITE.format(model, precision))
        told = place.output_of(LOOK, json.dumps(asked))
        return [list(map(int, line.split())) for line in told.splitlines()]

    assert seen(str(place.model), "fp32") == [[4, 4], [3, 3], [1, 1]]
    # 131 GiB, of cards of 80; in fp32 twice as much, which three do not hold: all that there are.
    assert seen("random:Llama-3.1-70B", "bf16") == [[4, 4], [3, 3], [2, 2]]
    assert seen("random:Llama-3.1-70B", "fp32") == [[4, 4], [3, 3], [3, 3]]
