"""Describes a model without data: `python -m qbench.sources.shapes.meta FOLDER` prints its tensors.

It is a process of its own, because it needs torch and transformers, which planning must not load.
Prints a JSON list of the fields of `TensorShape`; on failure the reason is the last line on the
standard error, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from qbench.sources.shapes.own_products import watching_products

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch
    from transformers import PreTrainedModel


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

    own = _own_products(build(torch.bfloat16))

    # Two models tell which tensors follow the type that is asked for, and which keep their own.
    wide = list(_tensors(build(torch.float32)))
    narrow = {name: tensor.dtype for name, *_, tensor in _tensors(build(torch.bfloat16))}
    return [
        {
            "name": name,
            "shape": list(tensor.shape),
            "role": role,
            "transposed": transposed,
            "layer": "own product" if name in own else layer,
            "dtype": (
                str(tensor.dtype).removeprefix("torch.") if narrow[name] == tensor.dtype else None
            ),
        }
        for name, role, layer, transposed, tensor in wide
    ]


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the tensors of the model in the folder that is named on the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m qbench.sources.shapes.meta", description=__doc__
    )
    parser.add_argument("folder", help="folder that holds config.json")
    parser.add_argument("--trust-remote-code", action="store_true")
    chosen = parser.parse_args(arguments)
    try:
        tensors = describe(chosen.folder, trust_remote_code=chosen.trust_remote_code)
    except Exception as error:  # noqa: BLE001 (anything a model's code does is a reason, not a bug)
        message = str(error).strip().splitlines()
        sys.stderr.write(f"{type(error).__name__}: {message[0] if message else 'no message'}\n")
        return 1
    sys.stdout.write(json.dumps(tensors) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
