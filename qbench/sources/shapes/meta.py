"""Describes models without data: `python -m qbench.sources.shapes.meta FOLDER…`.

It is a process of its own, because it needs torch and transformers, which planning must not load.
They are imported once; then each model is built in a process forked from this one, as many side by
side as there are cores, so that a failure in one model's code does not affect the others.

Prints a line of JSON for each folder, in the order in which they are done:

    {"folder": …, "tensors": [the fields of each TensorShape] or null, "reason": … or null}
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import sys
import time
from contextlib import suppress
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any

from qbench.core.cpu import usable_cores
from qbench.sources.shapes.from_meta import CANNOT_BUILD
from qbench.sources.shapes.own_products import watching_products

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

    import torch
    from transformers import PreTrainedModel

    _Tensors = list[dict[str, Any]]
    _Answer = tuple[str, _Tensors | None, str | None]


TIMEOUT_S = 300
"""What building one model may take."""


def describe(folder: str, *, trust_remote_code: bool = False) -> list[dict[str, Any]]:
    """Every parameter and buffer of the model that config.json describes, a shared one once."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)

    def build(dtype: torch.dtype) -> PreTrainedModel:
        with torch.device("meta"):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(
                config, dtype=dtype, trust_remote_code=trust_remote_code
            )
        return model

    # Two models tell which tensors follow the type that is asked for, and which keep their own.
    wide = list(_tensors(build(torch.float32)))
    model = build(torch.bfloat16)
    narrow = {name: tensor.dtype for name, *_, tensor in _tensors(model)}
    own = _own_products(model)
    return [
        {
            "name": name,
            "shape": list(tensor.shape),
            "role": role,
            "transposed": transposed,
            "layer": "own product" if name in own else layer,
            "dtype": (
                str(tensor.dtype).removeprefix("torch.")
                if narrow[name] == tensor.dtype or stays_in_fp32(model, name, torch.bfloat16)
                else None
            ),
            "wide_in_fp16": (
                stays_in_fp32(model, name, torch.float16)
                and not stays_in_fp32(model, name, torch.bfloat16)
            ),
        }
        for name, role, layer, transposed, tensor in wide
    ]


def stays_in_fp32(model: PreTrainedModel, name: str, dtype: torch.dtype) -> bool:
    """Whether transformers loads the tensor of that name in fp32 where a 16-bit type is asked for.

    It does so where it loads a checkpoint, not where it builds a model without one.
    """
    import torch

    kept = set(getattr(model, "_keep_in_fp32_modules_strict", None) or ())
    if dtype == torch.float16:
        kept |= set(getattr(model, "_keep_in_fp32_modules", None) or ())
    return any(f".{part}." in f".{name}." for part in kept)


def _own_products(model: PreTrainedModel) -> set[str]:
    """Names of the weights that the model's own code multiplies with, where it runs without data.

    Nothing is claimed of a model that does not.
    """
    import torch

    head = model.get_output_embeddings()
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    }
    with torch.inference_mode(), watching_products(layers) as found, suppress(Exception):
        model.eval()(input_ids=torch.zeros(1, 3, dtype=torch.long, device="meta"))
    return {f"{name}.weight" for name in found}


def _tensors(model: PreTrainedModel) -> Iterator[tuple[str, str, str, bool, torch.Tensor]]:
    """Name, role, kind of layer, whether it is stored as (in, out), and tensor of each.

    Those without elements are left out.
    """
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    embedding = model.get_input_embeddings()
    tied = head is not None and getattr(head, "weight", None) is embedding.weight
    seen: set[int] = set()
    for module_name, module in model.named_modules():
        for own_name, tensor in (
            *module.named_parameters(recurse=False),
            *module.named_buffers(recurse=False),
        ):
            if id(tensor) in seen or tensor.numel() == 0:
                continue
            seen.add(id(tensor))
            name = f"{module_name}.{own_name}" if module_name else own_name
            if not isinstance(tensor, nn.Parameter):
                role = "buffer"
            elif module is head:
                role = "embedding" if tied and own_name == "weight" else "head"
            elif isinstance(module, (nn.Linear, Conv1D)):
                role = "bias" if own_name == "bias" else "linear"
            elif isinstance(module, nn.Embedding):
                role = "embedding"
            elif "norm" in type(module).__name__.lower():
                role = "norm"
            else:
                role = "other"
            own_class = isinstance(module, nn.Linear) and type(module) is not nn.Linear
            layer = "own class" if own_class else "plain"
            yield name, role, layer, role == "linear" and isinstance(module, Conv1D), tensor


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the tensors of the models in the folders that are named on the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m qbench.sources.shapes.meta", description=__doc__
    )
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="folder with a config.json")
    parser.add_argument("--trust-remote-code", action="store_true")
    chosen = parser.parse_args(arguments)
    # Libraries may print lines of their own.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    # Here, and not in each of the processes; it imports torch.
    importlib.import_module("transformers.modeling_utils")
    for folder, tensors, reason in _side_by_side(chosen.folders, chosen.trust_remote_code):
        line = {"folder": folder, "tensors": tensors, "reason": reason}
        answers.write(json.dumps(line) + "\n")
        answers.flush()


def _side_by_side(folders: Sequence[str], trusted: bool) -> Iterator[_Answer]:  # noqa: FBT001
    """What each model's process says, when it does; as many run at once as there are cores."""
    context = multiprocessing.get_context("fork")
    waiting = list(reversed(folders))
    running: dict[Connection, tuple[str, BaseProcess, float]] = {}
    while waiting or running:
        while waiting and len(running) < usable_cores():
            folder = waiting.pop()
            receiving, sending = context.Pipe(duplex=False)
            started = context.Process(target=_tell, args=(sending, folder, trusted))
            started.start()
            sending.close()  # so that its end is seen when the process has ended
            running[receiving] = folder, started, time.monotonic() + TIMEOUT_S
        first_due = min(due for *_, due in running.values())
        ready = set(wait(list(running), timeout=max(0.0, first_due - time.monotonic())))
        for connection, (folder, process, due) in list(running.items()):
            if connection in ready:
                yield folder, *_received(connection, process)
            elif due <= time.monotonic():
                process.kill()
                process.join()
                yield folder, None, f"building the model took longer than {TIMEOUT_S} s"
            else:
                continue
            connection.close()
            del running[connection]


def _received(connection: Connection, process: BaseProcess) -> tuple[_Tensors | None, str | None]:
    """What a process sent before it ended."""
    try:
        tensors, reason = connection.recv()
    except (EOFError, OSError):
        process.join()
        tensors, reason = None, f"its process ended with exit code {process.exitcode}"
    else:
        process.join()
    return tensors, None if reason is None else f"{CANNOT_BUILD}{reason}"


def _tell(sending: Connection, folder: str, trusted: bool) -> None:  # noqa: FBT001
    try:
        sending.send((describe(folder, trust_remote_code=trusted), None))
    except Exception as error:  # noqa: BLE001 (anything a model's code does is a reason, not a bug)
        message = str(error).strip().splitlines()
        first_line = message[0] if message else "no message"
        sending.send((None, f"{type(error).__name__}: {first_line}"))


if __name__ == "__main__":
    main()
