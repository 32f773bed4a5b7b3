"""Tiny models with random weights, of several architectures, made in milliseconds for tests."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedTokenizerFast

ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3", "gpt2", "opt")

_SAMPLE = "def add(first, second):\n    return first + second\n\n\nprint(add(1, 2))\n" * 4


def make_tiny_model(
    folder: Path,
    architecture: str,
    *,
    tied: bool = False,
    hidden: int = 64,
    intermediate: int | None = None,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    context: int = 128,
    bos: bool = True,
    tokenizer: bool = True,
    dtype: str = "float32",
    seed: int = 0,
    max_shard_size: str = "5GB",
    **options: Any,
) -> Path:
    """Saves a model with random weights, and its tokenizer, into a folder; returns the folder.

    `tied`: whether the head shares the embedding's matrix. `kv_heads` counts for llama, mistral and
    qwen. `bos`: whether the tokenizer has a beginning-of-sequence token and prepends it.
    `options` go to the configuration as they are (`attention_bias=True`, `head_dim=32`).
    Every tensor is random, biases and norms too, so that none can be forgotten unseen.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    made_tokenizer = make_tiny_tokenizer(bos=bos)
    sizes = _sizes(
        architecture,
        hidden=hidden,
        intermediate=intermediate or 2 * hidden,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        context=context,
    )
    config = AutoConfig.for_model(
        architecture,
        vocab_size=len(made_tokenizer),
        tie_word_embeddings=tied,
        bos_token_id=made_tokenizer.bos_token_id,
        eos_token_id=made_tokenizer.eos_token_id,
        pad_token_id=None,
        **{**sizes, **options},
    )
    generator = torch.Generator().manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            is_norm = parameter.ndim == 1 and name.endswith("weight")
            parameter.copy_(1 + 0.1 * noise if is_norm else 0.1 * noise)
    model.to(getattr(torch, dtype)).save_pretrained(folder, max_shard_size=max_shard_size)
    if tokenizer:
        made_tokenizer.save_pretrained(folder)
    return folder


@cache
def make_tiny_tokenizer(*, bos: bool = True) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of about 300 tokens; any text survives encoding and decoding."""
    # The end token has the name that transformers' class for Qwen2 adds where it is missing: a
    # tokenizer must not grow beyond the model's vocabulary.
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<|endoftext|>", "<s>"] if bos else ["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([_SAMPLE], trainer)
    special = {"eos_token": "<|endoftext|>"}
    if bos:
        special["bos_token"] = "<s>"
        made.post_processor = processors.TemplateProcessing(
            single="<s> $A",
            pair="<s> $A $B",
            special_tokens=[("<s>", made.token_to_id("<s>"))],
        )
    return PreTrainedTokenizerFast(tokenizer_object=made, **special)


def _sizes(
    architecture: str,
    *,
    hidden: int,
    intermediate: int,
    layers: int,
    heads: int,
    kv_heads: int,
    context: int,
) -> dict[str, int]:
    """The same sizes under the names that an architecture's configuration gives them."""
    if architecture == "gpt2":
        return {
            "n_embd": hidden,
            "n_inner": intermediate,
            "n_layer": layers,
            "n_head": heads,
            "n_positions": context,
        }
    common = {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": context,
    }
    if architecture == "opt":
        return {**common, "ffn_dim": intermediate, "word_embed_proj_dim": hidden}
    sizes = {**common, "intermediate_size": intermediate, "num_key_value_heads": kv_heads}
    return {**sizes, "head_dim": hidden // heads} if architecture == "qwen3" else sizes
