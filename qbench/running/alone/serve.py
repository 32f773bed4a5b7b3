"""A cell behind transformers' own server: the model that is measured, and no other.

`python -m qbench.running.alone.serve JOB_FILE FLAGS …`, with the flags of `transformers serve`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qbench.running.alone.build import build

if TYPE_CHECKING:
    from qbench.measures.loaded import LoadedModel


def main() -> None:
    """Builds the model, then serves it until the process is told to end."""
    job_file, flags = Path(sys.argv[1]), sys.argv[2:]
    loaded = build(job_file, _told)
    serve(loaded, flags)


def _told(phase: str) -> None:
    sys.stderr.write(f"phase: {phase}\n")
    sys.stderr.flush()


def serve(loaded: LoadedModel, flags: list[str]) -> None:
    """Runs `transformers serve` with this model in the place of what it would load."""
    import typer
    from transformers.cli.serve import Serve
    from transformers.cli.serving import model_manager

    own: Any = model_manager

    class OneModel(own.ModelManager):  # type: ignore[misc]
        """Has the cell's model, whatever a request names."""

        def load_model_and_processor(self, *_: Any, **__: Any) -> tuple[Any, Any]:
            return loaded.model, loaded.tokenizer

        @staticmethod
        def get_gen_models(*_: Any) -> list[dict[str, Any]]:
            name = str(loaded.checkpoint.folder)
            return [{"id": name, "object": "model", "owned_by": "qbench", "created": 0}]

    own.ModelManager = OneModel
    app = typer.Typer()
    app.command()(Serve)
    app(flags)


if __name__ == "__main__":
    main()
