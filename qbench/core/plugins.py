"""What packages outside qbench add to its tables, through entry points."""

from __future__ import annotations

from functools import cache
from importlib.metadata import entry_points
from inspect import Parameter, isfunction, signature
from typing import TYPE_CHECKING, Any, TypeVar

from qbench.core.errors import UsageError
from qbench.core.spec import Frozen

if TYPE_CHECKING:
    from collections.abc import Iterable

Kept = TypeVar("Kept")


def with_plugins(group: str, expected: type, own: Iterable[Kept]) -> dict[str, Kept]:
    """A table by name: qbench's own, then what the entry points of the group name.

    The value of an entry point is one object, or a tuple of them. Raises `UsageError` for one that
    cannot be loaded, that lacks a part of what is `expected`, or whose name another has.
    """
    table: dict[str, Any] = {one.name: one for one in own}  # type: ignore[attr-defined]
    owners = dict.fromkeys(table, "qbench itself")
    for entry in _installed().select(group=group):
        owner = entry.dist.name if entry.dist else "an installed package"
        named = f"the plug-in {entry.name} ({entry.value}) of {owner}"
        try:
            found = entry.load()
        except (Exception, SystemExit) as error:
            raise UsageError(
                f"{named} cannot be loaded: {type(error).__name__}: {error}; upgrade or uninstall"
                f" {owner}"
            ) from error
        for one in found if isinstance(found, tuple | list) else (found,):
            if (fault := _fault(one, expected)) is not None:
                raise UsageError(
                    f"{named} is no {expected.__name__}: {fault}; upgrade or uninstall {owner}, or"
                    f" see qbench.plugin.{expected.__name__} if it is yours"
                )
            if one.name in table:
                raise UsageError(
                    f"{named} is called {one.name!r}, as one of {owners[one.name]} is; uninstall"
                    f" one of them, or give yours another name"
                )
            table[one.name] = one
            owners[one.name] = owner
    return table


def _fault(one: Any, expected: type) -> str | None:
    """What is wrong with an object that should be, or do as, one of the class expected."""
    if isinstance(one, type):
        return f"it is a class, not an object of it, such as {one.__name__}()"
    names = dict.fromkeys((*getattr(expected, "__annotations__", {}), *vars(expected)))
    parts = [name for name in names if not name.startswith("_")]
    if lacking := [part for part in parts if not hasattr(one, part)]:
        return f"it has no {', '.join(lacking)}"
    if not isinstance(one.name, str) or not one.name:
        return f"its name is {one.name!r}, not a text"
    if "options" in parts and (fault := _options_fault(one.options)) is not None:
        return fault
    for part in parts:
        asked = vars(expected).get(part)
        if isfunction(asked) and (call := _refused_call(getattr(one, part), asked)) is not None:
            return f"its {part} cannot be called as {call}"
    return None


def _options_fault(options: Any) -> str | None:
    """What is wrong with the class of the options."""
    if not isinstance(options, type) or not issubclass(options, Frozen):
        return f"its options are {options!r}, not a class below Frozen"
    needed = [name for name, field in options.model_fields.items() if field.is_required()]
    return f"its options {', '.join(needed)} have no default" if needed else None


def _refused_call(given: Any, asked: Any) -> str | None:
    """How a method is called, where the one given does not take that; None if it does."""
    if not callable(given):
        return "a method"
    _, *taken = signature(asked).parameters.values()  # the first is the object itself
    names = [one.name for one in taken if one.kind is not Parameter.KEYWORD_ONLY]
    by_keyword = {one.name: one for one in taken if one.kind is Parameter.KEYWORD_ONLY}
    try:
        signature(given).bind(*names, **by_keyword)
    except TypeError:
        return f"({', '.join([*names, *(f'{name}=' for name in by_keyword)])})"
    except ValueError:  # built in, without a signature
        return None
    return None


@cache
def _installed() -> Any:
    """Those of all packages: their files are read once, not once a group."""
    return entry_points()
