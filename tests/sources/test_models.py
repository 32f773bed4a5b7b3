"""Models are found, described without torch, and refused with the place and the remedy."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import qbench
from qbench.core.cache import cache_folder, cache_size_bytes, read_cached, write_cached
from qbench.core.errors import ModelError
from qbench.core.spec import ResolvedModel
from qbench.sources.fingerprint import file_sha256
from qbench.sources.models.config import read_config
from qbench.sources.models.headers import read_headers, weight_files
from qbench.sources.models.resolve import (
    fetch_model,
    parse_model,
    resolve_model,
    resolve_models,
)
from qbench.sources.shapes.shapes import shape_from_headers
from tests.tiny_models import ARCHITECTURES, make_tiny_model


def resolve(folder: Path) -> ResolvedModel:
    return resolve_model(parse_model(str(folder), base=Path("/")))


@pytest.fixture
def copy(llama_folder: Path, tmp_path: Path) -> Path:
    """A copy of a model that a test may damage."""
    return Path(shutil.copytree(llama_folder, tmp_path / "model"))


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# --- what a source means


def test_folder_relative_to_the_suite(copy: Path) -> None:
    for source in ("model", "./model", "model/", str(copy)):
        ref = parse_model(source, base=copy.parent)
        assert (ref.kind, ref.location, ref.name) == ("folder", str(copy), "model")
        assert ref.source == source
    assert parse_model(".", base=copy).name == "model"


def test_folder_in_home(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(copy.parent))
    assert parse_model("~/model", base=Path("/")).location == str(copy)


def test_name_is_safe_and_can_be_chosen(tmp_path: Path) -> None:
    (tmp_path / "my model (v2)").mkdir()
    assert parse_model("./my model (v2)", base=tmp_path).name == "my-model-v2"
    assert parse_model("./my model (v2)", base=tmp_path, name="mine").name == "mine"


@pytest.mark.parametrize(
    ("source", "location", "revision", "name"),
    [
        ("gpt2", "gpt2", None, "gpt2"),
        ("owner/Model-7B.v2", "owner/Model-7B.v2", None, "Model-7B.v2"),
        ("owner/model@main", "owner/model", "main", "model"),
        ("owner/model@refs/pr/1", "owner/model", "refs/pr/1", "model"),
    ],
)
def test_hub_id(
    tmp_path: Path, source: str, location: str, revision: str | None, name: str
) -> None:
    ref = parse_model(source, base=tmp_path, trust_remote_code=True)
    assert (ref.kind, ref.location, ref.revision, ref.name) == ("hub", location, revision, name)
    assert ref.trust_remote_code


@pytest.mark.parametrize("source", ["", "a/b/c", "owner/model@", "owner name/model", "owner/"])
def test_neither_folder_nor_hub_id(tmp_path: Path, source: str) -> None:
    with pytest.raises(ModelError, match=r"neither a folder.*expected bundled:<name>"):
        parse_model(source, base=tmp_path)


def test_bundled_model() -> None:
    model = resolve_model(parse_model("bundled:tiny-mistral", base=Path("/")))
    assert (model.ref.kind, model.ref.name) == ("bundled", "tiny-mistral")
    assert model.architecture == "mistral"
    assert model.shape is not None
    assert model.shape.origin == "header"
    assert (fetch_model(model) / "tokenizer.json").is_file()


def test_unknown_bundled_model_names_the_nearest() -> None:
    with pytest.raises(ModelError, match="did you mean 'tiny-mistral"):
        parse_model("bundled:tiny-mistrl", base=Path("/"))


# --- what is found out


def test_description(copy: Path) -> None:
    model = resolve(copy)
    assert model.folder == str(copy)
    assert fetch_model(model) == copy
    assert (model.architecture, model.context_tokens, model.revision) == ("llama", 128, None)
    assert model.disk_bytes == (copy / "model.safetensors").stat().st_size
    assert model.shape_unknown is None


def test_a_configuration_that_changed_in_the_cache_is_not_believed(tmp_path: Path) -> None:
    model = resolve_model(parse_model("random:llama-3.2-1b", base=tmp_path))
    config = fetch_model(model) / "config.json"
    right = config.read_bytes()
    config.write_bytes(right.replace(b'"num_hidden_layers": 16', b'"num_hidden_layers": 15'))
    assert config.read_bytes() != right
    assert (fetch_model(model) / "config.json").read_bytes() == right


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_context_of_every_architecture(tmp_path: Path, architecture: str) -> None:
    folder = make_tiny_model(tmp_path, architecture, context=96)
    assert resolve(folder).context_tokens == 96


def test_no_context_is_none(copy: Path) -> None:
    path = copy / "config.json"
    config = json.loads(path.read_text())
    del config["max_position_embeddings"]
    path.write_text(json.dumps(config))
    assert resolve(copy).context_tokens is None


def test_fingerprint_follows_contents_not_place(copy: Path, llama_folder: Path) -> None:
    fingerprint = resolve(llama_folder).fingerprint
    assert resolve(copy).fingerprint == fingerprint
    (copy / "README.md").write_text("no part of the model")
    assert resolve(copy).fingerprint == fingerprint
    for name in ("tokenizer.json", "config.json", "generation_config.json"):
        original = (copy / name).read_bytes()
        (copy / name).write_bytes(original + b"\n")
        assert resolve(copy).fingerprint != fingerprint
        (copy / name).write_bytes(original)
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert resolve(copy).fingerprint != fingerprint


def test_tokenizer_may_be_missing(tmp_path: Path) -> None:
    assert resolve(make_tiny_model(tmp_path, "gpt2", tokenizer=False)).architecture == "gpt2"


def test_planning_loads_no_torch(llama_folder: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "import qbench.core.environment\n"
        "from qbench.sources.models.resolve import parse_model, resolve_model\n"
        "from qbench.sources.data.texts import resolve_text\n"
        "resolve_model(parse_model(sys.argv[1], base=Path('/')))\n"
        "resolve_text('wikitext-2', base=Path('/'))\n"
        "qbench.core.environment.detect_environment(qbench.core.environment.find_device('cpu'))\n"
        "heavy = {'torch', 'transformers', 'datasets', 'pandas', 'huggingface_hub', 'numpy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(llama_folder)],
        cwd=Path(qbench.__file__).parent.parent,
        check=True,
    )


# --- what is refused


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no-such: no such folder; check the path"):
        resolve(tmp_path / "no-such")


def test_file_instead_of_folder(copy: Path) -> None:
    with pytest.raises(ModelError, match="found a file; expected the folder"):
        resolve(copy / "model.safetensors")


def test_folder_without_config(copy: Path) -> None:
    (copy / "config.json").unlink()
    with pytest.raises(ModelError, match=r"no config\.json"):
        resolve(copy)
    (copy / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="merge it into its base"):
        resolve(copy)


def test_adapter_beside_the_weights(copy: Path) -> None:
    """transformers would apply it, whether it is merged into the weights already or not."""
    (copy / "adapter_config.json").write_text("{}")
    with pytest.raises(
        ModelError, match=r"adapter_config\.json beside .*remove the adapter's files"
    ):
        resolve(copy)


@pytest.mark.parametrize(
    "name",
    [
        "additional_chat_templates/tool.jinja",
        "generation_config.json",
        "sentencepiece.bpe.model",
        "tekken.json",
        "tokenizer.4.0.0.json",
        "tokenizer.model.v3",
        "tokenizer_config.json",
    ],
)
def test_what_decides_the_numbers_is_in_the_fingerprint(copy: Path, name: str) -> None:
    path = copy / name
    path.parent.mkdir(exist_ok=True)
    found = [resolve(copy).fingerprint]
    for contents in ("{}", '{"a": 1}'):
        path.write_text(contents)
        found.append(resolve(copy).fingerprint)
    assert len(set(found)) == 3
    for aside in ("README.md", "stray.safetensors", "notes.json"):
        (copy / aside).write_text("aside")
    assert resolve(copy).fingerprint == found[-1]


def test_code_of_the_models_own_is_in_the_fingerprint(copy: Path) -> None:
    def fingerprint(*, trusted: bool) -> str:
        source = parse_model(str(copy), base=Path("/"), trust_remote_code=trusted)
        return resolve_model(source).fingerprint

    before = [fingerprint(trusted=trusted) for trusted in (False, True)]
    (copy / "custom_generate").mkdir()
    (copy / "custom_generate" / "generate.py").write_text("def generate(model): ...")
    assert fingerprint(trusted=False) == before[0]
    assert fingerprint(trusted=True) != before[1]


def test_a_byte_of_a_big_file_that_changed_under_an_old_date_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"1")
    os.truncate(path, 40 << 20)
    os.utime(path, (1, 1))
    before = file_sha256(path)
    with path.open("r+b") as file:
        file.write(b"2")
    os.utime(path, (1, 1))
    assert file_sha256(path) != before


def test_fingerprint_of_the_bundled_model() -> None:
    """It is part of the keys of all records of the bundled model, published ones too."""
    model = resolve_model(parse_model("bundled:tiny-mistral", base=Path("/")))
    assert model.fingerprint == ("1b24bc89f056ce1974c3c81341b41377a614bb1cf6c228d1cc88db94a32fc050")


def test_weights_under_a_name_of_their_own(copy: Path) -> None:
    edit_config(copy, transformers_weights="other.safetensors")
    with pytest.raises(ModelError, match=r"transformers_weights.*rename the file"):
        resolve(copy)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ("{", "no valid JSON"),
        ("\xff", "no valid JSON|model_type"),
        ("[]", "found a JSON list"),
        ("{}", "no model_type"),
        ('{"model_type": 3}', "model_type 3"),
        ('{"model_type": "\\u001b[31mllama"}', r'model_type "\\+x1b.31mllama"'),
        ("\xff\xfe{\0}\0", "no valid JSON"),  # UTF-16, which transformers does not read either
        ("[" * 100_000, "no valid JSON"),
    ],
)
def test_unusable_config(copy: Path, contents: str, message: str) -> None:
    (copy / "config.json").write_text(contents, encoding="latin-1")
    with pytest.raises(ModelError, match=message) as caught:
        resolve(copy)
    assert str(copy) in str(caught.value)


@pytest.mark.parametrize(
    "key", ["head_dim", "intermediate_size", "num_hidden_layers", "vocab_size"]
)
@pytest.mark.parametrize("value", ["8", {"a": 1}, [8, 8], -1, 0, 8.5, True, float("inf"), 10**18])
def test_a_size_that_is_none(copy: Path, key: str, value: Any) -> None:
    edit_config(copy, **{key: value})
    with pytest.raises(ModelError, match=rf"config\.json has {key}: .*; expected a whole number"):
        resolve(copy)


@pytest.mark.parametrize(
    "value", [["llama3"], {"rope_type": {"a": 1}}, {"rope_type": ["a"]}, "linear", 3]
)
def test_a_rotary_scaling_that_is_none(llama_folder: Path, value: Any) -> None:
    """The shape is not known by heart: transformers is asked for it, and says what is wrong."""
    tensors = read_headers(weight_files(llama_folder))
    config = {**read_config(llama_folder), "rope_parameters": value}
    assert shape_from_headers(tensors, config, "here") is None


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "opt"])
def test_a_configuration_that_leaves_sizes_out(tmp_path: Path, architecture: str) -> None:
    from qbench.predict.stated_shapes import decoder_shape

    path = make_tiny_model(tmp_path, architecture) / "config.json"
    config = json.loads(path.read_text())
    for key in list(config):
        shorter = {name: value for name, value in config.items() if name != key}
        shape, reason = decoder_shape(shorter)
        assert shape is not None or reason is not None
        if key in {"num_attention_heads", "n_head"}:
            assert reason == f"config.json does not state {key}"
            path.write_text(json.dumps(shorter))
            assert resolve(tmp_path).fingerprint
    for value in ("x", [1], {}):
        shape, reason = decoder_shape({**config, "num_attention_heads": value, "n_head": value})
        assert shape is None
        assert reason is not None


@pytest.mark.parametrize(
    "name",
    ["\x1b[31mred", "a\nb", "../model.safetensors", "/etc/passwd", "", 3, None, ["a"], "a\u202eb"],
)
def test_an_index_that_names_what_is_no_file_beside_it(copy: Path, name: Any) -> None:
    (copy / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {"a": name}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"index\.json: names the file") as caught:
        resolve(copy)
    assert str(caught.value).isprintable()


def test_texts_of_a_configuration_are_harmless(copy: Path) -> None:
    """Messages and tables show them, such as an activation that is not known."""
    edit_config(copy, hidden_act="silver\x1b[31m", **{"a\x1bb": ["c\u202ed"]})
    config = read_config(copy)
    assert config["hidden_act"] == "silver\\x1b[31m"
    assert json.dumps(config, ensure_ascii=False).isprintable()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("device", [None, "/dev/zero"])
def test_a_models_file_behind_what_is_no_file(copy: Path, name: str, device: str | None) -> None:
    (copy / name).unlink()
    if device is None:
        os.mkfifo(copy / name)
    else:
        (copy / name).symlink_to(device)
    if name == "tokenizer.json":
        assert resolve(copy).shape is not None
        return
    with pytest.raises(ModelError, match=r"found no (config\.json|weights)"):
        resolve(copy)


def test_already_quantized(copy: Path) -> None:
    edit_config(copy, quantization_config={"quant_method": "GPTQ"})
    assert resolve(copy).quantization == "gptq"
    edit_config(copy, quantization_config={"bits": 4})
    with pytest.raises(ModelError, match=r"already quantized, but .* no quant_method"):
        resolve(copy)


def test_no_weights(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"found no weights; expected model.safetensors"):
        resolve(copy)
    (copy / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match=r"found adapter_model.safetensors; expected model.safet"):
        resolve(copy)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.pth", "model.pt"])
def test_pickle_weights_only(copy: Path, name: str) -> None:
    (copy / "model.safetensors").unlink()
    (copy / name).write_bytes(b"pickle")
    with pytest.raises(ModelError, match=rf"pickles only \({name}\).*safe_serialization=True"):
        resolve(copy)


def safetensors_file(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "too few for a header"),
        (b"\x01\x02", "too few for a header"),
        (b"\xff" * 100, "too few for a header"),
        (safetensors_file(b"{not json"), "not JSON"),
        (safetensors_file(b"[1]"), "not a JSON object"),
        (safetensors_file(b'{"a": {"dtype": "F32"}}'), "entry a without"),
        (safetensors_file(b'{"a": 1}'), "entry a without"),
        *(
            (
                safetensors_file(
                    b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,%s]}}' % end, b"1234"
                ),
                "entry a without",
            )
            for end in (b"Infinity", b"NaN", b"4.0", b'"4"', b"true", b"null")
        ),
        *(
            (
                safetensors_file(
                    b'{"a":{"dtype":%s,"shape":[1],"data_offsets":[0,4]}}' % dtype, b"1234"
                ),
                "entry a without",
            )
            for dtype in (b"[1]", b"null", b'"F4\\u001b[31m"')
        ),
        (
            safetensors_file(
                b'{"a":{"dtype":"F32","shape":[-1,-1],"data_offsets":[0,4]}}', b"1234"
            ),
            "a at bytes 0 to 4 for F32 of shape",
        ),
        (safetensors_file(b"[" * 100_000), "not JSON"),
        (safetensors_file(b'{"\\u001b[31ma": 1}'), "a tensor named .*u001b"),
        (
            safetensors_file(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}', b"1234"),
            "a at bytes 0 to 4 for F32 of shape",
        ),
        (
            safetensors_file(b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}', b"1234"),
            "a at bytes 4 to 0",
        ),
    ],
)
def test_corrupt_weights(copy: Path, contents: bytes, message: str) -> None:
    (copy / "model.safetensors").write_bytes(contents)
    with pytest.raises(ModelError, match=f"model.safetensors: corrupt: .*{message}.*again"):
        resolve(copy)


def test_truncated_weights(copy: Path) -> None:
    path = copy / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    message = f"{len(whole) - 100} bytes where its header needs {len(whole)}"
    with pytest.raises(ModelError, match=message):
        resolve(copy)


def test_missing_shard(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path, "llama", max_shard_size="100KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert resolve(folder).disk_bytes == sum(shard.stat().st_size for shard in shards)
    shards[1].unlink()
    with pytest.raises(ModelError, match=f"{shards[1].name} missing"):
        resolve(folder)
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ModelError, match="found no weight_map"):
        resolve(folder)


def test_two_shards_hold_one_tensor(tmp_path: Path) -> None:
    """transformers takes the last shard's, whatever the index says."""
    from safetensors.numpy import load_file, save_file

    folder = make_tiny_model(tmp_path, "llama", max_shard_size="100KB")
    first, *_, last = sorted(folder.glob("model-*.safetensors"))
    name, values = next(iter(load_file(first).items()))
    held = load_file(last)
    save_file({**held, name: values}, last, metadata={"format": "pt"})
    resolve(folder)  # the same twice is no choice
    save_file({**held, name: values + 1}, last, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=f"{name} stands in {first.name} and.*in {last.name}"):
        resolve(folder)


