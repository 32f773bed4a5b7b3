"""What a kilowatt hour emits, as a person states it: there is no factor by default.

It depends on the place, the hour and the contract, which no measurement tells. Records hold none:
joules are turned into grams when they are shown, so that another factor needs no other run.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict

from qbench.core.reading import STRICT, NotNull, expects
from qbench.core.spec import Frozen

JOULES_A_KWH = 3.6e6
EXPECTED = "grams from 0 to 1e5"


class Co2(Frozen):
    """Grams of CO₂ for each kilowatt hour, and where that is from."""

    model_config = STRICT | ConfigDict(
        json_schema_extra={"errorMessage": "a mapping such as {grams_per_kwh: 380}"}
    )

    grams_per_kwh: Annotated[
        float,
        expects(EXPECTED, ge=0, le=1e5, allow_inf_nan=False, examples=[380]),
    ]
    """Grams of CO₂ that a kilowatt hour stands for where and when this was run."""
    source: Annotated[
        str | None,
        NotNull(),
        expects(
            "a few words, such as the name of the grid and a year", pattern=r"\S", max_length=200
        ),
    ] = None
    """Where the factor is from; only shown."""

    def grams(self, joules: float) -> float:
        """What so many joules emit."""
        return joules / JOULES_A_KWH * self.grams_per_kwh
