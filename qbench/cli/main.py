"""The command line: suite → plan → run → records → report. The only place that prints and exits.

Exit codes: 0 fine, 1 cells failed, records lack or nothing meets a budget, 2 the user can fix it,
3 a bug in qbench, 130 interrupted, 141 its output is read no more.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qbench.cli import (
    claims as cli_claims,
)
from qbench.cli import (
    compare as cli_compare,
)
from qbench.cli import (
    explain as cli_explain,
)
from qbench.cli import (
    fit as cli_fit,
)
from qbench.cli import (
    history as cli_history,
)
from qbench.cli import (
    merge as cli_merge,
)
from qbench.cli import (
    plan as cli_plan,
)
from qbench.cli import (
    recommend as cli_recommend,
)
from qbench.cli import (
    report as cli_report,
)
from qbench.cli import (
    reproduce as cli_reproduce,
)
from qbench.cli.cluster_options import On, Partition, TimeLimit, with_slurm_options
from qbench.cli.export.app import app as export_app
from qbench.cli.report import write_reports
from qbench.cli.shared import (
    Device,
    Only,
    Rehearse,
    Reports,
    Results,
    Settings,
    ShardOf,
    Track,
    show,
)
from qbench.cli.source import (
    KvCaches,
    Measure,
    Name,
    Precisions,
    PrintSuite,
    Quick,
    Reference,
    SuiteOrModel,
    Tasks,
    find_source,
    load,
    print_suite,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from qbench.core.record import Record
    from qbench.running.result import RunResult

app = typer.Typer(
    name="qbench",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Which precision should I use, what does it cost me, and did my last change break it?",
    epilog="Start with: [bold]qbench run bundled:tiny-mistral --quick[/bold]",
)


def _show_version(value: bool) -> None:  # noqa: FBT001 - the signature is typer's
    if value:
        from qbench.core.packages import qbench_version

        typer.echo(f"qbench {qbench_version()}")
        raise typer.Exit


@app.callback()
def options(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Quantization benchmarks and evaluation for language models."""


@app.command(
    epilog="Examples: qbench run suites/quickstart.yaml --only 'nf4*' --only fp32 |"
    " qbench run bundled:tiny-mistral --quick |"
    " qbench run ./my-model --precisions bf16,nf4 --measure quality --print-suite |"
    " qbench run my-suite.yaml --set measure.latency.repeats=1 |"
    " qbench run my-suite.yaml --on ray://head:10001 |"
    " qbench run my-suite.yaml --track mlflow"
)
def run(
    suite: SuiteOrModel,
    *,
    results: Results = Path("results"),
    reports: Reports = Path("reports"),
    device: Device = None,
    only: Only = None,
    shard: ShardOf = None,
    retry: Annotated[
        str,
        typer.Option(help="Statuses to take again: none, all, or some of them with commas."),
    ] = "crash,timeout,error",
    fresh: Annotated[bool, typer.Option(help="Delete the suite's records first.")] = False,
    rehearse: Rehearse = False,
    yes: Annotated[
        bool,
        typer.Option("-y", "--yes", help="Start even if the look at the machine found problems."),
    ] = False,
    gpus: Annotated[
        str | None,
        typer.Option(
            help="Run independent cells side by side on these GPUs: 0,1 or all. With --on slurm"
            " their types, such as h100."
        ),
    ] = None,
    on: On = None,
    partition: Partition = None,
    time: TimeLimit = None,
    track: Track = None,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Show the summary only.")] = False,
    settings: Settings = None,
    precisions: Precisions = None,
    measure: Measure = None,
    tasks: Tasks = None,
    kv_cache: KvCaches = None,
    reference: Reference = None,
    name: Name = None,
    quick: Quick = False,
    print_it: PrintSuite = False,
) -> None:
    """Measure what is missing of a suite, or of a model, cell by cell, and report."""
    from qbench.cli.display import RunDisplay
    from qbench.cli.end import records_taken
    from qbench.cli.tracking import Trackers, Watchers
    from qbench.plan.shards import parse_shard
    from qbench.report.console import make_console, say
    from qbench.running.executors.engines import engine_for
    from qbench.running.runner import parse_retry, run_suite

    statuses = parse_retry(retry)
    part = None if shard is None else parse_shard(shard)
    source = find_source(
        suite,
        with_slurm_options(settings, on, partition=partition, time=time),
        precisions=precisions,
        measure=measure,
        tasks=tasks,
        kv_cache=kv_cache,
        reference=reference,
        name=name,
        quick=quick,
        device=device,
    )
    if print_it:
        print_suite(source)
        return
    chosen = load(source, rehearse=rehearse)
    engine = engine_for(on, chosen, device=device, gpus=gpus)
    console = make_console()
    shown = RunDisplay(console, quiet=quiet)
    with records_taken(), Trackers(track, shown.note, say) as trackers:
        with shown:
            result = run_suite(
                chosen,
                results,
                Watchers(shown, trackers) if trackers else shown,
                on=engine,
                only=only or (),
                shard=part,
                retry=statuses,
                fresh=fresh,
                yes=yes,
            )
        trackers.report(_summarize(console, result, reports))
        if quick:
            console.print(
                "Intervals are wide after so few repeats and items: see them on the page."
            )
    raise typer.Exit(1 if result.failed else 0)


