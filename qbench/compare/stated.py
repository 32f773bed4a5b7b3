"""What a suite, or the command line, states about the reading of records.

Records hold nothing of it: they are read anew under another budget, price or factor.
"""

from __future__ import annotations

from qbench.compare.co2 import Co2
from qbench.compare.price import Price
from qbench.compare.recommend.budget import Budget
from qbench.core.spec import Frozen


class Stated(Frozen):
    """What holds for the records of one suite; each None where nothing is stated."""

    budget: Budget | None = None
    """What a model may cost and lose, and what is to be lowest."""
    price: Price | None = None
    """What an hour of a device costs."""
    co2: Co2 | None = None
    """What a kilowatt hour emits."""


NOTHING = Stated()
