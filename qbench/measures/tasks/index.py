"""Which tasks and groups there are for lm-eval, and where: found from YAML alone, without torch.

Three places are looked through, a later one going before an earlier: the tasks that come with
lm-eval (some 14,000 files, so what is in them is kept in the cache), the bundled ones, and the
user's own folders.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import yaml

from qbench.core.cache import read_cached, write_cached
from qbench.core.untrusted import MOST_DEPTH, in_one_line, read_bounded
from qbench.sources.bundled import BUNDLED_FOLDER
from qbench.sources.fingerprint import files_sha256

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_LARGEST_BYTES = 2**24
"""Of a task's YAML file."""
_SHALLOW_BYTES = 2**12
"""What is no longer than this cannot nest so deep that a loader's stack overflows."""
GENERATED = "generate_until"
"""The `output_type` of tasks that have the model write, and that of a task which states none."""
BUNDLED_TASKS_FOLDER = BUNDLED_FOLDER / "tasks"


@dataclass(frozen=True)
class Entry:
    """A name that lm-eval can be asked for."""

    kind: Literal["task", "group", "tag"]
    path: str | None
    """Absolute path of the YAML file; None for a tag, which stands in those of its tasks."""
    members: tuple[str, ...] = ()
    """Names of a group's or a tag's own members."""
    aggregated: bool = False
    """Whether a group has a score of its own, over its members."""


Index = dict[str, Entry]


@cache
def bundled_tasks() -> Index:
    """The tasks that ship with qbench."""
    return read_folder(BUNDLED_TASKS_FOLDER)


@cache
def default_tasks() -> Index:
    """The tasks that come with lm-eval; empty where it is not installed."""
    spec = importlib.util.find_spec("lm_eval")
    if spec is None or not spec.submodule_search_locations:
        return {}
    folder = Path(spec.submodule_search_locations[0]) / "tasks"
    identity = {
        "version": importlib.metadata.version("lm_eval"),
        "folder": str(folder),
        "mtime_ns": folder.stat().st_mtime_ns,
    }
    kept = read_cached("lm-eval-tasks", identity)
    if isinstance(kept, dict):
        return {
            name: Entry(**{**entry, "members": tuple(entry["members"])})
            for name, entry in kept.items()
        }
    index = read_folder(folder)
    write_cached("lm-eval-tasks", identity, {name: asdict(entry) for name, entry in index.items()})
    return index


def read_folder(folder: Path) -> Index:
    """All tasks, groups and tags in a folder and those below it, as lm-eval finds them.

    Of two files with the same name the first counts; one that is no task at all is passed over.
    """
    index: Index = {}
    tags: dict[str, list[str]] = {}
    known: dict[Path, dict[str, Any]] = {}
    for path in _yaml_files(folder):
        try:
            config = _merged(path, (), known)
        except (OSError, ValueError, yaml.YAMLError):
            continue  # `unreadable_files` tells why
        group, task = config.get("group"), config.get("task")
        if isinstance(group, str) and "class" not in config:
            aggregated = bool(config.get("aggregate_metric_list"))
            entry = Entry("group", str(path), tuple(_members(task)), aggregated)
            index.setdefault(group, entry)
        elif isinstance(task, str) and task not in index:
            index[task] = Entry("task", str(path))
            for name in _names(config, "tag"):
                tags.setdefault(name, []).append(task)
    for name, members in tags.items():
        index.setdefault(name, Entry("tag", None, tuple(sorted(members))))
    return index


def unreadable_files(folder: Path) -> list[str]:
    """Each YAML file in a folder that cannot be read as a task, with the reason."""
    reasons: list[str] = []
    for path in _yaml_files(folder):
        try:
            read_task(path)
        except (OSError, ValueError, yaml.YAMLError) as error:
            reasons.append(f"{path.name} ({' '.join(str(error).split())})")
    return reasons


def known_tasks(names: Sequence[str], folder: Path | None) -> Index:
    """What is known by name: lm-eval's own tasks only if one of them may be meant.

    `folder` is the user's own.
    """
    index = {**bundled_tasks(), **(read_folder(folder) if folder else {})}
    if all(name in index for name in _with_members(names, index)):
        return index
    return {**default_tasks(), **index}


def scored_names(name: str, index: Index) -> Iterator[str]:
    """The name itself if it has a score of its own, else those of its members that have one."""
    entry = index[name]
    if entry.kind == "task" or entry.aggregated or not all(one in index for one in entry.members):
        yield name
        return
    for member in entry.members:
        if member != name:
            yield from scored_names(member, index)


