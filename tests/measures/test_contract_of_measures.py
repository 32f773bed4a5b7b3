"""What every measurement of the table promises."""

from __future__ import annotations

from collections import Counter
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import pytest

from qbench.measures import asked_for, measures
from tests.precisions.tiny_cells import TinyCells, Variant

if TYPE_CHECKING:
    from pathlib import Path

    from qbench.core.spec import Item
    from qbench.measures.loaded import LoadedModel, Outcome

TINY = Variant("llama", "llama", {"context": 512})
OF_OTHER_CELLS = {
    "memory.static.adapters",  # of tuned cells
    # Of codes that are stored wider than they are.
    "bits_per_weight.linear.nominal",
    "bits_per_weight.nominal",
    # Of compiled forwards.
    "latency.compile",
    "latency.compile.memory",
    "sensitivity.sum.*",  # of a suite's formats, which a plan fills in
}
OF_A_LOADED_MODEL = [name for name, one in asked_for().items() if not one.apart]
"""The others start processes of their own, and have tests of their own."""
SMALL: dict[str, dict[str, Any]] = {
    "memory": {"prompt_tokens": [8, 4], "new_tokens": 2, "batch": [1, 2]},
    "latency": {
        "prompt_tokens": 8,
        "new_tokens": 2,
        "repeats": 2,
        "min_iterations": 1,
        "min_seconds": 0.001,
    },
    "kernels": {"rows": [1, 4], "repeats": 2, "min_seconds": 0.001},
    "quality": {"window": 32},
    "decoded": {"limit": 2, "prompt_tokens": 8, "new_tokens": 3},
    "sensitivity": {"limit": 2, "window": 16, "text": "bundled:stdlib-excerpt"},
    "needle": {"lengths": [400, "context"], "depths": [0, 100], "needles": 1},
    "chat": {"prompts": ["def f(", "import "], "new_tokens": 4},
    "generation": {"prompts": ["def f("], "new_tokens": 4},
    "tasks": {"limit": 2},
}


@pytest.fixture(params=["fp32", "int8", "nf4-dq"])
def loaded(request: pytest.FixtureRequest, cells: TinyCells) -> LoadedModel:
    return cells.load(TINY, request.param)


def items_of(name: str, loaded: LoadedModel, folder: Path) -> list[Item]:
    """The items of a measurement with small parameters."""
    given = dict(SMALL.get(name, {}))
    if name in {"quality", "decoded", "needle"}:
        paths = [folder / "one.txt", folder / "two.txt"]
        for path in paths:
            path.write_text(f"def {path.stem}():\n    return 1\n" * 10)
        given["text"] = [path.name for path in paths]
    measurement = measures()[name]
    return measurement.items(measurement.options(**given), loaded.resolved, folder)


def test_the_order_they_are_taken_in() -> None:
    assert list(asked_for()) == [
        "footprint",
        "memory",
        "latency",
        "cold_start",
        "kernels",
        "serving",
        "weight_error",
        "quality",
        "decoded",
        "sensitivity",
        "needle",
        "chat",
        "tasks",
        "served_tasks",
        "generation",
    ]
    assert all(name == measurement.name for name, measurement in measures().items())


def test_every_metric_is_defined_once_over_all_measurements() -> None:
    names = Counter(
        definition.name for measurement in measures().values() for definition in measurement.metrics
    )
    assert max(names.values()) == 1
    for measurement in measures().values():
        for definition in measurement.metrics:
            assert definition.title
            assert definition.formula
            assert definition.unit in {
                *("B", "s", "tokens/s", "bit", "1", "nat", "dB"),
                *("B/s", "FLOP", "FLOP/s", "J", "requests/s"),
            }


@pytest.mark.parametrize("name", OF_A_LOADED_MODEL)
def test_every_metric_that_is_defined_is_recorded_and_no_other(
    name: str, loaded: LoadedModel, tmp_path: Path
) -> None:
    measurement = measures()[name]
    outcome: Outcome = measurement.measure(loaded, items_of(name, loaded, tmp_path)[0])
    definitions = {definition.name: definition for definition in measurement.metrics}
    for metric in outcome.metrics:
        # A task's own metrics share one definition, `tasks.*`, but for their direction.
        [pattern] = [name for name in definitions if fnmatchcase(metric.name, name)]
        assert metric.unit == definitions[pattern].unit
        assert "*" in pattern or metric.better == definitions[pattern].better
    for pattern in definitions.keys() - OF_OTHER_CELLS:
        assert any(fnmatchcase(metric.name, pattern) for metric in outcome.metrics), pattern
    for metric in outcome.metrics:
        assert (metric.value is None) == (metric.reason is not None), metric


@pytest.mark.parametrize("name", list(asked_for()))
def test_items_are_told_apart_and_hold_all_their_parameters(
    name: str, loaded: LoadedModel, tmp_path: Path
) -> None:
    items = items_of(name, loaded, tmp_path)
    expected = {
        "footprint": 1,
        "memory": 4,
        "latency": 2,
        "cold_start": 6,
        "kernels": 4,
        "serving": 2,
        "weight_error": 1,
        "quality": 2,
        "decoded": 2,
        "needle": 4,
        "generation": 1,
        "tasks": 2,
    }
    assert len(items) == expected.get(name, 1)
    assert len({(item.slug, item.repeat) for item in items}) == len(items)
    assert all(item.measurement == name for item in items)
    assert items == items_of(name, loaded, tmp_path)
    assert type(items[0]).model_validate_json(items[0].model_dump_json()) == items[0]


@pytest.mark.parametrize("name", list(measures()))
def test_options_round_trip(name: str) -> None:
    options = measures()[name].options
    defaults = options()
    assert options.model_validate(defaults.model_dump()) == defaults
    assert options.model_validate_json(defaults.model_dump_json()) == defaults
    with pytest.raises(ValueError, match="extra"):
        options.model_validate({"no_such_option": 1})


def test_only_what_reads_shapes_does_without_right_kernels() -> None:
    trusting = {name for name, measurement in measures().items() if measurement.trusts_kernels}
    assert trusting == set(measures()) - {"footprint"}
