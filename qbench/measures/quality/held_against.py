"""What a cell is held against: the reference's states, made or read, and the share of rounding."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.core.errors import MeasurementError, NotKeptError
from qbench.measures.quality.reference_states import CachedStates, OwnStates

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qbench.core.spec import Item
    from qbench.measures.quality.head import OutputHead
    from qbench.measures.quality.reference_states import Reference


def find_reference(
    item: Item, head: OutputHead, ids_sha256: str, *, wanted: bool
) -> tuple[Reference | None, str | None]:
    """What the cell is compared with, or why it is not."""
    if not wanted or item.states_key is None:
        return None, "divergence was not asked for"
    if item.makes_states:
        return OwnStates(head), None
    try:
        return CachedStates(item.states_key, head, ids_sha256), None
    except MeasurementError as error:
        return None, str(error)


def rounding_of_both(
    own: tuple[float | None, str | None], reference: Reference | None
) -> tuple[float | None, str | None]:
    """What rounding alone makes of the divergence from the reference, or why it is not known."""
    if reference is None or isinstance(reference, OwnStates) or own[0] is None:
        return own
    theirs = getattr(reference, "rounding_kl", None)
    if theirs is None:
        return None, "what rounding makes in the reference is not among its states"
    return own[0] + theirs, None


def keep_states(
    reference: Reference | None,
    item: Item,
    ids_sha256: str,
    rounding_kl: float | None,
    beside: Mapping[str, str] | None = None,
) -> list[str]:
    """Keeps the reference's states for the other cells; a warning where they cannot be kept.

    `beside` are texts that they need besides, by the names of their files.
    """
    if not isinstance(reference, OwnStates) or item.states_key is None:
        return []
    try:
        reference.save(item.states_key, ids_sha256, rounding_kl, beside)
    except NotKeptError as error:  # its own figures are good all the same
        return [f"no cell can be compared with this one: {error}"]
    return []
