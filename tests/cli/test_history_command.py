"""`qbench history`: from what commits brought to a table, a page and rows."""

from __future__ import annotations

import csv
import io
import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from qbench.core.store import record_path, write_record
from tests.command import call
from tests.measured_commits import MEMORY, MeasuredRepository, make_history, run_of
from tests.record_factory import make_environment

if TYPE_CHECKING:
    from qbench.core.record import Record

COMMITS = 30
SLOWER, WORSE = 17, 22
"""The commits from which on times are longer, and from which quality and memory are worse."""


def planted(number: int, revision: str) -> list[Record]:
    torch = "2.13.0" if number < SLOWER else "2.14.0"
    environment = make_environment(
        git_revision=revision, versions={"torch": torch, "transformers": "5.23.0"}
    )
    return run_of(
        number,
        slower=0.08 if number >= SLOWER else 0.0,
        worse=0.07 if number >= WORSE else 0.0,
        larger=0.06 if number >= WORSE else 0.0,
        environment=environment,
    )


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> MeasuredRepository:
    return make_history(tmp_path_factory.mktemp("measured"), COMMITS, planted)


def told(repository: MeasuredRepository, *arguments: str) -> dict[str, Any]:
    done = call(repository.root, "history", "quickstart", "--format", "json", *arguments)
    assert done.code == 0, done.errors
    found: dict[str, Any] = json.loads(done.output)
    return found


def test_what_was_planted_is_found_at_its_commit_with_what_changed_there(
    repository: MeasuredRepository,
) -> None:
    found = told(repository)
    at = {
        (line["cell"], line["metric"]): (one["new"]["commit"], line["direction"])
        for one in found["changes"]
        for line in one["lines"]
    }
    assert at == {
        ("nf4", "latency.decode"): (repository.revisions[SLOWER], "worse"),
        ("nf4", "perplexity"): (repository.revisions[WORSE], "worse"),
        ("nf4", MEMORY): (repository.revisions[WORSE], "worse"),
    }
    first, second = found["changes"]
    text = json.dumps(first["between"])
    assert "2.13.0" in text
    assert repository.revisions[SLOWER] in text
    assert repository.revisions[SLOWER - 1] not in json.dumps(first["between"]["commits"])
    assert "torch" not in json.dumps(second["between"])


def test_rows_have_a_line_for_each_point(repository: MeasuredRepository) -> None:
    done = call(repository.root, "history", "quickstart", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(done.output)))
    assert len(rows) == COMMITS * 2 * 4
    decode = [one for one in rows if (one["cell"], one["metric"]) == ("nf4", "latency.decode")]
    assert [one["commit"] for one in decode] == repository.revisions
    (changed,) = [one for one in decode if one["is_change"] == "true"]
    assert changed["subject"] == f"Code {SLOWER}"
    assert changed["versions.torch"] == "2.14.0"
    assert 0.05 < float(changed["change_low"]) < float(changed["change"]) < 0.12
    for one in decode:
        assert float(one["low"]) < float(one["value"]) < float(one["high"])


def test_on_a_terminal_and_on_pages(repository: MeasuredRepository, tmp_path: Path) -> None:
    done = call(repository.root, "history", "quickstart", "--only", "nf4")
    short = repository.revisions[SLOWER][:10]
    assert "▁" in done.output
    assert f"{short} (Code {SLOWER})" in done.output
    assert "packages: torch 2.13.0 → 2.14.0" in done.output
    for form in ("markdown", "html"):
        path = tmp_path / f"page.{form}"
        call(repository.root, "history", "quickstart", "--format", form, "-o", str(path))
        page = path.read_text()
        assert short in page
        assert "2 commits since" in page


def test_a_table_tells_what_its_change_is_from_and_begins_with_what_changed(
    tmp_path: Path,
) -> None:
    repository = MeasuredRepository(tmp_path / "project")
    for number, threads in enumerate((1, 2, 2)):
        environment = make_environment(git_revision=repository.change_code(), threads=threads)
        worse = 0.07 if number == 2 else 0.0
        repository.measure(
            run_of(number, cells=["nf4"], noise=0.0, worse=worse, environment=environment)
        )
    done = call(repository.root, "history", "quickstart", "--format", "markdown")
    rows = [line for line in done.output.splitlines() if line.startswith("| nf4")]
    table = [[cell.strip() for cell in row.split("|")[2:-1]] for row in rows[-4:]]
    assert "worse" in table[0][-1]
    by_metric = {row[0]: row[2:] for row in table}
    points, _, values, change, _ = by_metric["latency.decode"]
    assert points == "2 of 3"
    before, after = (float(one.removesuffix(" ms")) for one in values.split(" → "))
    assert float(change.removesuffix(" %")) == pytest.approx(100 * (after / before - 1), abs=0.3)
    assert by_metric["perplexity"][0] == "3"


def test_since_a_commit(repository: MeasuredRepository) -> None:
    found = told(repository, "--since", repository.revisions[20], "--metric", "perplexity")
    commits = {one["commit"] for one in found["points"]}
    assert commits == set(repository.revisions[20:])
    (change,) = found["changes"]
    assert change["new"]["commit"] == repository.revisions[WORSE]


def test_git_s_order_counts_and_not_the_time_of_a_run(tmp_path: Path) -> None:
    """Older commits were measured later, as when someone looks for a culprit."""
    repository = MeasuredRepository(tmp_path / "project")
    hashes = [repository.change_code() for _ in range(4)]
    for day, number in enumerate((3, 0, 2, 1)):
        repository.measure(run_of(day, hashes[number], cells=["nf4"]))
    found = told(repository, "--metric", "perplexity")
    assert [one["commit"] for one in found["points"]] == hashes


