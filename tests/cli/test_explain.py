"""The command `explain`: its pages, its options, and what it says of wrong ones."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError
from typing import TYPE_CHECKING

import pytest

from qbench.cli.explain_options import read_assignments
from qbench.core.errors import UsageError
from qbench.precisions.explain.explain import explain, explained
from qbench.report.as_json import page_json as as_json
from qbench.report.markdown import render as markdown
from tests.pages import on_terminal
from tests.precisions.explain.checkpoints import random_weight, save

if TYPE_CHECKING:
    from pathlib import Path

    from tests.workplace import Workplace


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("explained") / "model", random_weight(width=256))


def test_the_bundled_model_is_explained_on_the_terminal(workplace: Workplace) -> None:
    done = workplace.with_environment(COLUMNS="90").call_here("explain", "nf4-dq")
    assert (done.code, done.errors) == (0, "")
    assert "model.layers.0.mlp.down_proj.weight" in done.output
    assert "4 + 8 / 64 + 32 / (64 · 256) = 4.127" in done.output
    assert all(len(line) <= 90 for line in done.output.splitlines())
    assert any(line.count("▲") > 9 for line in done.output.splitlines())


def test_a_package_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def absent(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr("qbench.core.packages.version", absent)
    with pytest.raises(UsageError, match=r"hqq4 needs hqq: pip install 'qbench-llm\[hqq\]'"):
        explain("hqq4", "bundled:tiny-mistral", None, base=tmp_path)


def test_json_is_for_programs(workplace: Workplace) -> None:
    arguments = ("--model", str(workplace.model), "--set", "threshold=0", "--format", "json")
    done = workplace.call_here("explain", "int8", *arguments)
    assert (done.code, done.errors) == (0, "")
    figures = json.loads(done.output)
    assert figures["options"] == {"dtype": "bf16", "threshold": 0.0}
    assert figures["precision"] == "int8"
    assert set(figures) >= {"bits_per_weight", "format", "error", "histogram", "tensor", "shape"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nf5"], "did you mean 'nf4'?"),
        (["nf4", "--format", "xml"], "expected one of text, markdown, html, json"),
        (["nf4", "--tensor", "model.layers.0.mlp.up.weight"], "did you mean 'model.layers.0.mlp."),
        (["nf4", "--set", "threshold=3"], "'threshold' is an option of int8"),
    ],
    ids=" ".join,
)
def test_what_is_wrong_is_told_with_code_2(
    workplace: Workplace, arguments: list[str], words: str
) -> None:
    done = workplace.call_here("explain", *arguments)
    assert done.code == 2
    assert words in done.errors
    assert "Traceback" not in done.errors


@pytest.mark.parametrize(
    ("precision", "assignments", "words"),
    [
        ("int8", ["threshold"], "expected KEY=VALUE, where KEY is an option of int8"),
        ("int8", ["threshold=-1"], "threshold: found the number -1; expected a number of at least"),
        ("int8", ["threshold=1", "threshold=2"], "the key 'threshold' twice"),
        ("nf4", ["dtype=fp8"], "found the text 'fp8'; expected one of bf16, fp16, fp32"),
        ("nf4", ["compute_dtype=fp64"], "found the text 'fp64'; expected one of bf16, fp16, fp32"),
        ("nf4", ["dtype={"], "not YAML"),
        ("fp32", ["dtype=fp16"], "unknown option of fp32 'dtype'"),
        ("fp32", ["dtype"], "an option of fp32: it has none"),
    ],
)
def test_a_wrong_option_is_told(precision: str, assignments: list[str], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_assignments(precision, assignments)
    assert words in str(caught.value)
    assert str(caught.value).startswith("--set")


@pytest.mark.parametrize("name", explained())
def test_every_explanation_can_be_shown_in_every_format(folder: Path, name: str) -> None:
    made = explain(name, str(folder), None, base=folder)
    figures = json.loads(as_json(made))
    assert figures["bits_per_weight"]["stored"] > 0
    assert sum(figures["histogram"]["counts"]) == 128 * 256
    page = markdown(made)
    assert page.startswith(f"# {name}: ")
    assert page.count("```") == 2
    assert all(len(line) <= 40 for line in on_terminal(made, 40).splitlines())


@pytest.mark.parametrize("width", [40, 120])
def test_a_tensor_of_zeros_and_a_norm_are_shown(tmp_path: Path, width: int) -> None:
    zeros = save(tmp_path / "zeros", random_weight(width=256) * 0)
    norm = save(tmp_path / "norm", random_weight(width=256)[0], "model.norm.weight")
    for name in explained():
        flat = explain(name, str(zeros), None, base=tmp_path)
        assert flat.data["error"]["reason"] == "all weights are 0"
        row = explain(name, str(norm), "model.norm.weight", base=tmp_path)
        assert row.data["linear"] is False
        for made in (flat, row):
            json.loads(as_json(made))
            assert all(len(line) <= width for line in on_terminal(made, width).splitlines())


def test_a_tensor_that_a_format_leaves_as_it_is_is_told_as_such(tmp_path: Path) -> None:
    narrow = save(tmp_path / "narrow", random_weight(rows=1, width=72))
    for name in ("nvfp4", "mxfp8", "hqq4", "int4-g32"):
        with pytest.raises(UsageError, match=r"--tensor: .*such a layer stays in"):
            explain(name, str(narrow), None, base=tmp_path)


def test_an_outlier_spoils_the_others_unless_it_is_left_out() -> None:
    from qbench.precisions.explain.outliers import outlier_effect

    step, spoiled, apart = outlier_effect(512, 0.0)
    assert (step, apart) == (pytest.approx(60 / 127, rel=1e-3), False)
    fine, kept, apart = outlier_effect(512, 6.0)
    assert apart
    assert fine < 5 / 127 * 1.001
    assert kept < spoiled / 10
    # Rounding to steps of size s makes errors of s / sqrt(12); those are of activations of size 1.
    assert spoiled == pytest.approx(step / 12**0.5, rel=0.1)
    assert kept == pytest.approx(fine / 12**0.5, rel=0.1)
