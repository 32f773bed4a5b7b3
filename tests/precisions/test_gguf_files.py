"""GGUF files as models: read, refused, and computing what the original computes."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import pytest

from qbench.core.errors import MeasurementError, ModelError
from qbench.measures.weight_error import WEIGHT_ERROR, WeightErrorOptions
from qbench.precisions import precisions
from qbench.precisions.gguf.layouts import LAYOUTS
from qbench.precisions.loading import load_tokenizer
from qbench.running.loading import load
from qbench.sources.models.gguf_file import read_gguf
from qbench.sources.models.gguf_models import ARCHITECTURES, types_by_count
from qbench.sources.models.gguf_types import BY_NAME, DEQUANTIZED, FLOATING
from qbench.sources.models.resolve import fetch_model, parse_model, resolve_model
from tests.gguf_files import write_gguf
from tests.precisions.test_contract import measured_bytes
from tests.precisions.tiny_cells import make_job, typed_options_of
from tests.tiny_models import make_tiny_model

if TYPE_CHECKING:
    from pathlib import Path

    from qbench.core.spec import ResolvedModel
    from qbench.measures.loaded import LoadedModel

MIXED = {"": "Q4_K", "ffn_down": "Q6_K", "token_embd": "Q8_0", "attn_output": "Q5_0"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QBENCH_CACHE", str(tmp_path / "cache"))


def resolved(file: Path) -> ResolvedModel:
    return resolve_model(parse_model(str(file), base=file.parent))


def loaded_from(file: Path) -> LoadedModel:
    return load(make_job(resolved(file), "stored"), lambda phase: None)


def made(tmp_path: Path, architecture: str, types: dict[str, str], **options: Any) -> Path:
    folder = make_tiny_model(tmp_path / "original", architecture, hidden=256, **options)
    return write_gguf(folder, tmp_path / "model.gguf", types)


def logits(model: Any) -> Any:
    import torch

    with torch.no_grad():
        return model(torch.arange(2, 60)[None]).logits.float()


def original(tmp_path: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tmp_path / "original", dtype=torch.float32).eval()


@pytest.mark.parametrize(
    ("architecture", "options"),
    [
        ("llama", {}),
        ("llama", {"tied": True, "attention_bias": True}),
        ("mistral", {}),
        ("qwen2", {}),
        ("qwen3", {"tied": True, "head_dim": 32}),
        ("gpt2", {"tied": True}),
    ],
)
def test_a_file_of_plain_numbers_computes_as_the_original(
    architecture: str, options: dict[str, Any], tmp_path: Path
) -> None:
    import torch

    found = loaded_from(made(tmp_path, architecture, {"": "F32"}, **options))
    assert torch.equal(logits(found.model), logits(original(tmp_path)))
    details = found.verification.details
    assert (details["quantized_share"], details["dtype"]) == (0, "fp32")
    assert set(details["tensor_types"]) == {"F32"}


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gpt2"])
def test_blocks_stay_as_the_file_has_them(architecture: str, tmp_path: Path) -> None:
    file = made(tmp_path, architecture, MIXED)
    found = loaded_from(file)
    assert found.verification.faults == ()
    assert measured_bytes(found) == found.predicted
    header = read_gguf(file)
    details = found.verification.details
    assert details["stored"] == "gguf"
    assert "llama.cpp multiplies with the blocks" in details["unlike_served"]
    assert details["tensor_types"] == types_by_count(header)
    # Their bytes are the file's: all matrices' but those that are in no blocks.
    in_blocks = [one for one in header.tensors.values() if one.kind.name not in FLOATING]
    held = measured_bytes(found)
    blocks = sum(one.end - one.start for one in in_blocks)
    assert blocks <= held.linear + held.embeddings_and_head <= blocks + 2**18
    assert found.resolved.disk_bytes == file.stat().st_size
    [item] = WEIGHT_ERROR.items(WeightErrorOptions(), found.resolved, tmp_path)
    with pytest.raises(MeasurementError, match="a GGUF file holds no other weights"):
        WEIGHT_ERROR.measure(found, item)
    assert details["quantized_weights"] == sum(one.numel for one in in_blocks)


def test_the_logits_are_those_of_the_packages_weights(tmp_path: Path) -> None:
    """Rows of queries and keys are moved whole; transformers' own loader is the judge."""
    import torch
    from transformers import AutoModelForCausalLM

    file = made(tmp_path, "llama", MIXED)
    theirs = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file=file.name, dtype=torch.float32
    ).eval()
    for parameter in theirs.parameters():  # what is in no blocks is held in 16 bits
        if parameter.dim() < 2:
            parameter.data = parameter.bfloat16().float()
    found = loaded_from(file).model.float()  # norms; blocks take the type of their inputs
    for module in found.modules():
        if hasattr(module, "made_in"):
            module.made_in = torch.float32
    assert torch.allclose(logits(found), logits(theirs), atol=1e-3)


