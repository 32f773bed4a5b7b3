"""GGUF files as models: their configuration and their tensors under transformers' names.

A worker gets a folder in the cache like any other, with a config.json made of the file's settings
and a mark in place of the weights that names the file: whoever loads it reads that
(`qbench.precisions.gguf.file`).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qbench.core.errors import ModelError
from qbench.sources.models.gguf_file import SUFFIX, GgufFile, GgufTensor
from qbench.sources.models.gguf_types import DEQUANTIZED, FLOATING
from qbench.sources.models.headers import StoredTensor
from qbench.sources.models.stand_ins import standing_for

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qbench.core.spec import ModelShape

METHOD = "gguf"
"""The `quant_method` of such a configuration."""
_MARK = "gguf_file"
# It has no suffix: what copies the small files of a model leaves it behind.
_FORM = 1
"""Counted up when other configurations are made of the same files."""

_LLAMA_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "blk.{}.attn_norm": "model.layers.{}.input_layernorm",
    "blk.{}.ffn_norm": "model.layers.{}.post_attention_layernorm",
    "blk.{}.attn_q": "model.layers.{}.self_attn.q_proj",
    "blk.{}.attn_k": "model.layers.{}.self_attn.k_proj",
    "blk.{}.attn_v": "model.layers.{}.self_attn.v_proj",
    "blk.{}.attn_output": "model.layers.{}.self_attn.o_proj",
    "blk.{}.attn_q_norm": "model.layers.{}.self_attn.q_norm",
    "blk.{}.attn_k_norm": "model.layers.{}.self_attn.k_norm",
    "blk.{}.ffn_gate": "model.layers.{}.mlp.gate_proj",
    "blk.{}.ffn_up": "model.layers.{}.mlp.up_proj",
    "blk.{}.ffn_down": "model.layers.{}.mlp.down_proj",
}
_GPT2_NAMES = {
    "token_embd": "transformer.wte",
    "position_embd": "transformer.wpe",
    "output_norm": "transformer.ln_f",
    "output": "lm_head",
    "blk.{}.attn_norm": "transformer.h.{}.ln_1",
    "blk.{}.ffn_norm": "transformer.h.{}.ln_2",
    "blk.{}.attn_qkv": "transformer.h.{}.attn.c_attn",
    "blk.{}.attn_output": "transformer.h.{}.attn.c_proj",
    "blk.{}.ffn_up": "transformer.h.{}.mlp.c_fc",
    "blk.{}.ffn_down": "transformer.h.{}.mlp.c_proj",
}
ROPE_FACTORS = "rope_freqs.weight"
"""What Llama 3.1's frequencies are divided by: a tensor, where config.json has a formula."""


@dataclass(frozen=True)
class _Architecture:
    """One that qbench reads."""

    names: dict[str, str]
    """Modules of transformers' by llama.cpp's names of them; `{}` is the layer's number."""
    permuted: bool = False
    """Whether rows of queries and keys lie as llama.cpp's rotary embedding takes them."""
    transposed: bool = False
    """Whether transformers has its linear weights the other way round: Conv1D."""


ARCHITECTURES = {
    "llama": _Architecture(_LLAMA_NAMES, permuted=True),
    "qwen2": _Architecture(_LLAMA_NAMES),
    "qwen3": _Architecture(_LLAMA_NAMES),
    "gpt2": _Architecture(_GPT2_NAMES, transposed=True),
}
"""By llama.cpp's name; Mistral's models are `llama` there."""


def check_architecture(file: GgufFile) -> None:
    """Raises `ModelError` for a model that qbench does not read."""
    place, own = file.path, file.architecture
    if own not in ARCHITECTURES:
        raise ModelError(
            f"{place}: a GGUF file of the architecture {own}; qbench reads those of"
            f" {', '.join(ARCHITECTURES)} (Mistral's are llama); give the original model, and"
            " choose a gguf-* precision for it"
        )
    if file.setting("expert_count"):
        raise ModelError(
            f"{place}: a GGUF file of a mixture of experts, which qbench does not read; give the"
            " original model"
        )


