"""Which data the items of a task were read from: its record names it for others to find."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

DATA = "data"
"""Key of a record's details with the data of each task, by its name."""
_COMMIT = re.compile(r"[0-9a-f]{40}")


def data_of(tasks: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Of each task that lm-eval has loaded what the package datasets was asked for.

    `hub`: whether it is a repository of the hub; `path` and `name`: the repository, or the reader
    of local files, and its configuration; `split`: the one that is scored; `revision`: the commit
    of a repository, None where it is not known. A task whose own function makes its data has no
    path.
    """
    return {name: _data(task) for name, task in tasks.items()}


def _data(task: Any) -> dict[str, Any]:
    path = task.get_config("dataset_path")
    made = task.get_config("custom_dataset") is not None
    path = None if made or not path else str(path)
    local = path is None or _is_local(path)
    split = task.get_config("test_split") or task.get_config("validation_split")
    return {
        "hub": not local,
        "path": Path(path).name if path is not None and local else path,
        "name": task.get_config("dataset_name"),
        "split": split,
        "revision": None if local else _revision(task, split),
    }


def _is_local(path: str) -> bool:
    """Whether it is a folder or file here, or a reader of such, as datasets looks for it."""
    from datasets.packaged_modules import _PACKAGED_DATASETS_MODULES

    return path in _PACKAGED_DATASETS_MODULES or Path(path).exists()


def _revision(task: Any, split: str | None) -> str | None:
    """The commit: datasets names the folder in its cache after that of a repository."""
    held = getattr(task, "dataset", None)
    rows = held.get(split) if isinstance(held, dict) else None
    files = getattr(rows, "cache_files", None) or [{}]
    folder = Path(files[0].get("filename", "")).parent.name
    return folder if _COMMIT.fullmatch(folder) else None
