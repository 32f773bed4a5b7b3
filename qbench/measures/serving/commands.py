"""Which cells a server can have, and the words of the command that starts it for one of them."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from qbench.core.number_types import TORCH_NAMES
from qbench.measures.serving.servers import LOOPBACK, TRANSFORMERS, names_in, words_of
from qbench.precisions import is_quantized, precisions
from qbench.precisions.computing import rest_type

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qbench.core.spec import Cell
    from qbench.measures.serving.servers import Command, ServerOptions


def why_not_served(server: ServerOptions, cell: Cell) -> str | None:
    """Why a server cannot have a cell's model on this machine, or at all; None if it can."""
    if server.command is None:
        return None
    gone = why_not_started(words_of(server.command)[0])
    if gone is not None or server.holds_what_it_holds:
        return gone
    return _why_not_by_command(server, server.command, cell)


def why_not_started(program: str) -> str | None:
    """Why there is no such program; None where there is."""
    if shutil.which(program) is not None:
        return None
    return f"there is no program {program} that can be run here; install it, or write its path"


def _why_not_by_command(server: ServerOptions, command: Command, cell: Cell) -> str | None:
    if cell.tuning is not None:
        return (
            f"{server.label} is started by a command, which is given the model's own folder, and"
            f" this model is a tuned one; measure it with `engine: {TRANSFORMERS}`"
        )
    held = cell.precision
    if flags_for(server, cell) is not None or precisions()[held.name].takes_quantized:
        return None
    if is_quantized(held):
        return (
            f"the command of {server.label} does not say how it is to hold the model in"
            f" {held.label}; add `flags: {{{held.label}: …}}` to it, or measure it with"
            f" `engine: {TRANSFORMERS}`"
        )
    if "dtype" not in names_in(command):
        return (
            f"the command of {server.label} does not say that it is to hold the model in"
            f" {held.label}; write {{dtype}} in it, or add `flags: {{{held.label}: …}}`"
        )
    return None


def flags_for(server: ServerOptions, cell: Cell) -> list[str] | None:
    """What a command is to be given for the cell's precision; None where nothing is said of it."""
    held = cell.precision
    given = server.flags.get(held.label, server.flags.get(held.name))
    return None if given is None else words_of(given)


def values_for(
    cell: Cell, *, model: str, port: int, context: int, streams: int
) -> dict[str, str | int]:
    """What the names in braces stand for (`PLACEHOLDERS`), but for the flags."""
    return {
        "model": model,
        "host": LOOPBACK,
        "port": port,
        "dtype": TORCH_NAMES[rest_type(cell.precision)],
        "context": context,
        "streams": streams,
        "cache": context * streams,
    }


def filled(command: Command, values: Mapping[str, str | int]) -> list[str]:
    """The words of a command, its names in braces filled in."""
    return [word.format_map(values) for word in words_of(command)]


def filled_command(server: ServerOptions, cell: Cell, values: Mapping[str, str | int]) -> list[str]:
    """The words of a server's command, filled in, with the cell's flags where they go."""
    words = words_of(server.command or ())
    at = words.index("{flags}") if "{flags}" in words else len(words)
    flags = flags_for(server, cell) or []
    return filled((*words[:at], *flags, *words[at + 1 :]), values)
