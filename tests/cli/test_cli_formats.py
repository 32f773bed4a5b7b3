"""`--format` of every command: one document on standard output, and formats of plug-ins."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from tests.paired_records import latency, losses, quality, task
from tests.record_factory import quickstart_records
from tests.workplace import keep

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.workplace import Finished, Workplace

GATE = "gate: {perplexity: {max_increase: 1%, against: reference}}\n"
KEYS = {
    "plan": {"suite", "device", "cells", "measurements", "on_disk", "seconds_to_go", "gate"},
    "list": {"device", "precisions", "methods", "measurements", "formats"},
    "fit": {"model", "gpu", "rows", "lengths"},
    "explain": {"precision", "options", "bits_per_weight", "error", "histogram"},
    "compare": {"new", "old", "differences", "conditions", "tests", "method"},
    "gate": {"passed", "exit_code", "counts", "checks", "warnings", "conditions"},
    "merge": {"folders", "target", "new", "several", "not_joined", "suites"},
    "recommend": {"recommendations"},
    "claims": {"claims", "verdicts", "method"},
}


@pytest.fixture
def place(workplace: Workplace) -> Workplace:
    """Records of two cells, below `results`, and a suite with a gate that one of them breaks."""
    text = workplace.write_suite("fp32", "nf4").read_text(encoding="utf-8")
    workplace.write("quickstart.yaml", f"name: quickstart\n{text}{GATE}")
    for record in (
        quality("fp32", losses(0.0)),
        quality("nf4", losses(0.05, seed=3)),
        *latency("nf4", [0.01] * 5),
    ):
        keep(workplace.folder / "results", record)
    return workplace


def arguments(command: str) -> list[str]:
    return {
        "plan": ["plan", "quickstart.yaml"],
        "list": ["list"],
        "fit": ["fit", "gpt2", "--gpu", "t4", "--precision", "nf4", "--length", "64"],
        "explain": ["explain", "fp32"],
        "compare": ["compare", "nf4", "fp32"],
        "gate": ["gate", "quickstart.yaml"],
        "merge": ["merge", "results", "--to", "joined"],
        "recommend": ["recommend"],
        "claims": ["claims"],
    }[command]


def document(place: Workplace, command: str, *more: str) -> dict[str, Any]:
    return read(place.call_here(*arguments(command), "--format", "json", *more), command)


def read(done: Finished, command: str) -> dict[str, Any]:
    assert done.code == (1 if command in ("gate", "recommend") else 0), done.errors
    found = json.loads(done.output)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("command", KEYS)
def test_json_is_one_document_with_the_keys_that_are_documented(
    place: Workplace, command: str
) -> None:
    done = place.call_here(*arguments(command), "--format", "json")
    assert set(read(done, command)) >= KEYS[command]


@pytest.mark.parametrize(
    "command",
    [
        # One that reads records and one that reads none; the others with the slow tests.
        pytest.param(one, marks=[] if one in {"fit", "gate"} else [pytest.mark.slow])
        for one in KEYS
    ],
)
def test_a_process_writes_nothing_else(place: Workplace, command: str) -> None:
    done = place.call(*arguments(command), "--format", "json")
    assert set(read(done, command)) >= KEYS[command]


def test_json_holds_numbers(place: Workplace) -> None:
    cells = {cell["cell"]: cell for cell in document(place, "plan")["cells"]}
    assert cells["fp32"]["bytes"] > cells["nf4"]["bytes"] > 0
    assert cells["nf4"]["bits_per_weight"] < cells["fp32"]["bits_per_weight"]
    assert 4 < cells["nf4"]["bits_per_weight_linear"] < cells["nf4"]["bits_per_weight"]
    assert cells["nf4"]["bits_per_weight_embeddings_and_head"] in (16, 32)
    assert cells["fp32"]["bits_per_weight_linear"] == 32
    assert sum(cells["fp32"]["statuses"].values()) == cells["fp32"]["measurements"] == 4
    (changed,) = [
        one for one in document(place, "compare")["differences"] if one["metric"] == "perplexity"
    ]
    # losses 0.05 nat higher, in the mean
    assert changed["difference"] == pytest.approx(0.0513, abs=0.01)
    assert changed["difference_low"] < changed["difference"] < changed["difference_high"]
    assert changed["verdict"] == "worse"
    assert changed["also_called"] == "PPL"
    gate = document(place, "gate", "--annotations")
    (broken,) = [check for check in gate["checks"] if check["verdict"] == "broken"]
    assert broken["also_called"] == "PPL"
    assert broken["found"] == pytest.approx(changed["difference"])
    assert (gate["passed"], gate["exit_code"]) == (False, 1)


@pytest.mark.parametrize(("command", "key"), [("compare", "differences"), ("gate", "checks")])
def test_csv_of_a_comparison_and_of_a_gate_is_what_their_json_holds(
    place: Workplace, command: str, key: str
) -> None:
    for precision, scores in (("fp32", [1.0] * 60), ("nf4", [0.0, 0.0] + [1.0] * 58)):
        keep(place.folder / "results", task(precision, scores))
    rows = document(place, command)[key]
    done = place.call_here(*arguments(command), "--format", "csv")
    assert done.code == (1 if command in ("gate", "recommend") else 0), done.errors
    table = pd.read_csv(io.StringIO(done.output), dtype={"unit": str})
    assert len(table) == len(rows) > 0
    for (_, found), row in zip(table.iterrows(), rows, strict=True):
        for name, value in _flat(row):
            if value is None:
                assert name not in found or pd.isna(found[name])
            else:
                assert found[name] == (pytest.approx(value) if isinstance(value, float) else value)
    if command == "compare":
        (flipped,) = [row["flips"] for row in rows if row["flips"]]
        assert (flipped["right_to_wrong"], flipped["wrong_to_right"], flipped["items"]) == (
            2,
            0,
            60,
        )
        assert flipped["flips_low"] < flipped["flips"] < flipped["flips_high"]
        assert (flipped["changed"], flipped["changed_reason"]) == (
            None,
            "neither side's record holds what was answered",
        )


def _flat(row: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in row.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


@pytest.mark.parametrize("command", KEYS)
def test_markdown_and_a_file(place: Workplace, command: str) -> None:
    done = place.call_here(*arguments(command), "--format", "markdown", "-o", "out/page.md")
    assert "wrote out/page.md" in done.output, done.errors
    assert (place.folder / "out/page.md").read_text(encoding="utf-8").startswith("# ")


@pytest.mark.slow
def test_the_formats_of_a_gate_are_formats(place: Workplace) -> None:
    beginnings = {
        "junit": "<?xml",
        "step-summary": "## ",
        "comment": "### ",
        "annotations": "::error",
    }
    for name, begins in beginnings.items():
        done = place.call("gate", "quickstart.yaml", "--format", name)
        assert done.code == 1
        assert done.output.startswith(begins)
    refused = place.call("plan", "quickstart.yaml", "--format", "junit")
    assert refused.code == 2
    assert "expected one of text, markdown, html, json" in refused.errors


def test_a_gate_writes_several_files_in_one_call(place: Workplace) -> None:
    names = {"html": "out/a=b.html", "json": "gate.json", "junit": "gate.xml", "comment": "gate.md"}
    further = [text for one in names.items() for text in ("--write", "=".join(one))]
    done = place.call_here("gate", "quickstart.yaml", *further)
    assert done.code == 1
    files = {form: (place.folder / name).read_text("utf-8") for form, name in names.items()}
    assert files["html"].lower().startswith("<!doctype html>")
    assert json.loads(files["json"])["exit_code"] == 1
    assert files["junit"].startswith("<?xml")
    assert files["comment"].startswith("### ❌ qbench gate: quickstart")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("gate.html", "--write: found 'gate.html'; expected FORMAT=FILE, as html=gate.html"),
        ("html=", "--write: found 'html='; expected FORMAT=FILE"),
        ("htm=x", "--write: found 'htm'; expected one of text, markdown, html"),
        ("benchmark-json=x", "--write: found 'benchmark-json'; expected one of text, markdown"),
    ],
)
def test_a_further_file_of_no_format_is_refused(place: Workplace, given: str, told: str) -> None:
    done = place.call_here("gate", "quickstart.yaml", "--write", given)
    assert done.code == 2
    assert told in " ".join(done.errors.split())


@pytest.mark.parametrize("command", [*KEYS, "report"])
def test_a_format_that_there_is_not_is_told_with_the_nearest(
    place: Workplace, command: str
) -> None:
    call = arguments(command) if command in KEYS else ["report"]
    done = place.call_here(*call, "--format", "markdwn")
    assert done.code == 2
    assert "--format: found 'markdwn'; expected one of text, markdown, html, json" in done.errors
    assert "did you mean 'markdown'?" in done.errors
    assert done.output == ""


@pytest.mark.slow
def test_a_plugin_adds_formats(workplace: Workplace) -> None:
    place = workplace.with_plugins("formats")
    for record in quickstart_records():
        keep(place.folder / "results", record)
    listed = json.loads(place.call("list", "--format", "json").output)["formats"]
    assert {one["name"]: one["of"] for one in listed}["outline"] == ["any page"]
    fitted = place.call(
        "fit", "gpt2", "--gpu", "t4", "--precision", "nf4", "--length", "64", "--format", "outline"
    )
    assert fitted.output.splitlines()[1].endswith("rows of 4 columns")
    asked = place.call("report", "results", "--format", "outline")
    assert asked.code == 0, asked.errors
    written = place.folder / "reports" / "quickstart-cpu-intel-xeon-2c"
    assert "Conditions" in written.with_name(f"{written.name}.outline.txt").read_text("utf-8")
    usual = place.call("report", "results")
    assert usual.code == 0, usual.errors
    assert {path.name.partition(".")[2] for path in written.parent.iterdir()} == {
        "md", "html", "bin", "outline.txt",
    }  # fmt: skip
    assert len(written.with_suffix(".bin").read_bytes()) == len(quickstart_records())
    refused = place.call("list", "--format", "statuses")
    assert refused.code == 2


def test_a_plugin_that_is_no_format_is_named(workplace: Workplace) -> None:
    done = workplace.with_plugins("noformat").call("list")
    assert done.code == 2
    assert (
        "the plug-in noformat (qbench.core.units:counted) of qbench-noformat is no F" in done.errors
    )
    assert "it has no name, suffix, summary, page, records" in done.errors
    assert "Traceback" not in done.errors
