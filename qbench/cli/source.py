"""What commands take in place of a suite's file, and beside one. Part of the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from qbench.core.record import Environment
    from qbench.plan.suite.suite import Suite
    from qbench.plan.suite.written import Written
    from qbench.predict.devices import DeviceMemory

SuiteOrModel = Annotated[
    str,
    typer.Argument(
        metavar="SUITE|MODEL",
        help="A suite's YAML file, or the name of one that ships with qbench; or a model:"
        " bundled:NAME, a folder, a .gguf file, a hub id, random:NAME.",
    ),
]
_OF_MODELS = "Of a model without a suite"
Precisions = Annotated[
    list[str] | None,
    typer.Option(
        help="Precisions, with commas. \\[default: bf16, int8, nf4, and fp32 of a small model]",
        rich_help_panel=_OF_MODELS,
    ),
]
Measure = Annotated[
    list[str] | None,
    typer.Option(
        help="Measurements, with commas. \\[default: footprint, memory, latency, quality]",
        rich_help_panel=_OF_MODELS,
    ),
]
Tasks = Annotated[
    list[str] | None,
    typer.Option(help="Tasks of lm-eval to score, with commas.", rich_help_panel=_OF_MODELS),
]
KvCaches = Annotated[
    list[str] | None,
    typer.Option(
        "--kv-cache",
        help="Kinds of quantized KV cache to measure too, with commas: fp8, int8, int4, int2.",
        rich_help_panel=_OF_MODELS,
    ),
]
Reference = Annotated[
    str | None,
    typer.Option(
        help="The precision that the others are compared with.", rich_help_panel=_OF_MODELS
    ),
]
Name = Annotated[
    str | None,
    typer.Option(
        help="Folder of its records. \\[default: after the model]", rich_help_panel=_OF_MODELS
    ),
]
Quick = Annotated[
    bool,
    typer.Option(
        "--quick",
        help="Fewer repeats, items and tokens: seconds for minutes, with wide intervals.",
        rich_help_panel=_OF_MODELS,
    ),
]
PrintSuite = Annotated[
    bool, typer.Option("--print-suite", help="Print the suite as YAML, and measure nothing.")
]


def find_source(
    argument: str,
    settings: Iterable[str] | None,
    *,
    precisions: Iterable[str] | None,
    measure: Iterable[str] | None,
    tasks: Iterable[str] | None,
    kv_cache: Iterable[str] | None,
    reference: str | None,
    name: str | None,
    quick: bool,
    device: str | None,
    gpu: DeviceMemory | None = None,
) -> Written:
    """The suite that is meant, as a file has it or would have it.

    It is for the `device`, or for a `gpu` that is not here. Raises `SuiteError` where there is no
    suite, `UsageError` for options that do not go with it, `DeviceError`.
    """
    from qbench.plan.suite.from_model import Wishes, read_source
    from qbench.plan.suite.settings import read_settings
    from qbench.predict.bf16 import has_bf16, multiplies_bf16

    wishes = Wishes(
        precisions=_listed(precisions),
        measure=_listed(measure),
        tasks=_listed(tasks),
        kv_cache=_listed(kv_cache),
        reference=reference,
        name=name,
        quick=quick,
    )
    return read_source(
        argument,
        wishes,
        read_settings(settings or ()),
        has_bf16=lambda: multiplies_bf16(gpu) if gpu else has_bf16(_environment(device)),
    )


def load(source: Written, *, rehearse: bool) -> Suite:
    """The checked suite, or its rehearsal."""
    from qbench.plan.plan import check_suite

    suite = check_suite(source)
    if not rehearse:
        return suite
    from qbench.plan.rehearsal import rehearse as made_of

    return made_of(suite)


def print_suite(source: Written) -> None:
    """Prints the file that would mean the same suite; raises `SuiteError` for a wrong one."""
    from qbench.report.console import tell

    suite = load(source, rehearse=False)
    tell(f"# Relative paths start at this file's folder: here {source.base}\n")
    tell(source.text(suite.name))


def _environment(device: str | None) -> Environment:
    from qbench.core.environment import detect_environment, find_device

    return detect_environment(find_device(device))


def _listed(values: Iterable[str] | None) -> tuple[str, ...]:
    """Names that are given with commas, or several times."""
    parts = (part.strip() for value in values or () for part in value.split(","))
    return tuple(dict.fromkeys(part for part in parts if part))
