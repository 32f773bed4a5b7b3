"""A rehearsal: every cell and measurement of a suite, on the bundled model and data, in minutes.

It is a suite like any other, made from the real one: the same precisions, trainings, deployments
and measurements go through the same code. What is large is replaced by what ships with qbench,
and what takes long is shortened; the notes say all of it, and go into every record.

    suite → what of it lies on this machine is looked for → replacements → shortened → suite
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qbench.core.errors import ModelError, Problem, SuiteError, TextError
from qbench.core.spec import ModelRef, PrecisionRef
from qbench.core.untrusted import read_bounded
from qbench.finetune import training_options
from qbench.measures import measures
from qbench.plan.rehearsal_options import (
    shorten_measure,
    shorten_precision,
    shorten_training,
)
from qbench.precisions import precisions
from qbench.sources.bundled import BUNDLED_FOLDER, PREFIX
from qbench.sources.data.recipes import Templates
from qbench.sources.data.tuning import TuningDataOptions, resolve_tuning_data
from qbench.sources.models.config import LARGEST_BYTES, parse_config
from qbench.sources.models.known_configs import HUB_IDS, known_configs
from qbench.sources.models.resolve import resolve_model, resolve_models

if TYPE_CHECKING:
    from qbench.plan.suite.finetune import FineTuning
    from qbench.plan.suite.selectors import Selector
    from qbench.plan.suite.suite import Suite

SUFFIX = "-rehearsal"
"""Ends the names of a rehearsal's models, and so of its cells, wherever they are shown."""
STAND_IN = "bundled:tiny-mistral"

_DATA = "bundled:stdlib-instruct"
_EXAMPLES = {"train": 16, "validation": 8, "test": 8}
_GPT2 = BUNDLED_FOLDER / "shapes" / "tiny-gpt2"
_NOT_SHOWN = (
    "It does not show whether the real models fit, how large, fast or good they are, whether they"
    " and their data can be fetched, or what their own architecture, tokenizer, context and chat"
    " template make of it; on a CPU not the kernels of a GPU either, and paged optimizers do not"
    " page."
)


def rehearse(suite: Suite) -> Suite:
    """The suite's rehearsal; its `rehearsal` says what replaces what and what is shortened.

    Raises `SuiteError` with all that is wrong with what the suite names on this machine: folders,
    files, tasks. Hubs are not asked for anything.
    """
    models = tuple(_stand_in(model) for model in suite.models)
    problems = _local_problems(suite, models[0])
    if problems:
        raise SuiteError(problems)
    notes = _model_notes(suite.models, models)
    notes += [
        f"{other}, quantized on loading, replaces checkpoints as stored"
        for one in suite.precisions
        if (other := precisions()[one.name].stand_in) is not None
    ]
    for one in suite.precisions:
        notes += shorten_precision(one)[1]
    measure = {}
    for name, options in suite.measure.items():
        measure[name], changed = shorten_measure(name, options)
        notes += changed
    finetune = suite.finetune
    if finetune is not None:
        finetune, changed = _shorten(finetune)
        notes += changed
    return suite.model_copy(
        update={
            "models": models,
            "precisions": tuple(map(_loaded_in, suite.precisions)),
            "measure": measure,
            "finetune": finetune,
            "include": _renamed(suite.include),
            "exclude": _renamed(suite.exclude),
            # A margin says nothing of a replacement.
            "gate": (),
            "rehearsal": (*dict.fromkeys(notes), _NOT_SHOWN),
        }
    )


def _stand_in(model: ModelRef) -> ModelRef:
    """The bundled model; for random weights, random weights of a small shape."""
    name = model.name + SUFFIX
    if model.kind != "random":
        location = STAND_IN.removeprefix(PREFIX)
        return ModelRef(name=name, source=STAND_IN, kind="bundled", location=location)
    if _architecture(model) == "gpt2":
        return ModelRef(
            name=name, source=f"random:{_GPT2.name}", kind="random", location=str(_GPT2)
        )
    folder = BUNDLED_FOLDER / STAND_IN.removeprefix(PREFIX)
    return ModelRef(name=name, source=f"random:{STAND_IN}", kind="random", location=str(folder))


def _loaded_in(precision: PrecisionRef) -> PrecisionRef:
    """The precision, calibrated on little; another in place of a checkpoint that is quantized."""
    other = precisions()[precision.name].stand_in
    if other is None:
        return shorten_precision(precision)[0]
    options = precisions()[other].options().model_dump(mode="json")
    return PrecisionRef(label=precision.label, name=other, options=options)