def test_side_branches_and_uncommitted_changes(tmp_path: Path) -> None:
    repository = MeasuredRepository(tmp_path / "project")
    first = repository.change_code()
    repository.measure(run_of(0, first))
    repository.git("switch", "--quiet", "--create", "side")
    side = repository.change_code()
    repository.git("switch", "--quiet", "main")
    last = repository.change_code()
    for day, revision in enumerate((f"{last}+", last, side), 1):
        repository.measure(run_of(day, revision))
    found = told(repository, "--metric", "perplexity", "--only", "nf4")
    order = [(one["commit"], one["uncommitted_changes"]) for one in found["points"]]
    assert order[0] == (first, False)
    order.remove((side, False))  # which is neither before the last nor after it
    assert order[1:] == [(last, False), (last, True)]


def test_commits_that_git_does_not_know(tmp_path: Path) -> None:
    """They stand where they were committed; on the disk by their time."""
    repository = MeasuredRepository(tmp_path / "project")
    first = repository.change_code()
    repository.measure(run_of(0, first))
    brought = repository.measure(run_of(1, "f" * 40))
    put(repository.results, run_of(2, "e" * 40))
    found = told(repository, "--metric", "perplexity", "--only", "nf4")
    assert [one["commit"] for one in found["points"]] == [first, brought, None]
    assert "git does not know" in found["notes"][0]


def test_a_branch_without_commits_shows_what_is_on_the_disk(tmp_path: Path) -> None:
    repository = MeasuredRepository(tmp_path / "project")
    hashes = [repository.change_code() for _ in range(2)]
    for number, commit in enumerate(hashes):
        repository.measure(run_of(number, commit, cells=["nf4"]))
    repository.git("checkout", "--quiet", "--orphan", "anew")
    found = told(repository, "--metric", "perplexity")
    assert [one["commit"] for one in found["points"]] == hashes[1:]


@pytest.mark.parametrize("revision", [None, "ab" * 20])
def test_commits_between_are_those_that_brought_records_of_no_known_commit(
    tmp_path: Path, revision: str | None
) -> None:
    repository = MeasuredRepository(tmp_path / "project")
    brought = []
    for number in range(3):
        repository.change_code()
        worse = 0.07 if number == 2 else 0.0
        brought.append(repository.measure(run_of(number, revision, cells=["nf4"], worse=worse)))
    (change,) = told(repository, "--metric", "perplexity")["changes"]
    between = [one["commit"] for one in change["between"]["commits"]]
    assert between == [repository.revisions[2], brought[2]]


def test_committed_records_are_read_and_no_point_is_told_twice(tmp_path: Path) -> None:
    repository = MeasuredRepository(tmp_path / "project")
    hashes = []
    for number in range(3):
        hashes.append(repository.change_code())
        records = run_of(number, hashes[-1])
        put(repository.results / "published", records)
        if number == 1:
            repository.measure(records)
        repository.commit(f"Records of {number}")
    put(repository.results, run_of(2, hashes[2]))
    found = told(repository, "--metric", "latency.decode", "--only", "nf4")
    assert [one["commit"] for one in found["points"]] == hashes
    assert {one["repeats"] for one in found["points"]} == {5}


def put(results: Path, records: list[Record]) -> None:
    for one in records:
        kind, cell = one.environment.device_kind, one.cell.slug
        write_record(record_path(results, one.suite, kind, cell, one.item, one.key), one)


def test_without_a_repository_records_are_ordered_by_time(tmp_path: Path) -> None:
    put(tmp_path / "results", run_of(0, "a" * 40))
    done = call(tmp_path, "history", "quickstart")
    assert done.code == 0, done.errors
    assert "commits are not known" in " ".join(done.output.split())


def test_a_shallow_clone_says_so(repository: MeasuredRepository, tmp_path: Path) -> None:
    where = f"file://{repository.root}"
    command = ["git", "clone", "--quiet", "--depth", "3", where, str(tmp_path / "clone")]
    subprocess.run(command, check=True)
    done = call(tmp_path / "clone", "history", "quickstart")
    assert done.code == 0, done.errors
    assert "git fetch --unshallow" in " ".join(done.output.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "nothing: found no records of it in results"),
        (["quickstart", "--metric", "perplexty"], "did you mean 'perplexity'"),
        (["quickstart", "--only", "nf5"], "did you mean 'nf4'"),
        (["quickstart", "--device", "tpu"], "there are cpu-intel-xeon-2c"),
        (["quickstart", "--since", "v9"], "no such commit"),
        (["quickstart", "--only", "nf4", "--metric", "foo"], "--metric foo: found no such metric"),
        (["quickstart", "--device", "Intel*", "--only", "foo"], "--only foo: found no such cell"),
        (["quickstart", "--format", "junit"], "expected one of"),
        (["missing.yaml"], "missing.yaml"),
    ],
)
def test_what_is_wrong_is_said(
    repository: MeasuredRepository, arguments: list[str], message: str
) -> None:
    done = call(repository.root, "history", *arguments)
    assert done.code == 2
    assert message in " ".join(done.errors.split())


def test_the_published_records_have_a_history() -> None:
    root = Path(__file__).resolve().parents[2]
    suite = "suites/quickstart.yaml"
    done = call(root, "history", suite, "--only", "nf4", "--metric", "memory.*", "--format", "csv")
    assert done.code == 0, done.errors
    rows = list(csv.DictReader(io.StringIO(done.output)))
    assert {"memory.static", "memory.peak"} <= {one["metric"] for one in rows}
    assert {one["cell"] for one in rows} == {"nf4"}