def yaml_files_of(name: str, index: Index) -> tuple[Path, ...]:
    """The YAML files of a task, or of a group and all its members."""
    entries = [index[one] for one in _with_members([name], index) if one in index]
    return tuple(sorted({Path(entry.path) for entry in entries if entry.path is not None}))


def _with_members(names: Sequence[str], index: Index) -> list[str]:
    """The names and those of their members, of the members' members and so on, each once."""
    found: dict[str, None] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = None
            waiting += index[name].members if name in index else ()
    return list(found)


def fingerprint(paths: Sequence[Path]) -> str:
    """sha256 over the files that tasks follow from; raises `OSError` for one that is not readable.

    The YAML files, those they include, the Python files beside them, and their local data.
    """
    files: dict[Path, None] = {}
    for path in paths:
        chain = with_includes(path)
        files.update(dict.fromkeys(chain))
        for folder in dict.fromkeys(one.parent for one in chain):
            files.update(dict.fromkeys(sorted(folder.glob("*.py"))))
        files.update(dict.fromkeys(_local_data(read_task(path), path.parent)))
    return files_sha256(sorted(files))


def _local_data(config: dict[str, Any], folder: Path) -> Iterator[Path]:
    """Data files named in a task's configuration that lie on this machine."""
    asked = config.get("dataset_kwargs")
    named = asked.get("data_files") if isinstance(asked, dict) else None
    values = named.values() if isinstance(named, dict) else [named]
    for value in values:
        for file in value if isinstance(value, list) else [value]:
            # lm-eval starts at the current folder; a task's own function may look beside itself.
            for start in (Path(), folder):
                if isinstance(file, str) and (start / file).is_file():
                    yield (start / file).resolve()
                    break


def _yaml_files(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.resolve().glob("**/*.yaml") if "__pycache__" not in path.parts
    )


def _members(listed: object) -> Iterator[str]:
    """Names in a group's list; of a group that is defined within it, those in its own list."""
    for member in listed if isinstance(listed, list) else []:
        if isinstance(member, str):
            yield member
        elif isinstance(member, dict) and isinstance(member.get("task"), list):
            yield from _members(member["task"])
        elif isinstance(member, dict):
            yield str(member.get("group") or member.get("task"))


def with_includes(path: Path) -> list[Path]:
    """The file and those that it includes, each once."""
    found: dict[Path, None] = {}
    waiting = [path]
    while waiting:
        current = waiting.pop()
        if current not in found:
            found[current] = None
            waiting += _included(_parse(current), current.parent)
    return list(found)


def _included(config: dict[str, Any], folder: Path) -> list[Path]:
    return [(folder / one).resolve() for one in _names(config, "include")]


def _names(config: dict[str, Any], key: str) -> list[str]:
    """The names under a key that holds one, several or none; ValueError for anything else."""
    value = config.get(key) or []
    names = value if isinstance(value, list) else [value]
    if not all(isinstance(name, str) for name in names):
        raise ValueError(f"{key}: found {in_one_line(str(value))}; expected a name, or several")
    return names


def read_task(path: Path) -> dict[str, Any]:
    """A file's keys over those of the files it includes; ValueError for one that has none."""
    return _merged(path, (), {})


def _merged(
    path: Path, within: tuple[Path, ...], known: dict[Path, dict[str, Any]]
) -> dict[str, Any]:
    """The keys of a file and of what it includes; `known` are those of files already merged."""
    if path in within:
        raise ValueError(f"{path} includes itself")
    if path not in known:
        own = _parse(path)
        merged: dict[str, Any] = {}
        for included in _included(own, path.parent):
            merged.update(_merged(included, (*within, path), known))
        known[path] = {**merged, **own}
        _names(known[path], "tag")
    return known[path]


def _parse(path: Path) -> dict[str, Any]:
    """A file's own keys; functions stay names."""
    contents = read_bounded(path, _LARGEST_BYTES)
    if len(contents) > _SHALLOW_BYTES:
        _check_depth(contents)
    try:
        parsed = yaml.load(contents, _Loader)  # noqa: S506 - a safe loader, with one more tag
    except RecursionError as error:
        raise ValueError("values too deep within one another") from error
    if not isinstance(parsed, dict):
        raise ValueError(f"{path} holds no keys")  # noqa: TRY004 - the file, not a caller, is wrong
    return parsed


def _check_depth(contents: bytes) -> None:
    """Raises ValueError for values so deep within one another that libyaml overflows its stack."""
    depth = 0
    for event in yaml.parse(contents, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MOST_DEPTH:
            raise ValueError(f"values more than {MOST_DEPTH} deep")


_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_SafeLoader):  # type: ignore[misc]  # the C loader, where there is one
    """Safe YAML in which `!function name` is the name."""


_Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))
