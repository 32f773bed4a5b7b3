"""How a rehearsal shortens the options of measurements and trainings.

Numbers are brought down to a few at most. The points of a grid stay apart: a list of three batch
sizes becomes three small ones.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any

from qbench.measures.generation.references import SCORES
from qbench.measures.options import CONTEXT
from qbench.measures.quality.windows import FIXED_WINDOW
from qbench.measures.serving.servers import SERVED_TASKS, TRANSFORMERS, ServerOptions
from qbench.plan.rehearsal_mixes import small_mix
from qbench.precisions import options_of
from qbench.precisions.integer.options import CALIBRATION_TEXT, IntegerOptions
from qbench.precisions.mixed.options import MixedOptions
from qbench.sources.bundled import PREFIX, bundled_models
from qbench.sources.models.headers import read_headers, weight_files

if TYPE_CHECKING:
    from qbench.core.spec import Frozen, PrecisionRef
    from qbench.finetune.options import TrainingOptions

CONTEXT_TOKENS = 512
"""The context of the bundled model."""

_MOST: dict[str, float] = {
    "batch": 4,
    "prompt_tokens": 16,
    "prefill_chunk": 4,
    "new_tokens": 4,
    "rows": 16,
    "repeats": 2,
    "min_iterations": 2,
    "min_seconds": 0.02,
    "window": 64,
    "limit": 4,
    "few_shot": 1,
    "count": 2,
    "output_tokens": 4,
    "concurrency": 4,
    "requests": 6,
    "seconds": 30,
    "needles": 1,
}
"""The most of what a measurement of any name may be told."""
_FILLED_MOST = 256
"""Tokens of a prompt behind a document: the bundled prompts have up to 205 by themselves."""
_SET = ("limit", "window")
"""Those that mean everything where a suite leaves them out."""
_TRAINING_MOST: dict[str, float] = {
    "steps": 3,  # the first two warm up, the last one is timed
    "batch": 2,
    "accumulate": 2,
    "max_tokens": 256,
    "validate_every": 1,
    "rank": 64,
}
_OF_THE_MODEL = (
    "layers_to_transform",
    "layers_pattern",
    "modules_to_save",
    "trainable_token_indices",
    "target_parameters",
    "rank_pattern",
    "alpha_pattern",
)
"""LoRA's further arguments that a rehearsal leaves out."""
_TRAINING_SET = ("steps", "max_tokens")
_CALIBRATION_MOST: dict[str, float] = {
    "calibration_windows": 4,
    "calibration_window": 64,
    "rounding_steps": 4,
}
_CALIBRATION_SET = ("calibration_windows",)
_CALIBRATED_ON = "calibration_text"
_LEAST_LENGTH = 192
"""Tokens of a prompt that has room for a needle and the question under the bundled tokenizer."""
_VALUE_TOKENS = 12
"""What any value takes of it."""
_SLOWEST_RATE = 4.0
"""Requests a second."""
_DATA: dict[str, dict[str, Any]] = {
    "quality": {"text": ("bundled:stdlib-excerpt",)},
    "decoded": {"text": ("bundled:stdlib-excerpt",)},
    "needle": {"text": ("bundled:stdlib-excerpt",)},
    "sensitivity": {"text": CALIBRATION_TEXT},
    "tasks": {
        "names": ("stdlib-choice", "stdlib-completion"),
        "include": None,
        "cluster": None,
        "metadata": {},
        # The bundled model has no chat template.
        "thinking": None,
        "think_end_token": None,
        "fewshot_as_multiturn": None,
    },
    "served_tasks": {
        "names": ("stdlib-completion",),
        "include": None,
        "cluster": None,
        "metadata": {},
        "thinking": None,
        "think_end_token": None,
        "fewshot_as_multiturn": None,
        "endpoint": "completions",
        "context": None,
    },
    "generation": {"prompts": "bundled:stdlib-prompts"},
    "chat": {"prompts": "bundled:stdlib-chat"},
}
"""What ships with qbench, for what a measurement reads."""


def shorten_measure(name: str, options: Frozen) -> tuple[Frozen, list[str]]:
    """The options of a measurement in a rehearsal, and what is different in words."""
    given = options.model_dump()
    made = _shortened(given, _MOST, _SET)
    for key, value in _DATA.get(name, {}).items():
        made[key] = value
    if name in _SHORTER:
        made |= _SHORTER[name](given, made)
    if made.get("chat_template") not in (None, "auto"):
        made["chat_template"] = False
    words = _in_words(name, *map(_with_servers_named, (given, made)))
    return type(options).model_validate(made), words


