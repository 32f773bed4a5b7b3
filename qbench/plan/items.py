"""Which items a cell is asked for: what the suite measures, and what follows from its tuning."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qbench.core.options import plain_options, typed_options
from qbench.core.packages import missing_packages
from qbench.core.spec import Item
from qbench.finetune import methods, training_options
from qbench.finetune.lora_extra import adapter_misfit, why_one_alone
from qbench.finetune.lora_options import LoraOptions
from qbench.finetune.targets import unknown_target
from qbench.measures.adapters import AdaptersParams
from qbench.measures.completion import CompletionParams
from qbench.measures.serving.commands import why_not_served
from qbench.measures.serving.servers import ON_SERVERS, SERVED_TASKS, SERVING, server_of
from qbench.measures.tasks.definitions import writes
from qbench.measures.tasks.index import known_tasks
from qbench.measures.tasks.options import TaskParams
from qbench.measures.training.training import TrainingParams
from qbench.precisions import is_quantized, options_of, precisions
from qbench.precisions.checkpoints import checkpoint_misfit
from qbench.precisions.kv_cache import kv_caches
from qbench.predict.bf16 import has_bf16
from qbench.predict.cache_bytes import cache_misfit
from qbench.predict.model_config import config_of
from qbench.predict.work import GridPoint, work_of
from qbench.sources.models.random_models import TOKENIZER_MODEL

if TYPE_CHECKING:
    from qbench.core.record import Environment
    from qbench.core.spec import Cell, PrecisionRef, ResolvedModel, TuningRef
    from qbench.plan.suite.suite import Suite
    from qbench.sources.data.tuning import ResolvedTuningData

MERGED = "merged"
"""What an item is compared with that is not compared with the suite's reference."""
_OF_UNTUNED = ("weight_error", "kernels", "sensitivity")
"""Measurements that say nothing of a tuned model: its weights are meant to differ, and its layers
multiply as those of the untuned one do."""
_OF_TRAINED = frozenset(
    {
        "weight_error",
        "quality",
        "decoded",
        "sensitivity",
        "needle",
        "chat",
        "tasks",
        SERVED_TASKS,
        "generation",
        "completion",
    }
)
"""Measurements of what a model has learned; of random weights they say nothing."""
_OF_FILES = frozenset({"cold_start"})
"""Measurements of how a model's files are read."""
_READ_CACHE = frozenset({"memory", "latency", "decoded", "needle", "generation", "tasks"})
"""Measurements in which tokens are decoded through the KV cache; of tasks those that generate, of
chat what is read so."""
_TOLD_OF_MERGED = ("quality", "chat")
"""Measurements that a tuned cell takes against its own tuning merged in 16 bits, too."""
_WITH_PRODUCTS = frozenset({"latency", "memory", "training"})
_COMPLETION_BATCH = 8
_ADAPTERS = 4