def test_llama_3s_frequencies_are_read(tmp_path: Path) -> None:
    import torch
    from gguf import GGUFReader, GGUFWriter

    rope = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    }
    file = made(tmp_path, "llama", {"": "F32"}, rope_parameters=rope)
    model = original(tmp_path)
    plain = 1 / 10000.0 ** (torch.arange(0, 64, 2) / 64)
    factors = plain / model.model.rotary_emb.inv_freq
    assert factors.max() > 7
    reader = GGUFReader(file)
    writer = GGUFWriter(tmp_path / "with.gguf", "llama")
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            kind = field.types[0]
            sub = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(name, field.contents(), kind, sub)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data)
    writer.add_tensor("rope_freqs.weight", factors.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = logits(loaded_from(tmp_path / "with.gguf").model)
    assert torch.allclose(found, logits(model), atol=1e-4)
    assert not torch.allclose(logits(loaded_from(file).model), logits(model), atol=1e-2)


def test_types_that_no_layer_computes_with_are_made_into_weights_once(tmp_path: Path) -> None:
    found = loaded_from(made(tmp_path, "llama", {"": "Q4_0", "ffn_up": "TQ1_0"}, layers=1))
    assert found.verification.faults == ()
    assert measured_bytes(found) == found.predicted
    details = found.verification.details
    assert details["held_dequantized"] == ["model.layers.0.mlp.up_proj.weight"]
    assert details["left_out"] == ["model.layers.0.mlp.up_proj"]
    assert "1 matrices of TQ1_0 are held as weights in bf16" in found.verification.warnings[0]


def test_every_type_is_decoded_by_a_layer_or_once() -> None:
    others = {"I8", "I16", "I32", "I64"}
    assert {*LAYOUTS, *DEQUANTIZED, *FLOATING, *others} == set(BY_NAME)
    assert not set(LAYOUTS) & set(DEQUANTIZED)


def test_the_tokenizer_is_the_files_own(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from qbench.core.checkpoint import Checkpoint

    file = made(tmp_path, "llama", {"": "Q8_0"}, layers=1)
    folder = fetch_model(resolved(file))
    found = load_tokenizer(Checkpoint(folder, "cpu"), bundled=False)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "original")
    text = "def add(first, second):\n    return first + 1  # ünïcode\n"
    assert found(text).input_ids == theirs(text).input_ids


def test_what_is_known_without_loading(tmp_path: Path) -> None:
    file = made(tmp_path, "mistral", MIXED)
    model = resolved(file)
    assert model.ref.name == "model"
    assert (model.architecture, model.quantization) == ("llama", "gguf")
    assert model.context_tokens == 128
    held = precisions()["stored"]
    assert held.needs_of(model, held.options()) == ("gguf",)
    assert held.misfit(typed_options_of("stored"), model) is None
    # A folder that holds nothing else stands for its file, and a copy is the same model.
    (tmp_path / "alone").mkdir()
    copy = tmp_path / "alone" / "other.gguf"
    copy.write_bytes(file.read_bytes())
    assert resolved(tmp_path / "alone").fingerprint == model.fingerprint


def damaged(contents: bytes, how: str) -> bytes:
    at = contents.index(b"token_embd.weight") + len(b"token_embd.weight")
    at += 4 + 8 * 2  # the number of sizes, and two sizes
    return {
        "other letters": b"GGJT" + contents[4:],
        "cut": contents[:-100],
        "cut in its header": contents[:300],
        "old": contents[:4] + struct.pack("<I", 1) + contents[8:],
        "big-endian": contents[:4] + struct.pack(">I", 3) + contents[8:],
        "counts": contents[:8] + struct.pack("<Q", 2**60) + contents[16:],
        # The number of settings is kept; the first one becomes a list of lists.
        "lists of lists": contents[:24] + struct.pack("<Q1sIIQ", 1, b"x", 9, 9, 1) + contents[24:],
        "unknown type": contents[:at] + struct.pack("<I", 99) + contents[at + 4 :],
    }[how]


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("other letters", "it does not begin with the letters GGUF"),
        ("cut", "corrupt: found .* bytes where its header needs"),
        ("cut in its header", "too few for its header"),
        ("old", "found a GGUF file that is of version 1"),
        ("big-endian", "found a GGUF file that is big-endian"),
        ("counts", "corrupt: found 1152921504606846976 tensors"),
        ("lists of lists", "corrupt: found a list of 1 entries of type 9"),
        ("unknown type", "token_embd.weight is of type 99, which qbench does not know"),
    ],
)
def test_a_damaged_file_is_refused_by_name(how: str, words: str, tmp_path: Path) -> None:
    file = made(tmp_path, "llama", {"": "Q8_0"}, layers=1)
    file.write_bytes(damaged(file.read_bytes(), how))
    with pytest.raises(ModelError, match=words) as raised:
        resolved(file)
    assert str(raised.value).startswith(str(file))


