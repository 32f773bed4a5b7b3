"""A gate against a revision of git: what was measured there, or committed there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest

from qbench.cli.sides import load_old
from qbench.compare.baseline import write_baseline
from qbench.core.errors import UsageError
from qbench.core.store import read_folder
from tests.command import call
from tests.git_repositories import MadeRepository, make_repository
from tests.paired_records import footprint
from tests.record_factory import make_environment
from tests.workplace import REPOSITORY, keep, place_of

if TYPE_CHECKING:
    from pathlib import Path

    from qbench.core.record import Record
    from tests.workplace import Finished

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
SUITE = """\
name: quickstart
models: [bundled:tiny-mistral]
precisions: [nf4]
reference: nf4
measure: {footprint: {}}
gate: {memory.static: {max_increase: 1%}}
"""
LOOSE = "gate.memory.static.max_increase=60%"
PROGRAM = """\
#!{python}
import os, sys
from pathlib import Path
sys.path.insert(0, "{tests}")
if sys.argv[1] == "run":
    from tests.cli.test_gate_in_git import taken
    from tests.workplace import keep
    at, size = Path("size").read_text().split()
    place = Path(sys.argv[sys.argv.index("--results") + 1])
    keep(place, taken(float(size), None, day=int(at) + 10))
else:
    from qbench.cli.main import main
    main()
"""
"""qbench's command, which in place of measuring writes the record of the size that a file names."""
BASELINE = "results/baselines/quickstart.json"


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MadeRepository:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    made = make_repository(tmp_path / "project")
    made.commit("The suite", {"suite.yaml": SUITE})
    return made


def taken(bytes_held: float, commit: str | None, *, day: int, **changes: Any) -> Record:
    """A record of the day and the commit; each has a key of its own, as of other weights."""
    environment = make_environment(git_revision=commit, **changes)
    time = f"2026-07-{day:02}T12:00:00+00:00"
    record = footprint("nf4", bytes_held, environment=environment, started_at=time)
    return record.model_copy(update={"key": f"{day:016}"})


def keep_baseline(made: MadeRepository, record: Record, subject: str) -> str:
    path = made.root / BASELINE
    path.parent.mkdir(parents=True, exist_ok=True)
    write_baseline(path, [record])
    return made.commit(subject)


def gate(made: MadeRepository, *arguments: str, form: str = "json") -> Finished:
    return call(made.root, "gate", "suite.yaml", *arguments, "--format", form, "-o", "-")


def found(finished: Finished) -> tuple[int, float, str]:
    """The exit code, the old side's figure, and where it is from."""
    assert finished.output, finished.errors
    data = json.loads(finished.output)
    (check,) = data["checks"]
    return finished.code, check["old"], data["against"]["source"]


def test_a_baseline_as_it_was_committed(made: MadeRepository) -> None:
    keep_baseline(made, taken(1000, None, day=1), "A baseline")
    keep_baseline(made, taken(2000, None, day=2), "A larger one")
    (made.root / BASELINE).unlink()
    keep(made.root / "results", taken(1500, None, day=3))
    where = f"the baseline committed in {BASELINE}"
    assert found(gate(made, "--baseline-from-git", "HEAD~1")) == (1, 1000, where)
    assert found(gate(made, "--baseline-from-git", "HEAD")) == (0, 2000, where)
    assert found(gate(made, "--against", "HEAD~1")) == (1, 1000, where)
    assert found(gate(made, "--baseline-from-git", "HEAD", "--baseline", BASELINE))[1] == 2000
    assert found(gate(made, "--baseline-from-git", "HEAD", "--baseline", "results/baselines"))[1]
    assert not (made.root / BASELINE).exists()
    assert made.git("status", "--porcelain", "--untracked-files=no") == f" D {BASELINE}"
    made.commit("At the root", {"quickstart.json": made.git("show", f"HEAD:{BASELINE}")})
    assert found(gate(made, "--baseline-from-git", "HEAD", "--baseline", "."))[1] == 2000