@dataclass(frozen=True)
class CellItems:
    """Makes the items of each cell of a suite."""

    suite: Suite
    measured: dict[str, list[Item]]
    """What `measure` asks for, by the model's name."""
    data: ResolvedTuningData | None
    """What is tuned on; None where nothing is."""

    def __call__(self, cell: Cell) -> list[Item]:
        """Every item of one cell, in the order they are taken."""
        measured = [item for item in self.measured[cell.model.name] if _is_for(item, cell)]
        if cell.kv_cache is not None:
            every = [*measured, *self._of_test_split()]
            return [item for item in every if _reads_cache(item)]
        if cell.tuning is None:
            return [*measured, *self._of_test_split()]
        if cell.is_training:
            return [self._training(cell.tuning)]
        kept = [item for item in measured if item.measurement not in _OF_UNTUNED]
        return [
            *kept,
            *self._against_merged(cell.tuning, kept),
            *self._of_test_split(),
            *_adapters(cell),
        ]

    def _training(self, tuning: TuningRef) -> Item:
        if self.data is None:
            raise ValueError("a training needs data")
        given: dict[str, Any] = {"packed": "apart"} if training_options(tuning).packing else {}
        params = TrainingParams(
            data=self.data,
            method=tuning.method,
            options=tuning.options,
            seed=tuning.seed,
            **given,
        )
        return Item(measurement="training", slug="training", params=plain_options(params))

    def _of_test_split(self) -> list[Item]:
        """The loss on the test split's completions, and what is generated for its prompts."""
        if self.data is None:
            return []
        params = CompletionParams(data=self.data, batch=_COMPLETION_BATCH)
        made = [Item(measurement="completion", slug="test", params=plain_options(params))]
        options: Any = self.suite.measure.get("generation")
        if options is not None:
            from qbench.measures.generation.generation import test_split_item

            made.append(test_split_item(options, self.data, self._scores(), self.suite.base))
        return made

    def _scores(self) -> tuple[str, ...] | None:
        """The scores that a recipe of the suite's own names; None where the recipe has none."""
        recipe = None if self.data is None else self.data.options.recipe
        return getattr(recipe, "scores", None)

    def _against_merged(self, tuning: TuningRef, measured: list[Item]) -> list[Item]:
        """The divergence from the same tuning merged in 16 bits: what serving it so costs."""
        finetune = self.suite.finetune
        if finetune is None or MERGED not in finetune.deployments(tuning):
            return []
        if len(finetune.deployments(tuning)) == 1:
            return []
        return [
            item.model_copy(
                update={
                    "slug": f"{item.slug}-vs-merged",
                    "params": {**item.params, "against": MERGED},
                }
            )
            for item in measured
            if item.measurement in _TOLD_OF_MERGED and item.against_reference
        ]


def _is_for(item: Item, cell: Cell) -> bool:
    """Whether the suite means an item for a cell: a server may be for some alone."""
    return item.measurement not in ON_SERVERS or server_of(item.params).serves(cell)


def _reads_cache(item: Item) -> bool:
    """Whether an item depends on the KV cache: of one that does not, the own cache's is enough."""
    if item.measurement == "tasks":
        task = typed_options(TaskParams, item.params).task
        folder = None if task.location is None else Path(task.location)
        return writes(task.name, known_tasks([task.name], folder))
    if item.measurement == "chat":
        return bool(item.params.get("decoded"))
    return item.measurement in _READ_CACHE


def _adapters(cell: Cell) -> list[Item]:
    """What several adapters on one base cost; once a tuning, where the adapter is attached."""
    if cell.deploy != "attached":
        return []
    return [
        Item(
            measurement="adapters",
            slug="several",
            params=plain_options(AdaptersParams(count=_ADAPTERS)),
        )
    ]


def why_not_taken(cell: Cell, item: Item) -> str | None:
    """Why one item of a cell that can run is not taken; None if it is."""
    of_random = _why_not_of_random(item) if cell.model.kind == "random" else None
    if of_random is not None:
        return of_random
    held = precisions()[cell.precision.name]
    if item.measurement == "weight_error" and held.takes_quantized:
        return (
            "the checkpoint holds codes alone, no weights to compare them with; measure the"
            " original model in this format"
        )
    if item.measurement == "weight_error" and is_quantized(cell.precision) and not held.dequantizes:
        return (
            f"{held.name} does not say which weights its codes stand for; upgrade the package that"
            " adds it, or leave the measurement out"
        )
    if item.measurement in ON_SERVERS:
        return why_not_served(server_of(item.params), cell)
    if item.measurement == "adapters" and cell.tuning is not None:
        options = training_options(cell.tuning)
        return why_one_alone(options) if isinstance(options, LoraOptions) else None
    return None


def _why_not_of_random(item: Item) -> str | None:
    """Why an item is not taken of a model whose weights are random; None if it is."""
    remedy = "give the model itself (a hub id or a folder) to measure it"
    reasons = {
        "the model's weights are random, and this tells what a model has learned": _OF_TRAINED,
        "the model's weights are random: they are made, not read from files": _OF_FILES,
        "the model's weights are random, and it has no tokenizer: what it makes is no text that a"
        " server could send": {SERVING},
    }
    why = next((why for why, names in reasons.items() if item.measurement in names), None)
    return None if why is None else f"{why}; {remedy}"


