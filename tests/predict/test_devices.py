"""Sizes and names of GPUs, and whether a peak fits."""

from __future__ import annotations

import pytest

from qbench.core.errors import DeviceError
from qbench.predict.devices import (
    RESERVED_BYTES,
    as_if_on,
    device_here,
    fits,
    known_gpus,
    memory_of,
    parse_memory,
)
from qbench.predict.peaks import Peak
from tests.record_factory import make_environment

GIB = 2**30


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("24GB", 24 * 10**9),
        ("24GiB", 24 * GIB),
        ("24 gib", 24 * GIB),
        ("0.5GB", 5 * 10**8),
        ("512MiB", 512 * 2**20),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_memory(text).bytes == size


@pytest.mark.parametrize("text", ["h100", "H100", "NVIDIA H100"])
def test_names_in_any_writing(text: str) -> None:
    assert parse_memory(text).name == "h100"


def test_names_are_found_without_their_makers_words() -> None:
    assert parse_memory("NVIDIA GeForce RTX 4090").name == "4090"
    assert parse_memory("Tesla T4").name == "t4"
    assert parse_memory("A100 80GB").name == "a100-80gb"
    assert parse_memory("rtx-a6000").name == "a6000"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100-80gb"),
        ("NVIDIA A100 80GB PCIe", "a100-80gb"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("h100-80gb", "h100"),
        ("t4 16GB", "t4"),
    ],
)
def test_names_as_the_driver_and_sellers_tell_them(text: str, name: str) -> None:
    assert parse_memory(text).name == name


def test_a_size_that_a_gpu_does_not_come_in_is_not_taken_for_another() -> None:
    for text in ("h100-94gb", "h100-0gb", "4060ti-8gb"):
        with pytest.raises(DeviceError, match="no GPU of that name"):
            parse_memory(text)


def test_a_gpu_that_is_here_has_the_attention_of_its_kind() -> None:
    assert not device_here("Tesla V100-SXM2-16GB", 16 * GIB).flash
    assert not device_here("Tesla P100-PCIE-16GB", 16 * GIB).flash
    assert device_here("NVIDIA A100-SXM4-40GB", 40 * GIB).flash


@pytest.mark.parametrize("name", known_gpus())
def test_every_known_gpu_is_found_and_holds_less_than_it_is_sold_with(name: str) -> None:
    found = parse_memory(name)
    assert found.name == name
    assert 5 * GIB < found.bytes < 200 * GIB


def test_flash_attention_came_with_ampere() -> None:
    assert not any(parse_memory(name).flash for name in ("t4", "v100-16gb", "p100", "2080ti"))
    assert all(parse_memory(name).flash for name in ("a100-40gb", "l4", "4090", "h100"))


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA GeForce RTX 2060 SUPER",
        "NVIDIA GeForce RTX 2080 Ti",
        "NVIDIA GeForce GTX 1650",
        "NVIDIA GeForce GTX 1080 Ti",
        "Quadro RTX 8000",
        "Quadro RTX 4000",
        "Quadro P5000",
        "NVIDIA TITAN RTX",
        "NVIDIA TITAN V",
        "Tesla T4",
        "Tesla V100S-PCIE-32GB",
        "Tesla K80",
        "Tesla M60",
        "NVIDIA T1000 8GB",
        "NVIDIA T600 Laptop GPU",
        "NVIDIA GeForce MX450",
    ],
)
def test_older_gpus_have_neither_flash_attention_nor_bf16(name: str) -> None:
    assert not device_here(name, 8 * GIB).flash
    # What the driver tells goes before what the name does.
    assert device_here(name, 8 * GIB, capability=(8, 6)).flash


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA GeForce RTX 2050",
        "NVIDIA GeForce RTX 3090",
        "NVIDIA RTX 2000 Ada Generation",
        "NVIDIA RTX 4000 SFF Ada Generation",
        "NVIDIA RTX A4000",
        "NVIDIA A40",
        "NVIDIA L4",
        "NVIDIA GH200 480GB",
        "NVIDIA H20",
        "NVIDIA B200",
    ],
)
def test_later_ones_have_both(name: str) -> None:
    assert device_here(name, 8 * GIB).flash
    assert not device_here(name, 8 * GIB, capability=(7, 5)).flash


