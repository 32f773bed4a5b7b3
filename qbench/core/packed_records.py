"""What was measured and under which conditions, without the numbers, as one line in a page.

So a page that was sent to somebody tells what to measure again: `qbench reproduce` reads it. Where
files lay on the machine is left out.
"""

from __future__ import annotations

import base64
import json
import lzma
import re
from typing import TYPE_CHECKING, Any

from qbench.core.errors import StoreError
from qbench.core.record import SCHEMA_VERSION, Record
from qbench.core.untrusted import cleaned, parse_json

if TYPE_CHECKING:
    from collections.abc import Iterable

_MARK = "qbench-records:"
_LINE = re.compile(
    rf"""^<(?:!--|script\ type="text/plain"\ id="records">)\s*{_MARK}([A-Za-z0-9+/=]+)""",
    re.MULTILINE,
)
"""As pages have it, behind all else; a text that a model wrote may hold such a line before it."""
_FIELDS = (
    "schema_version",
    "protocol",
    "key",
    "identity",
    "suite",
    "cell",
    "item",
    "reference",
    "rehearsal",
    "status",
    "environment",
    "started_at",
)
LARGEST_BYTES = 2**28
"""What a line may unpack to: beyond it, it is something else, or meant to fill the memory."""
_MEMORY_BYTES = 2**27
"""That unpacking may take."""
_DAMAGE = (ValueError, KeyError, TypeError, EOFError, lzma.LZMAError)
"""`ValueError` includes what base64 and pydantic raise."""
_OWN_FILES = ("file", "rows", "folder")


def pack(records: Iterable[Record]) -> str:
    """The records without their numbers as one line; empty without records."""
    packed = [_kept(record) for record in records]
    if not packed:
        return ""
    text = json.dumps(packed, separators=(",", ":"), ensure_ascii=False)
    return _MARK + base64.b64encode(lzma.compress(text.encode(), preset=6)).decode()


def unpack(page: str, where: str) -> list[Record]:
    """The records of the line in a page, `where` for messages; none where it has no such line.

    Raises `StoreError` for a line that is damaged, or of a newer qbench.
    """
    found = _LINE.findall(page)
    if not found:
        return []
    try:
        data = parse_json(_unpacked(found[-1]))
        newer = [one["schema_version"] for one in data if one["schema_version"] > SCHEMA_VERSION]
        records = [] if newer else [Record.model_validate(cleaned(one)) for one in data]
    except _DAMAGE as error:
        raise StoreError(
            f"{where}: what it keeps for `qbench reproduce` is damaged ({type(error).__name__});"
            " take the page as it was written, or the records themselves"
        ) from error
    if newer:
        raise StoreError(
            f"{where}: its records are of version {newer[0]}, this qbench reads up to"
            f" {SCHEMA_VERSION}; upgrade qbench"
        )
    return records


def _unpacked(text: str) -> bytes:
    reader = lzma.LZMADecompressor(memlimit=_MEMORY_BYTES)
    found = reader.decompress(base64.b64decode(text, validate=True), LARGEST_BYTES)
    if not reader.eof:
        raise ValueError("it is cut short, or unpacks to more than a page holds")
    return found


def _kept(record: Record) -> dict[str, Any]:
    dumped = record.model_dump(mode="json", include=set(_FIELDS))
    model = dumped["cell"]["model"]
    if model["kind"] == "folder":
        model["location"] = model["source"]
    params = dumped["item"]["params"]
    for value in params.values():
        if isinstance(value, dict) and value.get("kind") in _OWN_FILES and "location" in value:
            value["location"] = value.get("source")
    return {name: dumped[name] for name in _FIELDS}
