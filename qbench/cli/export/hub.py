"""The command `export hub`: scores for the leaderboards of a model hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qbench.cli.export.records import (  # noqa: TC001 - typer reads them
    CellName,
    Force,
    OfDevice,
    RecordsAt,
)
from qbench.cli.shared import Results  # noqa: TC001 - typer reads it

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.cli.export.pushing import Repository
    from qbench.report.exports.chosen import ExportedCell
    from qbench.report.exports.eval_results import Candidate, ResultFile
    from qbench.report.exports.hub_scores import LeftOut

EXAMPLES = (
    "Examples: qbench export hub results/my-suite nf4 --task-id gsm8k=gsm8k --to my-model"
    " | qbench export hub results/my-suite nf4 --card --push me/my-model --dry-run"
)
CARD = "README.md"
_PUSHING = "Pushing"


def hub(
    where: RecordsAt,
    cell: CellName = None,
    *,
    to: Annotated[
        Path | None,
        typer.Option("--to", metavar="FOLDER", help="The model's folder, to write files into."),
    ] = None,
    task_id: Annotated[
        list[str] | None,
        typer.Option(
            "--task-id",
            metavar="TASK=ID",
            help="What the leaderboard calls a task of lm-eval, as the eval.yaml of its dataset"
            " has it. May be given several times. \\[default: with --push it is looked up]",
        ),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="Only these metrics, by name or pattern, such as 'exact_match@*'. May be given"
            " several times. \\[default: the first of each task]"
        ),
    ] = None,
    percent: Annotated[
        bool,
        typer.Option("--percent", help="Scores that are shares, times 100; the notes say which."),
    ] = False,
    source: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Where the records or a report lie, for those who look."),
    ] = None,
    with_card: Annotated[
        bool, typer.Option("--card", help="The model card too, as `export card` writes it.")
    ] = False,
    device: OfDevice = None,
    results: Results = Path("results"),
    force: Force = False,
    push: Annotated[
        str | None,
        typer.Option(
            metavar="OWNER/NAME",
            help="The model's repository to send the files to, once shown and asked.",
            rich_help_panel=_PUSHING,
        ),
    ] = None,
    pull_request: Annotated[
        bool,
        typer.Option(
            "--pull-request", help="As a pull request, not a commit.", rich_help_panel=_PUSHING
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Show what would be sent, send nothing.", rich_help_panel=_PUSHING
        ),
    ] = False,
    yes: Annotated[
        bool, typer.Option("-y", "--yes", help="Do not ask.", rich_help_panel=_PUSHING)
    ] = False,
) -> None:
    """Write a model's scores for the Hub's leaderboards, `.eval_results/*.yaml`; or send them.

    Only scores on whole datasets of the Hub can stand there; the rest is said, with the reason.
    Nothing is sent without --push.
    """
    from qbench.cli.export.card import say_each
    from qbench.cli.export.pushing import Repository
    from qbench.cli.export.records import read_chosen
    from qbench.core.errors import UsageError
    from qbench.report.exports.chosen import one_cell
    from qbench.report.exports.eval_results import candidates

    if to is None and push is None:
        raise UsageError("--to: found neither it nor --push; expected a folder, or a repository")
    for name, given in (("--dry-run", dry_run), ("--pull-request", pull_request), ("--yes", yes)):
        if given and push is None:
            raise UsageError(f"{name}: found no --push; expected --push OWNER/NAME too")
    ids = _ids(task_id or ())
    exported = one_cell(read_chosen(where, device=device, results=results), cell, str(where))
    found, left_out = candidates(exported, metric or ())
    repository = None if push is None else Repository(push)
    files, told = _files(found, ids, exported, repository, percent=percent, source=source)
    told = [*map(str, left_out), *told]
    say_each(told)
    texts = {one.path: one.text for one in files}
    if with_card:
        texts[CARD], of_card = _card(exported, to, repository, force=force)
        say_each([one for one in of_card if one not in told])
    if not texts:
        raise UsageError(
            f"{where}: found no score of {exported.cell.slug} that a leaderboard of the Hub takes;"
            " the reasons stand above; `qbench export card`, or --card, tells of all scores"
        )
    if to is not None:
        _write(to, texts, force=force)
    if repository is not None:
        say_each(_same_elsewhere(files, repository))
        _push(repository, texts, pull_request=pull_request, dry_run=dry_run, yes=yes)


def _ids(given: Sequence[str]) -> dict[str, str]:
    from qbench.core.errors import UsageError

    ids = {}
    for one in given:
        task, sign, name = one.partition("=")
        if not (task and sign and name):
            raise UsageError(f"--task-id: found {one!r}; expected TASK=ID, such as gsm8k=gsm8k")
        ids[task] = name
    return ids


def _files(
    found: Sequence[Candidate],
    ids: dict[str, str],
    exported: ExportedCell,
    repository: Repository | None,
    *,
    percent: bool,
    source: str | None,
) -> tuple[list[ResultFile], list[str]]:
    """A file a score; of which no task of a leaderboard is known, and what is warned of."""
    from qbench.report.exports.eval_results import result_file, task_id_of
    from qbench.report.exports.hub_scores import LeftOut

    files: list[ResultFile] = []
    told: list[str] = []
    benchmarks: dict[str, dict[str, Any] | LeftOut | None] = {}
    for one in found:
        if one.dataset not in benchmarks:
            benchmarks[one.dataset] = _benchmark(one.dataset, repository)
        benchmark = benchmarks[one.dataset]
        if isinstance(benchmark, LeftOut):
            if one.task not in ids:
                told.append(f"{one.score.what}: {benchmark}")
                continue
            benchmark = None
        known = task_id_of(one, ids, benchmark)
        if isinstance(known, LeftOut):
            told.append(str(known))
            continue
        files.append(result_file(one, known, exported, percent=percent, source=source))
        if one.score.figure.warned:
            told.append(f"{one.score.what}: exported with a warning: {one.score.figure.detail}")
    return files, told


def _benchmark(dataset: str, repository: Repository | None) -> dict[str, Any] | LeftOut | None:
    """A dataset's `eval.yaml`, where the Hub is asked at all; else why it is not known."""
    from qbench.cli.export.pushing import read_file
    from qbench.core.errors import UsageError
    from qbench.core.unchecked import as_mapping
    from qbench.core.untrusted import parse_yaml
    from qbench.report.exports.hub_scores import LeftOut

    if repository is None:
        return None
    try:
        text = read_file(repository.api, dataset, "eval.yaml", kind="dataset")
        return as_mapping(parse_yaml(text))
    except UsageError as error:
        return LeftOut("its eval.yaml, which a benchmark of the Hub has, was not read", str(error))
    except ValueError:
        return LeftOut(f"the eval.yaml of {dataset}", "it is no YAML; --task-id TASK=ID says it")


