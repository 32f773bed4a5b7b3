from __future__ import annotations

import os
import shutil
import stat
from typing import TYPE_CHECKING

import pytest

from qbench.core.errors import UsageError
from qbench.core.git import Repository, git_revision, repository_of
from tests.git_repositories import MadeRepository, make_repository

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No repository around the test's folder, and none of a hook, is taken for the test's own."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def made(tmp_path: Path) -> MadeRepository:
    return make_repository(tmp_path / "repository")


def tree_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_git_revision(made: MadeRepository) -> None:
    assert git_revision(made.root.parent) is None
    assert git_revision(made.root) is None
    commit = made.commit("first", {"file": "one"})
    made.git("tag", "-a", "v1", "-m", "a tag must not replace the hash")
    assert git_revision(made.root) == commit
    (made.root / "untracked").write_text("x")
    assert git_revision(made.root) == commit
    (made.root / "file").write_text("two")
    assert git_revision(made.root) == f"{commit}+"


def test_the_repository_of_a_path(made: MadeRepository, tmp_path: Path) -> None:
    made.commit("first", {"a/b/file": "x"})
    (tmp_path / "link").symlink_to(made.root / "a")
    for path in (made.root, made.root / "a/b/file", made.root / "none/yet", tmp_path / "link/b"):
        assert repository_of(path) == Repository(made.root)
    repository = Repository(made.root)
    assert repository.inside(made.root) == "."
    assert repository.inside(made.root / "a" / ".." / "a/b") == "a/b"
    assert repository.inside(tmp_path / "link/b/none") == "a/b/none"
    with pytest.raises(UsageError, match=r"elsewhere: found a path outside it; expected a path"):
        repository.inside(tmp_path / "elsewhere")


