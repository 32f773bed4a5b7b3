"""A model's files, put out of the page cache or read into it before a start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from qbench.core.page_cache import (
    drop_from_page_cache,
    file_system_of,
    read_into_page_cache,
    share_in_page_cache,
)
from qbench.sources.models.model_files import read_files, stored_weights

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

ReadFrom = Literal["disk", "page-cache"]

_CLOSE = 0.02
"""Share of the files that may be where it should not be without a word."""
_MOST = 0.5
"""Share of them from which a start is not what it is called."""


@dataclass(frozen=True)
class ModelFiles:
    """All files that a start reads, and how much of them is in the page cache."""

    every: tuple[Path, ...]
    weight_bytes: int
    """Of those that hold weights."""

    def prepared(self, read_from: ReadFrom) -> Prepared:
        """Puts them where a start is to find them, and looks how far that came."""
        if read_from == "disk":
            drop_from_page_cache(self.every)
        else:
            read_into_page_cache(self.every)
        return Prepared(read_from, share_in_page_cache(self.every), self)


def model_files(folders: Sequence[Path], weights_in: Sequence[Path]) -> ModelFiles:
    """The files of all the folders; weights are loaded from some of them alone."""
    weights = {path.resolve() for folder in weights_in for path in stored_weights(folder)}
    small = {
        path.resolve()
        for folder in folders
        for path in set(read_files(folder)) - set(stored_weights(folder))
    }
    return ModelFiles(
        (*sorted(weights), *sorted(small - weights)), sum(path.stat().st_size for path in weights)
    )


@dataclass(frozen=True)
class Prepared:
    """How far the page cache holds what a start is to find."""

    read_from: ReadFrom
    share: float | None
    """Of the files' bytes, in the page cache; None where it is not told."""
    files: ModelFiles

    @property
    def why_not(self) -> str | None:
        """Why a start would not be what it is called; None if it is, as far as is known."""
        if self.share is None:
            return None
        if self.read_from == "disk" and self.share > _MOST:
            return (
                f"{self.share:.0%} of {self._place} stay in the page cache though they were to be"
                " dropped from it: the file system does not do that, or another process has them"
                " mapped; put the model on a disk's own file system, and end what else uses it"
            )
        if self.read_from == "page-cache" and self.share < 1 - _MOST:
            return (
                f"only {self.share:.0%} of {self._place} stay in the page cache after they were"
                " read: the machine, or its container, has too little memory for them; give it"
                " more, or measure from disk alone (read_from: disk)"
            )
        return None

    def why_unknown(self, read_bytes: int | None) -> str | None:
        """Why nobody knows whether a start was what it is called; None where it is known.

        `read_bytes` is what was read from storage for the model, None where that is not told.
        """
        told = read_bytes is not None and read_bytes >= _MOST * self.files.weight_bytes
        if self.share is not None or self.read_from == "page-cache" or told:
            return None
        return (
            f"it is not known whether {self._place} were dropped from the page cache: they belong"
            " to another user, or the system does not tell; copy the model to a folder of your own"
        )

    @property
    def _place(self) -> str:
        return f"the model's files ({file_system_of(self.files.every[0])})"

    @property
    def warnings(self) -> tuple[str, ...]:
        """That part of the files is where it should not be."""
        if self.share is None:
            return ()
        away = self.share if self.read_from == "disk" else 1 - self.share
        if away <= _CLOSE:
            return ()
        held = "stayed in the page cache" if self.read_from == "disk" else "left the page cache"
        remedy = "end what else uses the model" if self.read_from == "disk" else "free memory"
        return (
            f"{away:.0%} of the model's files {held} before the start; {remedy} and measure again",
        )