def _same_elsewhere(files: Sequence[ResultFile], repository: Repository) -> list[str]:
    from qbench.report.exports.eval_results import FOLDER, same_elsewhere

    paths = sorted(one for one in repository.files if one.startswith(f"{FOLDER}/"))
    return [*map(str, same_elsewhere(files, {one: repository.read(one) or "" for one in paths}))]


def _card(
    exported: ExportedCell, to: Path | None, repository: Repository | None, *, force: bool
) -> tuple[str, list[str]]:
    """The card of the repository, else of the folder, with what was measured; what to say of it."""
    from qbench.cli.export.card import card_text, merged

    there = repository.read(CARD) if repository else None
    if there is not None and repository is not None:
        return merged(there, exported, f"{repository.name}: {CARD}", force=force)
    return card_text(to / CARD if to else None, exported, force=force)


def _write(to: Path, texts: dict[str, str], *, force: bool) -> None:
    from qbench.cli.export.records import check_target
    from qbench.cli.shared import write_file
    from qbench.core.errors import UsageError
    from qbench.core.units import counted
    from qbench.report.console import say

    if to.exists() and not to.is_dir():
        raise UsageError(f"--to {to}: found a file; expected a folder")
    for path in texts:
        if path != CARD:
            check_target(to / path, force=force)
    for path, text in texts.items():
        write_file(to / path, text)
    say(f"wrote {to}: {counted(len(texts), 'file')}: {', '.join(texts)}")


def _push(
    repository: Repository,
    texts: dict[str, str],
    *,
    pull_request: bool,
    dry_run: bool,
    yes: bool,
) -> None:
    from qbench.cli.export.pushing import Change, may_send, send, show_changes
    from qbench.report.console import say

    every = [Change(path, text, repository.read(path)) for path, text in texts.items()]
    changed = show_changes(every, repository.name)
    if not changed:
        say(f"{repository.name}: all of it is there already; nothing was sent")
    elif dry_run:
        say(f"{repository.name}: nothing was sent, as --dry-run asks")
    elif may_send(len(changed), repository.name, yes=yes, pull_request=pull_request):
        say(f"sent to {repository.name}: {send(repository, changed, pull_request=pull_request)}")
    else:
        say(f"{repository.name}: nothing was sent")
