"""What `qbench plan` says of memory, disk and time."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest

from qbench.core.environment import detect_environment
from qbench.plan.needs import cell_need, disk_needs
from qbench.plan.plan import make_plan
from qbench.plan.suite.suite import load_suite_text
from qbench.predict.devices import RESERVED_BYTES, parse_memory
from qbench.report.plan_page import plan_page
from tests.pages import on_terminal
from tests.record_factory import make_environment, make_record
from tests.workplace import keep

if TYPE_CHECKING:
    from pathlib import Path

    from qbench.plan.plan import Plan
    from tests.workplace import Workplace

MISTRAL = """\
models: ['random:Mistral-7B-Instruct-v0.2']
precisions: [fp32, bf16, nf4-dq]
finetune:
  data: {dataset: bundled:stdlib-instruct}
  methods:
    - {name: full, method: full, precision: bf16}
    - {name: qlora, method: lora, precision: nf4-dq, rank: 64, batch: 4, max_tokens: 2048}
  deploy: [attached, merged]
measure:
  footprint:
  memory: {batch: [1, 64], prompt_tokens: 1024, new_tokens: 16}
  latency: {prompt_tokens: 512, new_tokens: 16, repeats: 2}
"""


def _plan(folder: Path, gpu: str, text: str = MISTRAL) -> Plan:
    suite = load_suite_text(text, "suite.yaml", folder)
    return make_plan(suite, folder / "results", device="cpu", gpu=parse_memory(gpu))


def _cells(made: Plan) -> dict[str, Any]:
    return {cell.cell.label: cell for cell in made.cells}


def test_a_cell_needs_its_highest_item(tmp_path: Path) -> None:
    made = _plan(tmp_path, "h100")
    need = cell_need(_cells(made)["bf16"], made.environment)
    assert need.peak is not None
    # 64 sequences of 1,024 tokens: 131,072 bytes of cache each.
    assert need.peak.kinds["kv_cache"] >= 64 * 1024 * 131_072
    assert need.bytes == need.peak.total
    assert need.fit is not None
    assert need.fit.needed_bytes == (need.bytes or 0) + RESERVED_BYTES
    assert need.unknown is None


def test_a_training_is_a_need_of_its_own(tmp_path: Path) -> None:
    made = _plan(tmp_path, "h100")
    need = cell_need(_cells(made)["full-bf16"], made.environment)
    assert need.peak is not None
    assert need.peak.phase == "training"
    assert need.fit is not None
    assert not need.fit.fits


def test_what_is_laid_over_gpus_is_held_against_their_sum(tmp_path: Path) -> None:
    text = """\
models:
  - random:Mistral-7B-Instruct-v0.2
  - {name: spread, source: 'random:Mistral-7B-Instruct-v0.2', device_map: auto}
