"""What a token reads of a mixture, against what is published and what a loaded model holds."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from qbench.predict.mixtures import mixture_of
from qbench.sources.models.resolve import parse_model, resolve_model

if TYPE_CHECKING:
    from qbench.core.spec import ResolvedModel


def _random(name: str) -> ResolvedModel:
    return resolve_model(parse_model(f"random:{name}", base=Path("/")))


@pytest.mark.parametrize(
    ("name", "read", "experts", "chosen"),
    [
        # The model card of gpt-oss counts as here: without the embedding.
        ("gpt-oss-20b", 3.61e9, 32, 4),
        ("gpt-oss-120b", 5.13e9, 128, 4),
        # Of these, embeddings are counted in what is published.
        ("Mixtral-8x7B", 12.88e9 - 32_000 * 4096, 8, 2),
        ("DeepSeek-V3", 37.55e9 - 129_280 * 7168, 256, 8),
        ("Qwen3-30B-A3B", 3.35e9 - 151_936 * 2048, 128, 8),
        ("Qwen3-235B-A22B", 22.19e9 - 151_936 * 4096, 128, 8),
    ],
)
def test_as_published(name: str, read: float, experts: int, chosen: int) -> None:
    mixture = mixture_of(_random(name))
    assert mixture is not None
    assert mixture.read == pytest.approx(read, rel=0.002)
    assert (mixture.count, mixture.chosen) == (experts, chosen)
    assert f"({chosen} of {experts} experts a layer)" in mixture.words


def test_a_dense_model_is_no_mixture() -> None:
    assert mixture_of(_random("Qwen3-8B")) is None


def test_as_the_floor_of_decoding_reads_it(tmp_path: Path) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from qbench.measures.roofline.latency import weight_bytes_read
    from tests.tiny_configs import tiny_config

    for architecture in ("mixtral", "qwen3_moe", "gpt_oss"):
        config = AutoConfig.for_model(**tiny_config(architecture))
        made = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        folder = tmp_path / architecture
        made.save_pretrained(folder)
        model = resolve_model(parse_model(str(folder), base=tmp_path))
        mixture, (held, reason) = mixture_of(model), weight_bytes_read(made)
        assert reason is None
        assert held is not None
        assert mixture is not None
        assert mixture.read is not None
        buffers = sum(buffer.numel() for buffer in made.buffers())
        assert held == 4 * (mixture.read + buffers)
