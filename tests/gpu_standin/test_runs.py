"""Suites on GPUs of four generations: every cell ends, each on the GPU that it was given."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.gpu_standin.machines import with_gpus
from tests.workplace import write_rows

if TYPE_CHECKING:
    from tests.workplace import Workplace

SUITE = """\
models: [{model}]
precisions: [{precisions}]
reference: {reference}
measure:
  footprint:
  memory: {{prompt_tokens: 8, new_tokens: 2}}
  latency: {{prompt_tokens: 8, new_tokens: 2, repeats: 1, min_iterations: 1, min_seconds: 0.01}}
  quality: {{text: text.txt, window: 32}}
"""
TUNING = """\
finetune:
  data:
    dataset: rows.jsonl
    recipe: {prompt: "{{ name }} is", completion: " {{ kind }}"}
    train: 8
    validation: 2
    test: 4
  methods:
    - {method: full, steps: 2, batch: 2}
    - {method: lora, precision: nf4-dq, steps: 2, batch: 2}
  deploy: [attached]
"""
SECOND = "GPU-00000001-1111-2222-3333-444444444444"


def run(place: Workplace, device: str = "cuda", tuning: str = "", *precisions: str) -> None:
    """Runs the suite to its end; every record must be `ok`, with the allocator's figures."""
    text = SUITE.format(
        model=place.model, precisions=", ".join(precisions), reference=precisions[0]
    )
    place.write("suite.yaml", text + tuning)
    done = place.call("run", "suite.yaml", "--device", device)
    records = place.records().values()
    reasons = {record.cell.slug: record.reason for record in records if record.status != "ok"}
    assert (done.code, reasons) == (0, {}), done.output + done.errors
    memory = [record for record in records if record.item.measurement == "memory"]
    assert {record.details["method"] for record in memory} == {"torch.cuda allocator"}
    for record in memory:  # with the context, and what the allocator has reserved
        assert (record.value("memory.device") or 0) > (record.value("memory.reserved.decode") or 0)
    assert {record.item.measurement for record in records} >= {"footprint", "latency", "quality"}


def device_of(place: Workplace) -> str:
    (device,) = {record.environment.device for record in place.records().values()}
    return device


@pytest.mark.slow
def test_capability_7_5(workplace: Workplace) -> None:
    image = {  # one that has fp32 computed in TF32
        "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1",
        "NVIDIA_TF32_OVERRIDE": "1",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    }
    place = with_gpus(workplace, "t4", **image)
    run(place, "cuda", "", "fp32", "fp16")
    assert device_of(place) == "Tesla T4"
    for record in place.records().values():
        found = record.environment
        assert found.fp32_products == "highest"
        assert (found.driver, found.cuda) == ("580.82.07", "13.0")
        set_there = {**image, "NVIDIA_TF32_OVERRIDE": "0", "GOMP_SPINCOUNT": "10000"}
        assert found.variables.items() >= set_there.items()
    (report,) = (place.folder / "reports").glob("*.md")
    rows = report.read_text(encoding="utf-8")
    assert "| driver | 580.82.07 |" in " ".join(rows.split())
    assert "PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True" in rows


@pytest.mark.timeout(600)
@pytest.mark.slow
def test_capability_8_0_with_tuning(workplace: Workplace) -> None:
    write_rows(workplace.folder)
    place = with_gpus(workplace, "a100")
    run(place, "cuda", TUNING, "bf16", "nf4-dq")
    assert device_of(place) == "NVIDIA A100-SXM4-80GB"


@pytest.mark.slow
def test_capability_8_6_the_second_gpu_by_its_id(workplace: Workplace) -> None:
    log = workplace.folder / "who-initialised"
    place = with_gpus(
        workplace, "t4", "3090", CUDA_VISIBLE_DEVICES=SECOND, GPU_STANDIN_LOG=str(log)
    )
    run(place, "cuda", "", "bf16", "int8")
    assert device_of(place) == "NVIDIA GeForce RTX 3090"
    # The look at the machine and each cell's worker initialise CUDA; what the workers are forked
    # from never does.
    lines = log.read_text().splitlines()
    forked = [line.partition(" ")[0] for line in lines if "executors/fork_server.py" in line]
    assert (len(lines), len(forked), len(set(forked))) == (3, 2, 2)


@pytest.mark.slow
def test_capability_9_0_the_second_of_two_gpus(workplace: Workplace) -> None:
    place = with_gpus(workplace, "t4", "h100")
    run(place, "cuda:1", "", "bf16")
    assert device_of(place) == "NVIDIA H100 80GB HBM3"