def write_header(path: Path, architecture: str, settings: dict[str, Any]) -> Path:
    import numpy as np
    from gguf import GGUFWriter

    writer = GGUFWriter(path, architecture)
    for name, value in settings.items():
        writer.add_uint32(name, value)
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("architecture", "settings", "words"),
    [
        ("mamba", {}, "a GGUF file of the architecture mamba; qbench reads those of llama"),
        ("llama", {"llama.expert_count": 8}, "of a mixture of experts"),
        ("llama", {"split.count": 3}, "one of 3 parts of a model.*llama-gguf-split --merge"),
        ("llama", {}, "its setting llama.attention.head_count is None; expected a whole number"),
    ],
)
def test_a_foreign_file_is_refused_by_name(
    architecture: str, settings: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=words):
        resolved(write_header(tmp_path / "x.gguf", architecture, settings))


@pytest.mark.slow
def test_a_file_without_some_tensor_is_refused(tmp_path: Path) -> None:
    file = made(tmp_path, "llama", {"": "Q8_0"}, layers=1)
    contents = file.read_bytes().replace(b"blk.0.ffn_down.weight", b"blk.7.ffn_down.weight")
    file.write_bytes(contents)
    with pytest.raises(ModelError, match="its tensors are not those of LlamaForCausalLM: 2 differ"):
        loaded_from(file)
    file.write_bytes(contents.replace(b"blk.7.ffn_down.weight", b"blk.0.ffn_dawn.weight"))
    with pytest.raises(ModelError, match=r"holds blk\.0\.ffn_dawn\.weight, which no llama model"):
        resolved(file)


def test_a_folder_of_several_files_must_name_one(tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).touch()
    with pytest.raises(ModelError, match=r"found 2 GGUF files \(a.gguf, b.gguf\).*name the file"):
        resolved(tmp_path)
    with pytest.raises(ModelError, match=r"c.gguf: cannot be read: No such file"):
        resolved(tmp_path / "c.gguf")


def test_a_name_that_ends_like_a_file_is_never_asked_for_on_a_hub(tmp_path: Path) -> None:
    ref = parse_model("absent.gguf", base=tmp_path)
    assert (ref.kind, ref.name) == ("folder", "absent")


def test_the_architectures_that_are_read() -> None:
    assert set(ARCHITECTURES) == {"llama", "qwen2", "qwen3", "gpt2"}
