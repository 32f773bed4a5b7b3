"""The commands that compare records: `compare`, `gate` and `baseline`. Part of the command line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from qbench.cli.shared import FormatName, Output, Results, Settings, SuitePath, show, write_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.cli.sides import Side
    from qbench.report.format import Format

EXAMPLES = (
    "Examples: qbench compare tiny-mistral--nf4 tiny-mistral--fp32 |"
    " qbench compare suites/quickstart.yaml HEAD~1:results/baselines/quickstart.json"
)
GATE_EXAMPLES = (
    "Examples: qbench gate suites/quickstart.yaml --baseline results/baselines |"
    " qbench gate suites/quickstart.yaml --against HEAD~1 |"
    " qbench gate suites/quickstart.yaml --baseline-from-git v1.0"
)

BaselinePath = Annotated[
    Path | None,
    typer.Option(
        help="Baseline file, or a folder of them or of records; REV:PATH for a committed one."
        " \\[default: none]"
    ),
]


def compare(
    new: Annotated[
        str,
        typer.Argument(
            metavar="A",
            help="Folder, baseline file, suite or cell: the new side. REV:PATH for what is"
            " committed.",
        ),
    ],
    old: Annotated[str, typer.Argument(metavar="B", help="The same, for the old side.")],
    *,
    results: Results = Path("results"),
    everything: Annotated[
        bool, typer.Option("--all", help="Show every metric, not only those that differ.")
    ] = False,
    format_name: FormatName = "text",
    output: Output = None,
) -> None:
    """Compare two folders, suites, baselines or cells, metric by metric, with intervals."""
    from qbench.cli.sides import load_side
    from qbench.compare.compare import compare_records
    from qbench.compare.span import find_span
    from qbench.report.comparison import comparison_on_screen, comparison_page
    from qbench.report.comparison_data import comparison_rows
    from qbench.report.format import Subject
    from qbench.report.formats import find_format

    form = find_format(format_name, "page", "rows")
    sides = load_side(new, results), load_side(old, results)
    made = compare_records(sides[0].records, sides[1].records, names=(sides[0].name, sides[1].name))
    if made.is_worse:
        against = sides[1].against
        at = None if against is None else against.committed_at
        made = replace(made, span=find_span(sides[0].records, sides[1].records, Path.cwd(), at))
    shown = Subject(
        lambda: comparison_page(made),
        lambda: comparison_on_screen(made, everything=everything),
        rows=lambda: comparison_rows(made),
    )
    show(shown, form, output)
    _tell_notes(*sides)


def gate(
    suite: SuitePath,
    *,
    settings: Settings = None,
    baseline: BaselinePath = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="REV",
            help="Compare with the records of a commit, such as HEAD~1: those on disk that name it"
            " or the nearest before it, else those committed there.",
        ),
    ] = None,
    from_git: Annotated[
        str | None,
        typer.Option(
            "--baseline-from-git",
            metavar="REV",
            help="Compare with the baseline or the records as committed at REV.",
        ),
    ] = None,
    results: Results = Path("results"),
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Only cells that match, such as 'nf4*'.")
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="JUnit XML file to write.")] = None,
    step_summary: Annotated[
        Path | None, typer.Option(help="Markdown file to append to: $GITHUB_STEP_SUMMARY.")
    ] = None,
    further: Annotated[
        list[str] | None,
        typer.Option(
            "--write",
            metavar="FORMAT=FILE",
            help="A further file, such as html=gate.html. May be given several times.",
        ),
    ] = None,
    annotations: Annotated[
        bool, typer.Option(help="Print GitHub's workflow commands for what does not hold.")
    ] = False,
    format_name: Annotated[
        str,
        typer.Option(
            "--format",
            help="text, markdown, html, json, csv, junit, step-summary, comment, annotations, or"
            " what a plug-in adds.",
        ),
    ] = "text",
    output: Output = None,
) -> None:
    """Check a suite's records against its rules: exit 0 when all hold, 1 on a regression."""
    from qbench.cli.sides import load_folder, load_old
    from qbench.cli.suspects import with_suspects
    from qbench.compare.gate.gate import run_gate
    from qbench.compare.gate.sides import place_of
    from qbench.core.errors import UsageError
    from qbench.plan.missing import why_absent
    from qbench.plan.plan import expected_tasks
    from qbench.plan.records import RecordsOnDisk
    from qbench.plan.suite.settings import read_settings
    from qbench.plan.suite.suite import load_suite
    from qbench.report.format import Gated, Subject
    from qbench.report.formats import find_format, formats
    from qbench.report.gate.page import gate_on_screen, gate_page, gate_rows

    form = find_format(format_name, "page", "rows", "gate")
    files = _further_files(further or ())
    loaded = load_suite(suite, read_settings(settings or ()))
    if not loaded.gate:
        raise UsageError(
            f"{suite}: found no rules; expected a section `gate:`, such as"
            " `gate: {perplexity: {max_increase: 3%, against: reference}}`"
        )
    expected = expected_tasks(loaded, results, device=device, only=only or ())
    on_disk = RecordsOnDisk()
    found = [record for _, task in expected if (record := on_disk.record(task)) is not None]
    # Records of other versions or another device than this one can be gated as well.
    records = found or load_folder(results / loaded.name, loaded.name).records
    device_kind = records[0].environment.device_kind
    old = load_old(
        baseline,
        loaded.name,
        results,
        against=against,
        from_git=from_git,
        device_kind=device_kind,
    )
    absent = {
        place_of(cell, task.item): why
        for cell, task in expected
        if found and (why := why_absent(task)) is not None
    }
    outcome = run_gate(
        loaded.gate,
        records,
        old.records if old else None,
        expected=[(cell, task.item) for cell, task in expected],
        only=only or (),
        absent=absent,
        against=None if old is None else old.against,
    )
    named = [str(suite), *(["--device", device] if device else [])]
    named += [word for one in settings or () for word in ("--set", one)]
    named += [word for one in only or () for word in ("--only", one)]
    outcome = with_suspects(outcome, records, old, results, loaded.name, named)
    shown = Subject(
        lambda: gate_page(outcome),
        lambda: gate_on_screen(outcome),
        rows=lambda: gate_rows(outcome),
        gated=Gated(outcome, loaded.name, str(suite)),
    )
    show(shown, form, output)
    if annotations:
        # Beside a document for programs they go where the runner reads them as well.
        beside = form.name != "text" and output is None
        typer.echo(formats()["annotations"].render(shown), err=beside)
    if junit is not None:
        write_file(junit, formats()["junit"].render(shown))
    for one, path in files:
        write_file(path, one.render(shown))
    if step_summary is not None:
        write_file(step_summary, formats()["step-summary"].render(shown), append=True)
    if old is not None:
        _tell_notes(old)
    raise typer.Exit(outcome.exit_code)