def config_of_file(file: GgufFile) -> dict[str, Any]:
    """A config.json as transformers has it; `ModelError` for settings that are missing or odd."""
    check_architecture(file)
    common: dict[str, Any] = {
        "vocab_size": _embedding(file).shape[0],
        "tie_word_embeddings": "output.weight" not in file.tensors,
        "dtype": rest_type(file.tensors),
        "quantization_config": {"quant_method": METHOD, "types": types_by_count(file)},
        **_special_tokens(file),
    }
    if file.architecture == "gpt2":
        return {
            "model_type": "gpt2",
            "architectures": ["GPT2LMHeadModel"],
            "n_positions": _whole(file, "context_length"),
            "n_embd": _whole(file, "embedding_length"),
            "n_layer": _whole(file, "block_count"),
            "n_head": _whole(file, "attention.head_count"),
            "n_inner": _whole(file, "feed_forward_length"),
            "layer_norm_epsilon": file.setting("attention.layer_norm_epsilon") or 1e-5,
            **common,
        }
    heads = _whole(file, "attention.head_count")
    hidden = _whole(file, "embedding_length")
    width = file.setting("attention.key_length") or file.setting("rope.dimension_count")
    config = {
        "model_type": file.architecture,
        "architectures": [f"{file.architecture.capitalize()}ForCausalLM"],
        "hidden_size": hidden,
        "intermediate_size": _whole(file, "feed_forward_length"),
        "num_hidden_layers": _whole(file, "block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": file.setting("attention.head_count_kv") or heads,
        "head_dim": width or hidden // heads,
        "max_position_embeddings": _whole(file, "context_length"),
        "rms_norm_eps": file.setting("attention.layer_norm_rms_epsilon") or 1e-6,
        "rope_parameters": _rope(file),
        **common,
    }
    if file.architecture == "llama":
        config["attention_bias"] = "blk.0.attn_q.bias" in file.tensors
        config["mlp_bias"] = "blk.0.ffn_down.bias" in file.tensors
    return config


def named_tensors(file: GgufFile) -> dict[str, tuple[str, GgufTensor]]:
    """The file's tensors, with their own names, by the names that transformers has for them.

    Raises `ModelError` for a tensor that the architecture does not have.
    """
    names = ARCHITECTURES[file.architecture].names
    found = {}
    for own, tensor in file.tensors.items():
        if own == ROPE_FACTORS:
            continue
        module, _, parameter = own.rpartition(".")
        number = re.search(r"\d+", module)
        known = names.get(re.sub(r"\d+", "{}", module, count=1))
        if known is None or parameter not in {"weight", "bias"}:
            raise ModelError(
                f"{file.path}: holds {own}, which no {file.architecture} model has that qbench"
                " knows; give the original model"
            )
        found[f"{known.format(number.group() if number else '')}.{parameter}"] = own, tensor
    return found


def stored_tensors(file: GgufFile) -> dict[str, StoredTensor]:
    """The same as headers of a checkpoint: as transformers shapes them."""
    transposed = ARCHITECTURES[file.architecture].transposed
    found = {}
    for name, (_, tensor) in named_tensors(file).items():
        turned = transposed and ".h." in name and len(tensor.shape) > 1
        shape = tuple(reversed(tensor.shape)) if turned else tensor.shape
        found[name] = StoredTensor(
            tensor.kind.name, shape, tensor.start, tensor.end, str(file.path)
        )
    return found


def stored_shape(shape: ModelShape, file: GgufFile) -> ModelShape:
    """The model's shape with what the file holds of each matrix, as it is once it is loaded."""
    tensors = {name: tensor for name, (_, tensor) in named_tensors(file).items()}
    rest = rest_type(file.tensors)
    made = []
    for one in shape.tensors:
        held = tensors.get(one.name)
        plain = held is None or held.kind.name in (*FLOATING, *DEQUANTIZED)
        if held is not None and not plain:
            changes: dict[str, Any] = {"stored_bytes": (held.end - held.start, 0)}
        else:
            changes = {} if one.dtype else {"dtype": rest}
            if held is not None and held.kind.name in DEQUANTIZED:
                changes["packed_bytes"] = held.end - held.start
        made.append(one.model_copy(update=changes))
    return shape.model_copy(update={"tensors": tuple(made)})


def rest_type(tensors: Mapping[str, GgufTensor]) -> str:
    """What is not in blocks is loaded in: what matrices are that are not; bf16 if all of them are.

    Norms are in fp32 in any file, whatever they were made from.
    """
    found = {
        one.kind.name
        for name, one in tensors.items()
        if len(one.shape) > 1 and not name.startswith("position")
    }
    return next((FLOATING[name] for name in ("F32", "F16") if name in found), "bfloat16")


def types_by_count(file: GgufFile) -> dict[str, int]:
    """How many tensors have each type, the most frequent first."""
    counted: dict[str, int] = {}
    for one in file.tensors.values():
        counted[one.kind.name] = counted.get(one.kind.name, 0) + 1
    return dict(sorted(counted.items(), key=lambda item: (-item[1], item[0])))


def make_folder(file: GgufFile, config: dict[str, Any], fingerprint: str) -> Path:
    """The folder that stands for the file, in the cache; `ModelError` where it cannot be made."""
    files = (
        ("config.json", f"{json.dumps(config, indent=2)}\n".encode()),
        (_MARK, f"{file.path.resolve()}\n".encode()),
    )
    return standing_for("gguf", f"{fingerprint[:16]}-{_FORM}", files)


def gguf_of(folder: str | Path) -> Path | None:
    """The GGUF file that a folder stands for; None for any other folder."""
    mark = Path(folder) / _MARK
    return Path(mark.read_text(encoding="utf-8").strip()) if mark.is_file() else None


def only_gguf(folder: Path) -> Path | None:
    """The GGUF file of a folder that has no config.json; None where there is none.

    Raises `ModelError` where there are several.
    """
    files = sorted(folder.glob(f"*{SUFFIX}")) if folder.is_dir() else []
    if not files or (folder / "config.json").is_file():
        return None
    if len(files) > 1:
        raise ModelError(
            f"{folder}: found {len(files)} GGUF files ({', '.join(one.name for one in files[:3])}"
            f"{' …' if len(files) > 3 else ''}); expected one; name the file itself"
        )
    return files[0]


def _embedding(file: GgufFile) -> GgufTensor:
    found = file.tensors.get("token_embd.weight")
    if found is None:
        raise ModelError(
            f"{file.path}: found no token embedding (token_embd.weight); expected a whole model;"
            " download it again"
        )
    return found


def _whole(file: GgufFile, name: str) -> int:
    value = file.setting(name)
    if type(value) is not int or value < 1:
        raise ModelError(
            f"{file.path}: its setting {file.architecture}.{name} is {value!r}; expected a whole"
            " number; convert the model again with a current llama.cpp"
        )
    return value


def _rope(file: GgufFile) -> dict[str, Any]:
    theta = file.setting("rope.freq_base") or 10_000.0
    kind, factor = file.setting("rope.scaling.type"), file.setting("rope.scaling.factor")
    if kind in (None, "none") or not factor:
        return {"rope_type": "default", "rope_theta": theta}
    if kind == "linear":
        return {"rope_type": "linear", "rope_theta": theta, "factor": factor}
    original = file.setting("rope.scaling.original_context_length")
    if kind == "yarn" and original:
        return {
            "rope_type": "yarn",
            "rope_theta": theta,
            "factor": factor,
            "original_max_position_embeddings": original,
        }
    raise ModelError(
        f"{file.path}: its rotary embedding is scaled by {kind}, which qbench does not read; give"
        " the original model"
    )


def _special_tokens(file: GgufFile) -> dict[str, int]:
    names = ("bos_token_id", "eos_token_id")
    found = {name: file.settings.get(f"tokenizer.ggml.{name}") for name in names}
    return {name: value for name, value in found.items() if type(value) is int}
