"""Records as a pandas frame, for notebooks."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from qbench.core.errors import UsageError
from qbench.core.packages import missing_packages
from qbench.report.rows import COLUMNS, metric_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from qbench.core.record import Record


def to_frame(records: Sequence[Record]) -> pd.DataFrame:
    """One row a metric, also without any records; `qbench.report.rows.COLUMNS` are its columns.

    A record without metrics gives one row whose metric is None, so that no failure is lost. A
    missing number is NaN in the column `value`, as pandas has it; `reason` says why. Raises
    `qbench.core.errors.UsageError` without pandas.
    """
    lacking = missing_packages(("pandas",))
    if lacking is not None:
        raise UsageError(f"a frame {lacking}")
    import pandas as pd

    frame = pd.DataFrame(list(metric_rows(records)), columns=list(COLUMNS))
    numbers = {"value": "float64", "duration_s": "float64", "samples": "Int64"}
    numbers |= {"threads": "Int64", "repeat": "Int64", "reference": "boolean", "tabled": "boolean"}
    numbers |= {"rehearsal": "boolean"}
    numbers |= {"seed": "Int64", "derived": "boolean", "relative": "boolean"}
    figures = ("pooled", "low", "high", "change", "change_low", "change_high", "margin", "level")
    numbers |= dict.fromkeys(figures, "float64")
    return frame.astype(numbers)


def load_results(path: str | Path = "results") -> pd.DataFrame:
    """All records below a results folder as a frame: one row a metric, see `to_frame`.

    Files that cannot be read are left out with a Python warning that names each. Raises
    `qbench.core.errors.StoreError` where there is no such folder.
    """
    from qbench.core.store import read_folder

    records, unreadable = read_folder(Path(path))
    for file in unreadable:
        warnings.warn(str(file.error), stacklevel=2)
    return to_frame(records)
