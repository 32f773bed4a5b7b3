"""What a suite would run of its own: Python of tasks and metrics, and commands of servers.

It is refused before anything is planned with it, unless the suite says that it is trusted; then it
is told of, with the Python of models, wherever it is to run.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from qbench.core.options import typed_options
from qbench.core.untrusted import in_one_line, visible
from qbench.measures.generation.generation import GENERATION, GenerationParams
from qbench.measures.serving.servers import ON_SERVERS, SERVED_TASKS, server_of
from qbench.measures.tasks.options import TaskParams
from qbench.measures.tasks.tasks import TASKS
from qbench.measures.untrusted_code import code_of_task, script_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from qbench.core.errors import Problem
    from qbench.core.spec import Item, ResolvedModel
    from qbench.plan.plan import Plan
    from qbench.plan.suite.suite import Suite

_EXPECTED = "no Python that did not come installed, and no command"
_REMEDY = "read it and add `trust_code: true` to the suite, which lets it run; or leave it out"


def code_of(item: Item) -> tuple[str, ...]:
    """What an item would run that did not come installed, each in words."""
    if item.measurement == GENERATION.name:
        return tuple(script_of(typed_options(GenerationParams, item.params).scores))
    code: tuple[str, ...] = ()
    if item.measurement in (TASKS.name, SERVED_TASKS):
        task = typed_options(TaskParams, item.params).task
        code += code_of_task(task.name, task.location)
    if item.measurement in ON_SERVERS:
        code += tuple(f"the command `{one}`" for one in server_of(item.params).programs)
    return code


def untrusted_code_problems(suite: Suite, items: Iterable[Item]) -> list[Problem]:
    """Each program or piece of Python that the suite does not allow, at the key that names it.

    `items` are those that the suite's measurements ask for.
    """
    if suite.trust_code:
        return []
    return [
        suite.problem(path, visible(what), _EXPECTED, _REMEDY)
        for path, what in dict.fromkeys(_code(suite, items))
    ]


def code_notes(plan: Plan) -> list[str]:
    """Each program or piece of Python that the plan runs and that did not come installed."""
    cells = [cell for cell in plan.every if cell.skip is None]
    models = {cell.model.ref.name: cell.model for cell in cells}
    notes = [
        f"{name}: the model's own Python runs, as trust_remote_code says: {_files_of(model)}"
        for name, model in models.items()
        if model.ref.trust_remote_code
    ]
    items = [task.item for cell in cells for task in cell.tasks if task.skip is None]
    notes += [
        f"{path}: runs {visible(what)}, as trust_code says"
        for path, what in dict.fromkeys(_code(plan.suite, items))
    ]
    return notes


def _code(suite: Suite, items: Iterable[Item]) -> Iterator[tuple[str, str]]:
    """What is run, each with the key of the suite that names it."""
    for item in items:
        yield from ((f"measure.{item.measurement}", what) for what in code_of(item))
    recipe = None if suite.finetune is None else suite.finetune.data.recipe
    for what in script_of(getattr(recipe, "scores", ())):
        yield "finetune.data.recipe", what


def _files_of(model: ResolvedModel) -> str:
    """The Python files in a model's folder, in words."""
    if model.folder is None:
        return f"that of the repository {model.ref.location}"
    folder = Path(model.folder)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.py"))
    return in_one_line(", ".join(names)) or f"there is none in {model.folder}"
