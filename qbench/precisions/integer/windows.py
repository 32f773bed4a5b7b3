"""The windows of a text that a model is calibrated on."""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING, Any

from qbench.core.errors import ModelError, TextError
from qbench.precisions.integer.options import WINDOWS
from qbench.precisions.integer.text import window_tokens
from qbench.precisions.loading import TOKENIZER_FAULTS, load_tokenizer
from qbench.sources.data.texts import read_text
from qbench.sources.models.random_models import is_random

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from qbench.core.checkpoint import Checkpoint
    from qbench.precisions.integer.options import IntegerOptions
    from qbench.sources.data.texts import ResolvedText


def draw_windows(
    model: PreTrainedModel,
    text: ResolvedText,
    options: IntegerOptions,
    checkpoint: Checkpoint,
) -> tuple[list[torch.Tensor], dict[str, Any]]:
    """Windows of token ids, each (1, tokens), with what of them stands in the record.

    The text is cut into windows that do not overlap, `<s>` before each where the tokenizer has
    one, and as many as asked for are drawn by the seed. Raises `TextError` for a text that is too
    short and `ModelError` for a model without a tokenizer that fits it.
    """
    import torch

    vocabulary = int(model.get_input_embeddings().weight.shape[0])
    tokens, bos = _tokenize(checkpoint, read_text(text))
    if is_random(checkpoint.folder):
        tokens = [token % vocabulary for token in tokens]
        bos = None if bos is None else bos % vocabulary
    if max(tokens, default=0) >= vocabulary:
        raise ModelError(
            f"{checkpoint.folder}: its tokenizer gives the id {max(tokens)}, beyond the model's"
            f" {vocabulary} embeddings; put the model's own tokenizer beside it"
        )
    size = window_tokens(options, getattr(model.config, "max_position_embeddings", None))
    head = [] if bos is None else [bos]
    span = size - len(head)
    there = len(tokens) // span
    asked = options.calibration_windows
    if there < (asked or 1):
        lower = f"lower calibration_windows to {there}, or calibration_window"
        raise TextError(
            f"calibration_text {text.source} has {len(tokens)} tokens: {there} windows of {size}"
            f" where {asked or 'some'} were asked for; give a longer text, or"
            f" {lower if there else 'lower calibration_window'}"
        )
    chooser = random.Random(options.calibration_seed)  # noqa: S311 - a sample, not a secret
    chosen = sorted(chooser.sample(range(there), asked or min(WINDOWS, there)))
    rows = [[*head, *tokens[place * span : (place + 1) * span]] for place in chosen]
    about: dict[str, Any] = {
        "text": text.name,
        "fingerprint": text.fingerprint,
        "windows": len(rows),
        "window_tokens": size,
        "seed": options.calibration_seed,
        "method": options.calibration_method if options.activations == "static" else None,
        "percentile": options.calibration_percentile
        if options.activations == "static" and options.calibration_method == "percentile"
        else None,
        "ids_sha256": hashlib.sha256(repr(rows).encode()).hexdigest(),
    }
    return [torch.tensor([row], device=model.device) for row in rows], about


def _tokenize(checkpoint: Checkpoint, text: str) -> tuple[list[int], int | None]:
    """The text's ids with nothing added, and `<s>`; a bundled tokenizer's for random weights."""
    folder = checkpoint.folder
    try:
        tokenizer = load_tokenizer(checkpoint, bundled=is_random(folder))
    except TOKENIZER_FAULTS as error:
        raise ModelError(
            f"{folder}: calibration needs the model's tokenizer, and there is none that"
            " transformers can load; save one there with tokenizer.save_pretrained()"
        ) from error
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids, tokenizer.bos_token_id
