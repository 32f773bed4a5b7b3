"""GGUF files of small models, written with the package gguf as llama.cpp converts models."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

_LLAMA = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
_GPT2 = {
    "transformer.wte": "token_embd",
    "transformer.wpe": "position_embd",
    "transformer.ln_f": "output_norm",
    "lm_head": "output",
    "ln_1": "attn_norm",
    "ln_2": "ffn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}


def write_gguf(folder: Path, target: Path, types: dict[str, str], **settings: Any) -> Path:
    """Writes the model of a folder as a GGUF file; returns the file.

    `types` are the types of matrices, by a part of their name, `""` for all others: blocks are made
    by the package, or of K-quants by qbench. `settings` are added to the file's own.
    """
    import torch
    from gguf import GGMLQuantizationType, GGUFWriter
    from safetensors.torch import load_file

    from qbench.precisions.gguf.quantize import to_blocks

    config = json.loads((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    kind = config["model_type"]
    architecture = "llama" if kind == "mistral" else kind
    writer = GGUFWriter(target, architecture)
    _write_settings(writer, config, architecture)
    for extra, value in settings.items():
        writer.add_key_value(extra, *value)
    _write_tokenizer(writer, folder)
    for name, tensor in tensors.items():
        own = _own_name(name, _GPT2 if kind == "gpt2" else _LLAMA)
        values = tensor.float()
        if kind == "gpt2" and ".h." in name and values.dim() > 1:
            values = values.T.contiguous()
        if architecture == "llama" and re.search(r"attn_[qk]\.", own):
            heads = config["num_attention_heads" if "attn_q" in own else "num_key_value_heads"]
            values = _permuted(values, heads)
        chosen = next((t for part, t in types.items() if part and part in own), types[""])
        if values.dim() < 2 or "position" in own:
            chosen = "F32"
        number = GGMLQuantizationType[chosen]
        held: np.ndarray[Any, Any]
        if chosen in {"F32", "F16"}:
            held = values.to(torch.float32 if chosen == "F32" else torch.float16).numpy()
            writer.add_tensor(own, held)
        else:
            writer.add_tensor(own, to_blocks(values, chosen).numpy(), raw_dtype=number)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def _own_name(name: str, names: dict[str, str]) -> str:
    module, _, parameter = name.rpartition(".")
    number = re.search(r"\.(\d+)\.", module)
    if number is None:
        return f"{names[module]}.{parameter}"
    return f"blk.{number.group(1)}.{names[module[number.end() :]]}.{parameter}"


def _permuted(values: Any, heads: int) -> Any:
    """Rows as llama.cpp's rotary embedding takes them: the two halves of a head in turns."""
    shape = values.shape
    halves = values.reshape(heads, 2, shape[0] // heads // 2, *shape[1:])
    return halves.swapaxes(1, 2).reshape(shape).contiguous()


def _write_settings(writer: Any, config: dict[str, Any], architecture: str) -> None:
    if architecture == "gpt2":
        writer.add_context_length(config["n_positions"])
        writer.add_embedding_length(config["n_embd"])
        writer.add_block_count(config["n_layer"])
        writer.add_head_count(config["n_head"])
        writer.add_feed_forward_length(config["n_inner"] or 4 * config["n_embd"])
        writer.add_layer_norm_eps(config["layer_norm_epsilon"])
        return
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    width = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    writer.add_key_length(width)
    writer.add_rope_dimension_count(width)
    writer.add_vocab_size(config["vocab_size"])


def _write_tokenizer(writer: Any, folder: Path) -> None:
    """A byte-level BPE, as llama.cpp's `gpt2` vocabularies are."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return
    held = json.loads(path.read_text())
    by_id = {number: text for text, number in held["model"]["vocab"].items()}
    added = {one["id"]: one["content"] for one in held["added_tokens"]}
    by_id |= added
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([by_id[number] for number in range(len(by_id))])
    writer.add_token_types([3 if number in added else 1 for number in range(len(by_id))])
    merges = held["model"]["merges"]
    writer.add_token_merges([one if isinstance(one, str) else " ".join(one) for one in merges])
    config = json.loads((folder / "config.json").read_text())
    writer.add_bos_token_id(config["bos_token_id"] or 0)
    writer.add_eos_token_id(config["eos_token_id"] or 0)
    writer.add_add_bos_token("post_processor" in held and bool(held["post_processor"]))
