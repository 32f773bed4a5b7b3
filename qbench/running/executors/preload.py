"""Imports, once for all cells of a run, what every worker needs.

A bare import of torch, transformers and bitsandbytes costs 6 to 10 seconds. The fork server pays
for it once; each worker is a copy of it. Nothing here may touch CUDA, whose state does not survive
a fork. Libraries ask for the GPU's capability while they are imported (torchao's MX kernels,
bitsandbytes, whatever looks for triton), which initialises it: so no GPU is visible meanwhile, and
what decides by the GPU at its import, as bitsandbytes does, is left to the worker.
"""

from __future__ import annotations

import importlib
import logging
import os
import re
import sys
from contextlib import contextmanager, suppress
from functools import _lru_cache_wrapper
from typing import TYPE_CHECKING

from qbench.measures import own_measures

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_ALWAYS = (
    "torch",
    "transformers",
    "transformers.modeling_utils",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.llama.modeling_llama",
    "transformers.models.mistral.modeling_mistral",
    "transformers.integrations.sdpa_attention",
    "accelerate",
    "safetensors.torch",
    "qbench.running.worker",
)
_WITHOUT_CUDA = (
    "bitsandbytes",
    "transformers.integrations.bitsandbytes",
    "transformers.quantizers.quantizer_bnb_4bit",
    "transformers.quantizers.quantizer_bnb_8bit",
)
_FOR_MEASUREMENTS = {
    "generation": ("rouge_score.rouge_scorer", "sacrebleu"),
    "tasks": ("lm_eval.evaluator", "lm_eval.models.huggingface", "lm_eval.tasks"),
    "served_tasks": ("lm_eval.evaluator", "lm_eval.models.openai_completions", "lm_eval.tasks"),
    "training": ("peft",),
}
"""Imports that only these need, and that take a second each."""


def prepare_process() -> None:
    """Settings that must stand before torch and transformers are imported."""
    # With the package `kernels` there, bitsandbytes would fetch native code from a hub on import.
    sys.modules["kernels"] = None  # type: ignore[assignment]
    # Libraries ask on import whether there is CUDA; asking the driver would initialise it.
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    logging.getLogger("bitsandbytes.autograd._functions").addFilter(_Once())
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TQDM_MININTERVAL", "5")  # progress bars go to the log
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


class _Once(logging.Filter):
    """Lets each message through once: LLM.int8 warns at every call of every layer."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the message is new."""
        message = record.getMessage()
        new = message not in self._said
        self._said.add(message)
        return new


def preload(device: str, measurements: Sequence[str] = ()) -> None:
    """Imports what workers on this device need; a package that is missing is left out.

    No GPU is visible meanwhile; afterwards those that were are visible again.
    """
    prepare_process()
    with _no_visible_gpu():
        _import_all(device, measurements)


def _import_all(device: str, measurements: Sequence[str]) -> None:
    own_measures()  # before torch: pydantic's classes take longer the more modules there are
    names = list(_ALWAYS)
    if not device.startswith("cuda"):
        names += _WITHOUT_CUDA
        for measurement in measurements:
            names += _FOR_MEASUREMENTS.get(measurement, ())
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError as error:
            print(f"not preloaded: {name} ({error})", file=sys.stderr)
    with suppress(ImportError):
        from transformers.conversion_mapping import get_checkpoint_conversion_mapping

        get_checkpoint_conversion_mapping("llama")  # makes the table of all, which takes 0.3 s


@contextmanager
def _no_visible_gpu() -> Iterator[None]:
    """Hides all GPUs from what runs within, and lets no answer of that time stay behind."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    try:
        yield
    finally:
        if visible is None:
            del os.environ["CUDA_VISIBLE_DEVICES"]
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = visible
        _forget_answers()


def _forget_answers() -> None:
    """Empties the caches of all functions that are questions (`is_…`, `has_…`).

    Asked while no GPU was visible, `is_flash_attn_2_available` or `has_triton` keep saying no.
    """
    for module in list(sys.modules.values()):
        # Not by getattr: a lazy module would import what it only names.
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if isinstance(value, _lru_cache_wrapper) and re.match(r"_?(is|has)_", name):
                value.cache_clear()
