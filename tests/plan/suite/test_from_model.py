"""A model in place of a suite's file: what is measured of it, and the file that would say so."""

# ruff: noqa: E501  (a table: one case a line reads best)

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
import yaml

from qbench.core.errors import SuiteError, UsageError
from qbench.plan.plan import make_plan
from qbench.plan.suite import from_model
from qbench.plan.suite.from_model import Wishes, read_source
from qbench.plan.suite.model_names import names_model
from qbench.plan.suite.settings import read_settings
from qbench.plan.suite.suite import Suite, load_suite, make_suite
from tests.workplace import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

    from tests.workplace import Workplace

TINY = "bundled:tiny-mistral"


def suite_of(argument: str, *assignments: str, bf16: bool = True, **wishes: object) -> Suite:
    asked = Wishes(**wishes)  # type: ignore[arg-type]
    settings = read_settings(assignments)
    return make_suite(read_source(argument, asked, settings, has_bf16=lambda: bf16))


def labels(suite: Suite) -> list[str]:
    return [precision.label for precision in suite.precisions]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("argument", "is_model"),
    [
        (TINY, True),
        ("bundled:nope", True),
        ("random:Mistral-7B", True),
        ("owner/name", True),
        ("owner/name@rev", True),
        ("checkpoint", True),
        ("./checkpoint", True),
        ("adapter", True),
        ("model-Q4_K_M.gguf", True),
        ("./absent.gguf", True),
        ("blocks", True),
        ("suite.yaml", False),
        ("absent.yaml", False),
        ("owner/absent.yml", False),
        ("absent", False),
        ("suites", False),
        ("suites/absent", False),
        ("./absent", False),
        ("a/b/c", False),
        ("a\0b", False),
        ("", False),
    ],
)
def test_what_names_a_model(here: Path, argument: str, *, is_model: bool) -> None:
    for folder in ("checkpoint", "adapter", "blocks", "suites"):
        (here / folder).mkdir()
    (here / "blocks" / "one.gguf").touch()
    (here / "checkpoint" / "config.json").touch()
    (here / "adapter" / "adapter_config.json").touch()
    (here / "suite.yaml").write_text(f"models: {TINY}\n")
    assert names_model(argument) is is_model


def test_a_small_model_is_looked_at_beside_fp32() -> None:
    suite = suite_of(TINY)
    assert suite.name == "tiny-mistral"
    assert labels(suite) == ["fp32", "bf16", "int8", "nf4"]
    assert suite.reference == "fp32"
    assert list(suite.measure) == ["footprint", "memory", "latency", "quality"]
    assert suite.measure["latency"].model_fields_set == set()


def test_a_large_model_is_compared_with_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(from_model, "SMALL_WEIGHTS", 10**6)
    suite = suite_of(TINY)
    assert (labels(suite), suite.reference) == (["bf16", "int8", "nf4"], "bf16")


def test_on_a_gpu_without_bf16_everything_is_computed_in_fp16() -> None:
    suite = suite_of(TINY, bf16=False)
    assert labels(suite) == ["fp32", "fp16", "int8-dtype=fp16", "nf4-compute_dtype=fp16"]
    assert labels(suite_of(TINY, bf16=False, precisions=["bf16"])) == ["bf16"]


def test_a_quantized_checkpoint_is_measured_as_it_is(here: Path) -> None:
    folder = here / "quantized"
    shutil.copytree(REPOSITORY / "qbench" / "bundled" / "tiny-mistral", folder)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    kind = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    path.write_text(json.dumps(config | {"quantization_config": kind}), encoding="utf-8")
    # Its weights are not: only the configuration says so.
    assert labels(suite_of("quantized")) == ["fp32", "bf16", "int8", "nf4"]
    rename_to_codes(folder)
    suite = suite_of("./quantized")
    assert (labels(suite), suite.reference, suite.name) == (["stored"], "stored", "quantized")


def rename_to_codes(folder: Path) -> None:
    """Gives a weight the scales that bitsandbytes keeps beside 8-bit codes."""
    import torch
    from safetensors.torch import load_file, save_file

    (path,) = folder.glob("*.safetensors")
    tensors = load_file(path)
    name = next(one for one in tensors if one.endswith("q_proj.weight"))
    tensors[name] = tensors[name].to(torch.int8)
    tensors[name.replace(".weight", ".SCB")] = torch.ones(tensors[name].shape[0])
    save_file(tensors, path)


