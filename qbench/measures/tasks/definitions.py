"""What tasks' own files say of them, read without running any of it."""

from __future__ import annotations

import ast
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from qbench.measures.tasks.index import (
    BUNDLED_TASKS_FOLDER,
    GENERATED,
    read_task,
    with_includes,
    yaml_files_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from qbench.measures.tasks.index import Index

_TASKS = "lm_eval.tasks."
_GREEDY = {"do_sample": False}
"""How lm-eval generates for a task that says nothing of it."""
_MAKES_DATA = ("custom_dataset", "class")
"""Keys of tasks whose data a function of theirs makes, which is given the metadata; the bundled
ones' reads none."""
_DISTRIBUTIONS = {
    "antlr4": "antlr4-python3-runtime",
    "bs4": "beautifulsoup4",
    "math_verify": "math-verify",
    "sklearn": "scikit-learn",
    "rouge_score": "rouge-score",
    "yaml": "pyyaml",
}
"""Packages whose name is another than that which is imported."""


def writes(name: str, index: Index) -> bool:
    """Whether a task, or one of a group's, has the model write: others are scored in one pass."""
    return GENERATED in (one.get("output_type", GENERATED) for one in _tasks(name, index))


def likelihood_tasks(name: str, index: Index) -> list[str]:
    """The task, or those of a group's, that are scored by the likelihoods of given texts."""
    found = _tasks(name, index)
    return [str(one.get("task")) for one in found if one.get("output_type", GENERATED) != GENERATED]


def reads_metadata(name: str, index: Index) -> bool:
    """Whether a function of a task's, or of one of a group's, makes its data and is told it."""
    return makes_data(yaml_files_of(name, index))


def makes_data(yaml_files: Sequence[Path]) -> bool:
    """The same of tasks' files."""
    others = [path for path in yaml_files if not path.is_relative_to(BUNDLED_TASKS_FOLDER)]
    return any(key in read_task(path) for path in others for key in _MAKES_DATA)


def generation_of(name: str, index: Index, asked: dict[str, Any]) -> list[dict[str, Any]]:
    """How each task that writes generates, with what a suite asks for over it."""
    return [
        {**(own if isinstance(own := one.get("generation_kwargs"), dict) else _GREEDY), **asked}
        for one in _tasks(name, index)
        if one.get("output_type", GENERATED) == GENERATED
    ]


def metrics_of_group(name: str, index: Index) -> list[str]:
    """The metrics that a group has a score of its own for; none of a task."""
    path = index[name].path if name in index and index[name].kind == "group" else None
    listed = read_task(Path(path)).get("aggregate_metric_list") if path else None
    listed = listed if isinstance(listed, list) else [listed]
    return [str(one["metric"]) for one in listed if isinstance(one, dict) and "metric" in one]


def packages_lacking(name: str, index: Index) -> tuple[str, ...]:
    """Packages that the Python of a task's files imports first of all, and that are not here."""
    return packages_lacking_in(yaml_files_of(name, index))


def packages_lacking_in(yaml_files: Sequence[Path]) -> tuple[str, ...]:
    """The same of tasks' files."""
    found: dict[str, None] = {}
    seen: set[Path] = set()
    waiting = [path for file in yaml_files for path in _modules_of(file)]
    while waiting:
        path = waiting.pop()
        if path in seen or not path.is_file():
            continue
        seen.add(path)
        for module in _imported(path):
            beside = _beside(module, path.parent)
            if beside is not None:
                waiting.append(beside)
            elif _is_lacking(module.partition(".")[0]):
                found[module.partition(".")[0]] = None
    return tuple(_DISTRIBUTIONS.get(one, one) for one in sorted(found))


def scalars(path: Path) -> Iterator[tuple[str | None, str]]:
    """Each value of a YAML file that `index` has read within bounds, with its tag."""
    contents = path.read_bytes()
    for event in yaml.parse(contents, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.ScalarEvent):
            yield event.tag, str(event.value)


def module_of(path: Path, function: str) -> Path:
    """The Python file of a function that a YAML file names."""
    return path.parent / f"{function.rpartition('.')[0].replace('.', '/')}.py"


def _tasks(name: str, index: Index) -> list[dict[str, Any]]:
    found = [read_task(path) for path in yaml_files_of(name, index)]
    return [one for one in found if "group" not in one]


def _modules_of(file: Path) -> Iterator[Path]:
    for path in with_includes(file):
        for tag, value in scalars(path):
            if tag == "!function":
                yield module_of(path, value)


def _imported(path: Path) -> list[str]:
    """Modules that a Python file cannot be imported without."""
    try:
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return []  # what is wrong with it is told when it is imported
    return list(_of_statements(tree.body))


def _of_statements(body: Sequence[ast.stmt]) -> Iterator[str]:
    for one in body:
        if isinstance(one, ast.Import):
            yield from (alias.name for alias in one.names)
        elif isinstance(one, ast.ImportFrom) and one.module and not one.level:
            yield one.module
            if one.module.startswith(_TASKS):  # of a folder of lm-eval's, the names are modules
                yield from (f"{one.module}.{alias.name}" for alias in one.names)
        elif isinstance(one, ast.Try) and all(_raises(handler) for handler in one.handlers):
            yield from _of_statements(one.body)


def _raises(handler: ast.ExceptHandler) -> bool:
    return any(isinstance(one, ast.Raise) for one in handler.body)


def _beside(module: str, folder: Path) -> Path | None:
    """The file of a module of the task's own, or of lm-eval's tasks; None for any other."""
    own = folder / f"{module.replace('.', '/')}.py"
    if own.is_file():
        return own
    if not module.startswith(_TASKS):
        return None
    spec = importlib.util.find_spec("lm_eval")
    places = [] if spec is None else list(spec.submodule_search_locations or [])
    return Path(places[0], *module.split(".")[1:]).with_suffix(".py") if places else None


def _is_lacking(package: str) -> bool:
    try:
        return package not in sys.stdlib_module_names and importlib.util.find_spec(package) is None
    except (ImportError, ValueError):
        return False
