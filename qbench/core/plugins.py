"""What packages outside qbench add to its tables, through entry points."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from qbench.core.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator


def load_plugins(group: str, expected: type) -> Iterator[Any]:
    """What entry points of the group name: of each one object, or a tuple of them.

    Raises `UsageError` for one that cannot be loaded, or that lacks a part of what is `expected`.
    """
    for entry in _installed().select(group=group):
        owner = entry.dist.name if entry.dist else "an installed package"
        named = f"the plug-in {entry.name} ({entry.value}) of {owner}"
        try:
            found = entry.load()
        except Exception as error:
            raise UsageError(
                f"{named} cannot be loaded: {type(error).__name__}: {error}; upgrade or uninstall"
                f" {owner}"
            ) from error
        for one in found if isinstance(found, tuple | list) else (found,):
            lacking = [part for part in _parts(expected) if not hasattr(one, part)]
            if lacking:
                raise UsageError(
                    f"{named} is no {expected.__name__}: it has no {', '.join(lacking)}; upgrade or"
                    f" uninstall {owner}"
                )
            yield one


def _parts(expected: type) -> list[str]:
    """Names of what an object of the class, or of the protocol, has."""
    names = dict.fromkeys((*getattr(expected, "__annotations__", {}), *vars(expected)))
    return [name for name in names if not name.startswith("_")]


@cache
def _installed() -> Any:
    """Those of all packages: their files are read once, not once a group."""
    return entry_points()