def test_what_is_asked_for() -> None:
    suite = suite_of(
        TINY, precisions=["nf4", "bf16"], measure=["quality", "footprint"], tasks=["stdlib-choice"]
    )
    assert labels(suite) == ["nf4", "bf16"]
    assert suite.reference == "bf16"
    assert list(suite.measure) == ["footprint", "quality", "tasks"]
    assert suite.measure["tasks"].model_dump()["names"] == ("stdlib-choice",)
    named = suite_of(TINY, precisions=["nf4"], reference="fp16", name="mine")
    assert (labels(named), named.reference, named.name) == (["fp16", "nf4"], "fp16", "mine")
    assert labels(suite_of(TINY, reference="fp16")) == ["fp16", "bf16", "int8", "nf4"]


def test_quick_is_less_of_everything_in_a_folder_of_its_own() -> None:
    quick, full = suite_of(TINY, quick=True), suite_of(TINY)
    assert quick.name == "tiny-mistral-quick"
    for name in ("memory", "latency"):
        less, more = quick.measure[name].model_dump(), full.measure[name].model_dump()
        smaller = {key for key, value in less.items() if value != more[key]}
        assert smaller >= {"prompt_tokens", "new_tokens"}
        assert all(less[key] < more[key] for key in smaller)
    everything = suite_of(TINY, quick=True, measure=["tasks", "generation", "weight_error"])
    assert everything.measure["tasks"].model_dump()["limit"] == 20


@pytest.mark.parametrize(
    ("argument", "name"),
    [
        ("owner/some.model@v1", "owner-some.model-v1"),
        ("random:gpt2", "random-gpt2"),
        ("bundled:nope", "bundled-nope"),
        (f"owner/{'n' * 200}", f"owner-{'n' * 68}"),
    ],
)
def test_its_results_have_a_folder_named_after_the_model(argument: str, name: str) -> None:
    written = read_source(argument, Wishes(precisions=["bf16"]))
    assert yaml.safe_load(written.text("x"))["models"] == [argument]
    assert written.top is not None
    assert str(getattr(written.top.child("name"), "value", None)) == name