def _architecture(model: ModelRef) -> str | None:
    """The `model_type` of a model, as far as it is known without a hub."""
    folder = known_configs().get(HUB_IDS.get(model.location, model.location))
    path = (folder or Path(model.location)) / "config.json"
    try:
        found = parse_config(read_bounded(path, LARGEST_BYTES), str(path)).get("model_type")
    except (OSError, ModelError):
        return None
    return str(found)


def _model_notes(real: tuple[ModelRef, ...], models: tuple[ModelRef, ...]) -> list[str]:
    notes = [
        f"{stand_in.source} replaces {model.source}"
        for model, stand_in in zip(real, models, strict=True)
        if stand_in.source != model.source
    ]
    if any(one.device_map for one in real):
        notes.append("the replacement lies on one device: device_map is not rehearsed")
    if any(_architecture(one) == "gpt2" and one.kind != "random" for one in real):
        notes.append(
            "the bundled model has linear layers: the Conv1D layers of GPT-2's shape are rehearsed"
            " by a suite of `random:` weights of that shape alone"
        )
    return notes


def _shorten(finetune: FineTuning) -> tuple[FineTuning, list[str]]:
    """The same arms on the bundled examples, in a few steps each."""
    data, notes = _data_stand_in(finetune.data)
    tunings = []
    for tuning in finetune.tunings:
        options, changed = shorten_training(training_options(tuning))
        notes += changed
        held = _loaded_in(tuning.precision)
        tunings.append(
            tuning.model_copy(
                update={"options": options.model_dump(mode="json"), "precision": held}
            )
        )
    update = {
        "data": data,
        "tunings": tuple(tunings),
        "quantize": tuple(map(_loaded_in, finetune.quantize)),
    }
    return finetune.model_copy(update=update), notes


def _data_stand_in(data: TuningDataOptions) -> tuple[TuningDataOptions, list[str]]:
    sizes = {name: min(most, getattr(data, name)) for name, most in _EXAMPLES.items()}
    notes = [f"examples to tune on: {', '.join(f'{n} {size}' for n, size in sizes.items())}"]
    recipe: Any = data.recipe
    if data.dataset != _DATA:
        notes.append(f"{_DATA} replaces {data.dataset}")
        recipe, changed = _recipe_stand_in(data.recipe)
        notes += changed
    made = TuningDataOptions(dataset=_DATA, recipe=recipe, seed=data.seed, **sizes)
    return made, notes


def _recipe_stand_in(recipe: Any) -> tuple[Any, list[str]]:
    """A recipe that the bundled columns (instruction, input, output) suffice for."""
    if recipe in {"instruction", "reverse-instruction"}:
        return recipe, []
    if recipe == "text":
        note = "the recipe text learns the bundled examples' output"
        return Templates(prompt="", completion="{{ output }}"), [note]
    if isinstance(recipe, Templates):
        note = (
            "the recipe's own templates are not filled in, as the bundled data has other columns:"
            " instruction and output take their place; its scores are kept"
        )
        own = Templates(
            prompt="{{ instruction }}\n\n", completion="{{ output }}", scores=recipe.scores
        )
        return own, [note]
    return "instruction", [f"the recipe instruction replaces {recipe}, which needs a chat template"]


def _renamed(selectors: tuple[Selector, ...]) -> tuple[Selector, ...]:
    """Selectors that match the replacements of what they matched: names with the same ending do."""
    return tuple(
        one.model_copy(update={"model": one.model + SUFFIX}) if one.model != "*" else one
        for one in selectors
    )


def _local_problems(suite: Suite, stand_in: ModelRef) -> list[Problem]:
    """What is wrong with the suite's own folders, files and tasks, before they are replaced."""
    local = {
        index: model
        for index, model in enumerate(suite.models)
        if model.kind in {"folder", "random"} and Path(model.location).is_absolute()
    }
    problems = [
        suite.problem(f"models[{index}]", str(found))
        for index, found in zip(local, resolve_models(list(local.values())), strict=True)
        if isinstance(found, ModelError)
    ]
    resolved = resolve_model(stand_in)
    for name, options in suite.measure.items():
        try:
            measures()[name].items(options, resolved, suite.base)
        except TextError as error:
            problems.append(suite.problem(f"measure.{name}", str(error)))
    if suite.finetune is not None:
        try:
            resolve_tuning_data(suite.finetune.data, base=suite.base)
        except TextError as error:
            problems.append(suite.problem("finetune.data", str(error)))
    return problems
