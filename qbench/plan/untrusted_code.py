"""What a suite would run of its own: Python of tasks and metrics, and commands of servers.

It is refused before anything is planned with it, unless the suite says that it is trusted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.core.options import typed_options
from qbench.core.untrusted import visible
from qbench.measures.generation.generation import GENERATION, GenerationParams
from qbench.measures.serving.servers import ON_SERVERS, SERVED_TASKS, server_of
from qbench.measures.tasks.options import TaskParams
from qbench.measures.tasks.tasks import TASKS
from qbench.measures.untrusted_code import code_of_task, script_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qbench.core.errors import Problem
    from qbench.core.spec import Item
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
    found = [(f"measure.{item.measurement}", what) for item in items for what in code_of(item)]
    recipe = None if suite.finetune is None else suite.finetune.data.recipe
    found += [("finetune.data.recipe", what) for what in script_of(getattr(recipe, "scores", ()))]
    return [
        suite.problem(path, visible(what), _EXPECTED, _REMEDY)
        for path, what in dict.fromkeys(found)
    ]
