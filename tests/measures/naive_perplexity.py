"""Perplexity the slow way: the model's own logits, one window at a time, written from the sources.

Nothing of qbench is used here.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Naive:
    """What a naive loop finds."""

    nll: float
    count: int
    targets: tuple[int, ...]
    """Ids of the scored tokens."""

    @property
    def perplexity(self) -> float:
        """exp of the mean loss."""
        return math.exp(self.nll / self.count)


def text_ids(folder: Path, text: str) -> list[int]:
    """The text's ids by the tokenizer's file alone, with nothing added."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def bos_id(folder: Path) -> int | None:
    """The id of the beginning-of-sequence token that the tokenizer's files name."""
    config = json.loads((folder / "tokenizer_config.json").read_text())
    if not config.get("bos_token"):
        return None
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    found: int | None = tokenizer.token_to_id(config["bos_token"])
    return found


def losses(model: Any, ids: list[int]) -> list[float]:
    """-log p(ids[i] | ids[:i]) for i from 1: log-softmax in fp64 of the model's own logits."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0].double()
    log_p = torch.log_softmax(logits, dim=-1)
    return [-float(log_p[at - 1, ids[at]]) for at in range(1, len(ids))]


def default(model: Any, tokens: list[int], window: int, bos: int | None) -> Naive:
    """One `<s>` before each piece of the text; every other token is scored."""
    nll, targets = 0.0, []
    piece = window if bos is None else window - 1
    for start in range(0, len(tokens), piece):
        ids = (
            tokens[start : start + piece] if bos is None else [bos, *tokens[start : start + piece]]
        )
        nll += math.fsum(losses(model, ids))
        targets += ids[1:]
    return Naive(nll, len(targets), tuple(targets))


def gptq(model: Any, tokens: list[int], seqlen: int) -> Naive:
    """As IST-DASLab's gptq (llama.py, llama_eval): mean loss of a sample times its length."""
    samples = len(tokens) // seqlen
    nlls, targets = [], []
    for sample in range(samples):
        ids = tokens[sample * seqlen : (sample + 1) * seqlen]
        loss = math.fsum(losses(model, ids)) / (seqlen - 1)
        nlls.append(loss * seqlen)
        targets += ids[1:]
    mean = math.fsum(nlls) / (samples * seqlen)
    return Naive(mean * len(targets), len(targets), tuple(targets))


def llamacpp(model: Any, tokens: list[int], n_ctx: int, bos: int | None) -> Naive:
    """As llama.cpp's tools/perplexity: logits n_ctx/2 … n_ctx-2 score the token after them."""
    whole = list(tokens) if bos is None else [bos, *tokens]
    first = n_ctx // 2
    nll, count, targets = 0.0, 0, []
    for chunk in range(len(whole) // n_ctx):
        ids = whole[chunk * n_ctx : (chunk + 1) * n_ctx]
        if bos is not None:
            ids[0] = bos
        of_token = [math.nan, *losses(model, ids)]
        for at in range(first, n_ctx - 1):
            nll += of_token[at + 1]
            targets.append(ids[at + 1])
        count += n_ctx - first - 1
    return Naive(nll, count, tuple(targets))


def strided(model: Any, tokens: list[int], max_length: int, stride: int) -> tuple[Naive, float]:
    """As transformers' guide "Perplexity of fixed-length models".

    Gives the sum over the tokens that its labels leave, and the guide's own figure, which weighs
    each window's mean by one token less than it is the mean of (but the first window's).
    """
    previous_end = 0
    nll, targets = 0.0, []
    guide_sum, guide_count = 0.0, 0
    for begin in range(0, len(tokens), stride):
        end = min(begin + max_length, len(tokens))
        target_length = end - previous_end
        ids = tokens[begin:end]
        masked = len(ids) - target_length
        # The model shifts its labels: the first one has nothing before it and is never scored.
        kept = [at for at in range(1, len(ids)) if at >= masked]
        of_token = [math.nan, *losses(model, ids)]
        window_nll = math.fsum(of_token[at] for at in kept)
        nll += window_nll
        targets += [ids[at] for at in kept]
        guide_sum += window_nll / len(kept) * (target_length - 1)
        guide_count += target_length - 1
        previous_end = end
        if end == len(tokens):
            break
    return Naive(nll, len(targets), tuple(targets)), math.exp(guide_sum / guide_count)
