"""What a calibration of the tiny llama reads, and what its layers see of that, computed naively."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np

from qbench.precisions.verification import linear_layers
from qbench.sources.bundled import bundled_texts
from tests.precisions.tiny_cells import TinyCells, Variant
from tests.tiny_models import make_tiny_tokenizer

if TYPE_CHECKING:
    from qbench.measures.loaded import LoadedModel

LLAMA = Variant("llama", "llama")
WINDOWS, TOKENS, SEED = 5, 32, 3
TEXT = "stdlib-excerpt"
OPTIONS = {
    "calibration_text": f"bundled:{TEXT}",
    "calibration_windows": WINDOWS,
    "calibration_window": TOKENS,
    "calibration_seed": SEED,
    "dtype": "fp32",
}


def naive_windows() -> list[list[int]]:
    text = bundled_texts()[TEXT].read_text(encoding="utf-8")
    tokenizer = make_tiny_tokenizer()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    span = TOKENS - 1
    slots = [ids[start : start + span] for start in range(0, len(ids) - span + 1, span)]
    places = sorted(random.Random(SEED).sample(range(len(slots)), WINDOWS))
    return [[tokenizer.bos_token_id, *slots[place]] for place in places]


def naive_inputs(cells: TinyCells) -> dict[str, np.ndarray]:
    """What every linear layer of the fp32 model sees of the windows, (tokens, in)."""
    import torch

    model = cells.load(LLAMA, "fp32").model
    seen: dict[str, list[np.ndarray]] = {}
    handles = [
        layer.register_forward_hook(
            lambda _module, inputs, _output, name=name: seen.setdefault(name, []).append(
                inputs[0][0].numpy().copy()
            )
        )
        for name, layer in linear_layers(model)
    ]
    with torch.inference_mode():
        for row in naive_windows():
            model(input_ids=torch.tensor([row]))
    for handle in handles:
        handle.remove()
    return {name: np.concatenate(found) for name, found in seen.items()}


def calibration(loaded: LoadedModel) -> dict[str, Any]:
    found: dict[str, Any] = loaded.verification.details["calibration"]
    return found
