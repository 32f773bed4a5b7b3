"""Records of strangers: they are shown, or refused with a word, and reach no place but the page."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from typing import TYPE_CHECKING, Any

import pytest
from rich.text import Text

from qbench.core.spec import slugify
from qbench.core.untrusted import in_one_line
from qbench.report.console import harmless, make_console
from qbench.report.frame import load_results
from tests.command import call
from tests.pages import REPORT_FORMATS, written_as
from tests.record_factory import (
    footprint_record,
    make_environment,
    make_failure,
    make_record,
    quality_record,
)
from tests.tuned_records import tuned_arm
from tests.workplace import keep

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.workplace import Finished

HOSTILE = "\x1b]0;owned\x07\u202e\n::error::gone | [/red] [x]: y ![a](b) <img src=x> \ud800 =1+1"
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\ud800-\udfff]")


def put(folder: Path, change: Callable[[dict[str, Any]], object], precision: str = "nf4") -> Path:
    """Writes a good record, changed as JSON, under the name that its key asks for."""
    path = keep(folder / "results", footprint_record(precision))
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def assert_harmless(finished: Finished) -> None:
    for text in (finished.output, finished.errors):
        assert not CONTROL.search(text)
        assert not re.search(r"^\s*::|##\[", text, re.MULTILINE)
        assert "Traceback" not in text


def fill_with(data: Any, text: str) -> Any:
    """The data with the text behind everything that may be any text."""
    if isinstance(data, dict):
        fixed = ("status", "better", "kind", "device_kind", "device_type", "key", "deploy")
        return {
            key: value if key in fixed else fill_with(value, text) for key, value in data.items()
        }
    if isinstance(data, list):
        return [fill_with(each, text) for each in data]
    return text if isinstance(data, str) else data


class TestTexts:
    def fill(self, folder: Path) -> None:
        folder.joinpath("results").mkdir()
        for precision in ("fp32", "nf4"):
            for record in (footprint_record(precision), quality_record(precision)):
                path = keep(folder / "results", record)
                data = fill_with(json.loads(path.read_text(encoding="utf-8")), HOSTILE)
                data["cell"]["precision"]["label"] = f"{precision}{HOSTILE}"
                data["warnings"] = [HOSTILE]
                data["details"]["generated"] = [HOSTILE]
                path.write_text(json.dumps(data), encoding="utf-8")

    @pytest.mark.parametrize("name", REPORT_FORMATS)
    @pytest.mark.parametrize("output", [[], ["--output", "-"]])
    def test_in_a_report(self, tmp_path: Path, name: str, output: list[str]) -> None:
        self.fill(tmp_path)
        finished = call(tmp_path, "report", "--format", name, *output)
        assert finished.code == 0, finished
        assert_harmless(finished)
        for path in tmp_path.joinpath("reports").glob("*"):
            assert not CONTROL.search(path.read_text(encoding="utf-8"))
        assert {path.name for path in tmp_path.iterdir()} <= {"results", "reports"}

    def test_in_a_comparison(self, tmp_path: Path) -> None:
        self.fill(tmp_path)
        for more in ([], ["--format", "markdown"], ["--all"]):
            finished = call(tmp_path, "compare", "results", "results", *more)
            assert finished.code == 0, finished
            assert_harmless(finished)

    @pytest.mark.parametrize("name", ["text", "markdown", "html", "json", "csv"])
    def test_in_claims(self, tmp_path: Path, name: str) -> None:
        self.fill(tmp_path)
        finished = call(tmp_path, "claims", "--format", name)
        assert finished.code == 0, finished
        assert_harmless(finished)

    @pytest.mark.parametrize("name", ["text", "markdown", "html", "json", "csv"])
    def test_in_a_history(self, tmp_path: Path, name: str) -> None:
        self.fill(tmp_path)
        suite = in_one_line(HOSTILE)
        for folder in tmp_path.joinpath("results").iterdir():
            folder.rename(folder.with_name(slugify(suite)))
        finished = call(tmp_path, "history", suite, "--all", "--format", name)
        assert finished.code == 0, finished
        assert_harmless(finished)

    def test_in_a_frame(self, tmp_path: Path) -> None:
        self.fill(tmp_path)
        text = load_results(tmp_path / "results").to_csv()
        assert not CONTROL.search(text)

    def test_on_a_terminal_of_letters_alone(self, tmp_path: Path) -> None:
        self.fill(tmp_path)
        for more in ([], ["--format", "csv", "--output", "-"]):
            finished = call(tmp_path, "report", *more, encoding="ascii")
            assert finished.code == 0, finished
            assert_harmless(finished)

    def test_of_100_kilobytes(self, tmp_path: Path) -> None:
        keep(tmp_path / "results", footprint_record("fp32"))
        failure = make_failure("nf4", "footprint", "crash", "y" * 100_000, log_tail="z" * 100_000)
        keep(tmp_path / "results", failure)
        finished = call(tmp_path, "report")
        assert finished.code == 0
        assert len(finished.output) < 10_000
        pages = {path.suffix: path for path in tmp_path.joinpath("reports").iterdir()}
        assert 4_000 < len(pages[".md"].read_text(encoding="utf-8")) < 30_000
        html = pages[".html"].read_text(encoding="utf-8")
        assert 4_000 < html.index("</main>") - html.index("<main") < 30_000


class TestDetails:
    """Their form is no one's promise: what a report cannot read of them is left out."""

    @pytest.mark.parametrize("value", [True, 3, "text", [1, [2]], {"a": {"b": 1}}])
    def test_of_any_kind(self, value: Any) -> None:
        told = (
            "loaded", "chance", "items", "layers", "adapters_on", "steps", "tokens", "item_ids",
            "prompts", "generated", "generated_ids", "references", "ids_sha256",
        )  # fmt: skip
        within = ("faults", "calibration", "layers", "left_out")
        measured = [
            make_record(precision, measurement, metrics)
            for precision in ("fp32", "nf4")
            for measurement, metrics in (
                ("footprint", {"memory.static": 1.0}),
                ("tasks", {"tasks.accuracy": 0.5}),
                ("weight_error", {"weight_error.relative": 0.1}),
                ("generation", {"generation.tokens": 3.0}),
            )
        ]
        measured += tuned_arm("qlora-nf4")
        for details in (dict.fromkeys(told, value), {"loaded": dict.fromkeys(within, value)}):
            records = [record.model_copy(update={"details": details}) for record in measured]
            for name in REPORT_FORMATS:
                assert written_as(name, records)