@pytest.mark.parametrize(
    ("argument", "wishes", "assignments", "words"),
    [
        (TINY, {"precisions": ["bf15"]}, [], "--precisions bf15: precisions[0]: found the unknown precision 'bf15'"),
        (TINY, {"measure": ["latncy"]}, [], "--measure latncy: measure.latncy: found the unknown measurement 'latncy'"),
        (TINY, {"reference": "fp31", "precisions": ["nf4"]}, [], "--reference fp31: precisions[0]: found the unknown precision"),
        (TINY, {"name": "../x"}, [], "--name ../x: name: found the text '../x'"),
        (TINY, {}, ["measure.latency.repeats=x"], "--set measure.latency.repeats=x: measure.latency.repeats: found the text 'x'"),
        ("bundled:tiny-mistrall", {}, [], "bundled:tiny-mistrall: models[0]: found bundled:tiny-mistrall: no bundled model"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_where_it_was_given(
    argument: str, wishes: dict[str, object], assignments: list[str], words: str
) -> None:
    with pytest.raises(SuiteError) as caught:
        suite_of(argument, *assignments, **wishes)
    assert str(caught.value.problems[0]).startswith(words)


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("absent", ["absent: found no such file", "or a model: bundled:<name>"]),
        ("absent.yaml", ["no such file", "qbench init"]),
        ("folder", ["folder: found a folder", "a folder with config.json"]),
        ("folder/absent", ["no such file"]),
        ("my-modle", ["no such file", "did you mean 'my-model'?"]),
        ("tiny-mistral", ["no such file", "did you mean 'bundled:tiny-mistral'?"]),
    ],
)
def test_what_is_neither_suite_nor_model(here: Path, argument: str, words: list[str]) -> None:
    for name in ("folder", "my-model"):
        (here / name).mkdir()
    (here / "my-model" / "config.json").touch()
    with pytest.raises(SuiteError) as caught:
        suite_of(argument)
    for word in words:
        assert word in str(caught.value)


def test_a_quantized_cache_is_measured_with_what_it_costs_where_it_is_read() -> None:
    made = suite_of(TINY, precisions=["bf16"], reference="bf16", kv_cache=["fp8", "int4"])
    assert [cell.label for cell in made.cells()] == ["bf16", "bf16--kv-fp8", "bf16--kv-int4"]
    assert list(made.measure) == ["footprint", "memory", "latency", "quality", "decoded"]
    with pytest.raises(SuiteError, match=r"--kv-cache int5: kv_cache\[0\]: found the unknown kind"):
        suite_of(TINY, kv_cache=["int5"])


@pytest.mark.parametrize(
    "wish", [{"precisions": ["nf4"]}, {"quick": True}, {"name": "a"}, {"kv_cache": ["fp8"]}]
)
def test_a_suites_file_says_so_itself(here: Path, wish: dict[str, object]) -> None:
    (here / "suite.yaml").write_text(f"models: {TINY}\n")
    option = next(iter(wish)).replace("_", "-")
    with pytest.raises(UsageError, match=f"^--{option}: found a suite's file"):
        suite_of("suite.yaml", **wish)


SUITE = """\
models:
  - {model_name_or_path: bundled:tiny-mistral, name: small}
precisions: [fp32, nf4: {bnb_4bit_compute_dtype: [fp16, fp32]}, {int8: , name: '1e3'}]
measure: {memory: {batch_size: [1, 2], input_len: 8}, quality: {text: text.txt}, footprint: }
exclude: [{precision: "*fp16*"}]
finetune:
  data: {dataset: rows.jsonl, train: 4, validation: 2, test: 2,
         recipe: {prompt: "{{a}}: é #'", completion: "{{b}}"}}
  methods: {method: lora, r: [2, 4], warmup_ratio: 1.0e-1}
gate: {perplexity: {max_increase: 1%}, memory.static: [{max_increase: 0}]}
"""


@pytest.mark.parametrize(
    "arguments",
    [
        [TINY],
        [TINY, "--quick", "--precisions", "bf16,nf4", "--measure", "quality"],
        [TINY, "--quick", "--kv-cache", "fp8,int4"],
        [
            "./model",
            "--quick",
            "--precisions",
            "fp32",
            "--precisions",
            "nf4",
            "--set",
            "timeout_s=7",
        ],
        ["suite.yaml"],
        ["suite.yaml", "--set", "measure.memory.batch_size=3", "--set", "name=other"],
    ],
    ids=" ".join,
)
def test_what_is_printed_is_the_same_suite(workplace: Workplace, arguments: list[str]) -> None:
    shutil.copytree(workplace.model, workplace.folder / "model")
    workplace.write("text.txt", "text to read\n" * 50)
    rows = [{"a": f"ask {at}", "b": f"answer {at}"} for at in range(20)]
    workplace.write("rows.jsonl", "\n".join(map(json.dumps, rows)))
    workplace.write("suite.yaml", SUITE)
    printed = workplace.call_here("run", *arguments, "--print-suite")
    assert printed.code == 0, printed.errors
    assert not (workplace.folder / "results").exists()
    saved = workplace.write("saved.yaml", printed.output)
    again = workplace.call_here("run", "saved.yaml", "--print-suite")
    assert again.output == printed.output
    assert not {"batch_size", "r", "warmup_ratio"} & set(yaml.safe_load(printed.output))
    planned, resaved = (
        json.loads(workplace.call_here("plan", *asked, "--format", "json").output)
        for asked in (arguments, ["saved.yaml"])
    )
    assert planned["suite"] == resaved["suite"]
    assert planned["cells"] == resaved["cells"]
    with workplace.entered():
        suite = load_suite(saved)
        keys = [task.key for task in make_plan(suite, workplace.folder / "results").tasks]
        named = arguments[0]
        wished = [one for one in arguments[1:] if "=" in one]
        original = read_source(named, wishes_of(arguments), read_settings(wished))
        found = make_plan(make_suite(original), workplace.folder / "results").tasks
    assert keys == [task.key for task in found]


def wishes_of(arguments: list[str]) -> Wishes:
    """Those of the command line above."""
    values = dict(pairwise(arguments))
    several = [arguments[at + 1] for at, one in enumerate(arguments) if one == "--precisions"]
    return Wishes(
        precisions=[name for one in several for name in one.split(",")],
        measure=values["--measure"].split(",") if "--measure" in values else [],
        quick="--quick" in arguments,
        kv_cache=values["--kv-cache"].split(",") if "--kv-cache" in values else (),
    )


@pytest.mark.slow
def test_a_run_of_a_model_goes_on_where_it_was(workplace: Workplace) -> None:
    shutil.copytree(workplace.model, workplace.folder / "model")
    asked = ("./model", "--quick", "--precisions", "fp32,nf4", "--set", "measure.quality.limit=4")
    first = workplace.call("run", *asked, "--measure", "footprint,quality")
    assert first.code == 0, first.errors
    assert "4 records (4 ok), 4 taken now" in first.output
    assert "Intervals are wide" in first.output
    page = (workplace.folder / "reports").glob("model-quick-*.md")
    assert "intervals are wide: 4 windows of a text" in next(page).read_text(encoding="utf-8")
    again = workplace.call("run", *asked, "--measure", "footprint,quality,weight_error")
    assert "6 records (6 ok), 2 taken now" in again.output
    folders = [path.name for path in (workplace.folder / "results").iterdir()]
    assert folders == ["model-quick"]
