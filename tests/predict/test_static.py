"""What is worked out of a model's shape once, however often it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.core.spec import Cell, ModelShape, PrecisionRef
from qbench.precisions import precisions
from qbench.predict.static import predicted_bytes

if TYPE_CHECKING:
    import pytest

    from qbench.core.spec import ResolvedModel


def _cell(model: ResolvedModel, name: str, **options: Any) -> Cell:
    every = precisions()[name].options(**options).model_dump(mode="json")
    return Cell(model=model.ref, precision=PrecisionRef(label=name, name=name, options=every))


def test_a_precision_stores_a_shape_once(
    mistral: ResolvedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    original = type(precisions()["nf4"]).storage

    def storage(*given: Any) -> Any:
        asked.append(given)
        return original(*given)

    monkeypatch.setattr(type(precisions()["nf4"]), "storage", storage)
    cells = [_cell(mistral, "nf4"), _cell(mistral, "nf4")]
    first, second = (predicted_bytes(cell, mistral) for cell in cells)
    assert first is second is not None
    assert len(asked) == 1


def test_what_differs_is_not_taken_for_the_same(mistral: ResolvedModel) -> None:
    assert mistral.shape is not None
    tensors = mistral.shape.tensors
    fewer = mistral.model_copy(
        update={"shape": ModelShape(tensors=tensors[:-1], origin=mistral.shape.origin)}
    )
    # as long, with the same first tensor
    longer = tensors[-1].model_copy(update={"shape": (*tensors[-1].shape, 2)})
    other = mistral.model_copy(
        update={"shape": ModelShape(tensors=(*tensors[:-1], longer), origin=mistral.shape.origin)}
    )
    wide = _cell(mistral, "nf4", dtype="fp32")  # under the same label
    found = [
        predicted_bytes(cell, model)
        for cell, model in (
            (_cell(mistral, "nf4"), mistral),
            (_cell(mistral, "nf4"), fewer),
            (_cell(mistral, "nf4"), other),
            (wide, mistral),
        )
    ]
    totals = [one.total for one in found if one is not None]
    assert len(set(totals)) == len(found)
