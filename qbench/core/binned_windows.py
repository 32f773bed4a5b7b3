"""How many values of each window lie in which range: what a record keeps of its tokens.

How surely a quantile over tokens is known depends on which windows its tokens stand in. Kept one by
one they would be most of a record; as counts on a logarithmic axis they are some 30 bytes a window.
The bins are a factor of 1.33 wide and parted at the recorded quantiles, so that how many tokens of
each window lie beyond one is exact. Between these edges values are taken for even.
"""

from __future__ import annotations

import base64
import zlib
from typing import TYPE_CHECKING, Any, NamedTuple

from qbench.core.quantile import named_share
from qbench.core.unchecked import as_list, as_mapping, as_number

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    import numpy.typing as npt

    Counts = npt.NDArray[np.int64]

LOWEST, HIGHEST = -9, 2
"""Powers of ten between which the bins lie."""
A_DECADE = 8
"""Bins between two powers of ten."""
EDGES = tuple(10 ** (LOWEST + at / A_DECADE) for at in range((HIGHEST - LOWEST) * A_DECADE + 1))
BY_METRIC = {"kl": "kl_by_window"}
"""Key of a record's details with the values of its tokens, by what the metrics are named after."""
_AXIS = {"lowest": LOWEST, "highest": HIGHEST, "a_decade": A_DECADE}
_WIDTHS = (1, 2, 4)
"""Bytes that a count may be kept in."""
_MOST_PARTED = 64


class BinnedWindows(NamedTuple):
    """Values by window and bin."""

    counts: Counts
    """(windows, edges + 1): up to the first edge, up to the second … and beyond the last."""
    edges: tuple[float, ...]


def kept_as(metric: str) -> str | None:
    """Where a record keeps what the metric is a quantile of; None for what is no such quantile."""
    stem = metric.rpartition(".")[0]
    kept = BY_METRIC.get(stem.rpartition(".")[2])
    return None if named_share(metric) is None else kept


def edges_parted(quantiles: Iterable[float]) -> tuple[float, ...]:
    """The edges of the axis with one more at each of the quantiles that lies on it."""
    return tuple(sorted({*EDGES, *(one for one in quantiles if EDGES[0] < one < EDGES[-1])}))


def stored(found: BinnedWindows) -> dict[str, Any]:
    """How a record keeps them: compressed, bin by bin, as text."""
    largest = int(found.counts.max(initial=0))
    width = next(one for one in _WIDTHS if largest < 256**one)
    plain = found.counts.T.astype(f"<u{width}").tobytes()
    text = base64.b64encode(zlib.compress(plain, 9)).decode()
    parted = sorted({*found.edges} - {*EDGES})
    return {**_AXIS, "parted_at": parted, "bytes_a_count": width, "counts": text}


def binned_windows(found: Any, windows: int) -> BinnedWindows | None:
    """What a record of so many windows keeps; None for nothing, or what is not of this form."""
    import numpy as np

    held = as_mapping(found)
    width, text = held.get("bytes_a_count"), held.get("counts")
    parted = [as_number(each) for each in as_list(held.get("parted_at"))]
    numbers = [each for each in parted if each is not None]
    edges = edges_parted(numbers)
    if any(held.get(key) != value for key, value in _AXIS.items()):
        return None
    if len(parted) > _MOST_PARTED or len(edges) != len(EDGES) + len(parted):
        return None
    if width not in _WIDTHS or not isinstance(text, str):
        return None
    bins = len(edges) + 1
    size = windows * bins * width
    unpacking = zlib.decompressobj()
    try:
        # Of a record that anyone may have written, no more is unpacked than belongs there.
        plain = unpacking.decompress(base64.b64decode(text, validate=True), size + 1)
    except (ValueError, zlib.error):
        return None
    if len(plain) != size:
        return None
    counts: Counts = np.frombuffer(plain, f"<u{width}").reshape(bins, windows).T.astype(np.int64)
    return BinnedWindows(counts, edges)
