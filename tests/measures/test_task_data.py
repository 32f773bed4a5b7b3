"""The data of a task, as its record names it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from datasets import Dataset

from qbench.measures.tasks.data import data_of

if TYPE_CHECKING:
    from pathlib import Path

COMMIT = "e53f048856ff4f594e959d75785d2c2d37b678ee"


@dataclass
class LoadedTask:
    """What lm-eval has of a task, in the names that it has it by."""

    config: dict[str, Any]
    dataset: dict[str, Any] = field(default_factory=dict)

    def get_config(self, key: str) -> Any:
        """As lm-eval's tasks do."""
        return self.config.get(key)


def rows_in_cache(folder: Path, name: str) -> Dataset:
    """Rows that lie where datasets would have put them."""
    made = Dataset.from_dict({"question": ["1 + 1 ="]})
    made.save_to_disk(folder / "made")
    place = folder / "main" / "0.0.0" / name
    place.mkdir(parents=True)
    file = place / "gsm8k-test.arrow"
    next((folder / "made").glob("*.arrow")).rename(file)
    return Dataset.from_file(str(file))


def test_a_repository_of_the_hub_with_its_commit(tmp_path: Path) -> None:
    config = {"dataset_path": "openai/gsm8k", "dataset_name": "main", "test_split": "test"}
    task = LoadedTask(config, {"test": rows_in_cache(tmp_path, COMMIT)})
    assert data_of({"gsm8k": task}) == {
        "gsm8k": {
            "hub": True,
            "path": "openai/gsm8k",
            "name": "main",
            "split": "test",
            "revision": COMMIT,
        }
    }


def test_a_commit_that_the_cache_does_not_name_is_not_known(tmp_path: Path) -> None:
    config = {"dataset_path": "openai/gsm8k", "validation_split": "validation"}
    task = LoadedTask(config, {"validation": rows_in_cache(tmp_path, "default-db89")})
    found = data_of({"gsm8k": task})["gsm8k"]
    assert (found["hub"], found["split"], found["revision"]) == (True, "validation", None)


def test_files_of_this_machine_are_told_without_where_they_lie(tmp_path: Path) -> None:
    task = LoadedTask({"dataset_path": str(tmp_path), "test_split": "test"})
    reader = LoadedTask({"dataset_path": "json", "test_split": "test"})
    made = LoadedTask({"dataset_path": "", "custom_dataset": print, "test_split": "test"})
    found = data_of({"folder": task, "reader": reader, "made": made})
    assert [one["hub"] for one in found.values()] == [False] * 3
    assert [one["path"] for one in found.values()] == [tmp_path.name, "json", None]
