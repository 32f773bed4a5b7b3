"""What qbench's own processes are told of the machine."""

from __future__ import annotations

import pytest

from qbench.core.cuda_probe import cuda_fault
from qbench.core.processes import python_environment


@pytest.mark.parametrize("gpu", [True, False])
def test_gpus_are_counted_as_nvml_does_whatever_is_set(
    monkeypatch: pytest.MonkeyPatch, *, gpu: bool
) -> None:
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    told = python_environment(gpu=gpu)
    assert told["CUDA_DEVICE_ORDER"] == "PCI_BUS_ID"
    assert told["CUDA_VISIBLE_DEVICES"] == ("1" if gpu else "")
    assert told["NVIDIA_TF32_OVERRIDE"] == "0"


def test_the_probe_says_what_this_machine_lacks() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    fault = cuda_fault("cuda:0")
    assert fault is not None
    assert fault.found.startswith(f"torch {torch.__version__} says: ")
    if torch.version.cuda is None:
        assert "not compiled with CUDA" in fault.found
        assert "install a torch with CUDA" in (fault.remedy or "")
