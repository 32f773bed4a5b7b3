"""Every suite in the repository, and the starter of `qbench init`, is valid as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from qbench.starter import STARTER
from qbench.suite import load_suite, load_suite_text
from qbench.suite_schema import suite_schema
from qbench.yaml_lines import read_yaml

FOLDER = Path(__file__).parent.parent / "suites"
SUITES = sorted(FOLDER.glob("*.yaml"))


def errors_by_schema(text: str) -> list[str]:
    top, problems = read_yaml(text, "suite.yaml")
    assert top is not None
    assert problems == []
    errors = Draft202012Validator(suite_schema()).iter_errors(top.plain())
    return [error.message for error in errors]


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.name)
def test_shipped_suite(path: Path) -> None:
    suite = load_suite(path)
    assert suite.name == path.stem
    assert suite.cells()
    text = path.read_text(encoding="utf-8")
    assert errors_by_schema(text) == []
    schema = re.search(r"yaml-language-server: \$schema=(\S+)", text)
    assert schema is not None
    assert (path.parent / schema[1]).is_file()


RUNGS = ("--merged", "--attached")


def test_the_quickstart_is_what_the_readme_promises() -> None:
    suite = load_suite(FOLDER / "quickstart.yaml")
    cells = suite.cells()
    names = ["fp32", "bf16", "fp16", "int8", "fp4", "nf4", "nf4-dq"]
    tuned = [
        "full-bf16",
        "full-bf16--merged",
        *(f"{arm}{rung}" for arm in ("lora-bf16", "qlora-nf4") for rung in ("", *RUNGS)),
    ]
    assert [cell.slug for cell in cells] == [f"tiny-mistral--{name}" for name in (*names, *tuned)]
    assert {cell.model.kind for cell in cells} == {"bundled"}
    assert suite.reference == "fp32"
    assert list(suite.measure)[:5] == [
        "footprint",
        "memory",
        "latency",
        "weight_error",
        "quality",
    ]


def test_the_starter_is_valid() -> None:
    suite = load_suite_text(STARTER, "my-suite.yaml", Path(__file__).parent)
    assert suite.name == "my-suite"
    assert {model.kind for model in suite.models} == {"bundled"}
    assert errors_by_schema(STARTER) == []


def test_what_the_starter_shows_in_comments_is_valid_too() -> None:
    """Takes the `#` off the settings in comments, and every one of them must be right."""
    setting = re.compile(r"^( *)# ((?:- |name: |include: |exclude: |timeout_s: ).*)$", re.MULTILINE)
    text, count = setting.subn(r"\1\2", STARTER)
    assert count == 10
    suite = load_suite_text(text, "file.yaml", Path(__file__).parent)
    assert suite.name == "my-suite"
    labels = [precision.label for precision in suite.precisions]
    assert {"int8-threshold=5", "nf4-compute_dtype=fp32", "nf4-exact"} < set(labels)


@pytest.mark.parametrize("name", ["quickstart", "finetune"])
def test_the_published_report_is_made_from_the_published_records(name: str) -> None:
    from qbench.report.markdown import render
    from qbench.store import read_folder

    root = Path(__file__).parent.parent
    records, unreadable = read_folder(root / "results" / "published" / name)
    assert not unreadable
    kind = records[0].environment.device_kind
    page = (root / "reports" / f"{name}-{kind}.md").read_text(encoding="utf-8")
    assert page == render(records)
    suite = load_suite(root / "suites" / f"{name}.yaml")
    assert {record.cell.slug for record in records} == {cell.slug for cell in suite.cells()}
    tuned = {"training", "completion", "adapters"}
    assert {record.item.measurement for record in records} == set(suite.measure) | tuned
    assert {record.status for record in records} == {"ok"}
