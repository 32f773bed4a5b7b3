"""The options that state what an hour of a device costs. Part of the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from qbench.compare.price import Price
    from qbench.compare.stated import Stated
    from qbench.core.record import Record

_PANEL = "Price"
_EXPECTED = {"currency": "a few letters such as USD"}


def _hour(of: str, like: str) -> Any:
    return typer.Option(
        metavar="AMOUNT|KIND=AMOUNT",
        help=f"What an hour of {of} costs, such as {like}; once for each kind of device.",
        rich_help_panel=_PANEL,
    )


GpuHour = Annotated[list[str] | None, _hour("one GPU", "2.49 or nvidia-h100=2.49")]
MachineHour = Annotated[list[str] | None, _hour("a machine, for what ran on its CPU,", "0.2")]
Currency = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="What the amounts are in, such as USD; only shown.",
        rich_help_panel=_PANEL,
    ),
]


def price_given(
    gpu_hour: Sequence[str] | None, machine_hour: Sequence[str] | None, currency: str | None
) -> dict[str, Any]:
    """What was given of a price, as a suite would write it."""
    given = {
        "gpu_hour": _amounts(gpu_hour, "--gpu-hour"),
        "machine_hour": _amounts(machine_hour, "--machine-hour"),
        "currency": currency,
    }
    return {key: value for key, value in given.items() if value is not None}


def price_over(given: Mapping[str, Any], own: Price | None) -> Price | None:
    """The price that holds: what was given, and of the suite's own what was not.

    Raises `UsageError` with all that is wrong with what was given.
    """
    from pydantic import ValidationError

    from qbench.compare.price import BY_KIND, Price
    from qbench.core.errors import Problem, UsageError

    if not given:
        return own
    kept = {} if own is None else {name: getattr(own, name) for name in own.model_fields_set}
    try:
        return Price.model_validate({**kept, **{key: _read(key, given[key]) for key in given}})
    except ValidationError as error:
        problems = []
        for detail in error.errors(include_url=False):
            reason = detail.get("ctx", {}).get("error")
            if not detail["loc"]:
                beside = "--gpu-hour or --machine-hour beside it, such as --gpu-hour 2.49"
                problems.append(Problem("--currency", "no price of an hour", beside))
                continue
            key = str(detail["loc"][0])
            place = f"--{key.replace('_', '-')}"
            expected = str(reason) if reason is not None else _EXPECTED[key]
            expected = expected.replace(BY_KIND, "one for each kind of device: nvidia-h100=2.49")
            remedy = getattr(reason, "remedy", None)
            remedy = remedy and remedy.replace("under `currency`", "as --currency")
            found = getattr(reason, "found", None) or _found(given.get(key))
            problems.append(Problem(place, found, expected, remedy))
        raise UsageError("\n".join(map(str, problems))) from None


def _found(given: object) -> str:
    """What was given of an option, as it was typed."""
    if isinstance(given, dict):
        return repr(" ".join(f"{kind}={amount}" for kind, amount in given.items()))
    return repr(given)


def priced(
    stated: Mapping[str, Stated], given: Mapping[str, Any], records: Sequence[Record]
) -> dict[str, Stated]:
    """What holds for the suites of the records, with the price that was given for all of them."""
    from qbench.compare.stated import NOTHING

    suites = dict.fromkeys(record.suite for record in records)
    every = {suite: stated.get(suite, NOTHING) for suite in (*stated, *suites)}
    return {
        suite: one.model_copy(update={"price": price_over(given, one.price)})
        for suite, one in every.items()
    }


def _amounts(texts: Sequence[str] | None, option: str) -> str | dict[str, str] | None:
    """`2.49` or `nvidia-h100=2.49`, as it was typed."""
    from qbench.core.errors import UsageError

    if not texts:
        return None
    if len(texts) == 1 and "=" not in texts[0]:
        return texts[0]
    found: dict[str, str] = {}
    for text in texts:
        kind, sign, amount = (part.strip() for part in text.partition("="))
        if not sign or not kind or kind in found:
            of_several = f" among {len(texts)}" if len(texts) > 1 else ""
            raise UsageError(
                f"{option}: found {text!r}{of_several}; expected one amount for each kind"
                " of device, such as nvidia-h100=2.49"
            )
        found[kind] = amount
    return found


def _read(key: str, given: str | dict[str, str]) -> object:
    """What was typed, with its numbers as numbers; what is none stays, for the message."""
    if isinstance(given, dict):
        return {kind: _read(key, amount) for kind, amount in given.items()}
    from qbench.core.quantities import is_number

    return float(given) if key != "currency" and is_number(given) else given
