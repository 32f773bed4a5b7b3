"""qbench's command called within the test's own process: quick, and as it is called by its name."""

from __future__ import annotations

import io
import os
import signal
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from qbench.cli.main import main
from tests.workplace import Finished

if TYPE_CHECKING:
    from collections.abc import Iterator


def call(folder: Path, *arguments: str, encoding: str = "utf-8") -> Finished:
    """Calls `qbench` in a folder to its end, which must be an exit."""
    output, errors = (io.TextIOWrapper(io.BytesIO(), encoding=encoding) for _ in range(2))
    with _as_called(folder, arguments, output, errors):
        try:
            main()
        except SystemExit as ended:
            code = ended.code
        else:
            code = None
    for stream in (output, errors):
        stream.flush()
    assert isinstance(code, int), f"no exit code: {code!r}"
    return Finished(code, _written(output), _written(errors))


def _written(stream: io.TextIOWrapper) -> str:
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode(stream.encoding)


@contextmanager
def _as_called(
    folder: Path, arguments: tuple[str, ...], output: io.TextIOWrapper, errors: io.TextIOWrapper
) -> Iterator[None]:
    before = sys.argv, sys.stdout, sys.stderr, Path.cwd(), signal.getsignal(signal.SIGTERM)
    columns = os.environ.get("COLUMNS")
    sys.argv, sys.stdout, sys.stderr = ["qbench", *arguments], output, errors
    os.environ["COLUMNS"] = "80"
    os.chdir(folder)
    try:
        yield
    finally:
        sys.argv, sys.stdout, sys.stderr, place, handler = before
        os.chdir(place)
        signal.signal(signal.SIGTERM, handler)
        if columns is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = columns
