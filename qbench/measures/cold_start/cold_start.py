"""Cold start: from the start of a process to its first token, phase by phase.

Each start is a fresh Python process (`qbench.running.alone.first_token`) that imports, loads the
cell's model as a worker does, and reads a fixed prompt. The phases follow one another without a
gap, so they add up to the whole. Before it the model's files, and they alone, are put out of the
operating system's page cache, or read into it, and how much of them is there is counted: Python and
its libraries stay as they are, of which the bytes that had to be read are told. qbench verifies the
layers after the token, which is no part of any phase.
"""

from __future__ import annotations

import itertools
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PositiveInt

from qbench.core.files import scratch_folder
from qbench.core.options import plain_options, typed_options
from qbench.core.spec import Frozen, Item
from qbench.measures.cold_start.definitions import METRICS, PHASES, TOTAL
from qbench.measures.cold_start.files import ReadFrom, model_files
from qbench.measures.grid import misfit
from qbench.measures.loaded import Outcome, make_metric
from qbench.measures.measurement import Measurement, repeated
from qbench.measures.options import GridRepeats, as_tuple, not_empty
from qbench.measures.other_programs import Look, OthersWatch, look_now
from qbench.measures.own_process import run_module
from qbench.precisions import is_quantized, options_of, precisions

if TYPE_CHECKING:
    from qbench.core.errors import Problem
    from qbench.core.marks import Mark
    from qbench.core.record import Metric, MetricDefinition
    from qbench.core.spec import Cell, ResolvedModel
    from qbench.measures.cold_start.files import Prepared
    from qbench.measures.loaded import UnbuiltCell
    from qbench.measures.other_programs import OtherPrograms
    from qbench.measures.own_process import Ended

_MODEL, _END = "configuration", "verify"
"""The phase that first reads the model's files, and the one that begins with the token."""
_NOT_COUNTED = "the system does not tell what a process reads from storage"


class ColdStartOptions(Frozen):
    """Options of `cold_start`."""

    read_from: Annotated[
        tuple[ReadFrom, ...],
        AfterValidator(not_empty),
        BeforeValidator(
            as_tuple,
            json_schema_input_type=ReadFrom | Annotated[list[ReadFrom], Field(min_length=1)],
        ),
    ] = ("disk", "page-cache")
    """Where the model's files are before a start: `disk`, `page-cache`, or both."""
    repeats: GridRepeats = 3
    """Starts of each kind, interleaved over the cells."""
    prompt_tokens: PositiveInt = 128
    """Tokens of the prompt."""
    seed: int = Field(default=0, ge=0)
    """Chooses the token ids."""


class ColdStartParams(Frozen):
    """What one start is."""

    read_from: ReadFrom
    prompt_tokens: int
    seed: int


@dataclass(frozen=True)
class ColdStart(Measurement):
    """How long the model takes from nothing."""

    name: str = "cold_start"
    summary: str = "process start to first token, by phase, from disk and from the page cache"
    options: type[Frozen] = ColdStartOptions
    metrics: tuple[MetricDefinition, ...] = METRICS
    by_default: bool = False
    of_machine: bool = True
    apart: bool = True

    def misfit(self, options: ColdStartOptions, model: ResolvedModel) -> Problem | None:
        """A prompt beyond the model's context."""
        return misfit((options.prompt_tokens,), (1,), model)

    def items(self, options: ColdStartOptions, model: ResolvedModel, base: Path) -> list[Item]:
        """One item a start."""
        tokens, seed = options.prompt_tokens, options.seed
        starts = (
            ColdStartParams(read_from=source, prompt_tokens=tokens, seed=seed)
            for source in options.read_from
        )
        told = ((f"{start.read_from}-p{tokens}", plain_options(start)) for start in starts)
        return repeated(self.name, told, options.repeats)

    def measure_apart(self, cell: UnbuiltCell, item: Item) -> Outcome:
        """Prepares the page cache and starts the process."""
        params = typed_options(ColdStartParams, item.params)
        base = cell.checkpoint.folder
        request = {
            "job": cell.job,
            "base": str(base),
            "loaded_from": str(base),
            "modules": modules_of(cell),
            **plain_options(params),
        }
        with scratch_folder("qbench-start") as folder:
            weights_in = [base]
            if cell.cell.tuning is not None and cell.cell.deploy is not None:
                made = _run(folder, "made_source", request, cell.device).found
                request["loaded_from"] = made["loaded_from"]
                weights_in = [Path(one) for one in made.values() if one is not None]
            prepared = model_files([base, *weights_in], weights_in).prepared(params.read_from)
            if prepared.why_not is not None:
                return Outcome(metrics=_without_times(prepared, prepared.why_not))
            watch = OthersWatch(1, look=_look_with_children)
            ended = _run(folder, "first_token", request, cell.device)
        return _outcome(cell.cell, prepared, ended, watch.found())


