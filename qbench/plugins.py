"""What packages outside qbench add to its tables, through entry points."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from qbench.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator


def load_plugins(group: str) -> Iterator[Any]:
    """The objects that entry points of the group name.

    Raises `UsageError` for one that cannot be loaded.
    """
    for entry in entry_points(group=group):
        try:
            yield entry.load()
        except Exception as error:
            owner = entry.dist.name if entry.dist else "an installed package"
            raise UsageError(
                f"the plug-in {entry.name} ({entry.value}) of {owner} cannot be loaded:"
                f" {type(error).__name__}: {error}; upgrade or uninstall {owner}"
            ) from error
