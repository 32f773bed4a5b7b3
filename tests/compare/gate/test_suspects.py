"""What may have caused a failure: the commits and conditions between, and what rules parts out."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from qbench.compare.estimates.bootstrap import Sampling
from qbench.compare.gate.against import Against
from qbench.compare.gate.bisect import bisect_lines, cells_to_bisect
from qbench.compare.gate.gate import run_gate
from qbench.compare.gate.suspects import COMMITS, find_suspects
from qbench.compare.span import find_span
from qbench.core.git import repository_of
from qbench.report.suspects import evidence_lines, span_lines
from tests.compare.gate.rule_section import read_rules
from tests.git_repositories import MadeRepository, make_repository
from tests.paired_records import footprint, losses, quality
from tests.record_factory import make_environment

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from qbench.compare.gate.suspects import Suspects
    from qbench.core.record import Record

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
RULES = {"memory.static": {"max_increase": "1%"}, "perplexity": {"max_increase": "1%"}}
OLD_TORCH, NEW_TORCH = "2.12.0", "2.13.0"
TORCH = f"torch {OLD_TORCH} → {NEW_TORCH}"


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MadeRepository:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    return make_repository(tmp_path / "project")


def taken(
    size: float, commit: str | None, torch: str = NEW_TORCH, *, weights: str = "aa", day: int = 1
) -> Record:
    environment = make_environment(git_revision=commit, versions={"torch": torch})
    record = footprint(
        "nf4", size, environment=environment, started_at=f"2026-07-{day:02}T12:00:00+00:00"
    )
    identity = {**record.identity, "model": {"fingerprint": weights, "revision": None}}
    return record.model_copy(update={"identity": identity})


def suspects_of(
    new: Record, old: Record, history: Sequence[Record], folder: Path, at: Against | None = None
) -> Suspects:
    outcome = run_gate(
        read_rules({"memory.static": RULES["memory.static"]}),
        [new],
        [old],
        against=at,
        sampling=Sampling(resamples=500),
    )
    assert outcome.exit_code == 1
    found = find_suspects(outcome, [new], [old], history, folder)
    assert found is not None
    return found


def told(suspects: Suspects) -> dict[tuple[str, ...], str]:
    return {one.changed: one.check.verdict.name for one in suspects.evidence}


def test_the_package_carries_it_where_only_it_was_changed(made: MadeRepository) -> None:
    first, last = made.commit("one"), made.commit("two")
    old, new = taken(1000, first, OLD_TORCH), taken(1100, last, day=3)
    suspects = suspects_of(new, old, [taken(1100, first, day=2), new, old], made.root)
    assert told(suspects) == {(TORCH,): "broken", (COMMITS,): "holds"}
    assert evidence_lines(suspects.evidence) == [
        f"{TORCH} alone: nf4: memory.static on model +10 %; beyond the margin: this carries it",
        "the commits alone: nf4: memory.static on model 0 %; within the margin: ruled out",
    ]
    assert [one.held for one in suspects.evidence] == [(COMMITS,), (TORCH,)]
    many = evidence_lines(suspects.evidence * 5)
    assert [line.count("memory.static") for line in many] == [3, 3]
    assert "+10 % and 2 more; beyond the margin" in many[0]


def test_the_commits_carry_it_with_their_weights(made: MadeRepository) -> None:
    first, last = made.commit("one"), made.commit("two")
    old = taken(1000, first, OLD_TORCH)
    new = taken(1100, last, weights="bb", day=3)
    halfway = taken(1100, last, OLD_TORCH, weights="bb", day=2)
    suspects = suspects_of(new, old, [halfway], made.root)
    assert told(suspects) == {(COMMITS,): "broken", (TORCH,): "holds"}


def test_a_measurement_that_is_there_twice_counts_once(made: MadeRepository) -> None:
    first, last = made.commit("one"), made.commit("two")
    old, new = taken(1000, first, OLD_TORCH), taken(1100, last, day=4)
    earlier, later = taken(1050, first, day=2), taken(1100, first, day=3)
    suspects = suspects_of(new, old, [later, earlier, later], made.root)
    assert told(suspects) == {(TORCH,): "broken", (COMMITS,): "holds"}
    assert suspects.evidence[0].check.found == "+10 %"


def test_each_may_carry_a_part(made: MadeRepository) -> None:
    first, last = made.commit("one"), made.commit("two")
    old, new = taken(1000, first, OLD_TORCH), taken(1016, last, day=3)
    suspects = suspects_of(new, old, [taken(1008, first, day=2)], made.root)
    assert told(suspects) == {(TORCH,): "holds", (COMMITS,): "holds"}


@pytest.mark.parametrize(
    ("torch", "commit"), [("2.11.0", 0), (OLD_TORCH, 0), (NEW_TORCH, 1), ("2.11.0", 2)]
)
def test_what_is_no_step_on_the_way_says_nothing(
    made: MadeRepository, torch: str, commit: int
) -> None:
    commits = [made.commit(subject) for subject in ("one", "two", "three")]
    old, new = taken(1000, commits[0], OLD_TORCH), taken(1100, commits[2], day=3)
    suspects = suspects_of(new, old, [taken(1050, commits[commit], torch, day=2)], made.root)
    assert suspects.evidence == ()


def test_chance_is_judged_by_windows(made: MadeRepository) -> None:
    """A perplexity that rose by 5 % with torch alone, and by chance alone with the commits."""
    first, last = made.commit("one"), made.commit("two")

    def scored(change: float, commit: str, torch: str, *, seed: int) -> Record:
        environment = make_environment(git_revision=commit, versions={"torch": torch})
        sums = losses(change, seed=seed)
        return quality("nf4", sums, environment=environment, started_at=f"2026-07-0{seed}")

    old = scored(0.0, first, OLD_TORCH, seed=1)
    halfway, new = (
        scored(0.05, commit, NEW_TORCH, seed=seed) for commit, seed in ((first, 2), (last, 3))
    )
    outcome = run_gate(
        read_rules({"perplexity": RULES["perplexity"]}),
        [new],
        [old],
        sampling=Sampling(resamples=500),
    )
    suspects = find_suspects(outcome, [new], [old], [halfway], made.root)
    assert suspects is not None
    assert told(suspects) == {(TORCH,): "broken", (COMMITS,): "holds"}


def test_the_commits_between_are_counted_and_named(made: MadeRepository) -> None:
    first = made.commit("one")
    made.commit("two \x1b[2J")
    made.commit("three")
    last = made.commit("four")
    span = find_span([taken(2, last)], [taken(1, first, OLD_TORCH)], made.root)
    assert span_lines(span) == [
        f"3 commits since {first[:10]}: first {span.commits[0].told}, last {last[:10]} (four)",
        f"packages: {TORCH}",
    ]
    assert span.commits[0].told.endswith(r" (two \x1b[2J)")
    same = find_span([taken(2, f"{last}+")], [taken(1, last)], made.root)
    assert span_lines(same) == [
        f"no commit: both sides were measured at {last[:10]} (four)",
        f"changes that were not committed, on {last[:10]}",
        "nothing else that the records hold differs",
    ]
    nothing = find_span([taken(2, last)], [taken(1, last)], made.root)
    assert not nothing.differs


def test_what_is_not_known_of_the_commits_is_said(made: MadeRepository, tmp_path: Path) -> None:
    first, last = made.commit("one"), made.commit("two")
    for new, old, folder, words in (
        (last, None, made.root, "the old records name no commit"),
        (None, first, made.root, "the new records name no commit"),
        (last, "f" * 40, made.root, "has no commit ffffffffff, which the old records name"),
        ("HEAD", first, made.root, "has no commit HEAD, which the new records name"),
        ("--all", first, made.root, "has no commit --all, which the new records name"),
        (last, first, tmp_path, "not a git repository"),
        (first, last, made.root, "of the new side, is older than"),
    ):
        span = find_span([taken(2, new)], [taken(1, old)], folder)
        assert span.commits == ()
        assert words in str(span.unknown)
    at = repository_of(made.root).commit("HEAD~1")
    committed = find_span([taken(2, last)], [taken(1, None)], made.root, at)
    assert [one.subject for one in committed.commits] == ["two"]
    # A baseline's own commit is the truer beginning.
    third = made.commit("three")
    at = repository_of(made.root).commit(last)
    committed = find_span([taken(2, third)], [taken(1, first)], made.root, at)
    assert [one.subject for one in committed.commits] == ["two", "three"]


def test_lines_for_a_bisection_name_the_same_old_side_at_each_commit(made: MadeRepository) -> None:
    commits = [made.commit(one, {"base.json": one, "below/x": ""}) for one in ("a", "b", "c")]
    repository = repository_of(made.root)
    at = repository.commit(commits[0])
    span = find_span([taken(2, commits[2])], [taken(1, commits[0])], made.root)
    (made.root / "own.json").touch()
    for against, words in (
        (Against("base.json"), f"--baseline {commits[2][:10]}:base.json"),
        (Against("own.json"), "--baseline own.json"),
        (Against("/elsewhere/x.json"), "--baseline /elsewhere/x.json"),
        (Against("base.json", "HEAD~2", at, "", committed=True), f"{commits[0][:10]}:base.json"),
        (Against("results/s", "HEAD~2", at), f"--against {commits[0][:10]} \\\n  --baseline resu"),
    ):
        lines = bisect_lines(span, against, repository, ["my suite.yaml"], made.root)
        assert lines[0] == f"git bisect start {commits[2][:10]} {commits[0][:10]}"
        assert words in lines[1], lines[1]
    below = bisect_lines(span, Against("base.json"), repository, ["s.yaml"], made.root / "below")
    assert below[0] == "cd .."
    assert "cd below || exit 125" in below[2]
    one = find_span([taken(2, commits[2])], [taken(1, commits[1])], made.root)
    assert bisect_lines(one, Against("own.json"), repository, ["s.yaml"], made.root) == ()


def test_only_the_cells_that_fail_and_their_reference_are_measured_in_a_bisection() -> None:
    old = [footprint(label, 1000) for label in ("fp32", "nf4", "int8")]
    for sizes, cells in (
        ((1000, 1100, 1000), ("tiny-mistral--fp32", "tiny-mistral--nf4")),
        ((1100, 1000, 1000), ("tiny-mistral--fp32",)),
        ((1000, 1100, 1100), ()),
        ((1000, 1100), ()),  # what was not measured at all is no cell to look at alone
    ):
        new = [footprint(*one) for one in zip(("fp32", "nf4", "int8"), sizes, strict=False)]
        rules = read_rules({"memory.static": RULES["memory.static"]})
        assert cells_to_bisect(run_gate(rules, new, old), new) == cells
