"""Python of a user's tasks and metrics: it runs only where the suite says `trust_code: true`.

A task's YAML may name functions of files beside it, or have a library run the Python of a
repository; a metric of the package `evaluate` is a script, and a task's templates could reach
anything from within Jinja. The tasks of lm-eval, and the bundled ones, came installed: they may
name functions of their own.
"""

from __future__ import annotations

import importlib.util
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qbench.core.errors import MeasurementError
from qbench.measures.generation.references import SCORES
from qbench.measures.tasks.definitions import makes_data, module_of, scalars
from qbench.measures.tasks.generation_arguments import RUN_CODE
from qbench.measures.tasks.index import (
    BUNDLED_TASKS_FOLDER,
    known_tasks,
    read_task,
    with_includes,
    yaml_files_of,
)
from qbench.measures.tasks.options import OWN_METADATA

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


REMEDY = "read it, then add `trust_code: true` to the suite; or leave it out"


def code_of_task(name: str, location: str | None) -> tuple[str, ...]:
    """What of a task would run as Python that did not come installed, each in words.

    `location` is the user's own folder that it comes from; None if it comes from none.
    """
    index = known_tasks([name], None if location is None else Path(location))
    return tuple(dict.fromkeys(_of_tasks(yaml_files_of(name, index))))


def script_of(scores: Iterable[str]) -> list[str]:
    """The scores that are scripts, each in words."""
    return [f"the score {name}, a script of Python" for name in scores if name not in SCORES]


def _of_tasks(paths: Sequence[Path]) -> Iterator[str]:
    installed = [BUNDLED_TASKS_FOLDER.resolve(), *_lm_eval_folders()]
    for path in dict.fromkeys(one for file in paths for one in with_includes(file)):
        if any(path.is_relative_to(folder) for folder in installed):
            continue
        for tag, value in scalars(path):
            if tag == "!function":
                place = module_of(path, value)
                yield f"{path}, which names the Python function {value} ({place})"
        for key in _keys_that_run_code(read_task(path), makes_data=makes_data([path])):
            yield f"{path}, which has {key} run the Python that it names"


def _keys_that_run_code(value: object, within: str = "", *, makes_data: bool) -> Iterator[str]:
    """The keys of a task, or of those written out in a group, that have a library run Python.

    Only a task that makes its own data loads a tokenizer that its metadata name.
    """
    if isinstance(value, dict):
        for key, each in value.items():
            if key in RUN_CODE and within == "generation_kwargs":
                yield f"{within}.{key}"
            if key in OWN_METADATA and within == "metadata" and makes_data:
                yield f"{within}.{key}"
            yield from _keys_that_run_code(each, str(key), makes_data=makes_data)
    elif isinstance(value, list):
        for each in value:
            yield from _keys_that_run_code(each, within, makes_data=makes_data)


def _lm_eval_folders() -> list[Path]:
    spec = importlib.util.find_spec("lm_eval")
    folders = [] if spec is None else spec.submodule_search_locations or []
    return [Path(folder).resolve() for folder in folders]


@contextmanager
def nothing_fetched(*, trusted: bool) -> Iterator[None]:
    """Within it `evaluate` fetches no script, and unless trusted loads none.

    Raises `MeasurementError` where an untrusted one is asked for.
    """
    import evaluate

    def refuse(name: str, *_: object, **__: object) -> None:
        raise MeasurementError(f"the metric {name} is a script from outside; {REMEDY}")

    config: Any = evaluate.config
    before = config.HF_EVALUATE_OFFLINE, evaluate.load
    config.HF_EVALUATE_OFFLINE = True
    if not trusted:
        evaluate.load = refuse
    try:
        yield
    finally:
        config.HF_EVALUATE_OFFLINE, evaluate.load = before


@contextmanager
def templates_within_bounds(*, trusted: bool) -> Iterator[None]:
    """Within it the templates of lm-eval's tasks reach nothing but their row, unless trusted."""
    import lm_eval.utils
    from jinja2.sandbox import SandboxedEnvironment

    module: Any = lm_eval.utils
    before = module.env
    if not trusted:
        module.env = SandboxedEnvironment(
            loader=before.loader,
            undefined=before.undefined,
            keep_trailing_newline=before.keep_trailing_newline,
        )
        module.env.filters.update(before.filters)
    try:
        yield
    finally:
        module.env = before
