"""A process that builds a cell's model, makes one token, and tells when it did what.

`python -m qbench.running.alone.first_token PARENT_PID REQUEST MARKS`: the request is a JSON file of
`qbench.measures.cold_start`, the marks go into a file as `qbench.core.marks` has it. What is
imported before the first look at the clock is the interpreter's own.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

RUNNING_NS = time.monotonic_ns()
"""When this module was begun: all that is imported from here on is counted where it is."""

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from transformers import PreTrainedModel

    from qbench.core.checkpoint import Checkpoint
    from qbench.core.marks import Marks
    from qbench.plan.job import Job
    from qbench.running.loading import Source


def main() -> None:
    """Makes the token; a failure is told with the status that its record is to have."""
    import os

    from qbench.core.orphans import die_with_parent

    die_with_parent(int(sys.argv[1]))
    import faulthandler
    import json
    from pathlib import Path

    from qbench.core.marks import Marks

    faulthandler.enable()
    marks = Marks(sys.argv[3])
    marks("qbench", RUNNING_NS)
    try:
        marks.tell(start(json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")), marks))
    except Exception as error:  # noqa: BLE001 - whatever it is becomes the record
        from qbench.running.worker import classify

        marks.fail(*classify(error))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # to free a large model takes time, and is of no use


def start(request: dict[str, Any], marks: Marks) -> dict[str, Any]:
    """From the first import to the token, and then what is qbench's own: the layers verified."""
    job, base, source = _imported(request, marks)
    import torch

    marks("configuration")
    _read_configuration(source, trust_remote_code=base.trust_remote_code)
    marks("tokenizer")
    has_tokenizer = _reads_tokenizer(base)
    marks("weights")
    torch.manual_seed(0)
    model = source.build()
    _synchronize(model)
    marks("forward")
    token = _first_token(model, request["prompt_tokens"], request["seed"])
    marks("verify")
    return {"token": token, "has_tokenizer": has_tokenizer, **_verified(job, source, model)}


def _imported(request: dict[str, Any], marks: Marks) -> tuple[Job, Checkpoint, Source]:
    """Imports all that is known to be needed, makes the CUDA context, and finds the model.

    The context comes right after torch: other packages ask for the GPU as they are imported, which
    would make it then.
    """
    from qbench.running.executors.preload import prepare_process

    prepare_process()
    marks("imports")
    _import(("torch",))
    device = request["job"]["device"]
    if device.startswith("cuda"):
        marks("cuda")
        _make_contexts(device, spread=request["job"]["cell"]["model"]["device_map"] is not None)
        marks("imports")
    _import(("transformers", "transformers.modeling_utils", "safetensors.torch"))
    _import(request["modules"])
    marks("qbench")
    from pathlib import Path

    from qbench.core.checkpoint import checkpoint_of
    from qbench.plan.job import Job
    from qbench.running.loading import source_of
    from qbench.running.worker import compute_in_full

    compute_in_full()
    job = Job.model_validate(request["job"])
    base, loaded_from = (
        checkpoint_of(job.cell.model, Path(request[name]), job.device)
        for name in ("base", "loaded_from")
    )
    return job, base, source_of(job, base, loaded_from)


def _import(modules: Iterable[str]) -> None:
    """Imports what is there; what is not is told by whoever needs it."""
    import importlib
    from contextlib import suppress

    for name in modules:
        with suppress(ImportError):
            importlib.import_module(name)


def _make_contexts(device: str, *, spread: bool) -> None:
    """Makes the CUDA context of the device, or of all GPUs."""
    import torch

    torch.cuda.set_device(device)  # for kernels that ask which one is current
    for one in range(torch.cuda.device_count()) if spread else (device,):
        torch.ones(1, device=one)
        torch.cuda.synchronize(one)


def _read_configuration(source: Source, *, trust_remote_code: bool) -> None:
    """Reads config.json, and imports the architecture that it names.

    Loading reads it again, which takes a millisecond.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    config = AutoConfig.from_pretrained(
        str(source.folder), trust_remote_code=trust_remote_code, local_files_only=True
    )
    MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)


def _reads_tokenizer(base: Checkpoint) -> bool:
    """Loads the tokenizer, which a prompt of words would need; False where there is none."""
    from qbench.precisions.loading import TOKENIZER_FAULTS, load_tokenizer

    try:
        load_tokenizer(base, bundled=False)
    except TOKENIZER_FAULTS:
        return False
    return True


def _first_token(model: PreTrainedModel, prompt_tokens: int, seed: int) -> int:
    """The token that the model gives to a fixed prompt; raises `NonFiniteError`."""
    import torch

    from qbench.core.errors import NonFiniteError
    from qbench.measures.workload import keeps_logits, make_workload
    from qbench.predict.work import GridPoint

    point = GridPoint(batch=1, prompt_tokens=prompt_tokens, new_tokens=1)
    arguments = {"logits_to_keep": 1} if keeps_logits(model) else {}
    with torch.inference_mode():
        prompt = make_workload(model, point, seed).prompt
        highest = model(input_ids=prompt, use_cache=True, **arguments).logits[0, -1].max(dim=-1)
        value, token = highest.values.item(), int(highest.indices)
    # A NaN is the highest of its row.
    if not abs(value) < float("inf"):
        raise NonFiniteError(f"the highest logit of the first token is {value}")
    return token


def _verified(job: Job, source: Source, model: PreTrainedModel) -> dict[str, Any]:
    """What was really loaded; raises `WrongKernelError` or `NonFiniteError`."""
    from qbench.running.loading import verify
    from qbench.running.worker import check_layers

    found = verify(job, source, model)
    check_layers(found)
    return {"loaded": {**found.details, "faults": []}, "warnings": list(found.warnings)}


def _synchronize(model: PreTrainedModel) -> None:
    """Waits until the model is on its GPUs."""
    import torch

    for device in {weight.device for weight in model.parameters()}:
        if device.type == "cuda":
            torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
