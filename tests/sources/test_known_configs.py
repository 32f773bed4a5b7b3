"""Shapes from configurations alone, and the configurations that ship with qbench."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qbench.core.errors import ModelError
from qbench.precisions import precisions
from qbench.predict.kv_cache import cache_layers
from qbench.sources.models.headers import read_headers, weight_files
from qbench.sources.models.known_configs import HUB_IDS, known_configs
from qbench.sources.models.resolve import parse_model, resolve_model
from qbench.sources.shapes.from_config import shape_from_config
from qbench.sources.shapes.shapes import shape_from_headers

if TYPE_CHECKING:
    from qbench.core.spec import ResolvedModel

PUBLISHED_WEIGHTS = {
    "DeepSeek-V3": 671_026_404_352,
    "DialoGPT-medium": 354_823_168,
    "Gemma-2-2b": 2_614_341_888,
    "Gemma-2-9b": 9_241_705_984,
    "Gemma-2-27b": 27_227_128_320,
    "Gemma-3-1b": 999_885_952,
    # Of the whole checkpoints, less the image encoder's 416,866,032 and the projector's.
    "Gemma-3-4b-text": 4_300_079_472 - 416_866_032 - 1152 * (2560 + 1),
    "Gemma-3-12b-text": 12_187_325_040 - 416_866_032 - 1152 * (3840 + 1),
    "Gemma-3-27b-text": 27_432_406_640 - 416_866_032 - 1152 * (5376 + 1),
    "Llama-2-7B": 6_738_415_616,
    "Llama-2-13B": 13_015_864_320,
    "Llama-3-8B": 8_030_261_248,
    "Llama-3-70B": 70_553_706_496,
    "Llama-3.1-8B": 8_030_261_248,
    "Llama-3.1-70B": 70_553_706_496,
    "Llama-3.1-405B": 405_853_388_800,
    "Llama-3.2-1B": 1_235_814_400,
    "Llama-3.2-3B": 3_212_749_824,
    "Llama-3.3-70B-Instruct": 70_553_706_496,
    "Mistral-7B-Instruct-v0.2": 7_241_732_096,
    "Mistral-7B-v0.1": 7_241_732_096,
    "Mistral-7B-v0.3": 7_248_023_552,
    "Mistral-Nemo-2407": 12_247_782_400,
    "Mistral-Small-24B-2501": 23_572_403_200,
    "Mixtral-8x7B-v0.1": 46_702_792_704,
    "Mixtral-8x22B-v0.1": 140_620_634_112,
    "OLMo-2-0425-1B": 1_484_916_736,
    "OLMo-2-1124-7B": 7_298_617_344,
    "OLMo-2-1124-13B": 13_716_198_400,
    "OLMo-2-0325-32B": 32_234_279_936,
    "Phi-3-mini-4k": 3_821_079_552,
    "Phi-4": 14_659_507_200,
    "Qwen2.5-0.5B": 494_032_768,
    "Qwen2.5-1.5B": 1_543_714_304,
    "Qwen2.5-3B": 3_085_938_688,
    "Qwen2.5-7B": 7_615_616_512,
    "Qwen2.5-14B": 14_770_033_664,
    "Qwen2.5-32B": 32_763_876_352,
    "Qwen2.5-72B": 72_706_203_648,
    # Tied: the files of the first two hold the embedding a second time.
    "Qwen3-0.6B": 751_632_384 - 151_936 * 1024,
    "Qwen3-1.7B": 2_031_739_904 - 151_936 * 2048,
    "Qwen3-4B": 4_022_468_096,
    "Qwen3-8B": 8_190_735_360,
    "Qwen3-14B": 14_768_307_200,
    "Qwen3-32B": 32_762_123_264,
    "Qwen3-30B-A3B": 30_532_122_624,
    "Qwen3-235B-A22B": 235_093_634_560,
    "SmolLM3-3B": 3_075_098_624,
    "TinyLlama-1.1B": 1_100_048_384,
    "gpt-oss-20b": 20_914_757_184,
    "gpt-oss-120b": 116_829_156_672,
    "gpt2": 124_439_808,
}
"""Elements of the published checkpoints; DeepSeek's without its layer that predicts further tokens
and without the router's corrections, which are no weights."""
OTHER_CONTEXTS = ("-Instruct", "-2507")
"""Ends names of configurations that differ from another in positions alone."""
MISTRAL_BYTES = {
    "fp32": 28_966_928_384,
    "bf16": 14_483_464_192,
    "fp16": 14_483_464_192,
    "int8": 7_509_647_360,
    "nf4": 4_450_703_360,
    "fp4": 4_450_703_360,
    "nf4-dq": 4_125_481_856,
}
DIALOGPT_BYTES = {"fp32": 1_419_292_672, "nf4": 275_535_872, "nf4-dq": 261_454_208}
"""Without the tables of codes, which are counted apart."""
DIALOGPT_MODULES = 96