def test_records_as_they_were_committed(made: MadeRepository) -> None:
    first = taken(1000, None, day=1)
    keep(made.root / "results", first)
    made.commit("Records")
    place_of(made.root / "results", first).unlink()
    keep(made.root / "results", taken(1500, None, day=2))
    finished = gate(made, "--baseline-from-git", "HEAD")
    assert found(finished) == (1, 1000, "records committed in results/quickstart")
    (made.root / "results/quickstart/bad.json").write_text("{")
    made.commit("A damaged record")
    finished = gate(made, "--baseline-from-git", "HEAD", "--baseline", "results/quickstart")
    assert found(finished)[1] == 1500
    assert "HEAD:results/quickstart/bad.json: the record is cut short" in finished.errors


def test_records_on_disk_that_name_the_commit_or_the_nearest_before(made: MadeRepository) -> None:
    commits = [made.commit(subject) for subject in ("one", "two", "three", "four")]
    results = made.root / "results"
    keep(results, taken(1000, commits[0], day=4))  # taken again later, as a bisection does
    keep(results, taken(1100, commits[1], day=2))
    keep(results, taken(1900, f"{commits[1]}+", day=3))
    keep(results, taken(1200, commits[3], day=5))
    finished = gate(made, "--against", "HEAD~1", "--baseline", "results/quickstart")
    assert finished.code == 1, finished.errors
    data = json.loads(finished.output)
    assert data["checks"][0]["old"] == 1100
    assert data["against"] == {
        "name": "results/quickstart",
        "revision": "HEAD~1",
        "commit": commits[2],
        "subject": "three",
        "source": f"records in results/quickstart, 1 measured at {commits[1][:10]}",
    }
    assert found(gate(made, "--against", "HEAD~3"))[1:] == (
        1000,
        "records in results/quickstart, 1 measured at it",
    )


def test_repeats_of_one_commit_are_not_joined_with_those_of_an_older(made: MadeRepository) -> None:
    older, newer = made.commit("One"), made.commit("Two")
    for repeat in range(3):
        record = taken(1000, older, day=repeat + 1)
        item = record.item.model_copy(update={"repeat": repeat})
        keep(made.root / "results", record.model_copy(update={"item": item}))
    keep(made.root / "results", taken(1400, newer, day=6))
    baseline = made.root / "results/quickstart"
    shutil.move(baseline, made.root / "older")
    keep(made.root / "results", taken(1500, made.commit("Three"), day=7))
    finished = gate(made, "--against", newer, "--baseline", "older")
    assert found(finished) == (1, 1400, "records in older, 1 measured at it")


def test_a_gate_fails_for_its_own_reason_where_git_lacks_commits(made: MadeRepository) -> None:
    keep_baseline(made, taken(1000, None, day=1), "A baseline")
    keep_baseline(made, taken(1200, None, day=2), "A larger one")
    keep(made.root / "results", taken(1500, None, day=3))
    lost = made.git("rev-parse", "HEAD~1")
    (made.root / ".git/objects" / lost[:2] / lost[2:]).unlink()
    finished = gate(made, "--baseline", BASELINE, form="text")
    assert finished.code == 1, finished.errors
    history = call(made.root, "history", "suite.yaml")
    assert "expected a whole repository; run `git fsck`" in " ".join(history.output.split())


