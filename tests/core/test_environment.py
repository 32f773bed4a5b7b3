"""The machine is described by kind, never by host name, and wrong devices are refused."""

from __future__ import annotations

import os
import re
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version
from threading import Thread

import pytest

from qbench.core.cpu import clean_cpu_name, machine_memory_bytes, usable_cores
from qbench.core.environment import detect_environment, find_device, hub_reachable
from qbench.core.errors import DeviceError
from qbench.core.nvml import gpu_kind, select_visible, visible_gpus
from qbench.core.packages import missing_packages
from tests.record_factory import make_environment


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("Intel(R) Xeon(R) Processor", "Intel Xeon"),
        ("AMD EPYC 7763 64-Core Processor", "AMD EPYC 7763"),
        ("Intel(R) Xeon(R) Platinum 8375C CPU @ 2.90GHz", "Intel Xeon Platinum 8375C"),
        ("Intel(R) Core(TM) i7-8650U CPU @ 1.90GHz", "Intel Core i7-8650U"),
        ("AMD Ryzen 9 7950X 16-Core Processor", "AMD Ryzen 9 7950X"),
        ("", ""),
    ],
)
def test_clean_cpu_name(raw: str, clean: str) -> None:
    assert clean_cpu_name(raw) == clean


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("NVIDIA H200", "nvidia-h200"),
        ("NVIDIA H100 80GB HBM3", "nvidia-h100-80gb-hbm3"),
        ("Tesla T4", "nvidia-tesla-t4"),
    ],
)
def test_gpu_kind(name: str, kind: str) -> None:
    assert gpu_kind(name) == kind


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        (None, ["GPU-aa", "GPU-ab", "GPU-c"]),
        ("", []),
        ("-1", []),
        ("0", ["GPU-aa"]),
        ("2, 0", ["GPU-c", "GPU-aa"]),
        ("1,7,0", ["GPU-ab"]),
        ("GPU-c", ["GPU-c"]),
        ("GPU-a", []),
        ("GPU-ab,GPU-aa", ["GPU-ab", "GPU-aa"]),
        ("MIG-x", ["MIG-x"]),
        ("0,0", []),
    ],
)
def test_select_visible(setting: str | None, expected: list[str]) -> None:
    assert select_visible(["GPU-aa", "GPU-ab", "GPU-c"], setting) == expected


def test_environment_of_the_cpu() -> None:
    environment = detect_environment("cpu")
    assert environment.device_type == "cpu"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert environment.device.endswith(f"({cores} {'core' if cores == 1 else 'cores'})")
    assert re.fullmatch(rf"cpu-[a-z0-9._=-]+-{usable_cores()}c", environment.device_kind)
    assert environment.versions["torch"] == version("torch")
    assert "lm-eval" in environment.versions
    assert environment.device_memory_bytes == machine_memory_bytes()
    assert environment.device_memory_bytes is None or environment.device_memory_bytes > 1 << 28


def test_host_name_is_nowhere() -> None:
    host = os.uname().nodename
    fields = detect_environment("cpu").model_dump(exclude={"device_memory_bytes"})
    assert not any(host == word for word in re.split(r"[\s'\",()]+", str(fields)))


def test_devices() -> None:
    assert find_device("cpu") == "cpu"
    assert find_device("auto") == find_device(None)
    with pytest.raises(DeviceError, match=r"'cuda:99'.*(there is|built without CUDA)"):
        find_device("cuda:99")
    with pytest.raises(
        DeviceError, match=r"'tpu': expected auto, cpu, cuda or cuda:N; there is cpu"
    ):
        find_device("tpu")


def test_no_visible_gpu_means_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    visible_gpus.cache_clear()
    try:
        assert find_device(None) == "cpu"
        with pytest.raises(DeviceError, match="there is cpu; use one of them"):
            find_device("cuda")
        with pytest.raises(DeviceError, match="not on this machine"):
            detect_environment("cuda:0")
    finally:
        visible_gpus.cache_clear()


def test_what_is_missing_is_installed_by_its_extra() -> None:
    absent = {"gptqmodel": "9", "optimum": None, "peft": None}
    environment = make_environment(versions=absent | {"gptqmodel": None})
    said = missing_packages(tuple(absent), environment)
    assert said == "needs gptqmodel, optimum, peft: pip install 'qbench-llm[gptq]'"
    assert missing_packages(("accelerate",), make_environment(versions={"accelerate": "1"})) is None
    assert missing_packages(("pytest", "no-such-package")) == (
        "needs no-such-package: pip install no-such-package"
    )


def test_hub_is_not_asked_when_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    reachable, sentence = hub_reachable()
    assert not reachable
    assert "HF_HUB_OFFLINE" in sentence


def test_hub_that_refuses_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    server = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    endpoint = f"http://127.0.0.1:{server.server_port}"
    server.server_close()
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    reachable, sentence = hub_reachable(2.0)
    assert not reachable
    assert endpoint in sentence


@pytest.mark.parametrize(("answer", "expected"), [(200, True), (404, True), (503, False)])
def test_hub_that_answers(monkeypatch: pytest.MonkeyPatch, answer: int, *, expected: bool) -> None:
    class Answer(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(answer)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Answer)
    Thread(target=server.handle_request, daemon=True).start()
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    try:
        assert hub_reachable(5.0)[0] is expected
    finally:
        server.server_close()
