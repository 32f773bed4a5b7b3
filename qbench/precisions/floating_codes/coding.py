"""What a format of floating-point codes is: its arithmetic, how it is made, and its definition."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from qbench.precisions.products import Products
    from qbench.precisions.writing.form import CheckpointForm

_MULTIPLE = 16
"""What a layer's outputs must be a multiple of, for CUDA's kernels."""


class Coding(ABC):
    """A format: codes of so many bits, and what is kept beside them.

    `options` are those of the precision that holds weights in it. `weight` is torchao's tensor
    where its parts are asked for.
    """

    quant_type: str
    """What records call it."""
    code_bits: int
    """Width of a code."""
    told: tuple[str, ...]
    """What it is, in sentences for whoever asks how it holds a number."""
    block: int | None = None
    """Weights of a row that share a scale; None where whole rows do, or more. A layer whose width
    it does not divide stays in the type of the rest."""
    capability: tuple[int, int]
    """CUDA's compute capability from which on codes are multiplied with codes."""
    dequantizes: bool = False
    """Whether torchao itself multiplies its weights alone, with inputs as they are."""

    @abstractmethod
    def scales(self, options: Any, rows: int, width: int) -> int:
        """Scales of a weight (rows, width), but for one of the whole weight beside others."""

    @abstractmethod
    def state_bytes(self, options: Any, rows: int, width: int) -> int:
        """Bytes of all that is kept beside the codes."""

    @abstractmethod
    def quantize(
        self, weight: torch.Tensor, options: Any, dtype: torch.dtype, *, kernel: bool = False
    ) -> Any:
        """A tensor of torchao's of a weight in fp32, (rows, width), dequantized to a type.

        With `kernel` it rounds inputs itself and multiplies codes with codes.
        """

    @abstractmethod
    def products(self, options: Any) -> Products:
        """What torchao holds while it dequantizes a weight: found by counting its tensors."""

    @abstractmethod
    def round_inputs(self, inputs: torch.Tensor, options: Any) -> torch.Tensor:
        """Inputs, (rows, width), as torchao quantizes and dequantizes them, in their own type."""

    @abstractmethod
    def naive_weight(self, weight: Any, rows: slice) -> torch.Tensor:
        """Some rows of the weights by definition, from codes and scales, in fp32."""

    @abstractmethod
    def naive_inputs(self, inputs: torch.Tensor, options: Any) -> torch.Tensor:
        """Inputs, (rows, width), rounded by definition, in fp32."""

    def pools_batch(self, options: Any) -> bool:
        """Whether rows of inputs share a scale."""
        return False

    def library_config(self, options: Any) -> Any | None:
        """Torchao's configuration of weights alone that it multiplies itself; None: it has none."""
        return None

    def forms(self, options: Any) -> tuple[CheckpointForm, ...]:
        """Checkpoints that hold codes and scales as they are; see `Precision.forms`."""
        return ()

    def unwritable(self, options: Any) -> str:
        """Why there is none."""
        return f"no checkpoint has {self.quant_type} with these options"

    def fits(self, width: int) -> bool:
        """Whether a row of that width falls into whole blocks."""
        return self.block is None or width % self.block == 0

    def suits_kernel(self, rows: int, width: int) -> bool:
        """Whether CUDA's kernels take a weight of that size."""
        return rows % _MULTIPLE == 0 and width % _MULTIPLE == 0

    def code_bytes(self, rows: int, width: int) -> int:
        """Bytes of a weight's codes."""
        return rows * width * self.code_bits // 8
