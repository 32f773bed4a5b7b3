"""Cells as checkpoints: what others load measures what the cell did, or it is said why not."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.inline_runs import run_inline
from tests.tiny_models import make_tiny_model
from tests.workplace import Workplace, write_rows, write_text

if TYPE_CHECKING:
    import subprocess

SUITE = """\
name: trial
models: [{model}]
reference: bf16
precisions:
  - bf16
  - nf4
  - int8
  - int4-g32
  - w8a8
  - hqq4
  - {{mixed: {{layers: {{"*.down_proj": int8-wo, "*.q_proj": fp8, "*.k_proj": int4-g32,
     "*.o_proj": w8a8}}}}, name: mix}}
  - {{mixed: {{layers: {{"*.down_proj": nf4-dq, "*.1.*.q_proj": nf4-dq}}}}, name: mix-of-four}}
  - {{mixed: {{layers: {{"*.down_proj": nf4, "*.q_proj": int8-wo}}}}, name: mix-of-two}}
  - {{mixed: {{layers: {{"*.down_proj": bf16}}}}, name: no-mix}}
measure: {{footprint: , quality: {{text: text.txt, window: 32}}}}
finetune:
  deploy: [attached, merged, merged-requantized, merged-dequantized, merged-in-place, adapter-nf4,
           quantized]
  data:
    dataset: rows.jsonl
    recipe: {{prompt: "{{{{ name }}}} is", completion: " {{{{ kind }}}}"}}
    train: 24
    validation: 4
    test: 4
  methods:
    - {{method: full, batch: 4, learning_rate: 1.0e-3}}
    - {{method: qat, precision: int4-g32, batch: 4, learning_rate: 1.0e-3}}
    - {{method: lora, precision: [bf16, nf4], target: all-linear, batch: 4, learning_rate: 1.0e-2}}
"""
AGAIN = """\
name: {name}
models: [{model}]
precisions: [{precision}]
measure: {{footprint: , quality: {{text: text.txt, window: 32}}}}
"""
EXPORTED = [
    "bf16",
    "nf4",
    "int8",
    "int4-g32",
    "w8a8",
    "mix",
    "mix-of-four",
    "full-bf16--merged",
    "qat-int4-g32--quantized",
    "lora-bf16--merged",
    "qlora-nf4--merged",
    "qlora-nf4--merged-requantized",
    "qlora-nf4--merged-dequantized",
    "qlora-nf4--merged-in-place",
]
"""A cell of each kind that is loaded from a folder of its own."""
ADAPTERS = ["lora-bf16--attached", "qlora-nf4--attached", "qlora-nf4--adapter-nf4"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A suite that was run to its end."""
    folder = tmp_path_factory.mktemp("exporting")
    model = make_tiny_model(folder / "model", "mistral", dtype="bfloat16")
    (model / "LICENSE.txt").write_text("as it is", encoding="utf-8")
    found = Workplace(folder, model)
    write_text(folder)
    write_rows(folder, 40)
    found.write("suite.yaml", SUITE.format(model=model))
    ran = run_inline(found)
    assert not ran.result.failed, ran.output
    return found


def of_cell(place: Workplace, suite: str, label: str, measurement: str, metric: str) -> float:
    """A figure of a cell; of the quality of a tuned one, that which no other cell decides."""
    (found,) = [
        record
        for record in place.records().values()
        if (record.suite, record.cell.label) == (suite, label)
        and record.item.measurement == measurement
        and record.item.held_against != "merged"
    ]
    value = found.value(metric)
    assert value is not None, found.reason
    return value


def export(place: Workplace, cell: str, *more: str) -> tuple[Path, str]:
    """The folder of a cell, and its card."""
    name = "-".join(["of", cell, *(one for one in more if not one.startswith("-"))])
    finished = place.call("export", "checkpoint", "suite.yaml", cell, "--to", name, *more)
    assert finished.code == 0, finished.errors
    assert f"wrote {name}: " in finished.output
    folder = place.folder / name
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "## How it was made" in card
    assert " ".join(["qbench export checkpoint suite.yaml", cell, "--to", name, *more]) in card
    return folder, card