precisions: [fp32, nf4-dq]
measure: {footprint: {}, memory: {prompt_tokens: 512}}
"""
    # 28.97 GB of weights in fp32.
    for gpu, fitting in (("2x24GB", True), ("2x12GB", False), ("48GB", True)):
        made = _plan(tmp_path, gpu, text)
        cells = {(cell.model.ref.name, cell.cell.label): cell for cell in made.cells}
        spread, single = cells["spread", "fp32"], cells["random-Mistral-7B-Instruct-v0.2", "fp32"]
        assert (spread.skip is None) is fitting
        assert (single.skip is None) is (gpu == "48GB")
        if spread.skip is not None:
            assert "2x12GB has 22.4 GiB" in spread.skip
            continue
        need = cell_need(spread, made.environment)
        assert need.fit is not None
        gpus = 2 if gpu.startswith("2") else 1
        assert need.fit.needed_bytes == (need.bytes or 0) + gpus * RESERVED_BYTES
        told = on_terminal(plan_page(made, tmp_path / "results"), 200)
        assert ("of 2 GPUs together, which have 44.7 GiB" in told) is (gpus == 2)
    keys = {gpu: _plan(tmp_path, gpu, text).cells[-1].tasks[0].key for gpu in ("24GB", "2x24GB")}
    assert len(set(keys.values())) == 2  # on other GPUs it is another measurement


@pytest.mark.parametrize(
    ("gpu", "running"),
    [("12GB", {"nf4-dq"}), ("t4", {"bf16", "nf4-dq"}), ("h200", {"fp32", "bf16", "nf4-dq"})],
)
def test_what_does_not_fit_is_skipped_by_the_gpu_that_is_named(
    tmp_path: Path, gpu: str, running: set[str]
) -> None:
    found = {
        label
        for label, cell in _cells(_plan(tmp_path, gpu)).items()
        if cell.skip is None and cell.cell.tuning is None
    }
    assert found == running


def test_items_that_do_not_fit_are_skipped_alone(tmp_path: Path) -> None:
    tasks = _cells(_plan(tmp_path, "24GB"))["bf16"].tasks
    skips = {task.item.slug: task.skip for task in tasks if task.item.measurement == "memory"}
    assert skips["b1-p1024-n16"] is None
    assert "does not fit" in skips["b64-p1024-n16"]


def test_what_would_fit_instead_is_told_with_the_skip(tmp_path: Path) -> None:
    cells = _cells(_plan(tmp_path, "24GB"))
    skips = {task.item.slug: str(task.skip) for task in cells["bf16"].tasks}
    assert "fits with batch: " in skips["b64-p1024-n16"]
    assert "fits with checkpointing: true" in str(cells["qlora-nf4-dq"].skip)


def test_the_disk_needs_adapters_and_merged_weights(tmp_path: Path) -> None:
    needs = {need.what: need.bytes for need in disk_needs(_plan(tmp_path, "h200"))}
    adapter = 4 * 27_262_976
    assert needs["tuned weights"] in {adapter, adapter + 4 * 7_241_732_096}
    assert needs["merged checkpoints"] == 2 * 7_241_732_096
    assert not any("download" in what for what in needs)  # random weights are made here


def test_a_download_is_needed_of_a_model_that_is_not_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned = "mistralai/Mistral-7B-Instruct-v0.2@3ad372fc79158a2148299e3318516c786aeded6c"
    text = f"models: ['{pinned}']\nprecisions: [bf16]\nmeasure: [footprint]\n"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    needs = disk_needs(_plan(tmp_path, "h200", text))
    assert [need.bytes for need in needs] == [2 * 7_241_732_096]


def test_the_table_says_what_fits_a_named_gpu(workplace: Workplace) -> None:
    workplace.write("suite.yaml", MISTRAL)
    finished = workplace.call_here("plan", "suite.yaml", "--gpu", "24GB")
    assert finished.code == 0, finished.errors
    told = " ".join(finished.output.split())
    assert "on 24GB (22.4 GiB)" in told
    assert "full-bf16--merged: skipped with its training" in told
    as_json = workplace.call("plan", "suite.yaml", "--gpu", "24GB", "--format", "json").output
    fits = {cell["cell"]: cell["fits"] for cell in json.loads(as_json)["cells"]}
    assert (fits["fp32"], fits["full-bf16"], fits["nf4-dq"]) == (False, False, True)
    assert re.search(r"^fp32 .* no *$", finished.output, re.MULTILINE)
    assert "time: not known" in told
    larger = " ".join(workplace.call_here("plan", "suite.yaml", "--gpu", "h200").output.split())
    assert "disk: tuned weights 27.1 GiB, merged checkpoints 13.5 GiB" in larger
    assert "sequences that its options allow (512 or 2048 tokens); shorter data takes" in told
    untuned = MISTRAL.partition("finetune:")[0] + "measure: {memory: }\n"
    workplace.write("untuned.yaml", untuned)
    assert "peak of a training" not in workplace.call_here("plan", "untuned.yaml").output


def test_a_gpu_that_is_not_known_is_told(workplace: Workplace) -> None:
    workplace.write_suite("fp32")
    finished = workplace.call_here("plan", "suite.yaml", "--gpu", "h1000")
    assert finished.code == 2
    assert "no GPU of that name is known" in " ".join(finished.errors.split())


def test_the_time_comes_from_earlier_records(workplace: Workplace) -> None:
    workplace.write(
        "suite.yaml",
        f"models: [{workplace.model}]\nprecisions: [bf16, nf4]\n"
        "measure: {footprint: {}, memory: {prompt_tokens: 64}}\n",
    )
    here = make_environment(device_kind=detect_environment("cpu").device_kind)
    taken = make_record("bf16", suite="suite", environment=here, duration_s=90.0)
    keep(workplace.folder / "results", taken)
    finished = workplace.call_here("plan", "suite.yaml", "--only", "nf4")
    assert finished.code == 0, finished.errors
    told = " ".join(finished.output.split())
    assert "about 1 min 30 s by earlier records, loading apart, for 1 of 2 measurements" in told


INTEGERS = """\
models: ['random:Mistral-7B-v0.1']
precisions: [bf16, int4-g32, int4-g32-asym, int4-g32-gptq, w8a8-static]
reference: bf16
measure: {footprint: , memory: {prompt_tokens: 512, new_tokens: 4}}
"""


def test_bytes_are_those_of_codes_as_they_are_served(tmp_path: Path) -> None:
    made = _plan(tmp_path, "t4", INTEGERS)  # which has no packed kernel
    page = plan_page(made, tmp_path / "results")
    rows = {cell["cell"]: cell for cell in page.data["cells"]}
    linear, tables = 32 * (2 * 4096**2 + 2 * 4096 * 1024 + 3 * 4096 * 14336), 2 * 32000 * 4096
    rest = 2 * (tables + 65 * 4096) + 2 * 64 * 4  # head and embedding, norms, rotary frequencies
    scales = linear // 32
    expected = {
        "int4-g32": linear // 2 + 2 * scales,
        "int4-g32-asym": linear // 2 + 2 * scales + scales // 2,
        "int4-g32-gptq": linear // 2 + 2 * scales,
    }
    for name, size in expected.items():
        assert rows[name]["bytes"] == size + rest
        assert 4.1 < rows[name]["bytes"] / 2**30 < 4.6
        assert rows[name]["bytes_held"] == linear + 3 * scales + rest
        assert rows[name]["bits_per_weight_linear"] == 8 * size / linear
        assert rows[name]["bits_per_weight"] == pytest.approx(
            8 * (size + rest) / (linear + tables + 65 * 4096)
        )
    assert rows["bf16"]["bytes_held"] is None
    assert rows["w8a8-static"]["bytes_held"] is None
    # What is calibrated is made of the floating model, which is there as a whole first.
    loading = {name: row["bytes_loading"] for name, row in rows.items()}
    whole = 2 * linear + rest
    assert loading == {
        "bf16": None, "int4-g32": None, "int4-g32-asym": None,
        "int4-g32-gptq": whole, "w8a8-static": whole,
    }  # fmt: skip
    text = " ".join(on_terminal(page, 120).split())
    assert "held here" in text
    assert "int4-g32, int4-g32-asym, int4-g32-gptq are of packed codes, as they are served" in text
    assert "loading int4-g32-gptq 13.5 GiB, w8a8-static 13.5 GiB" in text


def test_packed_codes_are_counted_as_the_kernel_holds_them(tmp_path: Path) -> None:
    page = plan_page(_plan(tmp_path, "24GB", INTEGERS), tmp_path / "results")
    rows = {cell["cell"]: cell for cell in page.data["cells"]}
    linear, tables = 32 * (2 * 4096**2 + 2 * 4096 * 1024 + 3 * 4096 * 14336), 2 * 32000 * 4096
    rest = 2 * (tables + 65 * 4096) + 2 * 64 * 4
    for name in ("int4-g32", "int4-g32-asym", "int4-g32-gptq"):
        assert rows[name]["bytes"] == linear // 2 + 4 * linear // 32 + rest
        assert rows[name]["bytes_held"] is None
        assert rows[name]["bits_per_weight_linear"] == 5
    assert "held here" not in on_terminal(page, 120)


def test_nothing_is_held_here_that_is_not_as_served(tmp_path: Path) -> None:
    text = on_terminal(plan_page(_plan(tmp_path, "24GB"), tmp_path / "results"), 120)
    assert "held here" not in text


def test_a_mixtures_experts_are_told_by_model(workplace: Workplace) -> None:
    workplace.write(
        "suite.yaml",
        "models: [random:Mixtral-8x7B, random:Qwen3-8B]\nprecisions: [bf16, nf4]\n"
        "measure: [footprint]\n",
    )
    finished = workplace.call_here("plan", "suite.yaml", "--gpu", "h200")
    assert finished.code == 0, finished.errors
    output = " ".join(finished.output.split())
    name = "random-Mixtral-8x7B-v0.1"
    assert f"{name}: 46,702,792,704 weights, 97 % of them in experts; a token reads" in output
    assert f"{name}: its experts stay unquantized in nf4: transformers stacks" in output
    assert "Qwen3-8B: its experts" not in output
