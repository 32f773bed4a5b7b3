"""The command `recommend`: what to run under a budget. Part of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qbench.cli.price_options import (
    Currency,
    GpuHour,
    MachineHour,
    price_given,
    price_over,
)
from qbench.cli.shared import FormatName, Output, Results, show

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.compare.recommend.budget import Budget
    from qbench.compare.recommend.choices import Choices
    from qbench.compare.recommend.tables import Recommended
    from qbench.compare.stated import Stated
    from qbench.core.record import Record

EXAMPLE = (
    "Examples: qbench recommend results/published/quickstart --max-perplexity-increase 1%"
    " --minimize decode | qbench recommend results/published/full --machine-hour 0.2"
    " --minimize price"
)
NOTHING_MEETS = 1
"""Exit code where no cell of a table is shown to meet the budget."""
_LIMITS = "Limits"


def _limit(text: str, metavar: str) -> Any:
    return typer.Option(help=text, metavar=metavar, rich_help_panel=_LIMITS)


def recommend(
    where: Annotated[
        str,
        typer.Argument(
            metavar="[RESULTS|SUITE]",
            help="A folder of records, or a suite, whose `recommend` and `price` then hold.",
        ),
    ] = "results",
    *,
    results: Results = Path("results"),
    max_bytes: Annotated[str | None, _limit("Static bytes, such as 6GiB.", "SIZE")] = None,
    max_peak: Annotated[str | None, _limit("Memory at the peak of inference.", "SIZE")] = None,
    gpu: Annotated[
        str | None, _limit("A size or a GPU that the peak must fit: 24GB, h100.", "GPU")
    ] = None,
    max_prefill: Annotated[str | None, _limit("A forward pass over the prompt.", "TIME")] = None,
    max_decode: Annotated[
        str | None, _limit("Time for each new token of the batch, such as 40ms.", "TIME")
    ] = None,
    max_energy: Annotated[str | None, _limit("Energy of each new token.", "ENERGY")] = None,
    max_price: Annotated[
        float | None, _limit("A million generated tokens, where an hour has a price.", "AMOUNT")
    ] = None,
    max_perplexity_increase: Annotated[
        str | None, _limit("Over the reference's, such as 1%.", "SHARE")
    ] = None,
    max_kl: Annotated[
        float | None, _limit("Divergence from the reference, in nats a token.", "NATS")
    ] = None,
    min_task: Annotated[
        list[str] | None,
        _limit("Least change of a score: 'hellaswag: -0.01'. May be repeated.", "TASK: CHANGE"),
    ] = None,
    max_training_peak: Annotated[
        str | None, _limit("Memory of a training step, of fine-tuning arms.", "SIZE")
    ] = None,
    max_step: Annotated[str | None, _limit("Time of a training step, of arms.", "TIME")] = None,
    max_loss_increase: Annotated[
        float | None, _limit("Test loss over the best arm's, in nats a token.", "NATS")
    ] = None,
    minimize: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What the recommended one has the least of: bytes, peak, prefill, decode, energy"
            " or price. \\[default: bytes, or the first that was measured]",
        ),
    ] = None,
    gpu_hour: GpuHour = None,
    machine_hour: MachineHour = None,
    currency: Currency = None,
    price: Annotated[
        float | None,
        typer.Option(help="Of an hour of any device.", rich_help_panel="Price"),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(help="The batch at which times and peaks are read. \\[default: the smallest]"),
    ] = None,
    format_name: FormatName = "text",
    output: Output = None,
) -> None:
    """Say what to run: the best cell that meets a budget with its whole 95 % intervals.

    Exits with 1 where nothing of a table is shown to meet it.
    """
    from qbench.compare.recommend.tables import recommendations
    from qbench.compare.selection import select
    from qbench.compare.stated import Stated
    from qbench.report.format import Subject
    from qbench.report.formats import find_format
    from qbench.report.recommendation import recommendation_page
    from qbench.report.summary import passed_over

    form = find_format(format_name, "page")
    given = {
        "max_bytes": max_bytes,
        "max_peak": max_peak,
        "gpu": gpu,
        "max_prefill": max_prefill,
        "max_price": max_price,
        "max_decode": max_decode,
        "max_energy": max_energy,
        "max_perplexity_increase": max_perplexity_increase,
        "max_kl": max_kl,
        "min_task": _tasks(min_task or ()) or None,
        "max_training_peak": max_training_peak,
        "max_step": max_step,
        "max_loss_increase": max_loss_increase,
        "minimize": minimize,
        "price": price,
        "batch": batch,
    }
    stated = _read({key: value for key, value in given.items() if value is not None})
    hours = price_given(gpu_hour, machine_hour, currency)
    records, own = _load(where, results)
    budget = stated if own.budget is None else stated.over(own.budget)
    holds = Stated(budget=budget, price=price_over(hours, own.price))
    _check_price(holds)
    selection = select(records)
    made = [(table, recommendations(table, holds)) for table in selection.tables]
    found = [(table, one) for table, recommended in made for one in recommended.every]
    _check(holds, [one.choices for _, one in found], records)
    page = recommendation_page(found, passed_over(selection))
    show(Subject(lambda: page), form, output)
    if not all(_answers(recommended, budget) for _, recommended in made):
        raise typer.Exit(NOTHING_MEETS)


def _answers(recommended: Recommended, budget: Budget) -> bool:
    """Whether anything of a table is recommended: of the tuned models, if their training counts."""
    of_training = recommended.tuned is not None and _limits_of_training(budget)
    asked = (recommended.tuned,) if of_training else recommended.every
    return not recommended.every or any(one and one.best for one in asked)


def _limits_of_training(budget: Budget) -> list[str]:
    """The keys of the limits on fine-tuning arms that are stated."""
    keys = ("max_training_peak", "max_step", "max_loss_increase")
    return [key for key in keys if getattr(budget, key) is not None]


def _tasks(texts: Sequence[str]) -> dict[str, float]:
    """The tasks of `--min-task`, each with its least change."""
    from qbench.core.errors import UsageError
    from qbench.core.quantities import is_number

    found = {}
    for text in texts:
        name, _, least = text.rpartition(":")
        if not name.strip() or not is_number(least):
            raise UsageError(
                f"--min-task: found {text!r}; expected a task and the least change of its score,"
                " such as 'hellaswag: -0.01'"
            )
        if name.strip() in found:
            raise UsageError(f"--min-task: {name.strip()!r} is limited twice; give it once")
        found[name.strip()] = float(least)
    return found


def _read(given: dict[str, Any]) -> Budget:
    """The options as a budget; raises `UsageError` with all that is wrong with them."""
    from pydantic import ValidationError

    from qbench.compare.recommend.section import BudgetSection
    from qbench.core.errors import Problem, UsageError
    from qbench.core.reading import InvalidValueError

    try:
        return BudgetSection.model_validate(given).budget
    except ValidationError as error:
        fields = BudgetSection.model_json_schema()["properties"]
        problems = []
        for detail in error.errors(include_url=False):
            key = str(detail["loc"][0])
            reason = detail.get("ctx", {}).get("error")
            expected, remedy = fields[key].get("errorMessage", ""), None
            if isinstance(reason, InvalidValueError):
                expected, remedy = str(reason), reason.remedy
            option = f"--{key.replace('_', '-')}"
            problems.append(Problem(option, repr(given[key]), expected, remedy))
        raise UsageError("\n".join(map(str, problems))) from None


def _load(where: str, results: Path) -> tuple[Sequence[Record], Stated]:
    """The records of a folder, or of a suite with what it states."""
    from qbench.cli.sides import of_model, records_of, without_rehearsals
    from qbench.compare.newest import read_newest
    from qbench.compare.stated import NOTHING
    from qbench.core.errors import StoreError
    from qbench.core.store import tell_unreadable
    from qbench.core.untrusted import as_message
    from qbench.report.console import tell

    folder, suite = records_of(Path(where), results)
    records, unreadable = read_newest(folder)
    for note in tell_unreadable(unreadable):
        tell(f"note: {as_message(note)}\n", stderr=True)
    if not records:
        raise StoreError(f"{folder}: no records there; `qbench run SUITE` makes some")
    real = without_rehearsals(of_model(records, where, folder), str(folder))
    return real, suite.stated if suite else NOTHING


def _check_price(stated: Stated) -> None:
    """Raises `UsageError` where a budget asks for what has no price."""
    from qbench.core.errors import UsageError

    budget = stated.budget
    if budget and budget.needs_price and not (budget.price or stated.price):
        asked = "--minimize price" if budget.minimize == "price" else "--max-price"
        raise UsageError(
            f"{asked}: found no price; expected what an hour of the device costs, such as"
            " --gpu-hour 2.49 or --machine-hour 0.2, or `price` in the suite"
        )


def _check(stated: Stated, made: Sequence[Choices], records: Sequence[Record]) -> None:
    """Raises `UsageError` for what was measured nowhere, with what was."""
    from qbench.compare.recommend.budget import MINIMIZED, Budget
    from qbench.compare.recommend.limits import names_of_task, tasks_of
    from qbench.core.errors import UsageError
    from qbench.core.names import what_there_is

    budget = Budget() if stated.budget is None else stated.budget
    if not made:
        raise UsageError(
            "found no record of what a model costs to run; expected some of footprint, memory or"
            " latency: `qbench run SUITE` takes them"
        )
    limited = _limits_of_training(budget)
    if limited and all(one.kind != "tuned" for one in made):
        option = f"--{limited[0].replace('_', '-')}"
        raise UsageError(f"{option}: no tuned model was served; expected arms to choose from")
    axes = [axis for one in made for axis in one.axes]
    for pattern in budget.min_task:
        if not tasks_of(pattern, axes):
            names = dict.fromkeys(name for axis in axes for name in names_of_task(axis))
            told = what_there_is(pattern, names) if names else "no task was measured"
            raise UsageError(f"--min-task {pattern!r}: no such task was measured; {told}")
    measured = {
        key
        for one in made
        for cell in one.cells
        for key, known in cell.ranges.items()
        if known.value is not None
    }
    if budget.batch is not None:
        batches = sorted(
            {
                size
                for record in records
                if record.item.measurement in ("latency", "memory")
                and isinstance(size := record.item.params.get("batch"), int)
            }
        )
        if budget.batch not in batches:
            told = f"there are {', '.join(map(str, batches))}" if batches else "there is none"
            raise UsageError(f"--batch {budget.batch}: nothing was measured at that batch; {told}")
    if "minimize" in budget.model_fields_set and budget.minimize not in measured:
        there = [key for key in MINIMIZED if key in measured]
        raise UsageError(
            f"--minimize {budget.minimize}: it was not measured; there is"
            f" {', '.join(there) or 'nothing that can be'}"
        )
