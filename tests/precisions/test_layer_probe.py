"""Layers are tried in slices, with as many rows as each of the libraries' kernels takes."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from qbench.precisions import layer_probe, options_of, precisions
from qbench.precisions.integer.layers import library_output
from tests.precisions.tiny_cells import TinyCells, Variant, load_fresh

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qbench.measures.loaded import LoadedModel
    from qbench.precisions.verification import Verification

SMALL = Variant("llama-small", "llama", {"layers": 1})
WIDE = Variant("llama-wide", "llama", {"hidden": 512, "intermediate": 4096, "layers": 1})
WIDTH_96 = Variant("llama-96", "llama", {"hidden": 96, "intermediate": 192, "layers": 1})
FORMATS = ["fp4", "nf4", "nf4-dq", "int8", "int8-wo", "int4-g32-asym", "w8a8", "w8a8-static"]


def verify(loaded: LoadedModel) -> Verification:
    precision = loaded.cell.precision
    return precisions()[precision.name].verify(loaded.model, options_of(precision))


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("variant", [SMALL, WIDTH_96], ids=lambda variant: variant.label)
def test_slices_change_no_verdict(
    name: str, variant: Variant, cells: TinyCells, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = cells.load(variant, name)
    whole = verify(loaded)
    monkeypatch.setattr(layer_probe, "SLICE_WEIGHTS", 1)
    sliced = verify(loaded)
    wrong = variant is WIDTH_96 and name in ("fp4", "nf4", "nf4-dq")
    assert bool(whole.faults) == wrong
    assert [place_of(fault) for fault in sliced.faults] == [place_of(one) for one in whole.faults]
    if not wrong:  # a wrong kernel's errors are not the same twice
        for error in ("largest_weight_error", "largest_output_error"):
            found, expected = sliced.details[error], whole.details[error]
            assert found == pytest.approx(expected, rel=1e-4, abs=1e-9)


def place_of(fault: str) -> str:
    return fault.partition(":")[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_working_memory_is_that_of_a_slice(
    name: str, cells: TinyCells, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    loaded = cells.load(WIDE, name)
    slice_weights = 64 * 4096  # the fewest rows of the widest layer
    monkeypatch.setattr(layer_probe, "SLICE_WEIGHTS", slice_weights)
    with largest_made() as verifying:
        verify(loaded)
    with torch.inference_mode(), largest_made() as multiplying:
        for layer in ("up_proj", "down_proj"):
            linear: Any = loaded.model.get_submodule(f"model.layers.0.mlp.{layer}")
            inputs = torch.ones(17, linear.in_features, dtype=torch.bfloat16)
            library_output(linear, inputs)
    assert max(verifying) <= max(*multiplying, 8 * slice_weights)
    assert 8 * slice_weights < 4 * 512 * 4096  # the layer's naive weights


@contextmanager
def largest_made() -> Iterator[list[int]]:
    """Bytes of every tensor that an operation makes in the block."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    made: list[int] = [0]

    class Mode(TorchDispatchMode):
        def __torch_dispatch__(
            self, function: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            result = function(*args, **(kwargs or {}))
            # Tensors of torchao hold nothing themselves: their parts are seen.
            if type(result) is torch.Tensor:
                made.append(result.numel() * result.element_size())
            return result

    with Mode():
        yield made


@pytest.mark.parametrize("name", ["nf4", "int8", "int4-g32", "w8a8"])
@pytest.mark.parametrize("rows", [1, 3, 17])
def test_a_kernel_that_is_wrong_for_some_numbers_of_rows(
    name: str, rows: int, cells: TinyCells
) -> None:
    def spoil(_layer: Any, inputs: tuple[Any], output: Any) -> Any:
        of = inputs[0]
        return output * 1.5 if of.numel() // of.shape[-1] == rows else None

    loaded = load_fresh(cells.folder(SMALL), name)
    assert verify(loaded).faults == ()
    loaded.model.get_submodule("model.layers.0.mlp.up_proj").register_forward_hook(spoil)
    (fault,) = verify(loaded).faults
    assert fault.startswith("model.layers.0.mlp.up_proj (128×64): the library's kernel does not")
