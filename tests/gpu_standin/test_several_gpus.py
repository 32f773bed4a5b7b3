"""A model laid over two GPUs: what it predicts is the same, and what it takes is that of both."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.gpu_standin.machines import with_gpus
from tests.tiny_models import make_tiny_model

if TYPE_CHECKING:
    from qbench.core.record import Record
    from tests.workplace import Workplace

pytestmark = pytest.mark.slow

MIB = 2**20
SUITE = """\
models: [{source: ./untied, device_map: auto}]
precisions: [fp32, bf16]
reference: fp32
measure:
  memory: {prompt_tokens: 64, new_tokens: 2}
  latency: {prompt_tokens: 8, new_tokens: 2, repeats: 1, min_iterations: 1, min_seconds: 0.01}
  quality: {text: text.txt, window: 32}
"""
WITHIN = """
import json, torch
from qbench.finetune.train.live_bytes import LivePeak
from qbench.measures.peaks import PeakMeter
from qbench.precisions.workspaces import make_workspaces, workspace_bytes

gpus = ("cuda:0", "cuda:1")
found = {}
torch.ones(8, device="cuda:0") @ torch.ones(8, 8, device="cuda:0")  # has a workspace already
make_workspaces(gpus)
found["workspaces"] = [workspace_bytes([gpu]) for gpu in gpus]
meter = PeakMeter(*gpus)
left = [torch.empty(64 * 2**20, dtype=torch.uint8, device=gpu) for gpu in gpus]
del left
meter.boundary()
level = meter.level_bytes()
held = [torch.empty(size * 2**20, dtype=torch.uint8, device=gpu) for size, gpu in zip((4, 6), gpus)]
peak = meter.read()
found["level"], found["used"], found["reserved"] = level, peak.used_bytes, peak.reserved_bytes
found["by_device"] = peak.by_device
with LivePeak("cuda:0", held) as live:
    more = torch.empty(2 * 2**20, dtype=torch.uint8, device="cuda:1")
found["live"], found["live_by_device"] = live.peak_bytes, live.by_device
print(json.dumps(found))
"""


def measured(place: Workplace, device: str) -> dict[str, Record]:
    """The suite's records on a device by cell and measurement, all of them `ok`."""
    done = place.call("run", "suite.yaml", "--device", device, "--fresh")
    records = place.records().values()
    reasons = {record.cell.slug: record.reason for record in records if record.status != "ok"}
    assert (done.code, reasons) == (0, {}), done.output + done.errors
    return {f"{one.cell.precision.label} {one.item.measurement}": one for one in records}


@pytest.fixture(scope="module")
def within(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the meters say in a process with two GPUs."""
    from tests.workplace import Workplace

    folder = tmp_path_factory.mktemp("within")
    place = with_gpus(Workplace(folder, folder), "h100", "h100")
    done = subprocess.run(
        [sys.executable, "-c", WITHIN],
        env=place.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_an_untied_head_on_another_gpu(workplace: Workplace) -> None:
    """Logits come back to the first GPU, the head lies on the last."""
    make_tiny_model(workplace.folder / "untied", "llama", layers=4)
    workplace.write("suite.yaml", SUITE)
    on_cpu = measured(workplace, "cpu")
    spread = measured(with_gpus(workplace, "h100", "h100"), "cuda")
    for cell in ("fp32", "bf16"):
        one, other = on_cpu[f"{cell} quality"], spread[f"{cell} quality"]
        for name in ("perplexity", "kl.mean", "top1_agreement", "nonfinite_share"):
            assert other.value(name) == pytest.approx(one.value(name), rel=1e-6, abs=1e-12)
        placement = other.details["loaded"]["placement"]
        assert placement["modules"]["lm_head"] == "cuda:1"
        assert placement["modules"]["model.embed_tokens"] == "cuda:0"
        _check_memory(spread[f"{cell} memory"], placement["static_bytes"])
        gpu = spread[f"{cell} latency"].details["gpu"]
        assert gpu.keys() == {"cuda:0", "cuda:1"}


def _check_memory(record: Record, static: dict[str, int]) -> None:
    details = record.details
    # cuBLAS' workspaces are in the level, and in every phase.
    assert details["workspace_bytes"] == details["level_before_bytes"] == 2 * 32 * MIB
    by_device = details["by_device"]
    assert by_device.keys() == {"cuda:0", "cuda:1"}
    for phase in ("load", "idle", "prefill", "decode"):
        each = {device: found["peak_bytes"][phase] for device, found in by_device.items()}
        assert sum(each.values()) == record.value(f"memory.peak.{phase}")
        assert all(each[device] >= 32 * MIB + static[device] for device in each)
    device_bytes = [found["device_bytes"] for found in by_device.values()]
    assert sum(device_bytes) == record.value("memory.device")
    inference, predicted = (
        record.value(f"memory.peak.{name}") for name in ("inference", "predicted")
    )
    assert inference is not None
    # Each allocation is rounded up to 512 bytes, and each GPU has its highest moment by itself.
    assert inference == pytest.approx(predicted, rel=0.25)


def test_each_gpus_workspace_is_made_once_and_known(within: dict[str, Any]) -> None:
    # That of the first was there before: what is made by others stays in the level.
    assert within["workspaces"] == [0, 32 * MIB]


def test_nothing_of_an_earlier_phase_is_reserved(within: dict[str, Any]) -> None:
    assert within["level"] == 2 * 32 * MIB
    assert within["used"] == within["level"] + 10 * MIB
    assert within["reserved"] <= within["used"] + 2 * 2 * MIB
    assert within["by_device"] == {"cuda:0": 36 * MIB, "cuda:1": 38 * MIB}


def test_the_peak_of_a_step_is_of_all_gpus_without_workspaces(within: dict[str, Any]) -> None:
    assert within["live_by_device"] == {"cuda:0": 36 * MIB, "cuda:1": 8 * MIB}
    assert within["live"] == 44 * MIB