class TestPlaces:
    @pytest.mark.parametrize("kind", ["../../README", "/tmp/x", "a/b", "..", "", "a\nb", "-x"])
    def test_a_device_names_no_place(self, tmp_path: Path, kind: str) -> None:
        (tmp_path / "README.md").write_text("mine", encoding="utf-8")
        path = put(tmp_path, lambda data: data["environment"].update(device_kind=kind))
        finished = call(tmp_path, "report", "--reports", "in/reports")
        assert finished.code == 2
        assert f"{path.name}: not a qbench record (environment.device_kind" in finished.errors
        assert (tmp_path / "README.md").read_text(encoding="utf-8") == "mine"
        assert {path.name for path in tmp_path.iterdir()} == {"README.md", "results"}

    @pytest.mark.parametrize("suite", ["../../README", "/etc/x", "a" * 5000, "~root/x", "\n"])
    def test_a_suite_names_no_place(self, tmp_path: Path, suite: str) -> None:
        put(tmp_path, lambda data: data.update(suite=suite))
        finished = call(tmp_path, "report")
        assert finished.code == 0, finished
        assert {path.name for path in tmp_path.iterdir()} == {"results", "reports"}
        written = {path.suffix for path in (tmp_path / "reports").iterdir()}
        assert written == {".html", ".md"}


class TestFiles:
    def test_a_record_under_the_name_of_another(self, tmp_path: Path) -> None:
        whole = keep(tmp_path / "results", footprint_record("fp32"))
        other = keep(tmp_path / "results", footprint_record("nf4"))
        other.write_bytes(whole.read_bytes())
        finished = call(tmp_path, "report")
        assert finished.code == 2
        key = whole.name.removesuffix(".json").rpartition("-")[2]
        assert f"{other.name}: the record's key is {key}" in finished.errors

    def test_what_never_ends(self, tmp_path: Path) -> None:
        folder = keep(tmp_path / "results", footprint_record("fp32")).parent
        os.mkfifo(folder / "footprint-model-0123.json")
        (folder / "footprint-model-0124.json").symlink_to("/dev/zero")
        (folder / "footprint-model-0125.json").symlink_to("footprint-model-0125.json")
        (folder / "footprint-model-0126.json").mkdir()
        finished = call(tmp_path, "report")
        assert finished.code == 2
        assert finished.errors.count("it is no regular file") == 2
        assert "fp32" in finished.output

    def test_many_that_cannot_be_read(self, tmp_path: Path) -> None:
        folder = keep(tmp_path / "results", footprint_record("fp32")).parent
        for at in range(100):
            (folder / f"{at}.json").write_text("{", encoding="utf-8")
        finished = call(tmp_path, "report")
        assert finished.code == 2
        assert len(finished.errors.splitlines()) == 21
        assert "and 80 more files" in finished.errors

    @pytest.mark.parametrize("name", ["a\x1b[31m\n::error::b", "a\udc80"])
    def test_a_name_that_is_shown(self, tmp_path: Path, name: str) -> None:
        folder = keep(tmp_path / "results", footprint_record("fp32")).parent
        (folder / f"{name}.json").write_text("{", encoding="utf-8")
        finished = call(tmp_path, "report")
        assert finished.code == 2
        assert_harmless(finished)


class TestFields:
    @pytest.mark.parametrize("text", ["=1+1", "+cmd", "-2+3", "@SUM(1)", "\t=1", "＝1"])
    def test_a_spreadsheet_gets_no_formula(self, tmp_path: Path, text: str) -> None:
        environment = make_environment(device=text)
        record = make_record("nf4", "mine", {"x.y": -1.5}, environment=environment)
        keep(tmp_path / "results", record)
        finished = call(tmp_path, "report", "--format", "csv", "--output", "-")
        (row,) = csv.DictReader(io.StringIO(finished.output))
        assert row["device"].startswith(("'", " "))
        assert row["value"] == "-1.5"

    @pytest.mark.parametrize("text", ["-3", "+1.5e-3", "3"])
    def test_a_number_stays_one(self, tmp_path: Path, text: str) -> None:
        environment = make_environment(device=text)
        keep(tmp_path / "results", make_record("nf4", "mine", environment=environment))
        finished = call(tmp_path, "report", "--format", "csv", "--output", "-")
        (row,) = csv.DictReader(io.StringIO(finished.output))
        assert row["device"] == text


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("::error::x", ": :error::x"),
        ("a\n  ::add-mask::y\n", "a\n  : :add-mask::y\n"),
        ("##[group]x ##vso[task]", "# #[group]x # #vso[task]"),
        ("torch::jit ## heading", "torch::jit ## heading"),
    ],
)
def test_no_line_is_a_command(text: str, printed: str) -> None:
    assert harmless(text) == printed
    assert harmless(printed) == printed


def test_nor_is_one_that_a_table_was_wrapped_to(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    make_console().print(Text(f"{'x' * 39} ::error file=a::b"))
    assert capsys.readouterr().out == f"{'x' * 39} \n: :error file=a::b\n"
