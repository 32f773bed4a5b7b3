"""The steps of the composite action that call qbench: `measure.py run` and `measure.py gate`.

The inputs of the action come as variables `INPUT_…`, as they were written; a list has an entry a
line. They are handed to qbench as arguments, never through a shell. Both end with qbench's own exit
code, but that a regression may be forgiven.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from pathlib import Path

from qbench.core.errors import QbenchError
from qbench.core.spec import slugify
from qbench.plan.suite.settings import read_settings
from qbench.plan.suite.suite import load_suite

VERDICTS = {0: "passed", 1: "regression", 2: "incomparable"}
"""By the gate's exit code, where it came to one."""
OLD_SIDES = ("baseline", "against", "baseline-from-git")
"""What the rules may be counted from: options of the gate."""
FLAGS = ("fail-on-regression", "propose-baseline", "comment", "cache")


def run() -> int:
    """Measures what is missing of the suite."""
    for flag in FLAGS:
        _flag(flag)  # a mistyped one is told before hours of measuring
    reports = _given("reports")
    return _qbench("run", *_common(), f"--reports={reports}", *_lines("run-arguments"))


def gate() -> int:
    """Gates what was measured, and gathers in a new folder what the artifact is to hold.

    Tells the steps that follow of the folder, its files and the verdict before it ends.
    """
    forgiven = _flag("fail-on-regression") is False
    folder = Path(tempfile.mkdtemp(prefix="qbench-", dir=os.environ["RUNNER_TEMP"]))
    _tell("folder", str(folder))
    try:
        _gather(folder)
    except OSError as error:  # no reason not to gate
        _say("warning", f"Not all records and reports are in the artifact: {error}")
    if _is_to_propose():
        code, verdict, summary = _propose(folder)
    else:
        code, verdict, summary = _judge(folder)
    if os.environ["MEASURED"] != "success":
        verdict = "failed"
    files = {"page": "gate.html", "json": "gate.json", "junit": "gate.xml", "comment": "gate.md"}
    for name, file in files.items():
        path = folder / file
        _tell(name, str(path) if path.is_file() else "")
    _tell("verdict", verdict)
    _tell("summary", summary)
    _tell("exit-code", str(code))
    if code == 1 and forgiven:
        _say("warning", "A regression, which `fail-on-regression: false` lets pass.")
        return 0
    return code


def _judge(folder: Path) -> tuple[int, str, str]:
    """The gate's exit code, its verdict and its answer in a line; its files in the folder."""
    held_against = [f"--{name}={value}" for name in OLD_SIDES if (value := _given(name))]
    code = _qbench(
        "gate",
        *_common(),
        *held_against,
        f"--step-summary={os.environ['GITHUB_STEP_SUMMARY']}",
        "--annotations",
        f"--write=html={folder / 'gate.html'}",
        f"--write=json={folder / 'gate.json'}",
        f"--write=junit={folder / 'gate.xml'}",
        f"--write=comment={folder / 'gate.md'}",
    )
    try:
        outcome = json.loads((folder / "gate.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return code, "failed", "The gate did not come to a verdict: see its log."
    return code, VERDICTS[outcome["exit_code"]], outcome["summary"]


def _is_to_propose() -> bool:
    """Whether there is no baseline yet, and one is to be made."""
    baseline, *revisions = map(_given, OLD_SIDES)
    is_lacking = bool(baseline) and not any(revisions) and not Path(baseline).exists()
    return _flag("propose-baseline") and is_lacking


def _propose(folder: Path) -> tuple[int, str, str]:
    """Makes the first baseline of a suite that was measured to its end."""
    baseline = Path(_given("baseline"))
    if os.environ["MEASURED"] != "success":
        words = f"There is no baseline {baseline} yet, and the suite was not measured to its end."
        _say("error", words)
        return 1, "failed", words
    if not baseline.suffix:  # a folder of baselines that is not there yet
        baseline /= f"{_suite_name() or 'suite'}.json.gz"
    made = folder / baseline.name
    settings = (f"--set={setting}" for setting in _lines("settings"))
    code = _qbench("baseline", f"--results={_given('results')}", *settings, f"--output={made}")
    if code:
        return code, "failed", "The first baseline could not be made: see the log."
    words = (
        "There is no baseline yet, so nothing was gated. One was made of this run: take"
        f" {made.name} from the artifact {_given('artifact')}, look at its report, and commit it as"
        f" {baseline}."
    )
    _say("warning", words)
    with Path(os.environ["GITHUB_STEP_SUMMARY"]).open("a", encoding="utf-8") as file:
        file.write(f"## qbench\n\n{words}\n")
    (folder / "gate.md").write_text(f"### qbench\n\n{words}\n", encoding="utf-8")
    return 0, "no-baseline", words


def _gather(folder: Path) -> None:
    """Copies the suite's records and reports; links, which may lead anywhere, are left."""
    name = _suite_name()
    if name is None:
        return  # told by `run`
    records = Path(_given("results")) / name
    if records.is_dir():
        shutil.copytree(records, folder / "results" / name, ignore=_links)
    for page in Path(_given("reports")).glob(f"{slugify(name)}-*"):
        if page.is_file() and not page.is_symlink():
            (folder / "reports").mkdir(exist_ok=True)
            shutil.copy(page, folder / "reports")


def _links(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if (Path(folder) / name).is_symlink()]


def _suite_name() -> str | None:
    """None where the suite is wrong."""
    try:
        return load_suite(Path(_given("suite")), read_settings(_lines("settings"))).name
    except QbenchError:
        return None


def _common() -> list[str]:
    """Arguments that `run` and `gate` have both."""
    found = [f"--results={_given('results')}"]
    if device := _given("device"):
        found.append(f"--device={device}")
    found += [f"--only={pattern}" for pattern in _lines("only")]
    return found + [f"--set={setting}" for setting in _lines("settings")]


def _qbench(command: str, *arguments: str) -> int:
    sys.stdout.flush()
    # -P: a folder `qbench` where the workflow stands is not the one that is installed
    line = [sys.executable, "-P", "-m", "qbench", command, *arguments, "--", _given("suite")]
    return subprocess.run(line, check=False).returncode


def _given(name: str) -> str:
    return os.environ.get(f"INPUT_{name.upper().replace('-', '_')}", "").strip()


def _lines(name: str) -> list[str]:
    return [line.strip() for line in _given(name).splitlines() if line.strip()]


def _flag(name: str) -> bool:
    found = _given(name)
    if found not in {"true", "false"}:
        _say("error", f"{name}: found {found!r}; expected true or false")
        raise SystemExit(2)
    return found == "true"


def _say(level: str, words: str) -> None:
    """An annotation, which is one line."""
    text = " ".join(words.split()).replace("%", "%25")
    sys.stdout.write(f"::{level} title=qbench action::{text}\n")


def _tell(name: str, value: str) -> None:
    """An output of the step, of however many lines."""
    end = f"end-{uuid.uuid4().hex}"
    with Path(os.environ["GITHUB_OUTPUT"]).open("a", encoding="utf-8") as file:
        file.write(f"{name}<<{end}\n{value}\n{end}\n")


if __name__ == "__main__":
    sys.exit({"run": run, "gate": gate}[sys.argv[1]]())
