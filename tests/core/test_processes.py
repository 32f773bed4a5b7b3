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


WAITS = ("GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_WAIT_POLICY", "KMP_LIBRARY")


@pytest.mark.parametrize(
    ("user", "waits"),
    [
        ({}, {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "1"}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7", "KMP_BLOCKTIME": "1"}),
        ({"KMP_BLOCKTIME": "200"}, {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "200"}),
        ({"OMP_WAIT_POLICY": "active"}, {"OMP_WAIT_POLICY": "active"}),
        ({"KMP_LIBRARY": "turnaround"}, {"GOMP_SPINCOUNT": "10000", "KMP_LIBRARY": "turnaround"}),
    ],
)
def test_threads_wait_briefly_unless_the_user_says_how(
    monkeypatch: pytest.MonkeyPatch, user: dict[str, str], waits: dict[str, str]
) -> None:
    for name in WAITS:
        monkeypatch.delenv(name, raising=False)
    for name, value in user.items():
        monkeypatch.setenv(name, value)
    for gpu in (True, False):
        told = python_environment(gpu=gpu)
        assert {name: told[name] for name in WAITS if name in told} == waits


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