def test_records_of_another_device_are_taken_where_there_are_no_others(
    made: MadeRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = made.commit("one")
    results = made.root / "results"
    keep(results, taken(1, commit, day=2, device_kind="cpu-other", device="Other"))
    keep(results, taken(1000, commit, day=1))
    monkeypatch.chdir(made.root)
    for kind, expected in (("cpu-other", 1), ("cpu-intel-xeon-2c", 1000)):
        side = load_old(None, "quickstart", results, against="HEAD", device_kind=kind)
        assert side is not None
        assert [one.value("memory.static") for one in side.records] == [expected]
    with pytest.raises(UsageError, match="records of 2 suites or devices"):
        load_old(None, "quickstart", results, against="HEAD", device_kind="cpu-third")


def test_what_was_not_taken_again_is_told(made: MadeRepository) -> None:
    commit = made.commit("one")
    keep(made.root / "results", taken(1000, commit, day=1))
    made.commit("two")
    finished = gate(made, "--against", "HEAD~1")
    assert found(finished)[:2] == (0, 1000)
    (warning,) = json.loads(finished.output)["warnings"]
    assert "1 of the run's records are the baseline's own" in warning


def test_every_form_says_against_what(made: MadeRepository) -> None:
    commit = keep_baseline(made, taken(1000, None, day=1), "Faster \x1b[31m<b>")
    keep(made.root / "results", taken(1500, None, day=2))
    told = rf"HEAD, commit {commit[:10]} (Faster \x1b[31m<b>): the baseline committed in {BASELINE}"
    for form in ("text", "annotations"):
        output = " ".join(gate(made, "--against", "HEAD", form=form).output.split())
        assert told in output, form
    for form in ("markdown", "step-summary", "comment"):
        assert f"commit {commit[:10]}" in gate(made, "--against", "HEAD", form=form).output, form
    junit = ET.fromstring(gate(made, "--against", "HEAD", form="junit").output)
    properties = {one.get("name"): one.get("value") for one in junit.iter("property")}
    assert properties["against"] == told


def test_a_failure_says_what_may_have_caused_it(made: MadeRepository) -> None:
    versions = [{"torch": "2.12.0"}, {"torch": "2.13.0"}]
    commits = [made.commit(subject) for subject in ("one", "two", "three")]
    results = made.root / "results"
    keep(results, taken(1000, commits[0], day=1, versions=versions[0]))
    keep(results, taken(1500, commits[0], day=2, versions=versions[1]))
    keep(results, taken(1500, commits[2], day=3, versions=versions[1]))
    keep_baseline(made, taken(1000, commits[0], day=1, versions=versions[0]), "A baseline")
    said = (
        f"2 commits since {commits[0][:10]}: first {commits[1][:10]} (two)",
        f"last {commits[2][:10]} (three)",
        "torch 2.12.0 → 2.13.0",
        "torch 2.12.0 → 2.13.0 alone: nf4: memory.static on model +50 %; beyond the margin",
        "the commits alone: nf4: memory.static on model 0 %; within the margin: ruled out",
    )
    for form in ("text", "markdown", "html", "step-summary", "comment", "junit", "annotations"):
        output = gate(made, "--baseline-from-git", "HEAD", form=form).output
        plain = " ".join(output.replace("%25", "%").replace("%0A", " ").replace("\\", "").split())
        for words in said:
            assert words in plain, (form, words)
        assert ("git bisect run" in plain) == (form != "annotations"), form
    data = json.loads(gate(made, "--baseline-from-git", "HEAD").output)["suspects"]
    assert [one["commit"] for one in data["commits"]] == commits[1:]
    assert [(one["name"], one["new"]) for one in data["changes"]] == [("torch", "2.13.0")]
    assert [one["verdict"] for one in data["evidence"]] == ["broken", "holds"]
    text = gate(made, "--baseline", BASELINE, "--device", "cpu", form="text").output
    assert "git bisect run" in text
    passes = json.loads(gate(made, "--baseline-from-git", "HEAD", "--set", LOOSE).output)
    assert passes["passed"]
    assert passes["suspects"] is None


def test_a_comparison_that_finds_something_worse_names_the_commits(made: MadeRepository) -> None:
    commits = [made.commit(subject) for subject in ("one", "two", "three")]
    keep_baseline(made, taken(1000, commits[0], day=1), "A baseline")
    keep(made.root / "results", taken(1500, commits[2], day=2))
    sides = ("results/quickstart", f"HEAD:{BASELINE}")
    for form in ("text", "markdown", "html"):
        output = call(made.root, "compare", *sides, "--format", form).output
        plain = " ".join(output.split())
        assert f"2 commits since {commits[0][:10]}: first {commits[1][:10]} (two)" in plain, form
        assert f"git bisect start {commits[2][:10]} {commits[0][:10]}" in plain
    data = json.loads(call(made.root, "compare", *sides, "--format", "json").output)
    assert [one["subject"] for one in data["between"]["commits"]] == ["two", "three"]
    better = call(made.root, "compare", *reversed(sides), "--format", "json")
    assert json.loads(better.output)["between"] is None


def test_what_was_committed_on_the_way_speaks_too(made: MadeRepository) -> None:
    versions = [{"torch": "2.12.0"}, {"torch": "2.13.0"}]
    first = made.git("rev-parse", "HEAD")
    keep_baseline(made, taken(1000, first, day=1, versions=versions[0]), "A baseline")
    halfway = keep_baseline(made, taken(1500, first, day=2, versions=versions[1]), "Newer torch")
    keep_baseline(made, taken(1000, first, day=1, versions=versions[0]), "The first again")
    keep(made.root / "results", taken(1500, halfway, day=3, versions=versions[1]))
    data = json.loads(gate(made, "--baseline-from-git", "HEAD").output)["suspects"]
    found = [(one["commits_changed"], one["verdict"]) for one in data["evidence"]]
    assert found == [(False, "broken"), (True, "holds")]


@pytest.mark.slow
def test_the_lines_that_are_told_find_the_commit(made: MadeRepository, tmp_path: Path) -> None:
    """By git itself and the gate's own command; what would measure writes a record instead."""
    sizes = (1000, 1000, 1000, 1500, 1500, 1500)
    commits = [
        made.commit(f"size {size}", {"sub/size": f"{at} {size}", "sub/suite.yaml": SUITE})
        for at, size in enumerate(sizes)
    ]
    sub = made.root / "sub"
    (made.root / ".git/info/exclude").write_text("results\n")
    for at in (0, 5):
        keep(sub / "results", taken(sizes[at], commits[at], day=at + 1))
    program = tmp_path / "bin/qbench"
    program.parent.mkdir()
    program.write_text(PROGRAM.format(python=sys.executable, tests=REPOSITORY))
    program.chmod(0o755)
    finished = call(sub, "gate", "suite.yaml", "--against", "HEAD~4", "--set", "name=quickstart")
    assert finished.code == 1, finished
    lines = finished.output.splitlines()
    script = "\n".join(lines[lines.index("cd ..") : lines.index("git bisect reset") + 1])
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        ["sh", "-c", script],
        cwd=sub,
        env={**clean, "PATH": f"{program.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"{commits[3]} is the first bad commit" in done.stdout, done
    assert made.git("rev-parse", "HEAD") == commits[5]
    assert made.git("status", "--porcelain") == ""


def test_what_lacks_is_told(made: MadeRepository, tmp_path: Path) -> None:
    keep(made.root / "results", taken(1000, None, day=1))
    for arguments, words in (
        (["--against", "HEAD", "--baseline-from-git", "HEAD"], "found both"),
        (["--against", "none"], "revision 'none': found no such commit"),
        (["--against=-1"], "found what is no revision"),
        (["--against", "HEAD"], "no record in results/quickstart names it or a commit before it"),
        (["--baseline-from-git", "HEAD"], "nothing of quickstart is committed there in"),
        (["--baseline-from-git", "HEAD", "--baseline", str(tmp_path)], "within the repository"),
        (["--baseline-from-git", "HEAD", "--baseline", "suite.yaml"], "cut short or damaged"),
        (["--baseline", f"HEAD:{BASELINE}"], "found nothing of that name in commit"),
        (["--baseline", "none:x"], "none:x, read as a path at a revision (REV:PATH): revision"),
    ):
        finished = call(made.root, "gate", "suite.yaml", *arguments)
        assert finished.code == 2, finished
        assert words in " ".join(finished.errors.split()), finished.errors
        assert "Traceback" not in finished.errors


def test_outside_a_repository_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    (tmp_path / "suite.yaml").write_text(SUITE)
    keep(tmp_path / "results", taken(1000, None, day=1))
    finished = call(tmp_path, "gate", "suite.yaml", "--against", "HEAD~1")
    assert finished.code == 2
    assert "not a git repository" in finished.errors


def test_a_side_of_a_comparison_may_be_a_path_at_a_revision(made: MadeRepository) -> None:
    keep_baseline(made, taken(1000, None, day=1), "A baseline")
    keep(made.root / "results", taken(2000, None, day=2))
    made.commit("Records")
    (made.root / "below").mkdir()
    for new, old in (
        ("results/quickstart", f"HEAD~1:{BASELINE}"),
        ("HEAD:results/quickstart", f"HEAD:{BASELINE}"),
    ):
        finished = call(made.root, "compare", new, old, "--format", "json")
        assert finished.code == 0, finished
        (row,) = json.loads(finished.output)["differences"]
        assert (row["new"], row["old"]) == (2000, 1000)
    below = made.root / "below"
    for path in (BASELINE, f"../{BASELINE}"):
        finished = call(below, "compare", f"HEAD:{path}", f"HEAD:{BASELINE}", "--format", "json")
        assert finished.code == 0, finished
    finished = call(made.root, "compare", "results/quickstart", "HEAD:results/baselines")
    assert finished.code == 2
    assert "found no file that is a record; name a baseline by its own file" in finished.errors
    records, _ = read_folder(made.root / "results")
    assert len(records) == 1
