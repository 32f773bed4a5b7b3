"""A process that builds a mix, writes it as a checkpoint, and compares what is loaded from that.

`python -m qbench.running.alone.write_mix PARENT_PID REQUEST MARKS`: the request is a JSON file with
the job and an empty folder to write to, the marks go into a file as `qbench.core.marks` has it.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from qbench.core.marks import Marks
    from qbench.plan.job import Job

PROBE_TOKENS = 64


def main() -> None:
    """Writes the checkpoint; a failure is told with its reason."""
    from qbench.core.marks import Marks
    from qbench.core.orphans import die_with_parent

    die_with_parent(int(sys.argv[1]))
    marks = Marks(sys.argv[3])
    try:
        request = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
        marks.tell(_write(request["job"], Path(request["folder"]), marks))
    except Exception as error:  # noqa: BLE001 - whatever it is becomes a message
        from qbench.running.worker import classify

        marks.fail(*classify(error))


def _write(plain_job: dict[str, Any], folder: Path, marks: Marks) -> dict[str, Any]:
    """What was written: the library's name, and how many layers are held in what."""
    from qbench.running.executors.preload import prepare_process

    prepare_process()
    marks("import")
    from qbench.plan.job import Job
    from qbench.precisions import options_of
    from qbench.precisions.mixed.checkpoint import write_checkpoint
    from qbench.running.alone.build import built
    from qbench.running.mixes import settled
    from qbench.sources.models.tokenizer_files import tokenizer_files

    job = settled(Job.model_validate(plain_job))
    loaded = built(job, marks)
    held_in: dict[str, str] = loaded.verification.details["held_in"]
    probe = _probe(loaded.model)
    expected = _logits(loaded.model, probe)
    marks("write")
    options: Any = options_of(job.cell.precision)
    form = write_checkpoint(loaded.model, options, held_in, folder)
    for name in tokenizer_files(loaded.checkpoint.folder):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(loaded.checkpoint.folder / name, folder / name)
    marks("load again")
    _check(job, folder, probe, expected)
    return {"form": form, "layers": Counter(held_in.values())}


def _probe(model: Any) -> torch.Tensor:
    """Token ids all over the vocabulary, (1, tokens)."""
    import torch

    rows = model.get_input_embeddings().weight.shape[0]
    return torch.linspace(0, rows - 1, PROBE_TOKENS).round().long()[None].to(model.device)


def _logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    import torch

    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return found


def _check(job: Job, folder: Path, probe: torch.Tensor, expected: torch.Tensor) -> None:
    """Raises `UsageError` where the written checkpoint is another model than the mix."""
    import torch

    from qbench.core.checkpoint import checkpoint_of
    from qbench.core.errors import UsageError
    from qbench.precisions import precisions

    as_stored = next(one for one in precisions().values() if one.takes_quantized)
    checkpoint = checkpoint_of(job.cell.model, folder, job.device)
    again = as_stored.load(checkpoint, as_stored.options())
    found = _logits(again, probe)
    if torch.equal(found, expected):
        return
    far = float((found.float() - expected.float()).abs().max())
    raise UsageError(
        f"what is loaded from the checkpoint gives other logits than the mix, by up to {far:.2g}:"
        " its library does not hold these layers as they were measured, so it is not kept; export"
        " another mix"
    )


if __name__ == "__main__":
    main()