def test_several_gpus_are_their_sum() -> None:
    one, two = parse_memory("h100"), parse_memory("2xh100")
    assert (two.bytes, two.gpus, two.name) == (2 * one.bytes, 2, "2xh100")
    assert parse_memory("4 x 24GB").bytes == 96 * 10**9
    assert two.kept_free_bytes == 2 * RESERVED_BYTES
    peak = Peak("prefill", {"static": two.bytes - 2 * RESERVED_BYTES})
    assert fits(peak, two.bytes, gpus=2).fits
    assert not fits(Peak("prefill", {"static": two.bytes - RESERVED_BYTES}), two.bytes, gpus=2).fits
    moved = as_if_on(make_environment(), two)
    assert (moved.device, moved.gpus_memory_bytes) == ("h100", (one.bytes, one.bytes))
    assert memory_of(moved) == one
    assert memory_of(moved, spread=True) == two


@pytest.mark.parametrize("text", ["0xh100", f"{10**30}xh100", "2x2xh100", "2xh1000", "2x"])
def test_a_number_of_what_is_not_known(text: str) -> None:
    with pytest.raises(DeviceError, match="--gpu"):
        parse_memory(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a100", ["a100-40gb or a100-80gb"]),
        ("24", ["without a unit", "24GB or 24GiB"]),
        ("h1000", ["no GPU of that name", "did you mean 'h100", "24GB"]),
        ("24KB", ["expected a size such as 24GB"]),
        ("0GB", ["expected a size"]),
        ("9" * 400 + "GB", ["expected a size"]),
        ("", ["no GPU of that name"]),
    ],
)
def test_what_is_not_known_says_what_to_give(text: str, words: list[str]) -> None:
    with pytest.raises(DeviceError) as caught:
        parse_memory(text)
    assert all(word in str(caught.value) for word in [repr(text), *words])


def test_some_memory_is_kept_free() -> None:
    peak = Peak("prefill", {"static": 10 * GIB, "kv_cache": GIB})
    exactly = 11 * GIB + RESERVED_BYTES
    assert fits(peak, exactly).fits
    assert fits(peak, exactly).advice == ""
    short = fits(peak, exactly - 1)
    assert not short.fits
    assert (short.needed_bytes, short.available_bytes) == (exactly, exactly - 1)


def test_pages_need_not_fit() -> None:
    kinds = {"base_weights": 4 * GIB, "optimizer_state": 8 * GIB, "activations": GIB}
    assert not fits(Peak("training", kinds), 10 * GIB).fits
    assert fits(Peak("training", kinds, paged=8 * GIB), 10 * GIB).fits


@pytest.mark.parametrize(
    ("peak", "word"),
    [
        (Peak("prefill", {"static": 30 * GIB, "kv_cache": GIB}), "smaller precision"),
        (Peak("decode", {"static": 5 * GIB, "kv_cache": 20 * GIB}), "cache grows"),
        (Peak("prefill", {"static": 5 * GIB, "activations": 20 * GIB}), "shorter sequences"),
        (Peak("training", {"base_weights": 5 * GIB, "activations": 20 * GIB}), "checkpointing"),
        (Peak("training", {"base_weights": 30 * GIB, "activations": GIB}), "LoRA"),
    ],
)
def test_the_advice_names_what_takes_the_most(peak: Peak, word: str) -> None:
    assert word in fits(peak, 24 * GIB).advice


def test_an_unknown_peak_fits_nowhere() -> None:
    with pytest.raises(ValueError, match="not known"):
        fits(Peak("prefill", reason="no shapes"), GIB)


def test_an_environment_as_if_on_another_gpu() -> None:
    moved = as_if_on(make_environment(), parse_memory("t4"))
    assert (moved.device, moved.device_type, moved.device_kind) == ("t4", "cuda", "nvidia-t4")
    assert memory_of(moved) == parse_memory("t4")


def test_a_device_at_hand_is_what_it_says_of_itself() -> None:
    found = device_here("Tesla T4", 15 * GIB)
    assert (found.bytes, found.flash) == (15 * GIB, False)
    assert device_here("NVIDIA Something New", 99 * GIB).flash
