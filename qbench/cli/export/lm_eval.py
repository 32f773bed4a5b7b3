"""The command `export lm-eval`: scores of tasks as lm-eval's own files."""

from __future__ import annotations

from pathlib import Path

from qbench.cli.export.records import (
    Force,
    OfDevice,
    RecordsAt,
    ToFolder,
    read_chosen,
)
from qbench.cli.shared import Only, Results  # noqa: TC001 - typer reads them

EXAMPLES = "Examples: qbench export lm-eval results/full --to lm-eval-results"


def lm_eval(
    records: RecordsAt,
    *,
    to: ToFolder,
    only: Only = None,
    device: OfDevice = None,
    results: Results = Path("results"),
    force: Force = False,
) -> None:
    """Write the scores of tasks as the files that `lm_eval --output_path` leaves.

    One folder a cell, with `results_<date>.json` and `samples_<task>_<date>.jsonl`: whatever reads
    lm-eval's results reads these. What a record does not hold, such as prompts, is null.
    """
    from qbench.cli.export.folder import write_folder
    from qbench.report.exports.lm_eval.files import lm_eval_files

    chosen = read_chosen(records, only=only or (), device=device, results=results)
    write_folder(to, lm_eval_files(chosen, str(records)), force=force)