# --- the cache


def test_cache_keeps_and_forgets(tmp_path: Path) -> None:
    assert cache_folder() == tmp_path / "cache"
    assert cache_size_bytes() == 0
    identity = {"path": "a", "size": 3}
    assert read_cached("kind", identity) is None
    write_cached("kind", identity, {"value": [1, 2]})
    assert read_cached("kind", identity) == {"value": [1, 2]}
    assert read_cached("other", identity) is None
    assert read_cached("kind", {**identity, "size": 4}) is None
    [entry] = (tmp_path / "cache" / "kind").iterdir()
    assert cache_size_bytes() == entry.stat().st_size
    for damaged in (entry.read_bytes()[:-3], b"", b"[]", b"\xff\xfe", b"[" * 100_000):
        entry.write_bytes(damaged)
        assert read_cached("kind", identity) is None


def test_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("QBENCH_CACHE", str(tmp_path / "file"))
    write_cached("kind", {"a": 1}, 2)
    assert read_cached("kind", {"a": 1}) is None


def test_cache_folder_of_the_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QBENCH_CACHE")
    assert cache_folder().name == "qbench"


# --- the tiny models that other tests rely on


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("bos", [True, False])
def test_tiny_model_and_tokenizer(tmp_path: Path, architecture: str, *, bos: bool) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = make_tiny_model(tmp_path, architecture, bos=bos)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("déf add(1)\n")["input_ids"]
    assert ids.count(tokenizer.bos_token_id) == (1 if bos else 0)
    assert tokenizer.decode(ids, skip_special_tokens=True) == "déf add(1)\n"
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"]
    assert model.config.vocab_size == len(tokenizer)
    assert model.config.bos_token_id == (tokenizer.bos_token_id if bos else None)


def test_models_of_one_shape_have_the_same_one(tmp_path: Path) -> None:
    """What a plan works out of a shape is looked up by it, which is quick only for the same one."""
    sources = ("random:Qwen2.5-7B", "random:Qwen2.5-7B-Instruct", "random:Qwen3-8B")
    refs = [parse_model(source, base=tmp_path) for source in sources]
    first, second, other = resolve_models(refs)
    assert isinstance(first, ResolvedModel)
    assert isinstance(second, ResolvedModel)
    assert isinstance(other, ResolvedModel)
    assert first.fingerprint != second.fingerprint
    assert first.shape is second.shape
    assert other.shape != first.shape