def _run(folder: Path, module: str, request: dict[str, Any], device: str) -> Ended:
    told = folder / f"{module}.json"
    told.write_text(json.dumps(request), encoding="utf-8")
    marks = folder / f"{module}.marks"
    gpu = device.startswith("cuda")
    return run_module(f"qbench.running.alone.{module}", told, marks, gpu=gpu)


def modules_of(cell: UnbuiltCell) -> list[str]:
    """What the packages that the cell needs may be called as modules, which need not be there."""
    held = cell.cell.precision
    packages = list(precisions()[held.name].needs_of(cell.resolved, options_of(held)))
    packages += ["peft"] if cell.cell.tuning is not None else []
    return [name.replace("-", mark) for name in packages for mark in ("_", ".")]


def _look_with_children(cpus: frozenset[int]) -> Look:
    """As `look_now`, with the time of processes that this one has started and that have ended."""
    look, times = look_now(cpus), os.times()
    return look._replace(own=look.own + times.children_user + times.children_system)


def _outcome(cell: Cell, prepared: Prepared, ended: Ended, others: OtherPrograms) -> Outcome:
    marks, found = ended.told.marks, ended.found
    read, before = _read_bytes(marks)
    spans = _spans_ns(ended.spawned_ns, marks)
    if not found["has_tokenizer"]:
        spans["configuration"] += spans.pop("tokenizer")
    details = {
        "token": found["token"],
        "loaded": found["loaded"],
        "how_weights_came": _how_weights_came(cell),
        "other_programs": others.details,
    }
    reason = prepared.why_unknown(read)
    if reason is not None:
        return Outcome(metrics=_without_times(prepared, reason), details=details)
    values: dict[str, float | None] = {
        TOTAL: sum(spans.values()) / 1e9,
        **{
            f"cold_start.{name}": None if name not in spans else spans[name] / 1e9
            for name in PHASES
        },
        "cold_start.weights.cpu": _cpu_s(marks),
        "cold_start.read_bytes": read,
        "cold_start.read_bytes.libraries": before,
    }
    reasons = {
        "cold_start.tokenizer": "the model has no tokenizer that transformers can load",
        "cold_start.cuda": "the model is not on a GPU",
        "cold_start.read_bytes": _NOT_COUNTED,
        "cold_start.read_bytes.libraries": _NOT_COUNTED,
    }
    return Outcome(
        metrics=(
            *(
                make_metric(METRICS, name, value, reason=reasons.get(name))
                for name, value in values.items()
            ),
            *_of_files(prepared),
        ),
        details=details,
        warnings=(
            *prepared.warnings,
            *found["warnings"],
            *others.warnings("the cold start"),
        ),
    )


def _spans_ns(spawned_ns: int, marks: tuple[Mark, ...]) -> dict[str, int]:
    """How long each phase took, one that was entered twice both times; together the whole."""
    spans = {"interpreter": marks[0].at_ns - spawned_ns}
    for begun, ended in itertools.pairwise(marks):
        spans[begun.phase] = spans.get(begun.phase, 0) + ended.at_ns - begun.at_ns
    return spans


def _cpu_s(marks: tuple[Mark, ...]) -> float:
    """CPU time in which the weights were read, converted and moved, of all threads."""
    at = {mark.phase: mark.cpu_ns for mark in marks}
    return (at["forward"] - at["weights"]) / 1e9


def _read_bytes(marks: tuple[Mark, ...]) -> tuple[int | None, int | None]:
    """What was read from storage for the model, and before it; None where it is not told."""
    at = {mark.phase: mark.read_bytes for mark in marks}  # of the last time that it was entered
    first, last = at[_MODEL], at[_END]
    return (None, None) if first is None or last is None else (last - first, first)


def _how_weights_came(cell: Cell) -> str:
    """What of loading a checkpoint in the cell's format would not have to do."""
    deploy = cell.deploy or ""
    way = ""
    if deploy.startswith(("attached", "adapter")):
        way = ", an adapter put on them"
    elif deploy == "merged-in-place":
        way = ", an adapter merged into them"
    held = precisions()[cell.precision.name]
    options = options_of(cell.precision)
    if held.takes_quantized:
        first = "read as they are stored"
    elif not is_quantized(cell.precision):
        first = "read, and converted where they are stored in another type"
    elif getattr(options, "calibrates", False):
        first = "calibrated and quantized as they are loaded"
    else:
        first = "quantized as they are loaded"
    return first + way


def _without_times(prepared: Prepared, reason: str) -> tuple[Metric, ...]:
    """The metrics of a start that is not what it would be called."""
    of_files = _of_files(prepared)
    known = {metric.name for metric in of_files}
    timed = (
        make_metric(METRICS, one.name, None, reason=reason)
        for one in METRICS
        if one.name not in known
    )
    return (*timed, *of_files)


def _of_files(prepared: Prepared) -> tuple[Metric, ...]:
    return (
        make_metric(METRICS, "cold_start.weight_bytes", prepared.files.weight_bytes),
        make_metric(
            METRICS,
            "cold_start.cached_share",
            prepared.share,
            reason="the system tells it of Linux' files alone, to who may write them",
        ),
    )


COLD_START = ColdStart()
