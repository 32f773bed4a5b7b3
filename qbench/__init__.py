"""qbench: quantization benchmarks and evaluation for language models.

From Python:

    import qbench

    result = qbench.run("suites/quickstart.yaml", only=["nf4*"])
    result = qbench.run("./my-model", precisions=["bf16", "nf4"], measure=["quality"])
    frame = qbench.load_results("results/quickstart")  # a pandas DataFrame, one row a metric
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

    from qbench.running.result import RunResult

__all__ = ["load_results", "run"]


def run(
    suite: str | Path,
    *,
    results: str | Path = "results",
    device: str | None = None,
    only: Sequence[str] = (),
    shard: str | None = None,
    retry: str = "crash,timeout,error",
    fresh: bool = False,
    rehearse: bool = False,
    yes: bool = False,
    gpus: str | None = None,
    on: str | None = None,
    quiet: bool = False,
    settings: Sequence[str] = (),
    precisions: Sequence[str] = (),
    measure: Sequence[str] = (),
    tasks: Sequence[str] = (),
    kv_cache: Sequence[str] = (),
    reference: str | None = None,
    name: str | None = None,
    quick: bool = False,
) -> RunResult:
    """Takes what is missing of a suite, as `qbench run` does, and returns all its records.

    `suite` is the path of its file, the name of one that ships with qbench, or a model:
    `bundled:<name>`, a folder, a hub id, or `random:<name>`. `precisions`, `measure`, `tasks`,
    `kv_cache`, `reference`, `name` and `quick` say of a model what a suite would; `settings` are
    values in place of the suite's, such as `measure.latency.repeats=1`.

    `device` is `cpu`, `cuda`, `cuda:N` or None for the first GPU, else the CPU; `gpus` instead of
    it are those that cells run on side by side (`0,1`, `all`). `on` is where the jobs run, this
    machine unless it is given (`ray`, `ray://address`, `slurm`). `only` keeps the cells that match
    a pattern, and `shard` a part of them (`2/5`: the second of five); `retry` names the statuses to
    take again (`none`, `all`, or some of them with commas); `fresh` deletes the suite's records
    first. `rehearse` takes the bundled model and data, a little of each; `yes` starts whatever the
    look at the machine found. Raises `qbench.core.errors.UsageError` for what the caller can fix; a
    cell that fails is a record with its reason.
    """
    from qbench.cli.display import RunDisplay
    from qbench.cli.source import find_source, load
    from qbench.plan.shards import parse_shard
    from qbench.report.console import make_console
    from qbench.running.executors.engines import engine_for
    from qbench.running.runner import parse_retry, run_suite

    source = find_source(
        str(suite),
        settings,
        precisions=precisions,
        measure=measure,
        tasks=tasks,
        kv_cache=kv_cache,
        reference=reference,
        name=name,
        quick=quick,
        device=device,
    )
    chosen = load(source, rehearse=rehearse)
    with RunDisplay(make_console(stderr=True), quiet=quiet) as display:
        return run_suite(
            chosen,
            Path(results),
            display,
            on=engine_for(on, chosen, device=device, gpus=gpus),
            only=only,
            shard=None if shard is None else parse_shard(shard),
            retry=parse_retry(retry),
            fresh=fresh,
            yes=yes,
        )


def load_results(path: str | Path = "results") -> pd.DataFrame:
    """All records below a folder as a DataFrame, one row a metric.

    A record without metrics, such as that of a cell that failed, has one row with its status and
    reason. Raises `qbench.core.errors.StoreError` when there is no such folder.
    """
    from qbench.report.frame import load_results as load

    return load(path)
