"""The card of an exported checkpoint: how it was made, how it is loaded, and what it measured."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qbench.core.number_types import TORCH_NAMES
from qbench.core.units import choose_scale
from qbench.precisions import is_quantized
from qbench.precisions.computing import compute_type
from qbench.report.exports.model_card import model_card, unmeasured_metadata

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qbench.core.record import Environment
    from qbench.core.spec import Cell, PrecisionRef, ResolvedModel
    from qbench.precisions.writing.form import WrittenFolder
    from qbench.report.exports.chosen import ExportedCell

_NOT_BY_VLLM = (
    "config.json is as vLLM reads it; qbench loaded the folder by transformers, and not by vLLM."
)
_WHOLE = """\
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = {folder}
model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
tokenizer = AutoTokenizer.from_pretrained(folder)"""
_ADAPTER = """\
from peft import PeftConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

folder = {folder}
{base}
model = PeftModel.from_pretrained(base, folder, autocast_adapter_dtype=False)
tokenizer = AutoTokenizer.from_pretrained(folder)"""
"""How each is loaded."""
_PLAIN_BASE = """\
made_for = PeftConfig.from_pretrained(folder)
base = AutoModelForCausalLM.from_pretrained(
    made_for.base_model_name_or_path, revision=made_for.revision, dtype="{dtype}"
)"""
_QUANTIZED_BASE = """\
base = AutoModelForCausalLM.from_pretrained(BASE, dtype="auto")"""
_DEPLOYED = {
    "merged": "merged into the original weights",
    "merged-requantized": "merged into the original weights, then quantized as the base was",
    "merged-dequantized": "merged into the base's dequantized weights",
    "merged-in-place": "merged into the quantized layers",
    "attached": "an adapter beside its base",
    "attached-fp16": "an adapter beside its base, computed in fp16",
    "adapter-int8": "an adapter beside its base, that was stored in 8-bit blocks: the numbers that"
    " its codes stand for",
    "adapter-nf4": "an adapter beside its base, that was stored in 4-bit blocks: the numbers that"
    " its codes stand for",
    "quantized": "the tuned weights, rounded to codes",
}
"""What was done with a tuned model, by its deployment."""


@dataclass(frozen=True)
class Making:
    """How a folder was made, as its card tells it."""

    suite: str
    """Its name."""
    source: str
    """What the command was given in its place."""
    cell: Cell
    model: ResolvedModel
    """What it was made of."""
    command: str
    """By which it was written."""
    folder: str
    """As the command was given it."""
    base_cell: str | None
    """Of an adapter, the cell of the suite that is its base as it was measured; None where there is
    none."""
    environment: Environment
    written: WrittenFolder
    training: Mapping[str, Any] | None
    """Parameters of the training: data, method, options, seed; None of a model that is not
    tuned."""
    steps: int | None
    """Optimizer steps that the record of the training tells."""


def checkpoint_card(making: Making, exported: ExportedCell | None) -> str:
    """The folder's README.md; `exported` is the cell with its records, None where none is there."""
    from huggingface_hub import ModelCard, ModelCardData

    made, library = _how_made(making), making.written.form.library
    if exported is not None:
        return str(model_card(exported, how_made=made, library_name=library).card)
    ref = making.model.ref
    base = ref.location if ref.kind == "hub" else None
    data = ModelCardData(**unmeasured_metadata(making.cell, base, library))
    text = (
        f"---\n{data.to_yaml()}\n---\n\n# {ref.name}, {making.cell.label}\n\n"
        f"## How it was made\n\n{made}\n## Measured by qbench\n\n"
        "No record of this cell was on the disk when the folder was written: nothing is said of"
        f" what it measures. `qbench run {making.source} --only {making.cell.slug}` takes them.\n"
    )
    return str(ModelCard(text))


def _how_made(making: Making) -> str:
    """Markdown: a list of what it was made of and by what, and how it is loaded."""
    cell, model, written = making.cell, making.model, making.written
    revision = f", revision `{model.revision}`" if model.revision else ""
    size = choose_scale([written.size_bytes], "bytes").with_unit(written.size_bytes)
    lines = [
        f"base model: `{model.ref.source}`{revision}, contents `{model.fingerprint[:16]}`",
        f"cell `{cell.label}` of the suite `{making.suite}`",
        f"precision: {_with_options(cell.precision)}",
        *_tuning(making),
        f"written as {written.form.name}: {written.form.told}; {size} of weights",
        _compared(written),
        f"made by qbench {making.environment.qbench} on {making.environment.device}",
        f"versions: {_versions(making.environment)}",
        f"command: `{making.command}`",
    ]
    listed = "\n".join(f"- {line}" for line in lines)
    folder = json.dumps(making.folder, ensure_ascii=False)
    if written.form.library == "transformers":
        code = _WHOLE.format(folder=folder)
        note = " ".join(
            [_NOT_BY_VLLM, *([written.form.elsewhere] if written.form.elsewhere else [])]
        )
    else:
        base = _QUANTIZED_BASE
        if not is_quantized(cell.precision):
            base = _PLAIN_BASE.format(dtype=TORCH_NAMES[compute_type(cell.precision)])
        code, note = _ADAPTER.format(folder=folder, base=base), _base_in(making)
    return f"{listed}\n\n```python\n{code}\n```\n\n{note}\n"


def _tuning(making: Making) -> list[str]:
    cell, training = making.cell, making.training
    if cell.tuning is None or training is None:
        return []
    data = training.get("data", {})
    steps = "" if making.steps is None else f", {making.steps} optimizer steps"
    own = training.get("options", {})
    contents = data.get("fingerprint") or data.get("revision") or "not known"
    trained_in, split = _with_options(cell.tuning.precision), _listed(data.get("options", {}))
    return [
        f"tuned by `{cell.tuning.method}` in {trained_in}, seed {cell.tuning.seed}{steps}",
        f"options of the training: {_listed(own)}",
        f"tuned on `{data.get('source')}`, contents `{contents}`: {split}",
        f"served as `{cell.deploy}`: {_DEPLOYED.get(str(cell.deploy), 'as its name says')}",
    ]


def _compared(written: WrittenFolder) -> str:
    logits = "loaded again it gives the same logits, bit for bit"
    if written.difference:
        off = f"{written.difference:.2g} of their norm: {written.form.inexact}"
        logits = f"loaded again its logits differ by {off}"
    if written.form.same_bytes:
        return logits
    return f"{logits}; transformers holds other bytes than were measured"


def _with_options(held: PrecisionRef) -> str:
    options = held.options_by_contents
    return f"`{held.label}`{f' ({_listed(options)})' if options else ''}"


def _listed(options: Mapping[str, Any]) -> str:
    given = {name: value for name, value in options.items() if value is not None}
    return ", ".join(f"{name} `{value}`" for name, value in given.items())


def _versions(environment: Environment) -> str:
    return ", ".join(f"{name} {one}" for name, one in environment.versions.items() if one)


def _base_in(making: Making) -> str:
    held = making.cell.precision
    computed = (
        "The adapter was measured in the type that its base computes in, which"
        " `autocast_adapter_dtype=False` asks PEFT for; without it PEFT computes it in fp32."
    )
    if not is_quantized(held):
        return computed
    made = ""
    if making.base_cell is not None:
        command = shlex.join(["qbench", "export", "checkpoint", making.source, making.base_cell])
        made = f"; `{command} --to BASE` writes it"
    return (
        f"`BASE` is the base model in `{held.label}` with the options above, on which the adapter"
        f" was measured{made}. {computed}"
    )