def ran_code(place: Workplace, card: str) -> Any:
    """The model that the card's own lines load, where the export was called."""
    code = card.partition("```python\n")[2].partition("```")[0]
    names: dict[str, Any] = {}
    with place.entered():
        exec(code, names)
    assert names["tokenizer"]("a").input_ids
    return names["model"]


@pytest.mark.slow
@pytest.mark.parametrize("cell", EXPORTED)
def test_the_folder_measures_what_the_cell_did(cell: str, place: Workplace) -> None:
    folder, card = export(place, cell)
    assert "the same logits, bit for bit" in card
    is_of_four_bits = cell in {"nf4", "mix-of-four"} or cell.endswith(("requantized", "in-place"))
    assert ("On a CPU with AVX512-BF16" in card) == is_of_four_bits
    ran_code(place, card)
    files = {path.name for path in folder.iterdir()}
    assert {"config.json", "model.safetensors", "LICENSE.txt", "tokenizer.json"} <= files
    config = json.loads((folder / "config.json").read_text())
    label = "stored" if "quantization_config" in config else "bf16"
    place.write("again.yaml", AGAIN.format(name=folder.name, model=folder, precision=label))
    assert not run_inline(place, "again.yaml").result.failed
    for measurement, metric in (("quality", "perplexity"), ("footprint", "memory.static")):
        there = of_cell(place, folder.name, label, measurement, metric)
        here = of_cell(place, "trial", cell, measurement, metric)
        if metric == "perplexity" or "holds other bytes than were measured" not in card:
            assert there == here
    assert f"{of_cell(place, 'trial', cell, 'quality', 'perplexity'):.2f}"[:4] in card


@pytest.mark.slow
@pytest.mark.parametrize("cell", ADAPTERS)
def test_an_adapter_is_on_its_base_what_was_measured(cell: str, place: Workplace) -> None:
    import torch
    from peft import PeftModel

    from qbench.core.checkpoint import Checkpoint
    from qbench.plan.plan import check_suite, make_plan
    from qbench.plan.suite.written import read_file
    from qbench.precisions import options_of, precisions
    from qbench.running.loading import load

    folder, card = export(place, cell)
    assert "library_name: peft" in card
    assert {path.suffix for path in folder.iterdir()} <= {".json", ".safetensors", ".md", ".txt"}
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(place.model)
    with place.entered():
        plan = make_plan(check_suite(read_file(place.folder / "suite.yaml")), Path("results"))
        planned = next(one for one in plan.every if one.cell.label == cell)
        measured = load(plan.job_of(planned), lambda phase: None)
    held = planned.cell.precision
    base = precisions()[held.name].load(Checkpoint(place.model, "cpu"), options_of(held))
    found = PeftModel.from_pretrained(base, folder, autocast_adapter_dtype=False)
    ids = torch.arange(3, 35)[None]
    with torch.inference_mode():
        expected = measured.model(ids).logits
        assert torch.equal(found(ids).logits, expected)
        if held.name == "bf16":
            assert torch.equal(ran_code(place, card)(ids).logits, expected)
        else:
            base = f"{planned.cell.model.name}--nf4"
            assert f"`qbench export checkpoint suite.yaml {base} --to BASE`" in card


@pytest.mark.slow
def test_other_forms_are_written_where_they_are_asked_for(place: Workplace) -> None:
    folder, card = export(place, "int4-g32", "--form", "torchao")
    assert "codes and scales as torchao holds them" in card
    assert json.loads((folder / "config.json").read_text())["quantization_config"]
    folder, card = export(place, "hqq4", "--form", "numbers")
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    assert "holds other bytes than were measured" in card


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("mix-of-two", "as the only quantized format"),
        ("no-mix", "no layer of the mix is quantized"),
    ],
)
def test_what_no_library_holds_is_said(cell: str, said: str, place: Workplace) -> None:
    finished = place.call("export", "checkpoint", "suite.yaml", cell, "--to", "none")
    assert finished.code == 2
    assert said in finished.errors
    assert "Traceback" not in finished.errors
    assert not [*place.folder.glob("*none*"), *place.folder.glob(".*none*")]


