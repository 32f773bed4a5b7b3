"""One quantized layer compared with the definition of its format, a slice of its rows at a time.

The naive weights of a whole layer take 12 to 16 bytes each, with what it takes to make them: 3 GiB
for the largest of a 70B model. In slices nothing is held but what the layer's own product takes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

WEIGHT_TOLERANCE = {"fp32": 1e-5, "bf16": 4e-3, "fp16": 5e-4}
"""Rounding of one weight to the type it is dequantized to: its unit roundoff."""
OUTPUT_TOLERANCE = {"fp32": 1e-4, "bf16": 1e-2, "fp16": 2e-3}
"""Rounding of weights, sums and outputs, relative to the output's norm."""
SLICE_WEIGHTS = 2**22
"""Weights that are dequantized at once: 64 MiB with all that is made on the way."""
ROW_STEP = 64
"""Rows of a slice are a multiple of this, so that whole blocks of any format fit into it."""
OUTLIER = 10.0
"""An activation above LLM.int8's threshold."""
PROBE_ROWS = (1, 3, 17)
"""Rows of the inputs that a layer is tried with, for each choice of kernels that libraries make:
one row; a few; more than the 16 that torchao's int8 products on CUDA are padded or replaced for."""
CUDA_PROBE_ROWS = (*PROBE_ROWS, 1537)
"""On CUDA bitsandbytes multiplies up to 1536 rows by fused 4-bit kernels, one up to 4 rows, others
from 8 on where the card has them; more rows by dequantized weights, as a prefill or a batch of
windows has them."""
COMPARED_ROWS = 17
"""Rows of an output that are compared, evenly spaced: the naive product of 1537 would take long."""


@dataclass(frozen=True)
class LayerFormat:
    """How weights and products of one format are computed, by definition and by its library."""

    naive: Callable[[Any, slice], torch.Tensor]
    """(layer, output rows): these rows of its weights by definition, (rows, in), in fp32."""
    library: Callable[[Any, slice], torch.Tensor] | None
    """The same as the library dequantizes them; None where it only multiplies with them."""
    naive_output: Callable[[Any, torch.Tensor, torch.Tensor], torch.Tensor] | None = None
    """(layer, some rows of its naive weights, inputs): their outputs, without the bias; a plain
    product unless given, and needed for formats that round inputs too."""
    library_output: Callable[[Any, torch.Tensor], torch.Tensor] | None = None
    """(layer, inputs): what the layer makes of them; its own forward unless given."""


@dataclass(frozen=True)
class Probed:
    """What was found of a layer."""

    weights_error: float
    """Frobenius norm of what the library's weights are off the naive ones, over that of these; 0
    where it does not tell them."""
    output_error: float
    """The same of the outputs, the largest over the numbers of rows that were tried."""
    nonfinite: int
    """Weights that are infinite or not a number by definition."""


def probe_layer(layer: Any, held: LayerFormat, activations: torch.dtype) -> Probed:
    """Tries a layer with inputs of the type that the model's activations have.

    Every layer gets the same inputs, of a normal distribution; where there are several rows, their
    first column is an outlier.
    """
    import torch

    tried = [_try(layer, held, rows, activations) for rows in _rows(device_of(layer))]
    weights, outputs, nonfinite = Distance(), [Distance() for _ in tried], 0
    with torch.no_grad():  # torchao's weights cannot be sliced in inference mode
        for part in row_slices(layer):
            naive = held.naive(layer, part)
            nonfinite += int((~naive.isfinite()).sum())
            if held.library is not None:
                weights.add(held.library(layer, part), naive)
            for (inputs, found), distance in zip(tried, outputs, strict=True):
                if held.naive_output is None:
                    expected = inputs.float() @ naive.T
                else:
                    expected = held.naive_output(layer, naive, inputs)
                if getattr(layer, "bias", None) is not None:
                    expected = expected + layer.bias[part].float()
                distance.add(found[:, part], expected)
    worst = max((distance.relative for distance in outputs), key=_rank)
    return Probed(weights.relative, worst, nonfinite)


def device_of(layer: Any) -> torch.device:
    """Where a layer's weights lie, whatever it calls them."""
    device: torch.device = next(chain(layer.parameters(), layer.buffers())).device
    return device


def _rows(device: torch.device) -> tuple[int, ...]:
    return CUDA_PROBE_ROWS if device.type == "cuda" else PROBE_ROWS


def _try(
    layer: Any, held: LayerFormat, rows: int, activations: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs (rows, in) and what the layer makes of them, (rows, out), of at most `COMPARED_ROWS`.

    The layer computes all of the rows at once.
    """
    import torch

    # Many rows are some repeated: drawing 1537 for each layer of a 7B model takes 20 s.
    drawn = min(rows, COMPARED_ROWS)
    inputs = torch.randn(drawn, layer.in_features, generator=torch.Generator().manual_seed(0))
    if rows > 1:
        inputs[:, 0] = OUTLIER  # LLM.int8 computes such a column in floating point
    inputs = inputs.to(device_of(layer), activations)
    if rows > drawn:
        inputs = inputs.repeat(math.ceil(rows / drawn), 1)[:rows]
    with torch.inference_mode():
        found = layer(inputs) if held.library_output is None else held.library_output(layer, inputs)
        kept = torch.linspace(0, rows - 1, min(rows, COMPARED_ROWS)).long().to(inputs.device)
        return inputs[kept], found[kept]


def row_slices(layer: Any) -> Iterator[slice]:
    """The layer's output rows, as many at a time as `SLICE_WEIGHTS` are."""
    rows = max(1, SLICE_WEIGHTS // layer.in_features // ROW_STEP) * ROW_STEP
    for start in range(0, layer.out_features, rows):
        yield slice(start, min(start + rows, layer.out_features))


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Frobenius norm of the difference over that of `expected`; 0 when both are zero."""
    distance = Distance()
    distance.add(found, expected)
    return distance.relative


class Distance:
    """A relative error whose parts are added one after the other."""

    def __init__(self) -> None:
        self._difference: float = 0.0
        self._scale: float = 0.0

    def add(self, found: torch.Tensor, expected: torch.Tensor) -> None:
        """Adds a part of both."""
        expected = expected.float()
        self._difference += float((found.float() - expected).norm()) ** 2
        self._scale += float(expected.norm()) ** 2

    @property
    def relative(self) -> float:
        """Over all parts so far."""
        if self._scale:
            return math.sqrt(self._difference / self._scale)
        return 0.0 if self._difference == 0.0 else math.inf


def _rank(error: float) -> float:
    """No number is the worst error there is."""
    return math.inf if math.isnan(error) else error