def why_beyond_context(model: ResolvedModel, item: Item) -> str | None:
    """Why an item's tokens are more than the model was made for; None if they are not."""
    work, context = work_of(item), model.context_tokens
    decoded = item.measurement == "decoded"
    if decoded or (item.measurement == "chat" and "prompt_tokens" in item.params):
        work = typed_options(GridPoint, item.params)
    if work is None or context is None or work.tokens + decoded <= context:
        return None
    words = f"a window of {work.tokens} tokens"
    if isinstance(work, GridPoint):
        words = f"a prompt of {work.prompt_tokens} tokens with {work.new_tokens} new ones"
        words += " and the one after them" if decoded else ""
    return f"{words} is longer than the context of {model.ref.name}, which is {context}"


def caveats(cell: Cell, item: Item) -> tuple[str, ...]:
    """What is not real in a record that is taken, beside what was measured; each a sentence."""
    if item.measurement in ON_SERVERS and server_of(item.params).holds_what_it_holds:
        said = f"that it is {cell.model.name} in {cell.label} is what the suite says"
        return (f"qbench knows nothing of what this server holds: {said}",)
    if cell.model.kind != "random":
        return ()
    words = []
    held = precisions()[cell.precision.name]
    of_products = held.random_weights_of(options_of(cell.precision))
    if item.measurement in _WITH_PRODUCTS and of_products is not None:
        words.append(of_products)
    if item.measurement == "training":
        words.append(
            "the weights are random: the losses mean nothing, only time and memory do; the token"
            f" ids are those of bundled:{TOKENIZER_MODEL}'s tokenizer, folded into the vocabulary,"
            " so the sequences' lengths are not the model's own"
        )
    return tuple(words)


def why_skipped(cell: Cell, model: ResolvedModel, environment: Environment) -> str | None:
    """Why a cell cannot run on this machine, or not at all; None if it can."""
    tuning = cell.tuning
    reason = checkpoint_misfit(cell, model)
    if reason is not None:
        return reason
    reason = _why_not_held(cell.precision, model, environment)
    if tuning is None:
        return reason or _why_no_cache(cell, model, environment)
    method, options = methods()[tuning.method], training_options(tuning)
    return (
        method.conflicts(tuning.precision, options)
        or _adapter_misfit(cell, tuning, model)
        or method.unavailable(options, environment)
        or _why_not_held(tuning.precision, model, environment)
        or reason
    )


def _why_not_held(
    precision: PrecisionRef, model: ResolvedModel, environment: Environment
) -> str | None:
    """Why a model cannot be held in a precision on this machine, or not at all; None if it can."""
    held, options = precisions()[precision.name], options_of(precision)
    kind, bf16 = environment.device_type, has_bf16(environment)
    return (
        held.unavailable(environment)
        or held.misplaced(options, kind, bf16=bf16)
        or held.incapable(options, environment)
        or held.misfit(options, model)
        or held.unavailable_for(model, options, environment)
    )


def _why_no_cache(cell: Cell, model: ResolvedModel, environment: Environment) -> str | None:
    """Why a model cannot decode with the cell's cache on this machine; None if it can."""
    if cell.kv_cache is None:
        return None
    kind = kv_caches()[cell.kv_cache]
    config, _ = config_of(model)
    misfit = None if config is None else cache_misfit(config, kind)
    return misfit or missing_packages(kind.needs, environment)


def _adapter_misfit(cell: Cell, tuning: TuningRef, model: ResolvedModel) -> str | None:
    """What of an adapter does not fit the model; None if all does, or there is none."""
    options = training_options(tuning)
    if not isinstance(options, LoraOptions):
        return None
    wrong = unknown_target(model.shape, options.target)
    if wrong is not None:
        return f"target {wrong}; or give default or all-linear"
    return adapter_misfit(options, tuning.precision, cell.deploy, model.shape, model.architecture)
