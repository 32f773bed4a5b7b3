"""`qbench reproduce`: from records and reports to what measures them again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from qbench.compare.baseline import write_baseline
from qbench.core.store import read_folder
from qbench.plan.suite.suite import load_suite
from qbench.plan.suite.yaml_lines import read_yaml
from tests.command import call
from tests.workplace import QBENCH, REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path

    from tests.workplace import Workplace

PUBLISHED = REPOSITORY / "results" / "published"
QUALITY = str(PUBLISHED / "quality" / "cpu-intel-xeon-2c")
FULL = PUBLISHED / "full" / "cpu-intel-xeon-2c"
FILES = {"README.md", "constraints.txt", "measured.json.gz", "reproduce.sh", "suite.yaml"}


def _checked(folder: Path, *arguments: str) -> dict[str, Any]:
    done = call(folder, "reproduce", *arguments, "--check", "--format", "json")
    assert done.code in (0, 1), done.errors
    found: dict[str, Any] = json.loads(done.output)
    return found


def test_a_folder_of_records_becomes_a_suite_versions_and_a_script(tmp_path: Path) -> None:
    done = call(tmp_path, "reproduce", QUALITY, "--to", "again")

    assert done.code == 0, done.errors
    again = tmp_path / "again"
    assert {path.name for path in again.iterdir()} == FILES
    assert "Under their own conditions 30 of 30 records would have the same key" in " ".join(
        done.output.split()
    )
    assert load_suite(again / "suite.yaml").name == "quality"
    assert "torch==2.13.0+cpu\n" in (again / "constraints.txt").read_text()
    script = (again / "reproduce.sh").read_text()
    subprocess.run(["bash", "-n", again / "reproduce.sh"], check=True)
    assert "export OMP_NUM_THREADS" not in script  # no times were measured
    assert '"$QBENCH" compare results/quality measured.json.gz' in script
    assert "pip install -c constraints.txt 'qbench-llm==0.1.0'" in script
    assert "| device " in (again / "README.md").read_text()


def test_what_was_refused_leaves_nothing_and_an_empty_folder_gives_way(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert call(tmp_path, "reproduce", "empty", "--to", "again").code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
    (tmp_path / "once more").mkdir()

    done = call(tmp_path, "reproduce", QUALITY, "--to", "once more")

    assert "next: bash 'once more/reproduce.sh'" in done.output
    assert {path.name for path in (tmp_path / "once more").iterdir()} == FILES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "once more"]


def test_conditions_that_are_not_here_are_told(tmp_path: Path) -> None:
    (suite,) = _checked(tmp_path, QUALITY)["suites"]

    conditions = {one["name"]: one for one in suite["conditions"]}
    assert conditions["protocol"]["state"] == "same"
    assert conditions["device"]["there"] == "Intel Xeon (2 cores)"
    assert conditions["fp32 products"]["state"] == "unknown"
    assert suite["same_keys_under_their_conditions"] == suite["records"] == 30


@pytest.mark.parametrize(
    "name",
    ["markdown", "json", *(pytest.param(one, marks=pytest.mark.slow) for one in ("html", "csv"))],
)
def test_a_report_says_what_to_measure_again(tmp_path: Path, name: str) -> None:
    call(tmp_path, "report", QUALITY, "--format", name, "-o", f"page.{name}")
    suffix = {"markdown": "md"}.get(name, name)
    (tmp_path / f"page.{name}").rename(tmp_path / f"page.{suffix}")
    call(tmp_path, "reproduce", QUALITY, "--to", "of-records")

    done = call(tmp_path, "reproduce", f"page.{suffix}", "--to", "of-page", "--results", QUALITY)

    assert done.code == 0, done.errors
    texts = [
        read_yaml((tmp_path / made / "suite.yaml").read_text(), made)[0]
        for made in ("of-records", "of-page")
    ]
    plain = [top.plain() for top in texts if top is not None]
    assert plain[0] == plain[1]
    figures = (tmp_path / "of-page" / "measured.json.gz").exists()
    assert figures == (name in ("json", "csv"))  # pages keep no figures for programs


def test_a_baseline_says_it_too(tmp_path: Path) -> None:
    records, _ = read_folder(PUBLISHED / "mistral-shape")
    path = write_baseline(tmp_path / "tuned.json.gz", records)

    (suite,) = _checked(tmp_path, path.name)["suites"]

    assert suite["same_keys_under_their_conditions"] == len(records)


def test_one_record_of_a_tuned_cell_finds_its_training_beside_it(tmp_path: Path) -> None:
    (one,) = (FULL / "tiny-mistral--lora-bf16--attached").glob("completion-*.json")

    (suite,) = _checked(tmp_path, str(one))["suites"]

    assert suite["same_keys_under_their_conditions"] == suite["records"] == 1
    assert suite["only"] == ["tiny-mistral--lora-bf16--attached"]
    assert suite["lacking"] == []


def test_a_record_without_its_training_says_what_it_lacks(tmp_path: Path) -> None:
    (one,) = (FULL / "tiny-mistral--lora-bf16--attached").glob("footprint-*.json")
    shutil.copy(one, tmp_path)

    (suite,) = _checked(tmp_path, one.name)["suites"]

    assert "what was tuned on is not told" in suite["lacking"][0]
    assert suite["same_keys_under_their_conditions"] == 0


def test_cells_can_be_selected(tmp_path: Path) -> None:
    (suite,) = _checked(tmp_path, QUALITY, "--only", "nf4")["suites"]

    assert suite["records"] == 3
    assert suite["only"] == ["tiny-mistral--nf4"]


def test_a_model_that_is_not_here_must_be_supplied(tmp_path: Path) -> None:
    (path,) = (PUBLISHED / "quality" / "cpu-intel-xeon-2c" / "tiny-mistral--fp32").glob("quality*")
    record = json.loads(path.read_text())
    record["cell"]["model"] |= {"kind": "folder", "source": "./mine", "location": "/nowhere/mine"}
    (tmp_path / path.name).write_text(json.dumps(record))

    done = call(tmp_path, "reproduce", path.name, "--to", "again")

    assert done.code == 0, done.errors
    assert "./inputs/mine" in done.output
    assert record["identity"]["model"]["fingerprint"] in (tmp_path / "again/README.md").read_text()
    assert "needs ./inputs/mine" in (tmp_path / "again/reproduce.sh").read_text()
    ran = subprocess.run(["bash", "again/reproduce.sh"], cwd=tmp_path, capture_output=True)  # noqa: PLW1510
    assert (ran.returncode, b"inputs/mine is not here" in ran.stderr) == (2, True)


def test_nothing_of_a_stranger_reaches_the_shell(tmp_path: Path) -> None:
    path = min((FULL / "tiny-mistral--fp32").glob("latency-*.json"))
    record = json.loads(path.read_text())
    record["environment"] |= {
        "qbench": "1'; touch stolen; '",
        "python": "3.11; touch stolen",
        "device": "CPU\ntouch stolen",
        "variables": {"LD_PRELOAD": "/tmp/x.so", "OMP_NUM_THREADS": "1; touch stolen"},
    }
    record["environment"]["versions"] |= {"numpy": "2.0\ntouch stolen", "x; touch stolen": "1"}
    (tmp_path / path.name).write_text(json.dumps(record))

    done = call(tmp_path, "reproduce", path.name, "--to", "again")

    assert done.code == 0, done.errors
    script = (tmp_path / "again" / "reproduce.sh").read_text()
    assert "export OMP_NUM_THREADS='1; touch stolen'\n" in script
    assert script.count("touch stolen") == 1
    assert "LD_PRELOAD" not in script
    readme = (tmp_path / "again" / "README.md").read_text()
    assert "\nexport OMP_NUM_THREADS='1; touch stolen'\n" in readme
    constraints = (tmp_path / "again" / "constraints.txt").read_text()
    assert all(line.startswith("#") or "stolen" not in line for line in constraints.splitlines())
    suite = (tmp_path / "again" / "suite.yaml").read_text()
    assert suite.splitlines()[0].startswith("# ")
    assert "\ntouch" not in suite


def test_an_identity_of_a_strange_form_is_passed_over(tmp_path: Path) -> None:
    path = min((FULL / "tiny-mistral--fp32").glob("latency-*.json"))
    record = json.loads(path.read_text())
    record["identity"] |= {"versions": {"numpy": -1}, "threads": ["2"]}
    (tmp_path / path.name).write_text(json.dumps(record))

    (found,) = _checked(tmp_path, path.name)["suites"]

    there = {one["name"]: one["there"] for one in found["conditions"]}
    assert (there["numpy"], there["threads"]) == ("2.4.6", "2")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((QUALITY,), "expected --to FOLDER"),
        ((QUALITY, "--to", "x", "--check"), "found both"),
        (("nothing.json", "--check"), "no such file or folder; expected a record"),
        (("empty", "--check"), "no records there"),
        (("several", "--check"), "records of 2 suites; expected one; name it with --suite: "),
        (("several", "--check", "--suite", "quality"), "name it with --measured-on: "),
        ((QUALITY, "--check", "--suite", "ful"), "--suite: found no record of 'ful'"),
        ((QUALITY, "--check", "--only", "nf5"), "--only 'nf5': matches no cell"),
        ((QUALITY, "--to", "full"), "--to full: is there already, and not empty"),
        (("other.json", "--check"), "JSON, and none that holds records of qbench"),
        (("broken.json", "--check"), "not JSON"),
        (("other.md", "--check"), "a page that keeps no records"),
        (("cut.md", "--check"), "what it keeps for `qbench reproduce` is damaged"),
        (("keys.csv", "--check"), "a CSV has the keys of records alone, and none of its 1"),
        (("other.csv", "--check"), "no column key"),
        (("other.txt", "--check"), "found a file of kind '.txt'"),
        (("newer.json", "--check"), "a report of version 99"),
        (("of-another", "--check"), "the record is of version 99, this qbench reads up to"),
        (("unknown", "--check"), "this qbench does not know what was asked for"),
    ],
)
def test_what_is_wrong_is_told_in_a_line(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    for name in ("empty", "full"):
        (tmp_path / name).mkdir()
    (tmp_path / "full" / "file").touch()
    for at, place in enumerate(("quality/nvidia-h200", "quality/cpu-intel-xeon-2c", FULL)):
        one = min((PUBLISHED / place / "tiny-mistral--fp32").glob("footprint-*.json"))
        (tmp_path / "several" / str(at)).mkdir(parents=True)
        shutil.copy(one, tmp_path / "several" / str(at))
    one = min((FULL / "tiny-mistral--nf4").glob("quality-*.json"))
    for folder, old, new in (
        ("of-another", '"schema_version": 1', '"schema_version": 99'),
        ("unknown", '"compute_dtype"', '"no_such_option"'),
    ):
        (tmp_path / folder).mkdir()
        text = one.read_text()
        assert old in text
        (tmp_path / folder / one.name).write_text(text.replace(old, new))
    for name, text in {
        "other.json": "{}",
        "broken.json": "{",
        "other.md": "# A page",
        "cut.md": "<!-- qbench-records:/Td6WFoAAATm1rRG -->",
        "keys.csv": "key,value\n0123456789abcdef,1\n",
        "other.csv": "value\n1\n",
        "other.txt": "",
        "newer.json": '{"records": [], "decision_tables": [], "schema_version": 99}',
    }.items():
        (tmp_path / name).write_text(text)

    done = call(tmp_path, "reproduce", *arguments)

    assert done.code == 2
    assert message in done.errors
    assert "Traceback" not in done.errors


@pytest.mark.slow
def test_the_script_measures_the_same_again(workplace: Workplace) -> None:
    workplace.write_suite("fp32", "nf4")
    assert workplace.call("run", "suite.yaml").code == 0
    first = {one.key: one for one in workplace.records().values()}
    (some,) = (workplace.folder / "results" / "suite").iterdir()
    assert workplace.call("reproduce", str(some), "--check").code == 0

    assert workplace.call("reproduce", str(some), "--to", "again").code == 0
    environment = {**workplace.environment, "QBENCH": str(QBENCH)}
    done = subprocess.run(
        ["bash", "again/reproduce.sh"],
        cwd=workplace.folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )

    second = {one.key: one for one in read_folder(workplace.folder / "again" / "results")[0]}
    assert second.keys() == first.keys()
    for key, record in second.items():
        for metric in record.metrics:
            if record.item.measurement == "quality" and metric.unit != "s":
                assert metric.value == first[key].value(metric.name)
    assert "perplexity" not in done.stdout.rpartition("measured.json.gz")[2]
    assert os.access(workplace.folder / "again" / "reproduce.sh", os.X_OK)


def test_without_torch_all_is_written_and_told_to_prevent_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("qbench.running.preflight.packages.version_in", lambda *_: None)

    done = call(tmp_path, "reproduce", QUALITY, "--to", "again")

    assert done.code == 0, done.errors
    assert "found no torch" in " ".join(done.output.split())
    assert {path.name for path in (tmp_path / "again").iterdir()} == FILES
