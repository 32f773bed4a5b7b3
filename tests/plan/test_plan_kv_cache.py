"""Cells with a quantized KV cache: which there are, their keys and items, and skips."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest

import qbench.core.packages
from qbench.core.errors import SuiteError
from qbench.plan.needs import cache_need
from qbench.plan.plan import Plan, make_plan
from qbench.plan.suite.suite import load_suite_text
from qbench.report.plan_page import plan_page
from tests.tiny_models import make_tiny_model
from tests.workplace import write_text

if TYPE_CHECKING:
    from pathlib import Path

SUITE = """\
models: [./model]
precisions: [bf16, nf4]
kv_cache: [int4, fp8]
measure:
  footprint:
  memory: {prompt_tokens: 8, new_tokens: 4}
  quality: {text: text.txt, window: 64}
  decoded: {text: text.txt, prompt_tokens: 8, new_tokens: 4}
  tasks:
"""


@pytest.fixture
def base(tmp_path: Path, tiny_model: Path) -> Path:
    shutil.copytree(tiny_model, tmp_path / "model")
    write_text(tmp_path)
    return tmp_path


def plan(base: Path, text: str = SUITE, **options: Any) -> Plan:
    return make_plan(load_suite_text(text, "suite.yaml", base), base / "r", device="cpu", **options)


def keys(made: Plan) -> dict[tuple[str, ...], str]:
    return {
        (cell.cell.label, task.item.measurement, task.item.slug): task.key
        for cell in made.cells
        for task in cell.tasks
    }


def test_each_precision_comes_with_its_own_cache_and_then_with_the_others(base: Path) -> None:
    made = plan(base)
    assert [cell.cell.slug for cell in made.cells] == [
        f"model--{name}{cache}"
        for name in ("bf16", "nf4")
        for cache in ("", "--kv-int4", "--kv-fp8")
    ]
    assert [cell.reference for cell in made.cells] == [True, *[False] * 5]
    own = {task.item.measurement for task in made.cells[0].tasks}
    assert own == {"footprint", "memory", "quality", "decoded", "tasks"}
    for cell in made.cells:
        if cell.cell.kv_cache is not None:
            # Of the bundled tasks one is scored in one pass, which reads no cache.
            found = [(one.item.measurement, one.item.slug) for one in cell.tasks]
            assert [name for name, _ in found] == ["memory", "decoded", "tasks"]
            assert found[-1][1] == "stdlib-completion"
            assert cell.skip is None


def test_cells_with_their_own_cache_keep_their_keys(base: Path) -> None:
    without = keys(plan(base, SUITE.replace("kv_cache: [int4, fp8]\n", "")))
    within = keys(plan(base))
    assert without
    assert {name: within[name] for name in without} == without
    assert len(set(within.values())) == len(within)


def test_all_decoded_cells_are_held_against_the_reference_with_its_own_cache(base: Path) -> None:
    tasks = [t for t in plan(base).tasks if t.item.measurement == "decoded"]
    assert len({task.item.states_key for task in tasks}) == 1
    assert [task.item.makes_states for task in tasks] == [True, *[False] * 5]
    assert tasks[1].identity["kv_cache"] == {
        "name": "int4",
        "backend": "hqq",
        "bits": 4,
        "residual_tokens": 128,
        "group": 64,
    }
    assert "hqq" in tasks[1].identity["versions"]
    assert "hqq" not in tasks[0].identity["versions"]


def test_the_plan_tells_each_cells_cache(base: Path) -> None:
    made = plan(base)
    sizes = {cell.cell.label: cache_need(cell) for cell in made.cells}
    # 2 layers, 2 heads of 16, keys and values, 12 tokens in 16 bits; 8 bits and 2 scales a layer.
    elements = 2 * 2 * 16 * 2
    assert sizes["bf16"] == ("b1-p8-n4", elements * 12 * 2)
    assert sizes["bf16--kv-fp8"] == ("b1-p8-n4", elements * 12 + 2 * 2 * 4)
    # 4 bits and 4 bytes for each 16 of the prompt, 16 bits of the others.
    assert sizes["nf4--kv-int4"] == ("b1-p8-n4", elements * 8 * 3 // 4 + elements * 4 * 2)
    text = " ".join(str(part) for part in plan_page(made, base / "r").parts)
    assert "transformers dequantizes a quantized KV cache at each step" not in text  # no times
    # By the kind, however many precisions have it.
    assert "KV cache of model at b1-p8-n4: bf16 3.00 KiB, int4 1.75 KiB, fp8 1.52 KiB" in text
    assert "model: each with a quantized KV cache memory" in text


@pytest.mark.parametrize(
    ("line", "labels"),
    [
        ("exclude: {kv_cache: int*}", ["bf16", "bf16--kv-fp8", "nf4", "nf4--kv-fp8"]),
        ("exclude: {precision: bf16, kv_cache: '[!o]*'}", ["bf16", "nf4", "nf4--kv-int4", "nf4--kv-fp8"]),  # noqa: E501
        ("include: {kv_cache: own}", ["bf16", "nf4"]),
    ],
)  # fmt: skip
def test_selectors_reach_the_cache(base: Path, line: str, labels: list[str]) -> None:
    assert [cell.cell.label for cell in plan(base, f"{SUITE}{line}\n").cells] == labels


def test_only_reaches_the_cache(base: Path) -> None:
    made = plan(base, only=["kv-int4"])
    assert [cell.cell.label for cell in made.cells] == ["bf16--kv-int4", "nf4--kv-int4"]
    assert [cell.cell.label for cell in made.prerequisites] == ["bf16"]


@pytest.mark.parametrize("own", ["own", "auto", "bf16"])
def test_the_own_cache_may_be_named_and_is_there_anyway(base: Path, own: str) -> None:
    text = SUITE.replace("[int4, fp8]", f"[{own}, int4, fp8_e4m3, int4]")
    assert keys(plan(base, text)) == keys(plan(base))


@pytest.mark.parametrize(
    ("line", "place", "words"),
    [
        ("kv_cache: int5", "kv_cache", ["int5", "int4"]),
        ("kv_cache: []", "kv_cache", ["at least one kind of KV cache"]),
        ("kv_cache: [fp16, int4]", "kv_cache[0]", ["the cache of bf16 is in bf16", "leave it out"]),
        ("exclude: {kv_cache: int3}", "exclude[0].kv_cache", ["matches no kv_cache"]),
    ],
)
def test_what_is_wrong_is_named(base: Path, line: str, place: str, words: list[str]) -> None:
    text = SUITE if line.startswith("exclude") else SUITE.replace("kv_cache: [int4, fp8]\n", "")
    with pytest.raises(SuiteError) as caught:
        plan(base, f"{text}{line}\n")
    [problem] = caught.value.problems
    assert problem.place == place.replace("exclude[0]", "exclude") or problem.place == place
    for word in words:
        assert word in str(problem)


def test_a_suite_that_names_no_measurement_takes_decoded_with_a_quantized_cache(base: Path) -> None:
    head, _, _ = SUITE.partition("measure:")
    assert "decoded" in load_suite_text(head, "suite.yaml", base).measure
    without = head.replace("kv_cache: [int4, fp8]\n", "")
    assert "decoded" not in load_suite_text(without, "suite.yaml", base).measure


def test_a_model_with_a_window_and_a_missing_package_are_skips(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(base / "model")
    make_tiny_model(base / "model", "mistral", sliding_window=32)
    skips = {cell.cell.label: cell.skip for cell in plan(base).cells}
    assert skips["bf16"] is None
    for label in ("bf16--kv-fp8", "nf4--kv-int4"):
        assert "sliding attention" in str(skips[label])
        assert "leave kv_cache out" in str(skips[label])
    shutil.rmtree(base / "model")
    make_tiny_model(base / "model", "llama")
    lookup = qbench.core.packages.version_in
    monkeypatch.setattr(
        "qbench.core.packages.version_in",
        lambda package, found: None if package == "hqq" else lookup(package, found),
    )
    skips = {cell.cell.label: cell.skip for cell in plan(base).cells}
    assert skips["bf16--kv-fp8"] is None
    assert "hqq" in str(skips["bf16--kv-int4"])
