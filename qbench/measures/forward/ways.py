"""How a forward pass runs: eager, with a cache of a fixed size, compiled, or as a CUDA graph.

| way | cache | prefill | decode |
|---|---|---|---|
| `eager` | grows | eager | eager |
| `static` | of a fixed size | eager | eager |
| `compile` | of a fixed size | eager | compiled by torch |
| `cuda-graphs` | of a fixed size | eager | one step captured, then replayed |

Prefill is never compiled, as in `generate()` of transformers and in gpt-fast unless it is asked
for: each length of a prompt would be compiled anew, and one forward over many tokens is bound by
its products, not by how its operations are started.

A cache of a fixed size holds the prompt and the new tokens, and is emptied, not made, before each
prefill, as `generate()` does.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qbench.core.errors import MeasurementError
from qbench.measures.forward.compiled import Compiler
from qbench.measures.forward.cuda_graph import CapturedStep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from transformers import PreTrainedModel

    from qbench.measures.loaded import LoadedModel
    from qbench.measures.workload import Workload
    from qbench.predict.work import GridPoint


@dataclass(frozen=True)
class Way:
    """One way of running a model's forward passes."""

    model: PreTrainedModel
    """What prefill calls, and decode where nothing else is to be called."""
    new_cache: Callable[[], Any]
    """An empty cache; None where the model makes its own."""
    step: Callable[..., Any]
    """What decode calls: as the model, with one id a sequence."""
    compiler: Compiler | None = None
    """What tells of compiling, where `step` is compiled."""
    details: dict[str, Any] = field(default_factory=dict)


@contextmanager
def open_way(loaded: LoadedModel, workload: Workload, point: GridPoint) -> Iterator[Way]:
    """The way that a point asks for.

    Raises `MeasurementError` for a model that cannot run so.
    """
    if point.forward == "eager":
        yield Way(loaded.model, loaded.new_cache, loaded.model)
        return
    new_cache = _fixed_cache(loaded, point)
    if point.forward == "static":
        yield Way(loaded.model, new_cache, loaded.model)
    elif point.forward == "compile":
        with Compiler(loaded.model, point.compile_mode) as compiler:
            yield Way(loaded.model, new_cache, compiler.step, compiler)
    else:
        with CapturedStep(loaded.model, workload, new_cache()) as step:
            yield Way(loaded.model, new_cache, step)


def _fixed_cache(loaded: LoadedModel, point: GridPoint) -> Callable[[], Any]:
    """Empties and returns the same cache at each call: compiled code holds its addresses."""
    from transformers import StaticCache

    length = point.prompt_tokens + point.new_tokens
    try:
        cache = StaticCache(config=loaded.model.config, max_cache_len=length)
    except (KeyError, TypeError, ValueError, AttributeError, NotImplementedError) as error:
        raise MeasurementError(
            f"{type(loaded.model).__name__}: transformers has no cache of a fixed size for it"
            f" ({type(error).__name__}: {error}); leave `forward: {point.forward}` out"
        ) from error

    def emptied() -> Any:
        cache.reset()
        return cache

    return emptied
