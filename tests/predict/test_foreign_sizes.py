"""Configurations with values of any kind: what follows is known, or is not for a reason."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest

from qbench.core.errors import ModelError
from qbench.precisions.products import floating
from qbench.predict.inference import HeldModel, predict_inference
from qbench.predict.kv_cache import cache_elements
from qbench.predict.stated_shapes import decoder_shape
from qbench.sources.models.config import check_config
from qbench.sources.shapes.from_config import shape_from_config
from tests.tiny_configs import tiny_config

_OTHERS = (
    *("layer_types", "no_rope_layers", "rope_parameters", "num_kv_shared_layers", "text_config"),
    *("mlp_only_layers", "decoder_sparse_step", "sliding_window_pattern", "partial_rotary_factor"),
    *("num_experts", "no_rope_layer_interval", "max_window_layers"),
)
_VALUES: tuple[Any, ...] = (
    *(None, "x", -1, 0, 1, 1.5, True, [], {}, [1], ["full_attention"], {"rope_type": ["a"]}),
    *(["x"] * 6, [None] * 6),
)


@pytest.mark.parametrize(
    "architecture",
    ["deepseek_v3", "gemma2", "gemma3_text", "gpt_oss", "mixtral", "phi3", "qwen3_moe", "smollm3"],
)
def test_any_value_is_answered(architecture: str) -> None:
    config = tiny_config(architecture)
    assert shape_from_config(config, "here") is not None
    for key in (*config, *_OTHERS):
        for value in _VALUES:
            changed = {**config, key: value}
            try:
                check_config(changed, "here")
            except ModelError:
                continue
            with suppress(ModelError):
                shape_from_config(changed, "here")
            found, reason = cache_elements(changed, 100)
            assert (found is None) == (reason is not None)
            assert found is None or found.total >= 0
            shape, reason = decoder_shape(changed)
            assert (shape is None) == (reason is not None)
            if shape is not None:
                held = HeldModel(shape, floating("bf16"), 0)
                assert predict_inference(held, batch=1, tokens=24, new_tokens=1).total > 0
