"""A process that builds a cell's model, writes it as a checkpoint, and compares what is loaded.

`python -m qbench.running.alone.write_checkpoint PARENT_PID REQUEST MARKS`: the request is a JSON
file with the job, the form and an empty folder to write to, the marks go into a file as
`qbench.core.marks` has it.
"""

from __future__ import annotations

import gc
import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from qbench.core.checkpoint import Checkpoint
    from qbench.core.marks import Marks
    from qbench.measures.loaded import LoadedModel
    from qbench.plan.job import Job

PROBE_TOKENS = 64


def main() -> None:
    """Writes the checkpoint; a failure is told with its reason."""
    from qbench.core.marks import Marks
    from qbench.core.orphans import die_with_parent

    die_with_parent(int(sys.argv[1]))
    marks = Marks(sys.argv[3])
    try:
        marks.tell(_write(json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")), marks))
    except Exception as error:  # noqa: BLE001 - whatever it is becomes a message
        from qbench.running.worker import classify

        marks.fail(*classify(error))


def _write(request: dict[str, Any], marks: Marks) -> dict[str, Any]:
    """How many layers are held in what, and how far the logits are off."""
    from qbench.running.executors.preload import prepare_process

    prepare_process()
    marks("import")
    from qbench.finetune.serve.written import ADAPTER_FORM
    from qbench.plan.job import Job
    from qbench.precisions.writing.choosing import form_of
    from qbench.running.alone.build import built
    from qbench.running.mixes import settled
    from qbench.sources.models.beside_weights import copy_beside

    job, folder = settled(Job.model_validate(request["job"])), Path(request["folder"])
    loaded = built(job, marks)
    probe = _probe(loaded.model)
    expected = _logits(loaded.model, probe)
    marks("write")
    base = loaded.checkpoint
    if request["form"] is None:
        form, again = ADAPTER_FORM, _on_base(job, base, folder)
        layers = _write_adapter(job, base, folder)
    else:
        form, again = form_of(job.cell.precision, request["form"]), _by_transformers(base, folder)
        layers = _held_in(loaded)
        form.write(loaded.model, folder)
    copy_beside(base.folder, folder, whole=request["form"] is not None)
    del loaded  # a large model fits once
    gc.collect()
    marks("load again")
    found = _logits(again(), probe)
    return {"layers": layers, "difference": _difference(found, expected, form.tolerance)}


def _by_transformers(base: Checkpoint, folder: Path) -> Callable[[], Any]:
    """How the folder of a whole model is loaded: by what its config.json says alone."""
    from qbench.precisions import precisions
    from qbench.precisions.loading import load_pretrained

    checkpoint = replace(base, folder=folder)

    def load() -> Any:
        if "quantization_config" not in json.loads((folder / "config.json").read_text()):
            return load_pretrained(checkpoint, dtype="auto")
        as_stored = next(one for one in precisions().values() if one.takes_quantized)
        return as_stored.load(checkpoint, as_stored.options())

    return load


def _on_base(job: Job, base: Checkpoint, folder: Path) -> Callable[[], Any]:
    from qbench.finetune.serve.written import load_written
    from qbench.running.loading import served_model

    return lambda: load_written(served_model(job, base), base, folder)


def _write_adapter(job: Job, base: Checkpoint, folder: Path) -> dict[str, int]:
    from qbench.finetune.serve.written import write_adapter
    from qbench.running.loading import served_model

    held = job.cell.precision.label
    return {f"{held}, with an adapter": write_adapter(served_model(job, base), job.model, folder)}


def _held_in(loaded: LoadedModel) -> dict[str, int]:
    """Linear layers by what they are held in."""
    found, label = loaded.verification.details, loaded.cell.precision.label
    if "held_in" in found:
        return dict(Counter(found["held_in"].values()))
    coded = found["quantized_modules"]
    plain = found["linear_modules"] - coded
    counts = {label: coded, found["dtype"]: plain} if coded else {label: plain}
    return {held: count for held, count in counts.items() if count}


def _probe(model: Any) -> torch.Tensor:
    """Token ids all over the vocabulary, (1, tokens)."""
    import torch

    rows = model.config.get_text_config().vocab_size
    return torch.linspace(0, rows - 1, PROBE_TOKENS).round().long()[None].to(model.device)


def _logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """(1, tokens, vocabulary) on the CPU, in fp32."""
    import torch

    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return found.float().cpu()


def _difference(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> float:
    """How far logits are off, relative by norm; raises `UsageError` beyond the tolerance."""
    import torch

    from qbench.core.errors import UsageError

    if torch.equal(found, expected):
        return 0.0
    far = float((found - expected).norm() / expected.norm())
    if far <= tolerance:
        return far
    allowed = "none is" if tolerance == 0 else f"{tolerance:g} is"
    raise UsageError(
        "what is loaded from the checkpoint gives other logits than what was measured, by"
        f" {far:.2g} of their norm where {allowed} allowed: the library does not hold these layers"
        " as they were measured, so it is not kept; export another cell, or another --form"
    )


if __name__ == "__main__":
    main()