def test_a_hook_s_own_repository_is_not_taken_for_another_s(
    made: MadeRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = made.commit("first")
    other = make_repository(tmp_path / "other")
    other.commit("of the other")
    monkeypatch.setenv("GIT_DIR", str(other.root / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other.root))
    assert git_revision(made.root) == commit
    assert repository_of(made.root).resolve("HEAD") == commit


SETTINGS = {
    "log.showRoot": "false",
    "log.showSignature": "true",
    "diff.orderFile": "none",
    "color.ui": "always",
    "core.pager": "false",
}


def test_a_user_s_variables_and_settings_change_no_answer(
    made: MadeRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.commit("first", {"a": "1"})
    made.commit("second", {"a": "2"})

    def answers() -> tuple[object, ...]:
        found = repository_of(made.root)
        commits = found.commits(below=["a"], changed=True)
        blobs = [str(file.blob) for commit in commits for file in commit.changed]
        return commits, blobs, found.files("HEAD", "a"), list(found.contents(blobs, 10))

    before = answers()
    for name in ("GIT_GLOB_PATHSPECS", "GIT_ICASE_PATHSPECS", "GIT_TRACE"):
        monkeypatch.setenv(name, "1")
    for name in ("GIT_OBJECT_DIRECTORY", "GIT_SHALLOW_FILE", "GIT_NAMESPACE"):
        monkeypatch.setenv(name, str(made.root / "none"))
    monkeypatch.setenv("GIT_CONFIG_COUNT", str(len(SETTINGS)))
    for at, (name, value) in enumerate(SETTINGS.items()):
        monkeypatch.setenv(f"GIT_CONFIG_KEY_{at}", name)
        monkeypatch.setenv(f"GIT_CONFIG_VALUE_{at}", value)
    assert answers() == before


def test_a_repository_that_git_refuses_says_what_helps(
    made: MadeRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.commit("first", {"a/b": "1"})
    made.git("clone", "--bare", str(made.root), str(tmp_path / "bare.git"))
    with pytest.raises(UsageError, match="its files checked out"):
        repository_of(tmp_path / "bare.git")
    (tmp_path / "settings").write_text("[broken\n")
    with monkeypatch.context() as broken:
        broken.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "settings"))
        with pytest.raises(UsageError, match=r"found fatal: bad config.* in a git repository$"):
            repository_of(made.root)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    with pytest.raises(UsageError) as refused:
        repository_of(made.root / "a")
    told = str(refused.value)
    assert f"found fatal: detected dubious ownership in repository at '{made.root}'" in told
    assert f"`git config --global --add safe.directory {made.root}`, if its owner is" in told


def test_a_folder_that_is_gone_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(UsageError, match="found that the current folder is gone"):
        repository_of(tmp_path.relative_to(tmp_path))


def test_no_repository_and_no_git(
    made: MadeRepository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match=r"found .*not a git repository.*; expected .*; run git"):
        repository_of(tmp_path / "none")
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.setenv("PATH", str(empty))
    with pytest.raises(UsageError, match=r"git: found no such program.*install git"):
        repository_of(made.root)
    assert git_revision(made.root) is None


def test_a_revision_means_a_commit(made: MadeRepository) -> None:
    first, second = made.commit("first", {"file": "x"}), made.commit("second")
    made.git("tag", "-a", "v1", "-m", "a tag", first)
    repository = repository_of(made.root)
    means = {"HEAD": second, "HEAD~1": first, "v1": first, "main": second, first[:9]: first}
    assert {name: repository.resolve(name) for name in means} == means
    one = repository.commit("v1")
    assert (one.hash, one.parents, one.subject, one.short) == (first, (), "first", first[:10])
    assert one.time == "2023-11-14T23:13:20+00:00"


@pytest.mark.parametrize(
    "revision",
    ["", " ", "-1", "--all", "--output=x", "none", "HEAD~9", "HEAD..HEAD", "HEAD:file", "a\nb",
     "^HEAD", "HEAD\0", "main\x1b[31m", "x" * 5000],
)  # fmt: skip
def test_what_is_no_revision_is_said(made: MadeRepository, revision: str) -> None:
    made.commit("first", {"file": "x"})
    with pytest.raises(UsageError, match=r"^revision '.*: found .*; expected a revision") as raised:
        repository_of(made.root).resolve(revision)
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 700
    assert not (made.root / "x").exists()


def test_a_repository_without_commits_has_no_revision(made: MadeRepository) -> None:
    with pytest.raises(UsageError, match="found no such commit"):
        repository_of(made.root).resolve("HEAD")


def test_a_shallow_clone_is_told(made: MadeRepository, tmp_path: Path) -> None:
    first = made.commit("first")
    made.commit("second")
    made.git("clone", "--depth=1", made.root.as_uri(), str(tmp_path / "clone"))
    clone = repository_of(tmp_path / "clone")
    assert clone.is_shallow()
    assert not repository_of(made.root).is_shallow()
    for missing in ("HEAD~1", first):
        with pytest.raises(UsageError, match=r"which is a shallow clone.*git fetch --unshallow"):
            clone.resolve(missing)


ODD = ["plain", "two words", "line\nend", "-dash", ":(glob)*", "*", 'quo"te', "tab\t", "ünï", "\\"]


def test_odd_names_are_read_as_they_are(made: MadeRepository) -> None:
    files = {f"odd/{name}": f"holds {name}" for name in ODD}
    bytes_name = os.fsdecode(b"odd/\xff")
    commit = made.commit("odd", {**files, bytes_name: "holds bytes", "other": "x"})
    repository = repository_of(made.root)
    found = repository.files(commit, "odd")
    assert {file.path for file in found} == {*files, bytes_name}
    contents = dict(repository.contents([str(file.blob) for file in found], 1000))
    assert {file.path: contents[str(file.blob)] for file in found} == {
        **{name: text.encode() for name, text in files.items()},
        bytes_name: b"holds bytes",
    }
    (one,) = repository.commits(below=["odd/*"], changed=True)
    assert [file.path for file in one.changed] == ["odd/*"]
    assert repository.commits(below=[":(glob)**"]) == []
    assert repository.files("HEAD", "odd/*") == [one.changed[0]]


def test_files_of_a_commit_are_those_of_the_commit(made: MadeRepository) -> None:
    first = made.commit("first", {"results/a.json": "1", "results/b/c.json": "2", "results.md": ""})
    (made.root / "results/link.json").symlink_to("a.json")
    made.commit("second", {"results/a.json": "3", "results/b/c.json": None})
    (made.root / "results/a.json").write_text("not committed")
    repository = repository_of(made.root)
    names = [file.path for file in repository.files(first, "results")]
    assert names == ["results/a.json", "results/b/c.json"]
    (left,) = repository.files("HEAD", "results")
    assert dict(repository.contents([str(left.blob)], 10)) == {left.blob: b"3"}
    assert repository.files("HEAD", "results/a.json") == [left]
    assert repository.files("HEAD", "none") == []
    assert len(repository.files(first)) == 3


def test_commits_that_changed_a_path(made: MadeRepository) -> None:
    first = made.commit("first", {"results/a.json": "1", "other": "1"})
    made.commit("elsewhere", {"other": "2"})
    third = made.commit("third", {"results/a.json": "2", "results/b.json": "1", "other": "3"})
    fourth = made.commit("fourth", {"results/a.json": None})
    made.commit("nothing")
    found = repository_of(made.root).commits(below=["results"], changed=True)
    assert [commit.hash for commit in found] == [first, third, fourth]
    changed = [[(file.path, file.blob is None) for file in commit.changed] for commit in found]
    assert changed == [
        [("results/a.json", False)],
        [("results/a.json", False), ("results/b.json", False)],
        [("results/a.json", True)],
    ]
    blobs = [str(commit.changed[0].blob) for commit in found[:2]]
    assert dict(repository_of(made.root).contents(blobs, 9)) == dict(
        zip(blobs, (b"1", b"2"), strict=True)
    )


def test_commits_between_two_with_a_side_branch(made: MadeRepository) -> None:
    first = made.commit("first", {"a": "1"})
    made.git("checkout", "-b", "side")
    side = made.commit("side", {"b": "1"})
    made.git("checkout", "main")
    second = made.commit("second", {"a": "2"})
    made.made += 1
    made.git("merge", "--no-ff", "-m", "merge", "side")
    repository = repository_of(made.root)
    between = repository.commits("HEAD", since=first, changed=True)
    assert {commit.hash for commit in between[:2]} == {side, second}
    assert (between[2].subject, set(between[2].parents)) == ("merge", {side, second})
    assert [file.path for file in between[2].changed] == ["b"]
    assert repository.commits(first, since="HEAD") == []
    assert repository.is_ancestor(first, "HEAD")
    assert repository.holds(["HEAD"], {second, first, "f" * 40, "HEAD"}) == [first, second]
    assert repository.holds([first], {second, first}) == [first]
    assert set(repository.holds([side, second], {side, second})) == {side, second}
    assert repository.is_ancestor(side, side)
    assert not repository.is_ancestor(side, second)
    assert [commit.hash for commit in repository.commits("HEAD", below=["b"])] == [side]


def test_subjects_cannot_move_a_terminal_s_cursor(made: MadeRepository) -> None:
    made.commit("red \x1b[31m\x9b2J\u202e end\nsecond line\n\nbody")
    made.commit("x" * 10_000)
    red, long = repository_of(made.root).commits()
    assert red.subject == r"red \x1b[31m\x9b2J\u202e end second line"
    assert len(long.subject) == 300


def test_large_contents_are_read_past(made: MadeRepository) -> None:
    large, small = "0123456789" * 300_000, "small\n\nand lines\n"
    made.commit("both", {"a-large": large, "b-small": small, "c-empty": ""})
    repository = repository_of(made.root)
    blobs = [str(file.blob) for file in repository.files("HEAD")]
    assert [data for _, data in repository.contents(blobs, 1000)] == [None, small.encode(), b""]
    assert dict(repository.contents(blobs, len(large)))[blobs[0]] == large.encode()
    assert len(list(repository.contents([*blobs, *blobs], 1000))) == 3
    assert list(repository.contents([], 1000)) == []


def test_contents_that_a_clone_lacks_are_told(made: MadeRepository) -> None:
    made.commit("first", {"a": "1"})
    repository = repository_of(made.root)
    blob = str(repository.files("HEAD")[0].blob)
    path = made.root / ".git/objects" / blob[:2] / blob[2:]
    path.chmod(stat.S_IRWXU)
    path.unlink()
    with pytest.raises(UsageError, match=f"found no contents of {blob}; expected a whole clone"):
        list(repository.contents([blob], 10))


def test_a_damaged_repository_is_told_in_git_s_words(made: MadeRepository) -> None:
    tree = made.git("rev-parse", f"{made.commit('first', {'a': '1'})}^{{tree}}")
    path = made.root / ".git/objects" / tree[:2] / tree[2:]
    path.chmod(stat.S_IRWXU)
    path.write_bytes(b"damaged")
    with pytest.raises(UsageError, match=r"found .*; expected a whole repository; run `git fsck`"):
        repository_of(made.root).files("HEAD")


def test_reading_changes_nothing(made: MadeRepository) -> None:
    first = made.commit("first", {"a": "1"})
    made.commit("second", {"a": "2"})
    (made.root / "a").write_text("3")
    before = tree_of(made.root)
    repository = repository_of(made.root)
    git_revision(made.root)
    repository.commits("HEAD", since=first, changed=True)
    list(repository.contents([str(file.blob) for file in repository.files(first)], 10))
    assert tree_of(made.root) == before