def _further_files(given: Sequence[str]) -> list[tuple[Format, Path]]:
    """What `--write` asks for; raises `UsageError` for what is no format and file."""
    from qbench.core.errors import UsageError
    from qbench.report.formats import find_format

    found = []
    for text in given:
        name, _, file = text.partition("=")
        if not name or not file:
            raise UsageError(f"--write: found {text!r}; expected FORMAT=FILE, as html=gate.html")
        form = find_format(name, "page", "rows", "gate", option="--write")
        found.append((form, Path(file)))
    return found


def baseline(
    suite: SuitePath,
    *,
    settings: Settings = None,
    results: Results = Path("results"),
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="\\[default: results/baselines/<suite>]"),
    ] = None,
) -> None:
    """Write a compact baseline file from a suite's records, and say what changed."""
    from qbench.cli.sides import load_baseline, load_folder
    from qbench.compare.baseline import write_baseline
    from qbench.compare.compare import compare_records
    from qbench.core.errors import StoreError
    from qbench.plan.suite.settings import read_settings
    from qbench.plan.suite.suite import load_suite
    from qbench.report.comparison import comparison_on_screen
    from qbench.report.console import make_console, say
    from qbench.report.terminal import render

    name = load_suite(suite, read_settings(settings or ())).name
    side = load_folder(results / name, name)
    target = output or results / "baselines" / name
    try:
        old: Side | None = load_baseline(target if output else target.parent, name)
    except StoreError:
        old = None  # there is none yet
    path = write_baseline(target, side.records)
    if old is not None:
        made = compare_records(side.records, old.records, names=("new baseline", "old baseline"))
        make_console().print(render(comparison_on_screen(made, undecided=False)))
    say(f"wrote {path}: {len(side.records)} records, {path.stat().st_size / 1024:.0f} KiB")
    _tell_notes(side)


def _tell_notes(*sides: Side) -> None:
    from qbench.core.untrusted import as_message
    from qbench.report.console import tell

    for note in dict.fromkeys(note for side in sides for note in side.notes):
        tell(f"note: {as_message(note)}\n", stderr=True)
