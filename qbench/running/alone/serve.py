"""A cell behind transformers' own server: the model that is measured, and no other.

`python -m qbench.running.alone.serve JOB_FILE MARKS FLAGS …`, with the flags of `transformers
serve`. The marks (`qbench.core.marks`) tell what was loaded, or why it was not.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qbench.core.errors import MeasurementError
from qbench.core.marks import Marks
from qbench.running.alone.build import build

if TYPE_CHECKING:
    from qbench.measures.loaded import LoadedModel

_BATCHING = "--continuous-batching"


def main() -> None:
    """Builds the model, then serves it until the process is told to end."""
    job_file, marks, flags = Path(sys.argv[1]), Marks(sys.argv[2]), sys.argv[3:]
    try:
        loaded = build(job_file, marks)
        _check(loaded, flags)
    except Exception as error:  # noqa: BLE001 - whatever it is becomes the record
        from qbench.running.worker import classify

        marks.fail(*classify(error))
        sys.stderr.flush()
        os._exit(1)
    marks("serve")
    found = loaded.verification
    marks.tell({"loaded": {**found.details, "faults": list(found.faults)}})
    serve(loaded, flags)


def _check(loaded: LoadedModel, flags: list[str]) -> None:
    """Raises `MeasurementError` for what the server would quietly do in another way."""
    if _BATCHING in flags and not hasattr(loaded.model, "init_continuous_batching"):
        raise MeasurementError(
            f"transformers has no continuous batching for {type(loaded.model).__name__}, and would"
            " serve one request after the other; leave `continuous_batching` out"
        )
    _ = loaded.tokenizer  # raises where there is none


def serve(loaded: LoadedModel, flags: list[str]) -> None:
    """Runs `transformers serve` with this model in the place of what it would load."""
    import typer
    from transformers.cli.serve import Serve
    from transformers.cli.serving import model_manager

    own: Any = model_manager

    class OneModel(own.ModelManager):  # type: ignore[misc]
        """Has the cell's model, whatever a request names, and lists no other."""

        def load_model_and_processor(self, *_: Any, **__: Any) -> tuple[Any, Any]:
            return loaded.model, loaded.tokenizer

        @staticmethod
        def get_gen_models(*_: Any) -> list[dict[str, Any]]:
            name, now = str(loaded.checkpoint.folder), round(time.time())
            return [{"id": name, "object": "model", "owned_by": "qbench", "created": now}]

    own.ModelManager = OneModel
    app = typer.Typer()
    app.command()(Serve)
    app(flags)


if __name__ == "__main__":
    main()
