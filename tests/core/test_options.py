"""Options as their own type, of plain values."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from qbench import finetune, precisions
from qbench.core.options import plain_options, typed_options
from qbench.finetune.lora_options import LoraOptions
from qbench.measures.quality.quality import QualityParams
from qbench.plan.suite.suite import load_suite_text
from qbench.precisions.integer.options import IntegerOptions
from qbench.sources.data.texts import resolve_text

SUITE = """\
models: bundled:tiny-mistral
precisions: [bf16, int4-g32, nf4: {compute_dtype: [fp16, fp32]}]
finetune: {methods: {method: lora, rank: [4, 8], extra: {rank_pattern: {q_proj: 2}}}}
"""


def test_what_a_suite_chose_is_had_as_its_own_type() -> None:
    suite = load_suite_text(SUITE, "suite.yaml", Path.cwd())
    for ref in suite.precisions:
        options = precisions.options_of(ref)
        assert type(options) is precisions.precisions()[ref.name].options
        assert options.model_dump(mode="json") == ref.options
    assert suite.finetune is not None
    for tuning, rank in zip(suite.finetune.tunings, (4, 8), strict=True):
        held = finetune.training_options(tuning)
        assert isinstance(held, LoraOptions)
        assert (held.rank, held.extra) == (rank, {"rank_pattern": {"q_proj": 2}})


def test_the_same_values_are_read_once_and_others_again() -> None:
    four = typed_options(IntegerOptions, {"bits": 4, "mapping": "asymmetric"})
    assert typed_options(IntegerOptions, {"mapping": "asymmetric", "bits": 4}) is four
    assert typed_options(IntegerOptions, {"bits": 5}).bits == 5


def test_what_is_wrong_is_told() -> None:
    with pytest.raises(ValidationError, match="bits"):
        typed_options(IntegerOptions, {"bits": 40})


def test_what_is_given_stands_in_an_item_and_nothing_else() -> None:
    """A field that was added later must not change the keys of records that do not use it."""
    text = resolve_text("bundled:stdlib-heldout", base=Path.cwd())
    params = QualityParams(text=text, window=64, protocol="default", batch=4, divergence=True)
    plain = plain_options(params)
    assert list(plain) == ["text", "window", "protocol", "batch", "divergence"]
    assert typed_options(QualityParams, plain) == params
    assert "attention" in plain_options(params.model_copy(update={"attention": "eager"}))
