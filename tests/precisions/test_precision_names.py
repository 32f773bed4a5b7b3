"""A precision goes by several names; one of none is answered by what is nearest in kind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from qbench.cli.main import app
from qbench.core.errors import SuiteError, UsageError
from qbench.plan.suite.from_model import Wishes, read_source
from qbench.plan.suite.schema import suite_schema
from qbench.plan.suite.settings import read_settings
from qbench.plan.suite.suite import Suite, load_suite_text, make_suite
from qbench.plan.suite.written import read_text
from qbench.precisions import precisions
from qbench.precisions.names import KINDS, nearest_in_kind, own_name

MODEL = "models: [bundled:tiny-mistral]\n"
EVERY_OTHER_NAME = [(also, name) for name, one in precisions().items() for also in one.also_called]


def suite_of(text: str) -> Suite:
    return load_suite_text(MODEL + text, "made.yaml", Path())


@pytest.mark.parametrize(("also", "name"), EVERY_OTHER_NAME)
def test_another_name_is_the_precision_wherever_one_is_named(also: str, name: str) -> None:
    precision = precisions()[name]
    if precision.takes_quantized:
        pytest.skip("of checkpoints alone")
    entries = f"precisions: [{{{also}: null}}]\nreference: {also}\ninclude: {{precision: {also}}}\n"
    suite = suite_of(entries)
    own = suite_of(entries.replace(also, name))
    assert (suite.cells(), suite.reference) == (own.cells(), own.reference)
    assert suite.select([also]) == suite.select([name])
    for named in (also, also.upper(), also.replace("_", "-")):
        assert suite_of(f"precisions: [{named}]") == suite_of(f"precisions: [{name}]")
        assert own_name(named) == name
    Draft202012Validator(suite_schema()).validate(
        {"models": ["bundled:tiny-mistral"], "precisions": [also, {also: None}]}
    )


def test_no_two_precisions_share_a_name() -> None:
    folded = [
        (text.casefold().replace("_", "-"), name)
        for name, one in precisions().items()
        for text in (name, *one.also_called, one.title or name)
    ]
    owners: dict[str, set[str]] = {}
    for text, name in folded:
        owners.setdefault(text, set()).add(name)
    assert {text: found for text, found in owners.items() if len(found) > 1} == {}


def test_names_are_taken_beside_options_of_a_training_and_on_the_command_line() -> None:
    tuned = "finetune: {methods: [{method: lora, precision: [NF4_DQ, {BFloat16: null}]}]}\n"
    own = "finetune: {methods: [{method: lora, precision: [nf4-dq, {bf16: null}]}]}\n"
    listed = "precisions: [FP32, {BNB_NF4: {compute_dtype: [fp16, fp32]}, name: mine}]\n"
    same = "precisions: [fp32, {nf4: {compute_dtype: [fp16, fp32]}, name: mine}]\n"
    assert suite_of(tuned + listed) == suite_of(own + same)
    written = read_text(f"{MODEL}precisions: [fp32, nf4]\n", "made.yaml", Path())
    settings = read_settings(["precisions.1.BNB_NF4.compute_dtype=fp16"])
    (_, changed) = make_suite(written.set(settings)).precisions
    assert (changed.name, changed.options["compute_dtype"]) == ("nf4", "fp16")
    wishes = Wishes(precisions=("FP32", "W8A16"), reference="float32", measure=("footprint",))
    named = make_suite(read_source("bundled:tiny-mistral", wishes))
    assert [one.name for one in named.precisions] == ["fp32", "int8-wo"]
    assert named.reference == "fp32"


def test_a_label_of_ones_own_is_taken_before_another_name() -> None:
    suite = suite_of("precisions: [fp32, int8-wo, {nf4: null, name: w8a16}]\nreference: w8a16\n")
    assert suite.reference == "w8a16"


def test_a_pattern_is_of_own_names_alone() -> None:
    suite = suite_of("precisions: [fp32, int8-wo, w8a8]\nexclude: {precision: int8*}\n")
    assert [cell.label for cell in suite.cells()] == ["fp32", "w8a8"]


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("awq", ("gptq", "awq")),
        ("EXL2", ("gptq", "gguf")),
        ("bnb", ("nf4",)),
        ("QLoRA", ("nf4",)),
        ("int5", ("integer",)),
        ("W4A4", ("nvfp4-w4a4",)),
        ("w4a8", ("integer",)),
        ("compressed_tensors", ("stored",)),
        ("fp64", ("fp32",)),
        ("uint16", ("bf16",)),
        ("e5m2", ("fp8", "int8-wo")),
        ("fp6_llm", ("mxfp8", "fp8")),
        ("nvfp8", ("mxfp8",)),
        ("4-bit", ("nf4",)),
        ("IQ4_XS", ("gguf", "int4")),
    ],
)
def test_what_is_nearest_in_kind_is_named(name: str, first: tuple[str, ...]) -> None:
    assert own_name(name) is None
    words = nearest_in_kind(name)
    assert words is not None
    _, _, named = words.partition("nearest in kind: ")
    assert any(one in named.split(", ")[0] for one in first), words
    assert set(named.split(", ")) <= set(precisions())
    with pytest.raises(SuiteError, match="nearest in kind") as told:
        suite_of(f"precisions: [{name}]")
    assert "expected one that `qbench list` shows" in str(told.value)  # not 53 names


def test_asking_for_a_format_never_gives_another_by_its_letters() -> None:
    meant = {
        "fp8": "fp8",
        "nvfp4": "nvfp4",
        "mxfp4": "mxfp4",
        "int4": "int4-g128",
        "w4a16": "int4-g128",
        "int4_weight_only": "int4-g128",
        "W8A8": "w8a8",
        "Q4_K_M": "gguf-q4_k_m",
        "HQQ-3bit": "hqq3",
        "qint4": "quanto-int4",
    }
    assert {name: own_name(name) for name in meant} == meant
    assert own_name("int3") is None
    assert "hqq3" in str(nearest_in_kind("int3"))


def test_every_kind_ends_in_something_that_there_is() -> None:
    own = set(precisions())
    assert [kind.words for kind in KINDS if not own & set(kind.near)] == []


def test_commands_take_the_names_and_list_tells_them() -> None:
    fit = ("fit", "random:Mistral-7B", "--gpu", "h100", "--precision")
    with pytest.raises(UsageError, match="nearest in kind: "):
        CliRunner().invoke(app, [*fit, "AWQ"], catch_exceptions=False)
    assert "nf4-dq" in CliRunner().invoke(app, [*fit, "NF4_DQ"]).output
    listed = CliRunner().invoke(app, ["list", "--format", "json"])
    names = {one["name"]: one["also_called"] for one in json.loads(listed.output)["precisions"]}
    assert names["fp4"][0] == "FP4 (bitsandbytes)"
    assert "int8_weight_only" in names["int8-wo"]