def random_model(name: str) -> ResolvedModel:
    return resolve_model(parse_model(f"random:{name}", base=Path("/")))


def test_from_the_configuration_as_from_the_header(variant_folder: Path) -> None:
    config = json.loads((variant_folder / "config.json").read_text())
    expected = shape_from_headers(read_headers(weight_files(variant_folder)), config, "here")
    found = shape_from_config(config, "here")
    if config["model_type"] == "opt":
        assert found is None
        return
    assert found is not None
    assert expected is not None
    assert found.tensors == expected.tensors
    assert found.origin == "config"


def test_every_configuration_has_its_published_number_of_weights() -> None:
    assert set(HUB_IDS.values()) <= set(known_configs())
    for name in known_configs():
        same = name
        if name not in PUBLISHED_WEIGHTS:
            ending = next(one for one in OTHER_CONTEXTS if name.endswith(one))
            same = name.removesuffix(ending)
        model = random_model(name)
        assert model.shape is not None
        assert model.shape.origin == "config"
        assert model.shape.weights == PUBLISHED_WEIGHTS[same], name
        assert cache_layers(json.loads((known_configs()[name] / "config.json").read_text()))[0]


@pytest.mark.parametrize("name", ["Mistral-7B", "random:mistralai/Mistral-7B-Instruct-v0.2"])
def test_bytes_of_mistral_7b_without_a_weight(name: str) -> None:
    shape = random_model(name.removeprefix("random:")).shape
    assert shape is not None
    for precision, expected in MISTRAL_BYTES.items():
        held = precisions()[precision]
        found = held.storage(shape, held.options())
        # The published figures leave out the two rotary buffers of 64 fp32 numbers.
        assert found.buffers == 2 * 64 * 4
        assert found.total - found.buffers == expected


def test_bytes_of_dialogpt_medium() -> None:
    shape = random_model("DialoGPT-medium").shape
    assert shape is not None
    tables = {"fp32": 0, "nf4": 16 * 4, "nf4-dq": 16 * 4 + 256 * 4}
    for precision, expected in DIALOGPT_BYTES.items():
        held = precisions()[precision]
        found = held.storage(shape, held.options())
        assert found.total - DIALOGPT_MODULES * tables[precision] == expected


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("random:openai/gpt-oss-20b", "gpt-oss-20b"),
        ("random:gemma-3-27b", "Gemma-3-27b-text"),
        ("random:google/gemma-3-27b-it", "Gemma-3-27b-text"),
        ("random:deepseek-ai/DeepSeek-R1", "DeepSeek-V3"),
        ("random:qwen/qwen2.5-7b-instruct", "Qwen2.5-7B-Instruct"),
    ],
)
def test_checkpoints_with_codes_or_images_have_a_known_shape(source: str, name: str) -> None:
    assert parse_model(source, base=Path("/")).location == name


@pytest.mark.parametrize("source", ["random:mistral-7b", "random:MISTRALAI/mistral-7b-v0.1"])
def test_found_in_any_case_by_name_or_hub_id(source: str) -> None:
    ref = parse_model(source, base=Path("/"))
    assert (ref.kind, ref.location) == ("random", "Mistral-7B-v0.1")
    assert ref.name == "random-Mistral-7B-v0.1"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("random:", "no model after random:"),
        ("random:random:gpt2", "no model after random:"),
        ("random:mistral-7c", "did you mean 'Mistral-7B-v0.[13]'. There is Mistral-7B-Instruct"),
        ("random:bundled:none", "no bundled model of that name"),
        ("random:bad/name@", "neither a folder that exists"),
    ],
)
def test_what_cannot_be_made_is_refused_with_the_nearest_name(source: str, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        parse_model(source, base=Path("/"))


def test_a_folder_of_a_known_name_is_meant_before_the_known_configuration(
    llama_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "gpt2").symlink_to(llama_folder)
    model = resolve_model(parse_model("random:gpt2", base=tmp_path))
    assert model.architecture == "llama"
    assert model.disk_bytes is None


def test_the_fingerprint_follows_the_configuration_alone(llama_folder: Path) -> None:
    first = resolve_model(parse_model(f"random:{llama_folder}", base=Path("/")))
    again = resolve_model(parse_model(f"random:{llama_folder}", base=Path("/")))
    itself = resolve_model(parse_model(str(llama_folder), base=Path("/")))
    assert first.fingerprint == again.fingerprint
    assert first.fingerprint != itself.fingerprint
    assert random_model("gpt2").fingerprint != first.fingerprint


def test_the_bundled_model_has_a_shape_for_random_weights() -> None:
    model = random_model("bundled:tiny-mistral")
    itself = resolve_model(parse_model("bundled:tiny-mistral", base=Path("/")))
    assert model.ref.name == "random-tiny-mistral"
    assert model.shape is not None
    assert itself.shape is not None
    assert model.shape.tensors == itself.shape.tensors
