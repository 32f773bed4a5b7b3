"""What a person wrote as a path and can be none, and files that are none: told, never a crash."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from qbench.core.cache import cache_folder
from qbench.core.errors import TextError, UsageError
from qbench.core.paths import written_path
from qbench.measures.generation.evaluate_metrics import resolve_name
from qbench.measures.tasks.options import TasksOptions
from qbench.measures.tasks.tasks import TASKS
from qbench.sources.data.prompts import resolve_prompts
from qbench.sources.data.texts import resolve_text
from qbench.sources.data.tuning import TuningDataOptions, resolve_tuning_data
from qbench.sources.models.hub import data_folder, hub_folder
from qbench.sources.models.resolve import parse_model, resolve_model

if TYPE_CHECKING:
    from collections.abc import Callable


def of_data(source: str, base: Path) -> Any:
    return resolve_tuning_data(TuningDataOptions(dataset=source), base=base)


def of_tasks(source: str, base: Path) -> Any:
    model = resolve_model(parse_model("bundled:tiny-mistral", base=base))
    return TASKS.items(TasksOptions(names=("stdlib-choice",), include=source), model, base)


READERS: dict[str, Callable[[str, Path], Any]] = {
    "text": lambda source, base: resolve_text(source, base=base),
    "data": of_data,
    "prompts": lambda source, base: resolve_prompts(f"{source}.jsonl", count=1, base=base),
    "model": lambda source, base: resolve_model(parse_model(source, base=base)),
    "random model": lambda source, base: parse_model(f"random:{source}", base=base),
    "tasks": of_tasks,
    "score": lambda source, base: resolve_name(f"./{source}", base=base),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("a" * 300, "can be no path on this machine (File name too long)"),
        ("a/" * 3000, "can be no path on this machine (File name too long)"),
        ("\0", "holds a character that no path can hold"),
    ],
)
def test_a_text_that_can_be_no_path(tmp_path: Path, reader: str, source: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        READERS[reader](source, tmp_path)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize("reader", [name for name in READERS if name != "score"])
def test_a_user_that_this_machine_does_not_have(tmp_path: Path, reader: str) -> None:
    with pytest.raises(UsageError, match="no home folder of nosuchuser is known"):
        READERS[reader]("~nosuchuser/x", tmp_path)


@pytest.mark.parametrize("reader", READERS)
def test_links_that_lead_in_a_circle(tmp_path: Path, reader: str) -> None:
    for name in ("circle", "circle.jsonl"):
        (tmp_path / name).symlink_to(tmp_path / name)
    with pytest.raises(UsageError, match="links lead in a circle"):
        READERS[reader]("./circle", tmp_path)


@pytest.mark.parametrize("name", ["d.jsonl", "d.json", "d.csv", "d.parquet"])
@pytest.mark.parametrize("device", [None, "/dev/zero", "/dev/null"])
def test_data_behind_what_is_no_file(tmp_path: Path, name: str, device: str | None) -> None:
    make_special(tmp_path / name, device)
    with pytest.raises(TextError, match="no regular file"):
        of_data(name, tmp_path)


def test_a_link_says_what_kind_of_file_it_is(tmp_path: Path) -> None:
    """As in the hub's cache, where files lie under names without an ending."""
    (tmp_path / "blob").write_text('{"instruction": "a", "output": "b", "prompt": "c"}\n' * 3)
    (tmp_path / "d.jsonl").symlink_to("blob")
    options = TuningDataOptions(dataset="d.jsonl", train=1, validation=1, test=1)
    assert resolve_tuning_data(options, base=tmp_path).location == str(tmp_path / "d.jsonl")
    (tmp_path / "p.jsonl").symlink_to("q")
    (tmp_path / "q").write_text('{"prompt": "c"}\n')
    assert resolve_prompts("p.jsonl", count=1, base=tmp_path).count == 1


@pytest.mark.parametrize("device", [None, "/dev/zero"])
def test_texts_and_prompts_behind_what_is_no_file(tmp_path: Path, device: str | None) -> None:
    for name in ("t.txt", "p.jsonl", "t.md"):
        make_special(tmp_path / name, device)
        with pytest.raises(TextError, match="no regular file"):
            resolve_text(f"./{name}", base=tmp_path)
    with pytest.raises(TextError, match="no regular file"):
        resolve_prompts("p.jsonl", count=1, base=tmp_path)


@pytest.mark.parametrize("device", [None, "/dev/zero"])
def test_a_task_behind_what_is_no_file(tmp_path: Path, device: str | None) -> None:
    make_special(tmp_path / "task.yaml", device)
    with pytest.raises(TextError, match="no task in"):
        of_tasks(".", tmp_path)


def make_special(path: Path, device: str | None) -> None:
    """A pipe that nobody writes to, or a link to a device."""
    if device is None:
        os.mkfifo(path)
    else:
        path.symlink_to(device)


def test_what_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.setenv("HOME", str(tmp_path))
    for text in ("real", "./real", "~/real", str(tmp_path / "real")):
        assert written_path(text, tmp_path, UsageError) == tmp_path / "real"
    assert written_path("link", tmp_path, UsageError) == tmp_path / "link"
    assert written_path("real/absent", tmp_path, UsageError) == tmp_path / "real" / "absent"


def test_half_of_a_surrogate_pair(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds a character that no path can hold"):
        written_path("\ud800", tmp_path, UsageError)


def test_a_cache_that_can_be_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QBENCH_CACHE", "~nosuchuser/x")
    with pytest.raises(UsageError, match="QBENCH_CACHE: ~nosuchuser/x: no home folder"):
        cache_folder()


def test_folders_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    home = tmp_path / ".cache" / "huggingface"
    assert (hub_folder(), data_folder()) == (home / "hub", home / "datasets")
    monkeypatch.setenv("HF_HOME", "~nosuchuser/x")  # the library takes it as it stands
    assert hub_folder() == Path("~nosuchuser/x/hub")
    monkeypatch.setenv("HF_HUB_CACHE", "~/h")
    assert hub_folder() == tmp_path / "h"


@pytest.mark.parametrize("depth", [5000, 100_000])
def test_a_task_of_values_deep_within_one_another(tmp_path: Path, depth: int) -> None:
    (tmp_path / "task.yaml").write_text(f"task: mine\nx: {'[' * depth}{']' * depth}\n")
    with pytest.raises(TextError, match=r"no task in .*deep"):
        of_tasks(".", tmp_path)
