"""A suite without a file: a model by its name, and what is asked for beside it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qbench.core.errors import ModelError, UsageError
from qbench.core.number_types import BF16, FP16, FP32
from qbench.plan.suite.model_names import names_model, names_of_results
from qbench.plan.suite.settings import NO_KEYS, Setting, with_origin
from qbench.plan.suite.written import OF_FILES, Written, read_file
from qbench.plan.suite.yaml_lines import read_yaml, write_yaml
from qbench.precisions import FIRST_LOOK, precisions, with_defaults
from qbench.precisions.computing import computed_in
from qbench.precisions.names import own_name
from qbench.sources.bundled import PREFIX, bundled_models
from qbench.sources.models.resolve import parse_model, resolve_model

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from qbench.plan.suite.node import Node

MEASURED = ("footprint", "memory", "latency", "quality")
"""What is found out about a model unless it is said."""
SMALL_WEIGHTS = 10**9
"""Weights up to which fp32 is the reference: 4 GB. It is bf16 of larger models."""
_QUICK: dict[str, dict[str, Any]] = {
    "memory": {"prompt_tokens": 64, "new_tokens": 8},
    "latency": {
        "prompt_tokens": 64,
        "new_tokens": 8,
        "repeats": 2,
        "min_iterations": 3,
        "min_seconds": 0.2,
    },
    "quality": {"window": 128, "limit": 24},
    "decoded": {"limit": 24, "prompt_tokens": 64, "new_tokens": 16},
    "needle": {"needles": 2},
    "chat": {"count": 20, "new_tokens": 16},
    "tasks": {"limit": 20},
    "generation": {"count": 2, "new_tokens": 16},
}
"""Options that take seconds where the defaults take minutes."""
_EXPECTED = (
    f"{OF_FILES}, or a model: bundled:<name>, random:<name>, a folder with config.json, or a hub id"
    " such as owner/name"
)


@dataclass(frozen=True)
class Wishes:
    """What is asked for of a model, in place of a suite; each empty where it is not said."""

    precisions: Sequence[str] = ()
    measure: Sequence[str] = ()
    tasks: Sequence[str] = ()
    kv_cache: Sequence[str] = ()
    reference: str | None = None
    name: str | None = None
    quick: bool = False

    @property
    def given(self) -> list[str]:
        """The options that are given."""
        return [f"--{name.replace('_', '-')}" for name, value in vars(self).items() if value]


def read_source(
    argument: str,
    wishes: Wishes,
    settings: Sequence[Setting] = (),
    *,
    has_bf16: Callable[[], bool] = lambda: True,
) -> Written:
    """What a suite's file says, or what a suite of the model of that name would.

    `has_bf16` tells whether the device multiplies bf16; it is asked only where no precision is
    named. Raises `SuiteError` where there is neither, and `UsageError` for wishes beside a file.
    """
    if names_model(argument):
        return _of_model(argument, wishes, has_bf16).set(settings)
    found = read_file(Path(argument), _EXPECTED, _models_beside(argument))
    if wishes.given:
        raise UsageError(
            f"{wishes.given[0]}: found a suite's file, {argument}, which says so itself; expected a"
            " model; write --set precisions=[…] or another key of the suite, or pick cells with"
            " --only"
        )
    return found.set(settings)


def _models_beside(argument: str) -> list[str]:
    """What may have been meant by a name that is none: bundled models, and folders of models."""
    above = Path(argument).parent
    try:
        folders = [str(one.parent) for one in above.glob("*/config.json")]
    except (OSError, ValueError):
        folders = []
    return [*(PREFIX + name for name in bundled_models()), *folders]


def _of_model(argument: str, wishes: Wishes, has_bf16: Callable[[], bool]) -> Written:
    """The suite, whose values come from the argument, and the wishes in their places."""
    base = Path.cwd()
    held: list[Any] = [own_name(name) or name for name in wishes.precisions]
    reference = None
    if not held:
        held, reference = _first_look(argument, base, has_bf16)
    further = [*(["decoded"] if wishes.kv_cache else []), *(["tasks"] if wishes.tasks else [])]
    measured = wishes.measure or (*MEASURED, *further)
    quick = _QUICK if wishes.quick else {}
    measure = {name: quick.get(name, {}) for name in measured}
    stated: dict[str, Any] = {
        "name": names_of_results(argument)[wishes.quick],
        "models": [argument],
        **({"reference": reference} if reference else {}),
        "measure": measure,
    }
    settings = [
        *_settings(("name",), "--name", wishes.name),
        *_settings(("reference",), "--reference", wishes.reference),
    ]
    if wishes.reference:
        reference = own_name(wishes.reference) or wishes.reference
    of_held = f"--precisions {','.join(wishes.precisions)}" if wishes.precisions else argument
    entries = [_node(one, of_held) for one in held]
    if reference and reference not in held:
        of_reference = f"--reference {reference}" if wishes.reference else argument
        entries.insert(0, _node(reference, of_reference))
    settings.append(Setting(("precisions",), replace(NO_KEYS, value=(*entries,), origin=of_held)))
    if wishes.measure:
        of_names = f"--measure {','.join(wishes.measure)}"
        settings.append(Setting(("measure",), _node(measure, of_names)))
    settings += _settings(("kv_cache",), "--kv-cache", list(wishes.kv_cache))
    settings += _settings(("measure", "tasks", "names"), "--tasks", list(wishes.tasks))
    return Written(argument, base, _node(stated, argument)).set(settings)


def _settings(steps: tuple[str, ...], option: str, value: str | list[str] | None) -> list[Setting]:
    if not value:
        return []
    shown = value if isinstance(value, str) else ",".join(value)
    return [Setting(steps, _node(value, f"{option} {shown}"))]


def _node(value: object, origin: str) -> Node:
    top, _ = read_yaml(write_yaml(value), origin)
    return with_origin(top or NO_KEYS, origin)


def _first_look(
    argument: str, base: Path, has_bf16: Callable[[], bool]
) -> tuple[list[str | dict[str, Any]], str]:
    """Precisions for a first look, and the reference; of a quantized checkpoint its own alone."""
    small = False
    try:
        model = resolve_model(parse_model(argument, base=base))
    except ModelError:
        pass  # which is told where the suite's models are looked for
    else:
        if model.quantization is not None and not model.stale_quantization:
            stored = [name for name, one in precisions().items() if one.takes_quantized]
            return [*stored], stored[0]
        small = model.shape is not None and model.shape.weights <= SMALL_WEIGHTS
    half = BF16 if has_bf16() else FP16
    return [_entry(name, half) for name in FIRST_LOOK], FP32 if small else half


def _entry(name: str, half: str) -> str | dict[str, Any]:
    """A precision as a suite names it, with products in the 16 bits that the device has."""
    chosen = with_defaults(name)
    if half == FP16:
        chosen = computed_in(chosen, FP16) or chosen
    usual = with_defaults(chosen.name).options
    changed = {key: one for key, one in chosen.options.items() if one != usual[key]}
    return {chosen.name: changed} if changed else chosen.name
