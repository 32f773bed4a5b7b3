"""The commands, their options, and what they write."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from typer.main import get_command

from qbench.cli.doctor import examine
from qbench.cli.main import app
from qbench.core.packages import EXTRAS
from qbench.core.store import read_folder
from qbench.finetune import methods
from qbench.measures import measures
from qbench.plan.suite.schema import suite_schema
from qbench.plan.suite.suite import load_suite
from qbench.precisions import precisions
from qbench.sources.models.known_configs import known_configs
from tests.record_factory import footprint_record, make_environment, quickstart_records
from tests.workplace import QBENCH, keep

if TYPE_CHECKING:
    from tests.workplace import Workplace

COMMANDS = ("run", "plan", "fit", "report", "list", "doctor", "init", "schema", "explain")


@pytest.fixture
def measured(workplace: Workplace) -> Workplace:
    """A place with the records of a run."""
    for record in quickstart_records():
        keep(workplace.folder / "results", record)
    return workplace


class TestUsage:
    def test_version(self, workplace: Workplace) -> None:
        finished = workplace.call("--version")
        assert finished.code == 0
        assert re.fullmatch(r"qbench \d+\.\d+\.\d+\n", finished.output)

    def test_as_a_module_it_is_the_same(self, workplace: Workplace) -> None:
        command = [sys.executable, "-m", "qbench", "plan", "nothing.yaml"]
        as_module = subprocess.run(
            command,
            cwd=workplace.folder,
            env=workplace.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        as_command = workplace.call_here("plan", "nothing.yaml")
        assert as_module.returncode == as_command.code == 2
        assert as_module.stderr == as_command.errors

    def test_help_names_every_command(self, workplace: Workplace) -> None:
        finished = workplace.call("--help")
        assert finished.code == 0
        assert all(f" {name} " in finished.output for name in COMMANDS)

    @pytest.mark.parametrize("command", COMMANDS)
    def test_every_command_explains_itself(self, workplace: Workplace, command: str) -> None:
        finished = workplace.call_here(command, "--help")
        assert finished.code == 0
        assert re.search(rf"Usage: .* {command} \[OPTIONS\]", finished.output)

    @pytest.mark.parametrize("command", ["run", "plan", "report", "fit", "gate", "baseline"])
    def test_defaults_that_no_option_holds_are_told(
        self, workplace: Workplace, command: str
    ) -> None:
        page = " ".join(workplace.call_here(command, "--help").output.replace("│", " ").split())
        written = {
            text
            for option in get_command(app).commands[command].params  # type: ignore[attr-defined]
            for text in re.findall(r"\[(default: [^]]*\])", getattr(option, "help", "") or "")
        }
        assert written
        assert all(f"[{text}" in page for text in written)

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["run", "suite.yaml", "--bogus"], "--bogus"),
            (["frobnicate"], "frobnicate"),
            (["reprot"], "report"),
            (["run"], "SUITE"),
            (["run", "suite.yaml", "another.yaml"], "another.yaml"),
            (["run", "suite.yaml", "--device"], "--device"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else "",
    )
    def test_wrong_usage_is_told_with_code_2(
        self, workplace: Workplace, arguments: list[str], words: str
    ) -> None:
        finished = workplace.call_here(*arguments)
        assert finished.code == 2
        assert words in finished.errors
        assert "Traceback" not in finished.errors
        assert "a bug in qbench" not in finished.errors

    def test_no_command_shows_the_help(self, workplace: Workplace) -> None:
        finished = workplace.call()
        assert finished.code in {0, 2}
        assert "Usage: qbench" in finished.output + finished.errors
        assert "a bug in qbench" not in finished.errors

    @pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
    def test_completion(self, workplace: Workplace, shell: str) -> None:
        words = {"COMP_WORDS": "qbench re", "COMP_CWORD": "1", "_TYPER_COMPLETE_ARGS": "qbench re"}
        asked = {"_QBENCH_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
        finished = workplace.with_environment(**words, **asked).call()
        assert "report" in finished.output
        assert finished.errors == ""

    def test_a_reader_that_stops_early_gets_no_complaint(self, measured: Workplace) -> None:
        process = measured.start("report", "--format", "json", "--output", "-")
        assert process.stdout is not None
        assert process.stdout.read(1) == "{"
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
        process.wait(timeout=60)
        process.stderr.close()


class TestBugs:
    def test_a_bug_is_told_with_the_place_of_its_log(self, workplace: Workplace) -> None:
        place = workplace.with_plugins("faulty").with_environment(TMPDIR=str(workplace.folder))
        place.write("suite.yaml", f"models: [{place.model}]\nmeasure: [faulty]\n")
        finished = place.call("run", "suite.yaml")
        assert finished.code == 3
        assert len(finished.errors.strip().splitlines()) == 1
        assert "Traceback" not in finished.output + finished.errors
        assert "ZeroDivisionError: a bug on purpose" in finished.errors
        (log,) = place.folder.glob("qbench-bug-*.log")
        assert str(log) in finished.errors
        text = log.read_text(encoding="utf-8")
        assert "Traceback" in text
        assert "run suite.yaml" in text
        assert "qbench_faulty.py" in text

    def test_a_plugin_that_cannot_be_imported_is_named_as_the_users_to_mend(
        self, workplace: Workplace
    ) -> None:
        place = workplace.with_plugins("broken")
        place.write_suite("fp32")
        finished = place.call("plan", "suite.yaml")
        assert finished.code == 2
        assert "a bug in qbench" not in finished.errors
        assert "qbench_broken" in finished.errors


class TestInit:
    def test_it_writes_a_suite_that_can_be_used(self, workplace: Workplace) -> None:
        finished = workplace.call_here("init", "mine.yaml")
        assert finished.code == 0
        assert "qbench run mine.yaml" in finished.output
        text = (workplace.folder / "mine.yaml").read_text(encoding="utf-8")
        assert yaml.safe_load(text)["models"] == ["bundled:tiny-mistral"]

    def test_a_file_that_is_there_is_kept_unless_forced(self, workplace: Workplace) -> None:
        path = workplace.write("suite.yaml", "mine")
        finished = workplace.call_here("init")
        assert finished.code == 2
        assert "suite.yaml: is there already" in finished.errors
        assert "--force" in finished.errors
        assert path.read_text(encoding="utf-8") == "mine"
        assert workplace.call_here("init", "--force").code == 0
        assert "models:" in path.read_text(encoding="utf-8")

    @pytest.mark.parametrize("path", ["absent/suite.yaml", "/proc/suite.yaml"])
    def test_a_place_that_cannot_be_written(self, workplace: Workplace, path: str) -> None:
        finished = workplace.call_here("init", path)
        assert finished.code == 2
        assert f"{path}: cannot be written" in finished.errors


class TestShowing:
    def test_the_schema_is_the_suites(self, workplace: Workplace) -> None:
        finished = workplace.call_here("schema")
        assert finished.code == 0
        assert json.loads(finished.output) == json.loads(json.dumps(suite_schema()))

    def test_list_names_every_precision_and_measurement(self, workplace: Workplace) -> None:
        finished = workplace.call_here("list")
        assert finished.code == 0
        for name in (*precisions(), *methods(), *measures()):
            assert re.search(rf"\W{name}\W", finished.output), name

    def test_list_shows_one_in_full(self, workplace: Workplace) -> None:
        for entry in (precisions()["nf4"], methods()["lora"], measures()["latency"]):
            finished = workplace.call_here("list", entry.name)
            assert finished.code == 0
            for name in entry.options.model_fields:
                assert re.search(rf"\W{name}\W", finished.output), name

    def test_list_shows_a_default_as_a_suite_would_say_it(self, workplace: Workplace) -> None:
        listed = json.loads(workplace.call_here("list", "serving", "--format", "json").output)
        [default] = [one["default"] for one in listed["options"] if one["name"] == "servers"]
        assert measures()["serving"].options(servers=[yaml.safe_load(default)]) == (
            measures()["serving"].options()
        )

    def test_list_takes_any_name_of_a_precision(self, workplace: Workplace) -> None:
        by_own = workplace.call_here("list", "int8-wo", "--format", "json")
        assert by_own.code == 0
        assert workplace.call_here("list", "INT8_weight_only", "--format", "json") == by_own
        assert "int8_weight_only" in json.loads(by_own.output)["also_called"]

    def test_list_of_a_name_of_nothing(self, workplace: Workplace) -> None:
        finished = workplace.call_here("list", "awq")
        assert finished.code == 2
        assert "unknown name 'awq'" in finished.errors
        assert "int4-g32-gptq" in finished.errors

    def test_list_names_every_model_that_plans_without_a_hub(self, workplace: Workplace) -> None:
        finished = workplace.call_here("list", "models", "--format", "json")
        models = {one["name"]: one for one in json.loads(finished.output)["models"]}
        assert set(models) == set(known_configs())
        assert all(None not in one.values() for one in models.values())
        # 128 KiB a token in 32 layers, and 576 elements a token in 61.
        assert models["Mistral-7B-v0.3"]["cache_bytes"] == 4096 * 128 * 1024
        assert models["DeepSeek-V3"]["cache_bytes"] == 4096 * 61 * 576 * 2
        assert "3.61 B" in workplace.call_here("list", "models").output

    def test_list_shows_plugins_and_why_one_cannot_run(self, workplace: Workplace) -> None:
        finished = workplace.with_plugins("unruly").call("list")
        assert finished.code == 0
        assert re.search(r"\Wunruly\W", finished.output)
        assert "positronic brain" in " ".join(finished.output.split())

    def test_doctor_says_what_there_is(
        self, workplace: Workplace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(EXTRAS, "no-such-package", "longcontext")
        finished = workplace.call_here("doctor")
        assert finished.code == 0, finished.output
        for topic in ("python", "torch", "transformers", "bitsandbytes back end", "hub", "cache"):
            assert f"{topic}: " in finished.output
        assert "http://127.0.0.1:9 cannot be reached" in finished.output
        assert "bundled models, local folders" in finished.output
        assert str(workplace.folder / "cache") in finished.output
        said = " ".join(finished.output.split())
        assert re.search(r"longcontext: not installed: .*no-such-package", said)
        assert "pip install 'qbench-llm[longcontext]'" in said

    def test_doctor_finds_that_a_device_is_not_there(self) -> None:
        found = next(one for one in examine("cuda:7") if one.place == "device")
        assert found.state == "problem"
        assert "cuda:7" in found.found

    @pytest.mark.slow
    def test_doctor_ends_with_1_for_a_device_that_is_not_there(self, workplace: Workplace) -> None:
        finished = workplace.call_here("doctor", "--device", "cuda:7")
        assert finished.code == 1
        assert "cuda:7" in finished.output

    def test_plan_shows_the_cells_their_bytes_and_what_is_there(self, workplace: Workplace) -> None:
        workplace.write_suite("fp32", "nf4")
        finished = workplace.call_here("plan", "suite.yaml")
        assert finished.code == 0
        assert "suite: tiny on " in finished.output
        assert re.search(r"fp32 \(ref\w*\) .*0/4", finished.output)
        assert re.search(r"nf4 .*0/4", finished.output)
        assert "footprint, latency × 2, quality" in finished.output
        assert "2 cells, 8 measurements, 0 on disk; 4 worker processes to go" in finished.output
        static = re.findall(r"\b\d+,\d{3}\b", finished.output)
        assert len(static) == 2
        assert int(static[1].replace(",", "")) < int(static[0].replace(",", "")) / 3
        assert not (workplace.folder / "results").exists()

    def test_plan_says_what_is_skipped_and_why(self, workplace: Workplace) -> None:
        place = workplace.with_plugins("unruly")
        place.write_suite("fp32", "positronic")
        finished = place.call("plan", "suite.yaml", "--only", "positronic")
        assert finished.code == 0
        assert re.search(r"skipped\W+needs a positronic brain; install one", finished.output)
        assert "0 worker processes" in finished.output


class TestReport:
    @pytest.mark.parametrize(
        ("format_name", "suffix"), [("markdown", "md"), ("csv", "csv"), ("json", "json")]
    )
    def test_the_file_is_named_after_suite_and_device(
        self, measured: Workplace, format_name: str, suffix: str
    ) -> None:
        finished = measured.call_here("report", "--format", format_name)
        assert finished.code == 0, finished.errors
        name = f"quickstart-cpu-intel-xeon-2c.{suffix}"
        assert f"report: reports/{name}" in finished.output
        assert [path.name for path in (measured.folder / "reports").iterdir()] == [name]
        assert (measured.folder / "reports" / name).stat().st_size

    def test_on_the_terminal_there_is_the_report_and_nothing_else(
        self, measured: Workplace
    ) -> None:
        texts = {
            name: measured.call_here("report", "--format", name, "--output", "-").output
            for name in ("markdown", "csv", "json")
        }
        records, _ = read_folder(measured.folder / "results")
        assert texts["markdown"].startswith("# ")
        rows = list(csv.DictReader(io.StringIO(texts["csv"])))
        assert len(rows) == sum(max(1, len(record.metrics)) for record in records)
        assert len(json.loads(texts["json"])["records"]) == len(records)
        assert not (measured.folder / "reports").exists()

    def test_the_output_file_can_be_chosen(self, measured: Workplace) -> None:
        finished = measured.call_here("report", "results", "-o", "deep/mine.md")
        assert finished.code == 0
        assert (measured.folder / "deep" / "mine.md").read_text(encoding="utf-8").startswith("# ")
        assert not (measured.folder / "reports").exists()

    @pytest.mark.parametrize(
        ("name", "begins"), [("a.html", "<!doctype html>"), ("a.json", "{"), ("a.b", "# ")]
    )
    def test_its_ending_says_the_format(self, measured: Workplace, name: str, begins: str) -> None:
        assert measured.call_here("report", "-o", name).code == 0
        assert (measured.folder / name).read_text(encoding="utf-8").startswith(begins)

    def test_every_suite_and_device_has_its_file(self, measured: Workplace) -> None:
        keep(measured.folder / "results", footprint_record("fp32", suite="other"))
        h200 = make_environment(device="NVIDIA H200", device_kind="nvidia-h200")
        keep(measured.folder / "results", footprint_record("fp32", environment=h200))
        assert measured.call_here("report").code == 0
        assert sorted(path.name for path in (measured.folder / "reports").iterdir()) == [
            f"{name}.{suffix}"
            for name in (
                "other-cpu-intel-xeon-2c",
                "quickstart-cpu-intel-xeon-2c",
                "quickstart-nvidia-h200",
            )
            for suffix in ("html", "md")
        ]

    @pytest.mark.parametrize("output", ["all.md", "-"])
    def test_one_output_holds_all_suites(self, measured: Workplace, output: str) -> None:
        keep(measured.folder / "results", footprint_record("fp32", suite="other-suite"))
        finished = measured.call_here("report", "-o", output)
        path = measured.folder / output
        text = path.read_text(encoding="utf-8") if path.exists() else finished.output
        assert finished.code == 0
        assert "quickstart" in text
        assert "other-suite" in text

    def test_one_suite_can_be_chosen_by_its_folder(self, measured: Workplace) -> None:
        keep(measured.folder / "results", footprint_record("fp32", suite="other"))
        assert measured.call_here("report", "results/other").code == 0
        assert {path.stem for path in (measured.folder / "reports").iterdir()} == {
            "other-cpu-intel-xeon-2c"
        }


def test_what_init_writes_is_valid(workplace: Workplace) -> None:
    workplace.call_here("init")
    assert load_suite(workplace.folder / "suite.yaml").cells()


class TestOutput:
    """Where standard output is not what it is on a terminal of today."""

    @pytest.mark.parametrize("name", ["PYTHONIOENCODING", "LC_ALL"])
    def test_a_terminal_of_letters_alone(self, workplace: Workplace, name: str) -> None:
        value = "ascii" if name == "PYTHONIOENCODING" else "C"
        place = workplace.with_environment(
            **{name: value, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        )
        finished = place.call("list")
        assert finished.code == 0, finished
        assert "nf4" in finished.output

    @pytest.mark.parametrize("arguments", [["list"], ["schema"], ["--help"]], ids=" ".join)
    def test_a_full_disk(self, workplace: Workplace, arguments: list[str]) -> None:
        with Path("/dev/full").open("w", encoding="utf-8") as full:
            finished = subprocess.run(
                [QBENCH, *arguments],
                env=workplace.environment,
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
        assert finished.returncode == 2
        assert "standard output cannot be written (No space left on device)" in finished.stderr
        assert len(finished.stderr.splitlines()) == 1
