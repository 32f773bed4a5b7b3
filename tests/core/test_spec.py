"""What a cell says of itself."""

from __future__ import annotations

from qbench.core.spec import Cell, ModelRef, PrecisionRef, TuningRef

MODEL = ModelRef(name="m", source="bundled:m", kind="bundled", location="m")
NF4 = PrecisionRef(label="nf4", name="nf4")
TUNING = TuningRef(label="qlora-nf4", arm="qlora-nf4", method="lora", precision=NF4)


def test_a_tuning_that_nothing_serves_is_a_training() -> None:
    training = Cell(model=MODEL, precision=NF4, tuning=TUNING)
    served = training.model_copy(update={"deploy": "attached"})
    untuned = Cell(model=MODEL, precision=NF4)
    assert [cell.is_training for cell in (training, served, untuned)] == [True, False, False]
    assert [cell.training for cell in (training, served, untuned)] == [TUNING, None, None]
    assert [cell.label for cell in (training, served, untuned)] == [
        "qlora-nf4",
        "qlora-nf4--attached",
        "nf4",
    ]
