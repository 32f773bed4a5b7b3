"""How the forward runs, in a plan: points, keys that stay, and what cannot be had here."""

from __future__ import annotations

import shutil
import sysconfig
from typing import TYPE_CHECKING

import pytest

from qbench.core.errors import SuiteError
from qbench.core.spec import Item
from qbench.plan.forward import why_not_run_so
from qbench.plan.plan import Plan, make_plan
from qbench.plan.suite.suite import load_suite_text
from qbench.report.plan_page import plan_page
from tests.record_factory import make_environment

if TYPE_CHECKING:
    from pathlib import Path

SUITE = """\
models: [./model]
precisions: [fp32, nf4]
measure:
  latency: {prompt_tokens: 8, new_tokens: 4, repeats: 1%s}
"""


@pytest.fixture
def base(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(tiny_model, tmp_path / "model")
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("g++", "clang++"):
        (tools / name).write_text("#!/bin/sh\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tools))
    monkeypatch.delenv("CXX", raising=False)
    return tmp_path


def plan(base: Path, options: str = "", top: str = "") -> Plan:
    text = SUITE % options + top
    return make_plan(load_suite_text(text, "suite.yaml", base), base / "r", device="cpu")


def skips(made: Plan) -> dict[tuple[str, str], str | None]:
    return {
        (cell.cell.label, task.item.slug): task.skip for cell in made.cells for task in cell.tasks
    }


def test_ways_are_points_of_their_own_and_the_eager_one_keeps_its_key(base: Path) -> None:
    plain = {task.item.slug: task.key for task in plan(base).cells[0].tasks}
    made = plan(base, ", forward: [eager, static, compile], attention: [sdpa, eager]")
    assert len(made.cells[0].tasks) == 6
    keys = {task.item.slug: task.key for task in made.cells[0].tasks}
    assert not keys.keys() & plain.keys()
    ways = {t.item.slug: t.key for t in plan(base, ", forward: [eager, static]").cells[0].tasks}
    assert ways.items() >= plain.items()
    assert len(ways) == 2


def test_cuda_graphs_are_skipped_on_a_cpu_and_said_so_in_the_plan(base: Path) -> None:
    made = plan(base, ", forward: [eager, cuda-graphs], attention: [sdpa, flash_attention_2]")
    found = skips(made)
    assert found["nf4", "b1-p8-n4-sdpa"] is None
    assert "CUDA graphs are of NVIDIA GPUs" in str(found["nf4", "b1-p8-n4-cuda-graphs-sdpa"])
    assert "NVIDIA GPUs only" in str(found["fp32", "b1-p8-n4-flash_attention_2"])
    page = str(plan_page(made, base / "r"))
    assert "CUDA graphs are of NVIDIA GPUs; take eager, static or compile on a CPU" in page


def test_compile_needs_a_compiler(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert skips(plan(base, ", forward: compile"))["fp32", "b1-p8-n4-compile"] is None
    (base / "tools" / "g++").unlink()
    (base / "tools" / "clang++").unlink()
    reason = str(skips(plan(base, ", forward: compile"))["fp32", "b1-p8-n4-compile"])
    assert reason.startswith("torch.compile needs a C++ compiler on a CPU, and there is no ")
    assert "apt-get install g++" in reason
    monkeypatch.setenv("CXX", "/no/such/compiler")
    reason = str(skips(plan(base, ", forward: compile"))["fp32", "b1-p8-n4-compile"])
    assert "no /no/such/compiler that the variable CXX names on the path" in reason


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("CXX", "", "CXX is set to nothing; unset it"),
        ("TORCH_COMPILE_DISABLE", "1", "TORCH_COMPILE_DISABLE=1 tells torch to compile nothing"),
        ("TORCHDYNAMO_DISABLE", "1", "TORCHDYNAMO_DISABLE=1 tells torch to compile nothing"),
        ("TORCHDYNAMO_DISABLE", "0", None),
    ],
)
def test_variables_that_keep_torch_from_compiling(
    name: str, value: str, reason: str | None, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    found = skips(plan(base, ", forward: compile"))["fp32", "b1-p8-n4-compile"]
    assert found is None if reason is None else reason in str(found)


def test_compile_needs_the_headers_of_python(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    headers = {"include": str(base / "include")}
    (base / "include").mkdir()
    monkeypatch.setattr(sysconfig, "get_path", headers.__getitem__)
    reason = str(skips(plan(base, ", forward: compile"))["fp32", "b1-p8-n4-compile"])
    assert f"there is no {base / 'include' / 'Python.h'}; install them" in reason
    (base / "include" / "Python.h").touch()
    assert skips(plan(base, ", forward: compile"))["fp32", "b1-p8-n4-compile"] is None


def test_a_mode_of_what_is_not_compiled_is_refused(base: Path) -> None:
    with pytest.raises(SuiteError) as caught:
        plan(base, ", forward: [eager, static], compile_mode: max-autotune")
    (problem,) = caught.value.problems
    assert problem.place == "measure.latency.compile_mode"
    assert problem.found == "max-autotune, while `forward` is eager, static"
    assert problem.remedy == "add compile to forward, or leave compile_mode out"


def test_a_quantized_cache_has_no_fixed_size(base: Path) -> None:
    found = skips(plan(base, ", forward: [eager, static, compile]", "kv_cache: [int4]\n"))
    assert found["fp32--kv-int4", "b1-p8-n4"] is None
    for way in ("static", "compile"):
        assert "needs a cache of a fixed size" in str(found["fp32--kv-int4", f"b1-p8-n4-{way}"])
        assert found["fp32", f"b1-p8-n4-{way}"] is None


def test_on_a_gpu_a_model_over_several_has_no_graph(base: Path) -> None:
    cell = plan(base).cells[0].cell
    spread = cell.model_copy(update={"model": cell.model.model_copy(update={"device_map": "auto"})})
    params = {"batch": 1, "prompt_tokens": 8, "new_tokens": 4, "forward": "cuda-graphs"}
    item = Item(measurement="latency", slug="x", params=params)
    gpu = make_environment(device_type="cuda", device="NVIDIA H200")
    assert why_not_run_so(cell, item, gpu) is None
    assert "captured on one GPU" in str(why_not_run_so(spread, item, gpu))
    compiled = item.model_copy(update={"params": {**params, "forward": "compile"}})
    assert "triton" in str(why_not_run_so(cell, compiled, gpu))
    versions = {**gpu.versions, "triton": "3.4.0"}
    with_triton = gpu.model_copy(update={"versions": versions})
    assert "needs a C compiler" in str(why_not_run_so(cell, compiled, with_triton))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (", forward: jit", "cuda-graphs"),
        (", forward: []", "forward"),
        (", attention: flash", "flash_attention_2"),
        (", compile_mode: fast", "reduce-overhead"),
    ],
)
def test_other_names_are_refused_with_those_there_are(
    options: str, expected: str, base: Path
) -> None:
    with pytest.raises(SuiteError, match=expected):
        plan(base, options)
