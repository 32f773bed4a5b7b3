"""Loading a checkpoint folder through transformers, the same way for every precision."""

from __future__ import annotations

import re
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from qbench.core.errors import MeasurementError, ModelError, OutOfMemoryError, names_no_memory
from qbench.core.number_types import torch_type
from qbench.precisions.placement import EVERY_GPU, check_placement, refusing_offload
from qbench.precisions.random_weights import make_random
from qbench.sources.bundled import bundled_models
from qbench.sources.models.gguf_models import gguf_of
from qbench.sources.models.random_models import TOKENIZER_MODEL, is_random

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from transformers.utils.quantization_config import QuantizationConfigMixin

    from qbench.core.checkpoint import Checkpoint

TOKENIZER_FAULTS = (OSError, ValueError, KeyError, ImportError)
"""What transformers raises where it can load no tokenizer."""


def load_pretrained(
    checkpoint: Checkpoint,
    *,
    dtype: str,
    quantization: QuantizationConfigMixin | None = None,
) -> PreTrainedModel:
    """Loads a causal language model, safetensors only, in eval mode.

    `dtype` is `fp32`, `bf16` or `fp16`: the type of everything that is not quantized; `auto` takes
    what config.json states. The whole model goes to one device, or over all GPUs: no layer is ever
    offloaded. A folder that is marked so gets random weights. Raises `ModelError` for a checkpoint
    that lacks tensors of the model, or has them in other sizes, `OutOfMemoryError` for a model that
    the GPUs cannot hold, and `MeasurementError` for a tensor that cannot be converted.
    """
    from transformers import AutoModelForCausalLM

    if is_random(checkpoint.folder):
        return make_random(checkpoint, dtype=torch_type(dtype), quantization=quantization)
    device = checkpoint.device
    arguments: dict[str, Any] = {}
    if quantization is not None:
        arguments["quantization_config"] = quantization
    model: PreTrainedModel
    with refusing_offload(device), _said_of_conversions():
        model, loading = AutoModelForCausalLM.from_pretrained(
            str(checkpoint.folder),
            output_loading_info=True,
            dtype="auto" if dtype == "auto" else torch_type(dtype),
            device_map=device if device == EVERY_GPU else {"": device},
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # told of below, with the names
            trust_remote_code=checkpoint.trust_remote_code,
            local_files_only=True,
            **arguments,
        )
    check_placement(model)
    unusable = sorted({*loading["missing_keys"], *map(_other_size, loading["mismatched_keys"])})
    if unusable:
        raise ModelError(
            f"{checkpoint.folder}: the checkpoint does not hold {', '.join(unusable[:3])}"
            f"{' …' if len(unusable) > 3 else ''} ({len(unusable)} tensors) as"
            f" {type(model).__name__} needs them, which would be filled with random numbers;"
            " use a checkpoint that matches its config.json"
        )
    model.eval()
    model.requires_grad_(requires_grad=False)
    return model


def _other_size(mismatch: tuple[str, Any, Any]) -> str:
    """A tensor of another size than the model's, with both."""
    name, found, expected = mismatch
    here, there = ("×".join(map(str, size)) for size in (found, expected))
    return f"{name} ({here} where {there} is expected)"


def load_tokenizer(checkpoint: Checkpoint, *, bundled: bool) -> PreTrainedTokenizerBase:
    """The checkpoint's tokenizer, or `bundled` that of a bundled model, for random weights.

    Raises one of `TOKENIZER_FAULTS`.
    """
    from transformers import AutoTokenizer

    file = None if bundled else gguf_of(checkpoint.folder)
    own = checkpoint.folder if file is None else file.parent
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        str(bundled_models()[TOKENIZER_MODEL] if bundled else own),
        gguf_file=None if file is None else file.name,
        trust_remote_code=checkpoint.trust_remote_code,
        local_files_only=True,
    )
    return tokenizer


@contextmanager
def _said_of_conversions() -> Iterator[None]:
    """Raises what went wrong as a tensor was quantized.

    transformers keeps the error's text, logs it among its report, and raises that there was one.
    """
    try:
        yield
    except RuntimeError as error:
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        loading = next(
            (f.f_locals["loading_info"] for f in reversed(frames) if "loading_info" in f.f_locals),
            None,
        )
        failures: dict[str, str] = getattr(loading, "conversion_errors", None) or {}
        if not failures:
            raise
        tensor, text = next(iter(failures.items()))
        lines = [line for line in text.splitlines() if line and not line.startswith(("Error", " "))]
        said = f"{tensor}: {lines[-1] if lines else text}"
        if lines and re.fullmatch(r"(KeyError: )?'[^']*'", lines[-1]):
            raise MeasurementError(
                f"{tensor}: the files lack its {lines[-1].removeprefix('KeyError: ')}, of the"
                " quantization state; download the checkpoint again, or quantize it again"
            ) from error
        if names_no_memory(text):
            raise OutOfMemoryError(
                f"{said}; use a smaller precision, or a device with more memory"
            ) from error
        raise MeasurementError(f"{said}; the tensor cannot be converted") from error