def exporting(place: Workplace, to: str) -> subprocess.Popen[str]:
    """An export that has begun to write beside its place."""
    process = place.start("export", "checkpoint", "suite.yaml", "bf16", "--to", to)
    folder, name = (place.folder / to).parent, Path(to).name
    deadline = time.monotonic() + 60
    while not list(folder.glob(f".{name}.*.part")) and time.monotonic() < deadline:
        time.sleep(0.01)
    return process


@pytest.mark.slow
def test_a_kill_leaves_nothing_half(place: Workplace) -> None:
    with exporting(place, "killed") as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not (place.folder / "killed").exists()
    assert place.survivors() == []
    assert place.call("export", "checkpoint", "suite.yaml", "bf16", "--to", "killed").code == 0
    assert not list(place.folder.glob(".killed.*"))


def test_ctrl_c_leaves_nothing_and_speaks_of_no_records(workplace: Workplace) -> None:
    workplace.write_suite("bf16")
    process = exporting(workplace, "not/yet/there")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, "qbench: interrupted\n")
    assert workplace.survivors() == []
    assert not (workplace.folder / "not").exists()


@pytest.mark.slow
def test_of_two_exports_to_one_folder_the_first_stays(workplace: Workplace) -> None:
    workplace.write_suite("bf16")
    process = exporting(workplace, "taken")
    (workplace.folder / "taken").mkdir()
    (workplace.folder / "taken" / "config.json").write_text("{}", encoding="utf-8")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "taken: it was written by another process meanwhile" in errors
    assert [path.name for path in (workplace.folder / "taken").iterdir()] == ["config.json"]
    assert not list(workplace.folder.glob(".taken.*"))


NOT_RUN = """\
models: [{model}, "random:{model}"]
precisions: [fp32, nf4, hqq4]
kv_cache: [own, int4]
measure: {{footprint: }}
finetune: {{methods: [lora]}}
"""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("ng4",), "found no such cell in suite suite; did you mean 'nf4'?"),
        (("nf4",), "found 2 cells in suite suite; give one of"),
        (("{slug}--hqq4",), "HQQ's zero points are fractions"),
        (("{slug}--hqq4", "--form", "torchao"), "There is numbers"),
        (("{slug}--nf4--kv-int4",), "is no part of a checkpoint"),
        (("{random}--nf4",), "its weights are random"),
        (("{slug}--lora-bf16",), "it is the training itself; give what is served of it"),
        (("{slug}--lora-bf16--attached",), "train it first: qbench run suite.yaml --only"),
        (("{slug}--nf4", "--device", "cuda:7"), "cuda:7"),
    ],
)
def test_what_cannot_be_exported_is_told_at_once(
    arguments: tuple[str, ...], said: str, workplace: Workplace
) -> None:
    workplace.write("suite.yaml", NOT_RUN.format(model=workplace.model))
    names = {"slug": "tiny", "random": "random-tiny"}
    cell, *more = (one.format(**names) for one in arguments)
    finished = workplace.call_here("export", "checkpoint", "suite.yaml", cell, "--to", "new", *more)
    assert finished.code == 2, finished.output
    assert said in finished.errors
    assert "Traceback" not in finished.errors
    assert not list(workplace.folder.glob("*new*"))


def test_a_folder_that_is_there_is_left_alone(workplace: Workplace) -> None:
    workplace.write_suite("nf4")
    (workplace.folder / "there").mkdir()
    finished = workplace.call_here("export", "checkpoint", "suite.yaml", "nf4", "--to", "there")
    assert finished.code == 2
    assert "there: it is there already; name a folder that is not" in finished.errors


def test_a_place_that_cannot_be_written_is_told(workplace: Workplace) -> None:
    workplace.write_suite("nf4")
    finished = workplace.call_here(
        "export", "checkpoint", "suite.yaml", "nf4", "--to", "text.txt/new"
    )
    assert finished.code == 2
    assert "cannot be written" in finished.errors
    assert "Traceback" not in finished.errors


def test_a_disk_without_room_is_told_before_anything_is_built(
    workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    workplace.write_suite("nf4")
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2**20))
    finished = workplace.call_here("export", "checkpoint", "suite.yaml", "nf4", "--to", "new")
    assert finished.code == 2
    assert "MiB are needed, and 1.0 MiB are free on the disk of" in finished.errors
    assert not list(workplace.folder.glob("*new*"))
