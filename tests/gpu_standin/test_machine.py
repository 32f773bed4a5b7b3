"""What is said of a machine whose GPU cannot be used, and that `auto` goes on without it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.gpu_standin.machines import with_gpus

if TYPE_CHECKING:
    from tests.workplace import Workplace

pytestmark = pytest.mark.slow

MEMORY = """\
models: [{}]
precisions: [fp16]
reference: fp16
measure: {{memory: {{prompt_tokens: 8, new_tokens: 2}}}}
"""
LOOK = """
import json, sys
from qbench.core.environment import find_device
from qbench.core.nvml import nvml_refusals, visible_gpus
from qbench.core.errors import DeviceError

try:
    device = find_device("cuda")
except DeviceError as error:
    device = str(error)
names = [gpu.name for gpu in visible_gpus()]
found = {"device": device, "names": names, "refused": nvml_refusals()}
assert "torch" not in sys.modules
print(json.dumps(found))
"""


def look(place: Workplace) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", LOOK],
        env=place.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_doctor_tries_a_product_on_the_gpu(workplace: Workplace) -> None:
    done = with_gpus(workplace, "t4").call("doctor", "--device", "cuda")
    assert "cuda:0: Tesla T4, 15 GiB" in done.output
    assert "a product there is right" in done.output
    assert done.code == 0, done.output


class TestDriverTooOld:
    """NVML says that all is well."""

    @pytest.fixture
    def place(self, workplace: Workplace) -> Workplace:
        workplace.write_suite("fp32")
        return with_gpus(workplace, "a100", GPU_STANDIN_FAULTS="old-driver")

    def test_doctor_says_so(self, place: Workplace) -> None:
        done = place.call("doctor", "--device", "cuda")
        assert done.code == 1
        (line,) = [line for line in done.output.splitlines() if "✗ device" in line]
        assert "NVIDIA A100" in line
        assert "driver on your system is too old" in line
        assert "→ update the driver, or install a torch for an older CUDA" in line

    def test_auto_takes_the_cpu_and_says_why(self, place: Workplace) -> None:
        done = place.call("plan", "suite.yaml")
        assert done.code == 0, done.errors
        words = " ".join(done.output.split())
        assert "suite: tiny on NVIDIA" not in words
        assert "running on the CPU, not on NVIDIA A100-SXM4-80GB" in words
        assert "too old" in words

    def test_a_run_that_names_the_gpu_ends_before_the_first_cell(self, place: Workplace) -> None:
        done = place.call("run", "suite.yaml", "--device", "cuda")
        assert done.code == 2
        words = " ".join(done.errors.split())
        assert "cuda:0 (NVIDIA A100-SXM4-80GB) cannot be computed on" in words
        assert "update the driver" in words
        assert not place.records()


@pytest.mark.parametrize("spread", [False, True])
def test_each_gpu_of_a_run_is_tried_before_the_first_cell(
    workplace: Workplace, *, spread: bool
) -> None:
    place = with_gpus(workplace, "t4", "t4", GPU_STANDIN_FAULTS="second-broken")
    path = place.write_suite("fp32")
    if spread:
        text = path.read_text(encoding="utf-8")
        source = f"{{source: {place.model}, device_map: auto}}"
        path.write_text(text.replace(str(place.model), source), encoding="utf-8")
    where = ("--device", "cuda") if spread else ("--gpus", "all")
    done = place.call("run", "suite.yaml", *where)
    assert done.code == 2, done.output + done.errors
    words = " ".join(done.errors.split())
    assert "1 problem before the first cell" in words
    assert "cuda:1 (Tesla T4) cannot be computed on" in words
    assert "uncorrectable ECC error" in words
    assert not place.records()


def test_a_gpu_that_nvml_refuses_is_left_out_and_named(workplace: Workplace) -> None:
    place = with_gpus(workplace, "t4", "h100", GPU_STANDIN_FAULTS="nvml-permission")
    found = look(place)
    assert found["names"] == ["NVIDIA H100 80GB HBM3"]
    words = "NVML does not tell of GPU 0 (Insufficient Permissions)"
    assert found["refused"] == [f"{words}; ask for permission, or choose another GPU"]
    only = look(place.with_environment(CUDA_VISIBLE_DEVICES="0"))
    assert only["names"] == []
    assert "not on this machine; there is cpu; NVML does not tell of GPU 0" in only["device"]


def test_what_is_measured_is_the_gpu_that_nvml_tells_of(workplace: Workplace) -> None:
    """CUDA sees the first card, too: its number is none of those that NVML leaves."""
    place = with_gpus(workplace, "t4", "h100", GPU_STANDIN_FAULTS="nvml-permission")
    place.write("suite.yaml", MEMORY.format(place.model))
    done = place.call("run", "suite.yaml", "--device", "cuda")
    assert done.code == 0, done.output + done.errors
    (record,) = place.records().values()
    assert record.environment.device == "NVIDIA H100 80GB HBM3"
    assert record.details["workspace_bytes"] == 32 * 2**20  # a T4's are 8 MiB


def test_a_gpu_whose_memory_nvml_does_not_tell(workplace: Workplace) -> None:
    """As of parts of a GPU, to those without the right."""
    place = with_gpus(workplace, "h100", GPU_STANDIN_FAULTS="nvml-memory")
    place.write("suite.yaml", MEMORY.format(place.model))
    done = place.call("run", "suite.yaml", "--device", "cuda")
    assert done.code == 0, done.output + done.errors
    (record,) = place.records().values()
    metric = record.metric("memory.device")
    assert metric is not None
    assert metric.value is None
    assert metric.reason == "NVML does not tell how much of this GPU is in use"
    assert record.value("memory.peak.inference")
    fit = place.call("fit", str(place.model))
    assert fit.code == 2
    assert "NVML does not tell the memory of NVIDIA H100 80GB HBM3; name one" in fit.errors


def test_a_variable_that_names_no_gpu_is_told(workplace: Workplace) -> None:
    """Whoever mistypes an id would measure on the CPU unawares; whoever hides all means it."""
    workplace.write_suite("fp32")
    place = with_gpus(workplace, "t4", "t4", CUDA_VISIBLE_DEVICES="GPU-7")
    words = "CUDA_VISIBLE_DEVICES=GPU-7 hides all 2 GPUs of this machine"
    plan = place.call("plan", "suite.yaml")
    assert plan.code == 0, plan.errors
    assert f"{words}: running on the CPU" in " ".join(plan.output.split())
    done = place.call("run", "suite.yaml")
    assert done.code == 0, done.errors
    assert f"{words}: running on the CPU" in " ".join(done.output.split())
    named = place.call("plan", "suite.yaml", "--device", "cuda")
    assert named.code == 2
    assert words in " ".join(named.errors.split())
    hidden = place.with_environment(CUDA_VISIBLE_DEVICES="-1")
    assert "hides" not in hidden.call("plan", "suite.yaml").output


def test_a_part_of_a_gpu_that_is_not_there(workplace: Workplace) -> None:
    found = look(with_gpus(workplace, "h100", CUDA_VISIBLE_DEVICES="MIG-1-2-3"))
    assert found["names"] == []
    assert "NVML does not tell of MIG-1-2-3 (Not Found); `nvidia-smi -L`" in found["device"]


def test_nvml_that_itself_refuses(workplace: Workplace) -> None:
    found = look(with_gpus(workplace, "h100", GPU_STANDIN_FAULTS="nvml-mismatch"))
    assert found["names"] == []
    assert "NVML cannot be used (Driver/library version mismatch)" in found["device"]
    assert "restart the machine" in found["device"]


def test_an_nvml_that_knows_no_driver_and_no_capability(workplace: Workplace) -> None:
    place = with_gpus(workplace, "a100", GPU_STANDIN_FAULTS="nvml-silent")
    place.write_suite("fp32")
    done = place.call("run", "suite.yaml", "--device", "cuda")
    assert done.code == 0, done.output + done.errors
    found = [record.environment for record in place.records().values()]
    assert {(one.driver, one.capability) for one in found} == {(None, None)}
