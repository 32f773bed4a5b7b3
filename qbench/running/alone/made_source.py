"""A process that makes what a tuned cell is loaded from, where it is not there, and tells of it.

`python -m qbench.running.alone.made_source PARENT_PID REQUEST MARKS`, as `first_token` beside it.
What reads or writes the model's files stands here, before a start from disk is timed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from qbench.core.marks import Marks
from qbench.core.orphans import die_with_parent


def main() -> None:
    """Tells the folder that the weights are read from, and the one of an adapter on them."""
    die_with_parent(int(sys.argv[1]))
    marks = Marks(sys.argv[3])
    marks("prepare")
    try:
        marks.tell(_made(json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))))
    except Exception as error:  # noqa: BLE001 - whatever it is becomes the record
        from qbench.running.worker import classify

        marks.fail(*classify(error))


def _made(request: dict[str, Any]) -> dict[str, Any]:
    from qbench.running.executors.preload import prepare_process

    prepare_process()
    from qbench.core.checkpoint import checkpoint_of
    from qbench.plan.job import Job
    from qbench.running.loading import make_source, source_of
    from qbench.running.worker import compute_in_full

    compute_in_full()
    job = Job.model_validate(request["job"])
    base = checkpoint_of(job.cell.model, Path(request["base"]), job.device)
    made = make_source(job, base)
    adapter = source_of(job, base, made).adapter
    return {
        "loaded_from": str(made.folder),
        "adapter": None if adapter is None else str(adapter),
    }


if __name__ == "__main__":
    main()
