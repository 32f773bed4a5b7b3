"""A precision that a package adds: what it says of itself is known wherever it is asked for.

Eight-bit codes, one scale a row, dequantized before each product: what no module of qbench names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import qbench.precisions
from qbench.compare.tuned.arms import describe_method
from qbench.core.number_types import ITEM_BYTES, FloatType
from qbench.core.spec import Cell, Frozen, Item, PrecisionRef, TuningRef
from qbench.finetune import methods
from qbench.finetune.serve.deployment import served_precision
from qbench.plan.items import caveats, why_not_taken
from qbench.precisions import is_quantized, names, precisions, products_of
from qbench.precisions.explain.explain import explain, explained
from qbench.precisions.plain_layers import replace_linear
from qbench.precisions.precision import NoOptions, Precision
from qbench.precisions.products import Products
from qbench.precisions.storage import static_bytes
from qbench.predict.fitting import fit_cases
from qbench.predict.peaks import load_peak, predicted_peak, training_peak
from qbench.sources.models.resolve import parse_model, resolve_model
from tests.precisions.explain.checkpoints import random_weight, save
from tests.precisions.numpy_formats import rounded
from tests.precisions.tiny_cells import load_fresh
from tests.tiny_models import make_tiny_model

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from qbench.core.checkpoint import Checkpoint
    from qbench.core.spec import ModelShape, ResolvedModel, StaticBytes, TensorShape
    from qbench.finetune.options import TrainingOptions
    from qbench.precisions.verification import Verification


class RowsOptions(Frozen):
    """Options of `rows`."""

    dtype: FloatType = "bf16"
    """Type of what is not quantized."""


class Bare(Precision):
    """No more than must be."""

    name = "bare"
    summary = "a precision that says nothing of itself"

    def storage(self, shape: ModelShape, options: Any) -> StaticBytes:
        return static_bytes(shape, 2, lambda tensor: (tensor.numel, 0))

    def load(self, checkpoint: Checkpoint, options: Any) -> Any:
        raise NotImplementedError

    def verify(self, model: Any, options: Any) -> Verification:
        raise NotImplementedError


class Rows(Bare):
    """All that others must know."""

    name = "rows"
    summary = "eight bits a weight, one scale a row"
    title = "ROWS"
    order = 15
    options = RowsOptions
    random_weights = "on random weights nothing of it is real"

    def loads_whole(self, options: RowsOptions) -> bool:
        return True

    def storage(self, shape: ModelShape, options: RowsOptions) -> StaticBytes:
        def linear(tensor: TensorShape) -> tuple[int, int]:
            return tensor.numel, 4 * tensor.out_features

        return static_bytes(shape, ITEM_BYTES[options.dtype], linear)

    def products(self, options: RowsOptions, config: Mapping[str, Any] | None = None) -> Products:
        return Products("dequantized", options.dtype, options.dtype)

    def rounded(self, values: Any, options: RowsOptions) -> Any:
        scales = values.abs().amax(dim=1, keepdim=True) / 127
        return (values / scales).round() * scales


@pytest.fixture(autouse=True)
def added(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def with_two(_: str, __: type, own: tuple[Precision, ...]) -> dict[str, Precision]:
        return {one.name: one for one in (*own, Bare(), Rows())}

    monkeypatch.setattr(qbench.precisions, "with_plugins", with_two)
    for known in (precisions, names._own_names):
        known.cache_clear()
    yield
    for known in (precisions, names._own_names):
        known.cache_clear()


@pytest.fixture
def model() -> ResolvedModel:
    return resolve_model(parse_model("bundled:tiny-mistral", base=None))  # type: ignore[arg-type]


def ref(name: str, **options: Any) -> PrecisionRef:
    chosen = precisions()[name].options(**options).model_dump()
    return PrecisionRef(label=name, name=name, options=chosen)


def cell(model: ResolvedModel, name: str) -> Cell:
    return Cell(model=model.ref, precision=ref(name))


def lora(**options: Any) -> TrainingOptions:
    return methods()["lora"].options(rank=4, **options)


def test_what_a_class_lacks_is_named() -> None:
    class Half(Precision):
        name = "half"
        summary = "cannot be loaded"

        def storage(self, shape: ModelShape, options: Any) -> StaticBytes:
            return static_bytes(shape, 2, linear=None)

    with pytest.raises(TypeError, match=r"load.*verify"):
        Half()  # type: ignore[abstract]


def test_it_stands_where_it_says() -> None:
    places = {name: place for place, name in enumerate(precisions())}
    assert places["fp16"] < places["rows"] < places["int8"]
    assert places["integer"] < places["bare"] < places["stored"]
    assert precisions()["bare"].options is NoOptions


def test_its_peaks_follow_from_how_it_multiplies(model: ResolvedModel) -> None:
    assert model.shape is not None
    params = {"batch": 1, "prompt_tokens": 64, "new_tokens": 4, "attention": "sdpa"}
    item = Item(measurement="memory", slug="memory", params=params)
    peaks = {
        name: predicted_peak(cell(model, name), model, item) for name in ("rows", "bf16", "bare")
    }
    rows, bf16, bare = (peaks[name] for name in ("rows", "bf16", "bare"))
    assert rows is not None
    assert bf16 is not None
    assert bare is not None
    largest = max(one.numel for one in model.shape.tensors if one.role == "linear")
    # Codes as numbers, and these times their scales: two copies of the layer that is at its peak.
    assert 0 < rows.kinds["dequantized_weight"] <= 2 * 2 * largest
    assert rows.kinds["kv_cache"] == bf16.kinds["kv_cache"]
    assert rows.kinds["static"] == precisions()["rows"].storage(model.shape, RowsOptions()).total
    assert bare.total is None
    assert bare.reason == "how the layers of this precision compute is not known here"
    whole, own = (load_peak(cell(model, name), model) for name in ("rows", "bare"))
    assert whole is not None
    assert own is not None
    assert whole.total == bf16.kinds["static"]  # the model in bf16, of which it is made
    assert own.total == precisions()["bare"].storage(model.shape, NoOptions()).total
    trained = training_peak(model, "lora", ref("rows"), lora(), tokens=64)
    assert (trained.total, trained.reason) == (None, bare.reason)


def test_what_can_be_trained_on_it_and_why_the_rest_cannot() -> None:
    full, qat = (
        methods()[name].conflicts(ref("rows"), methods()[name].options())
        for name in ("full", "qat")
    )
    assert full is not None
    assert "those of rows are codes" in full
    assert qat is not None
    assert "{method: lora, precision: rows}" in qat
    method = methods()["lora"]
    assert method.conflicts(ref("rows"), lora()) is None
    for options, words in (
        ({"dora": True}, "PEFT does not know those of rows"),
        ({"init": "pissa"}, "rows holds codes"),
        ({"init": "loftq"}, "use fp4, nf4, nf4-dq"),
    ):
        assert words in str(method.conflicts(ref("rows"), lora(**options)))
    uses = {one.use for one in fit_cases(["rows"], rank=4, target="default", optimizer="adamw")}
    assert uses == {"inference", "QLoRA"}


def test_it_is_served_as_far_as_its_layers_are_known() -> None:
    possible = methods()["lora"].deployments(ref("rows"))
    assert {"attached", "attached-fp16", "merged", "merged-requantized"} <= set(possible)
    assert not {"merged-in-place", "merged-dequantized", "quantized"} & set(possible)
    assert "attached-fp16" not in methods()["lora"].deployments(
        ref("bare")
    )  # it has no such option
    tuning = TuningRef(
        label="x",
        arm="x",
        method="lora",
        precision=ref("rows"),
        options=lora().model_dump(),
        seed=0,
    )
    assert served_precision(tuning, "attached-fp16").options == {"dtype": "fp16"}
    assert served_precision(tuning, "merged").name == "bf16"
    assert describe_method(tuning) == "QLoRA on ROWS"


def test_what_is_not_measured_or_not_real_has_its_words(model: ResolvedModel) -> None:
    item = Item(measurement="weight_error", slug="linear")
    assert "does not say which weights" in str(why_not_taken(cell(model, "rows"), item))
    assert why_not_taken(cell(model, "nf4"), item) is None
    random = cell(model, "rows").model_copy(
        update={"model": model.ref.model_copy(update={"kind": "random"})}
    )
    assert caveats(random, Item(measurement="latency", slug="x")) == (Rows.random_weights,)


def test_one_function_explains_it(tmp_path: Path) -> None:
    weight = random_weight(64, 128)
    folder = save(tmp_path / "one", weight)
    assert "rows" in explained()
    assert "bare" not in explained()
    data = explain("rows", str(folder), None, base=tmp_path).data
    assert data["bits_per_weight"]["stored"] == 8 + 32 / 128
    assert data["options"] == {"dtype": "bf16"}
    loaded = rounded(weight, "bf16")  # the model is loaded in bf16 before its layers are quantized
    scales = np.abs(loaded).max(axis=1, keepdims=True) / np.float32(127)
    held = np.round(loaded / scales) * scales
    relative = np.linalg.norm(held - weight) / np.linalg.norm(weight)
    assert data["error"]["relative"] == pytest.approx(relative, rel=1e-5)
    assert data["error"]["relative"] > np.linalg.norm(loaded - weight) / np.linalg.norm(weight)


def test_a_name_that_is_not_there_is_no_reason_to_fail() -> None:
    gone = PrecisionRef(label="gone", name="gone", options={"bits": 3})
    assert products_of(gone) is None
    assert is_quantized(gone)
    assert products_of(PrecisionRef(label="rows", name="rows", options={"old": 1})) is None


def test_other_layers_take_the_place_of_all_plain_ones(tmp_path: Path) -> None:
    import torch
    from torch import nn

    class Held(nn.Linear):
        def __init__(self, plain: nn.Linear) -> None:
            super().__init__(plain.in_features, plain.out_features, bias=False, device="meta")
            self.weight = nn.Parameter(plain.weight.data.clone(), requires_grad=False)
            self.bias = plain.bias
            self.register_buffer("scales", torch.ones(plain.out_features, 1))

    loaded = load_fresh(make_tiny_model(tmp_path, "gpt2"), "fp32")
    ids = torch.tensor([[1, 2, 3]])
    before = loaded.model(input_ids=ids).logits
    replace_linear(loaded.model, Held)
    made = [module for module in loaded.model.modules() if isinstance(module, Held)]
    assert len(made) == 4 * loaded.model.config.n_layer
    assert all(type(module) is not nn.Linear for module in made)
    torch.testing.assert_close(loaded.model(input_ids=ids).logits, before, rtol=1e-5, atol=1e-6)
    from qbench.precisions.inventory import inventory

    state = [one for one in inventory(loaded.model) if one.kind == "quantization_state"]
    assert len(state) == len(made)