def _few_windows(given: dict[str, Any], _: dict[str, Any]) -> dict[str, Any]:
    """All windows, as the bundled excerpt is short enough, of a protocol that fits the model."""
    fixed = FIXED_WINDOW.get(given["protocol"])
    changed: dict[str, Any] = {"limit": given["limit"]}
    if fixed is not None:
        changed["window"] = None
        if fixed > CONTEXT_TOKENS:
            changed |= {"protocol": "default", "window": _MOST["window"]}
    return changed


def _own_scores(given: dict[str, Any], _: dict[str, Any]) -> dict[str, Any]:
    """Scores that need no script."""
    return {"scores": tuple(score for score in given["scores"] if score in SCORES) or SCORES}


def _small_tasks(given: dict[str, Any], made: dict[str, Any]) -> dict[str, Any]:
    """As many bundled tasks; where answers are generated in a way of its own, the one that does.

    Servers are qbench's own.
    """
    generation, repeats = dict(given["gen_kwargs"]), made["repeats"]
    servers = [ServerOptions.model_validate(one) for one in given.get("servers", ())]
    own = {"servers": tuple(map(_own_server, servers))} if servers else {}
    if not generation and repeats == 1:
        return {"names": made["names"][: max(1, min(2, len(given["names"])))], **own}
    if "max_gen_toks" in generation:
        generation["max_gen_toks"] = _MOST["new_tokens"]
    if repeats > 1 or generation.get("temperature"):
        generation = {"temperature": 1.0, **generation, "do_sample": True}
    return {"names": ("stdlib-completion",), "gen_kwargs": generation, **own}


def _short_documents(given: dict[str, Any], _: dict[str, Any]) -> dict[str, Any]:
    """As many lengths of prompts behind a document, which is the bundled one."""
    if given["prompt_tokens"] is None:
        return {}
    lengths = _small_grid(given["prompt_tokens"], _FILLED_MOST)
    return {"prompt_tokens": lengths, "context_text": None}


