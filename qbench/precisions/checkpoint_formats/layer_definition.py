"""The weights that a layer's tensors stand for, and how tensors that cannot be are told."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from qbench.core.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

    from qbench.precisions.checkpoint_formats.files import ModuleFiles

    Rows = Callable[[slice], torch.Tensor]


class Definition(NamedTuple):
    """The weights of one layer by definition."""

    shape: tuple[int, int]
    """(out, in)."""
    rows: Rows
    """Some output rows of it, (rows, in), in fp32."""


class MalformedError(ValueError):
    """Tensors that do not fit together, or lack one of them."""


@contextmanager
def telling_of(held: ModuleFiles) -> Iterator[None]:
    """Names the module whose tensors are malformed, or lack one, as a `ModelError`."""
    try:
        yield
    except (ValueError, TypeError, KeyError, IndexError) as error:
        said = f"no {error.args[0]}" if isinstance(error, KeyError) else error
        raise ModelError(
            f"{held.file}: {held.name}: corrupt: found {said}; expected codes with the scales that"
            " belong to them; copy or download it again"
        ) from error


def matrix(held: ModuleFiles, own_name: str) -> tuple[int, int]:
    """The size of a tensor that must be a matrix."""
    shape = held.shape(own_name)
    if len(shape) != 2:
        raise MalformedError(f"{own_name} of {list(shape)}")
    return shape[0], shape[1]


def spread(
    constants: torch.Tensor, rows: slice, shape: tuple[int, int], block: tuple[int, int] | None
) -> torch.Tensor:
    """A constant for each weight of some rows: of its block, where one has (rows, columns) so many.

    Without a block's size all of them are equally large.
    """
    if constants.numel() == 1:
        return constants.reshape(1, 1)
    constants = constants.reshape(len(constants), -1)
    sizes = []
    for have, whole, size in zip(constants.shape, shape, block or (0, 0), strict=True):
        each = size or whole // have
        if have not in (1, -(-whole // each)) or (have > 1 and not size and whole % have):
            found = "×".join(map(str, constants.shape))
            wanted = "×".join(map(str, shape))
            raise MalformedError(f"{found} scales for {wanted} weights")
        sizes.append(whole if have == 1 else each)
    first, end = rows.start // sizes[0], -(-rows.stop // sizes[0])
    part = constants[first:end].repeat_interleave(sizes[0], dim=0)
    part = part[rows.start - first * sizes[0] :][: rows.stop - rows.start]
    return part.repeat_interleave(sizes[1], dim=1)[:, : shape[1]]
