"""A Llama whose weights are set by hand so that it copies: what followed the same words before.

Two layers of attention alone. In the first, a head for each distance from 1 to `MATCHED` writes the
code of the token that stood so far before. In the second, one head looks for the place whose last
`MATCHED` tokens are those that the text ends with now, and writes the code of the token there.

Positions: of a constant query and a constant key, rotated by their positions, the product is
largest at one distance, which the query is turned to. Codes lie in pairs that rotate slowly, so
that a distance of some hundred tokens hardly changes them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tests.tiny_models import make_tiny_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    import torch

MATCHED = 8
"""Tokens by which a place is recognised."""
_CODE = 24
"""Signs of a token's code."""
_HEAD = 384
"""Width of a head: its first half is rotated with the second, pair by pair, ever more slowly."""
_HALF = _HEAD // 2
_BASE = 1e8
_SLOW = _HALF - _CODE * MATCHED // 2
"""The first pair that holds codes."""
_HIDDEN = 256
_CONSTANT = _CODE * (MATCHED + 2)
"""Place of what is the same for every token, behind the codes of the token itself, of those before
it, and of what is copied."""
_SHARP = 40.0
"""How sharply the first layer looks at one distance."""
_MATCHING = 4.0
"""What a sign that is the same counts in the second."""


def make_copying_model(folder: Path, context: int = 1024) -> Path:
    """Saves the model and its tokenizer; returns the folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=_HIDDEN,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=MATCHED,
        num_key_value_heads=MATCHED,
        head_dim=_HEAD,
        max_position_embeddings=context,
        rope_parameters={"rope_type": "default", "rope_theta": _BASE},
        rms_norm_eps=1e-6,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
    )
    model = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(2, (len(tokenizer), _CODE), generator=generator) * 2.0 - 1
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "norm" in name else 0.0)
        model.model.embed_tokens.weight[:, :_CODE] = codes
        model.model.embed_tokens.weight[:, _CONSTANT] = 1.0
        first, second = (layer.self_attn for layer in model.model.layers)
        _look_back(first)
        _match(second)
        copied = _CODE * (MATCHED + 1)
        model.lm_head.weight[:, copied : copied + _CODE] = codes
        _turn(model, generator)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _turn(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Turns all states at random, so that no weight is 0 or 1, which any format would hold."""
    import torch

    turned = torch.linalg.qr(torch.randn(_HIDDEN, _HIDDEN, generator=generator)).Q
    for name, parameter in model.named_parameters():
        if name.split(".")[-2] in {"embed_tokens", "q_proj", "k_proj", "v_proj", "lm_head"}:
            parameter.copy_(parameter @ turned)
        elif name.endswith("o_proj.weight"):
            parameter.copy_(turned.T @ parameter)


def _look_back(attention: torch.nn.Module) -> None:
    """Head `n` takes the token that stood `n + 1` before, and writes its code."""
    import torch

    turns = _BASE ** (-torch.arange(_HALF) / _HALF)
    # The sizes of a norm's output are the weights' business: of the constant it is about 1.
    size = math.sqrt(_SHARP * math.sqrt(_HEAD))
    for head in range(MATCHED):
        rows, back = head * _HEAD, head + 1
        attention.k_proj.weight[rows : rows + _HALF, _CONSTANT] = size
        attention.q_proj.weight[rows : rows + _HALF, _CONSTANT] = size * torch.cos(back * turns)
        attention.q_proj.weight[rows + _HALF : rows + _HEAD, _CONSTANT] = -size * torch.sin(
            back * turns
        )
        for sign in range(_CODE):
            attention.v_proj.weight[rows + sign, sign] = 1.0
            attention.o_proj.weight[_CODE * back + sign, rows + sign] = 1.0


def _match(attention: torch.nn.Module) -> None:
    """The first head holds the last tokens against those before each place, and takes its token."""
    size = math.sqrt(_MATCHING * math.sqrt(_HEAD))
    places = [*range(_SLOW, _HALF), *range(_HALF + _SLOW, _HEAD)]
    for at, place in enumerate(places):
        # The query has the token itself and those before it, the key one token earlier each.
        attention.q_proj.weight[place, at] = size
        attention.k_proj.weight[place, _CODE + at] = size
    copied = _CODE * (MATCHED + 1)
    for sign in range(_CODE):
        attention.v_proj.weight[sign, sign] = 1.0
        attention.o_proj.weight[copied + sign, sign] = 8.0