def _few_needles(given: dict[str, Any], _: dict[str, Any]) -> dict[str, Any]:
    """As many lengths, each with room for the question, and the first and the last depth."""
    # The whole of a value must be written.
    made: dict[str, Any] = {"new_tokens": _VALUE_TOKENS}
    depths = given["depths"]
    made["depths"] = tuple(dict.fromkeys((min(depths), max(depths))))
    if given["lengths"] is None:
        return made | {"lengths": (CONTEXT_TOKENS // 2,)}
    step = (CONTEXT_TOKENS - _LEAST_LENGTH) // len(given["lengths"])
    ordered = sorted(set(given["lengths"]), key=_by_length)
    places = {length: _LEAST_LENGTH + step * at for at, length in enumerate(ordered)}
    return made | {"lengths": tuple(places[length] for length in given["lengths"])}


def _by_length(length: Any) -> float:
    """A model's own context is longer than any number."""
    return inf if length == CONTEXT else length


def _small_load(given: dict[str, Any], _: dict[str, Any]) -> dict[str, Any]:
    """Of a load: few requests, and qbench's own server in place of engines and addresses."""
    servers = [ServerOptions.model_validate(one) for one in given["servers"]]
    own = all(server.engine is not None for server in servers)
    return {
        "requests": _MOST["requests"],
        "warmup": min(given["warmup"], 1),
        "rate": None if given["rate"] is None else _fast(given["rate"]),
        "extra_body": given["extra_body"] if own else None,
        "servers": tuple(map(_own_server, servers)),
    }


def _own_server(server: ServerOptions) -> dict[str, Any]:
    if server.engine is not None:
        return server.model_dump()
    cells = {"cells": server.cells} if server.cells else {}
    return {"engine": TRANSFORMERS, "name": server.label, **cells}


def _with_servers_named(options: dict[str, Any]) -> dict[str, Any]:
    """The options with what each server is, for words."""
    if "servers" not in options:
        return options
    kinds = ("engine", "command", "address")
    named = [next(one[kind] for kind in kinds if kind in one) for one in options["servers"]]
    return options | {"servers": named}


def _fast(rates: tuple[float, ...]) -> tuple[float, ...]:
    """As many rates, in the same order, with which few requests have soon come."""
    places = sorted(set(rates))
    return tuple(_SLOWEST_RATE + places.index(rate) for rate in rates)


_SHORTER = {
    "quality": _few_windows,
    "needle": _few_needles,
    "chat": _short_documents,
    "serving": _small_load,
    "tasks": _small_tasks,
    SERVED_TASKS: _small_tasks,
    "generation": _own_scores,
}
"""What else is other in a measurement: from the options as given, and as they are so far."""


def shorten_training(options: TrainingOptions) -> tuple[TrainingOptions, list[str]]:
    """All options of a method in a rehearsal, and what is different in words."""
    given = options.model_dump(mode="json")
    made = _shortened(given, _TRAINING_MOST, _TRAINING_SET)
    target = made.get("target")
    if isinstance(target, list | tuple):
        made["target"] = [name for name in target if name in _layer_names()] or "all-linear"
    if made.get("extra"):
        # They count and name the layers and the tokens of the real model.
        made["extra"] = {key: one for key, one in made["extra"].items() if key not in _OF_THE_MODEL}
    whole = options.model_validate(made)
    return whole, _in_words("trainings", given, whole.model_dump(mode="json"))


def shorten_precision(precision: PrecisionRef) -> tuple[PrecisionRef, list[str]]:
    """A precision as a rehearsal has it, and what is different in words.

    One that calibrates does so on few windows of bundled text. A mix has its formats on layers that
    the stand-in has, or a budget that it can keep. Any other is as it is.
    """
    options = options_of(precision)
    if isinstance(options, MixedOptions):
        return small_mix(precision, options)
    if not (isinstance(options, IntegerOptions) and options.calibrates):
        return precision, []
    given = precision.options
    if options.weights == "autoround":
        given = given | {"rounding_steps": options.rounding_steps}
    made = _shortened(given, _CALIBRATION_MOST, _CALIBRATION_SET)
    notes = _in_words(f"{precision.label}", given, made)
    if not str(given[_CALIBRATED_ON]).startswith(PREFIX):
        made[_CALIBRATED_ON] = CALIBRATION_TEXT
        notes.append(f"{precision.label}: {CALIBRATION_TEXT} replaces {given[_CALIBRATED_ON]}")
    return precision.model_copy(update={"options": made}), notes


def _shortened(
    given: dict[str, Any], most: dict[str, float], wanted: tuple[str, ...]
) -> dict[str, Any]:
    made = dict(given)
    for key, limit in most.items():
        value = given.get(key)
        if isinstance(value, list | tuple):
            made[key] = _small_grid(value, limit)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            made[key] = min(value, limit)
        elif value is None and key in wanted and key in given:
            made[key] = limit
    return made


def _small_grid(values: list[Any] | tuple[Any, ...], most: float) -> tuple[Any, ...]:
    """As many points, in the same order, none above `most` where that leaves them apart."""
    ordered = sorted(set(values), key=_by_length)
    if ordered[-1] != CONTEXT and ordered[-1] <= most:
        return tuple(values)
    highest = max(int(most), len(ordered))
    small = {
        value: _smaller(value, highest * (rank + 1) // len(ordered))
        for rank, value in enumerate(ordered)
    }
    return tuple(small[value] for value in values)


def _smaller(value: Any, most: int) -> int:
    return most if value == CONTEXT else min(value, most)


def _in_words(place: str, given: dict[str, Any], made: dict[str, Any]) -> list[str]:
    changed = [
        f"{key} {_shown(made[key])} for {_shown(value)}"
        for key, value in given.items()
        if key in made and _plain(made[key]) != _plain(value)
    ]
    return [f"{place}: {', '.join(changed)}"] if changed else []


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _shown(value: Any) -> str:
    if value is None:
        return "all that is the default"
    if isinstance(value, list | tuple):
        return "+".join(map(str, value))
    return str(value)


def _layer_names() -> frozenset[str]:
    """The last parts of the names of the bundled model's weights: `q_proj` and so on."""
    folder = bundled_models()["tiny-mistral"]
    names = read_headers(weight_files(folder))
    return frozenset(name.removesuffix(".weight").rpartition(".")[2] for name in names)