app.command(epilog=cli_plan.EXAMPLES)(cli_plan.plan)
app.command(epilog=cli_report.EXAMPLES)(cli_report.report)
app.command(epilog=cli_merge.EXAMPLES)(cli_merge.merge)
app.command(epilog=cli_recommend.EXAMPLE)(cli_recommend.recommend)
app.command("list", epilog="Examples: qbench list | qbench list nf4")(cli_report.list_)


@app.command()
def doctor(*, device: Device = None) -> None:
    """Check Python, versions, device, energy, back ends, hub and cache, and say what to do."""
    from rich.text import Text

    from qbench.cli.doctor import examine
    from qbench.core.untrusted import visible
    from qbench.report.console import make_console

    console = make_console()
    marks = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "problem": ("✗", "red")}
    problems = 0
    for finding in examine(device):
        mark, style = marks[finding.state]
        problems += finding.state == "problem"
        follows = visible(f" → {finding.follows}") if finding.follows else ""
        fact = visible(f": {finding.found}")
        line = Text.assemble((f"{mark} ", style), (finding.place, "bold"), fact, (follows, style))
        console.print(line, soft_wrap=True)
    raise typer.Exit(1 if problems else 0)


@app.command(epilog="Example: qbench init my-suite.yaml && qbench run my-suite.yaml")
def init(
    path: Annotated[Path, typer.Argument(help="The file to write.")] = Path("suite.yaml"),
    *,
    force: Annotated[bool, typer.Option(help="Replace the file if it is there.")] = False,
) -> None:
    """Write a commented suite to start from; in fp16 where the GPU does not multiply bf16."""
    from qbench.cli.starter import starter_text
    from qbench.core.environment import detect_environment, find_device
    from qbench.core.errors import UsageError
    from qbench.predict.bf16 import has_bf16
    from qbench.report.console import say

    if path.exists() and not force:
        raise UsageError(f"{path}: is there already; choose another name, or --force replaces it")
    try:
        bf16 = has_bf16(detect_environment(find_device(None)))
        path.write_text(starter_text(bf16=bf16), encoding="utf-8")
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be written ({error.strerror}); name another file, in a folder that is"
            " there and can be written"
        ) from error
    say(f"wrote {path}; next: qbench run {path}")


@app.command()
def schema() -> None:
    """Print the JSON Schema of a suite's file, for editors."""
    import json

    from qbench.plan.suite.schema import suite_schema

    typer.echo(json.dumps(suite_schema(), indent=2))


app.command(epilog=cli_fit.EXAMPLES)(cli_fit.fit)
app.command(epilog=cli_compare.EXAMPLES)(cli_compare.compare)
app.command(epilog=cli_compare.GATE_EXAMPLES)(cli_compare.gate)
app.command(epilog="Example: qbench baseline suites/quickstart.yaml")(cli_compare.baseline)
app.command(epilog=cli_history.EXAMPLES)(cli_history.history)
app.command(epilog=cli_claims.EXAMPLES)(cli_claims.claims)
app.command(epilog=cli_reproduce.EXAMPLES)(cli_reproduce.reproduce)
app.add_typer(export_app, name="export")
app.command(epilog="Example: qbench explain nf4-dq --set dtype=fp32 --format markdown")(
    cli_explain.explain
)


def main() -> None:
    """Runs the command line; every error becomes one message and an exit code."""
    import gc

    from qbench.cli.end import run_app

    gc.set_threshold(
        100_000, 20
    )  # imports and plans leave little garbage, and much to look through
    sys.exit(run_app(app))


def _summarize(
    console: Console, result: RunResult, reports: Path
) -> list[tuple[Sequence[Record], Path]]:
    """What the run found: the decision table, what to do next, and last where the report lies.

    Returns the files of the report, each with the records that it is of.
    """
    from qbench.core.units import counted
    from qbench.report.formats import TEXT, report_subject, written_formats

    suite = result.suite
    stated = {suite.name: suite.stated}
    if result.records:
        show(report_subject(result.records, stated), TEXT)
    counts = ", ".join(f"{count} {status}" for status, count in result.counts.items())
    told = f"{counted(len(result.records), 'record')} ({counts})" if counts else "no records"
    beside = f", and {result.taken_beside} that they need" if result.taken_beside else ""
    console.print(
        f"{told}, {result.taken} taken now{beside}",
        markup=False,
        highlight=False,
    )
    for sentence in result.missing_in_words():
        console.print(sentence, style="red", markup=False, highlight=False, soft_wrap=True)
    if not result.records:
        return []
    # The file is the suite's: all its cells, whichever were selected now.
    every = [*result.records, *result.others]
    return write_reports([every], written_formats(), reports, stated)


if __name__ == "__main__":
    main()
