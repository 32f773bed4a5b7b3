"""The command `fit`: what fits of a model into a GPU. Part of the command line."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from qbench.cli.shared import FormatName, Output, show

EXAMPLES = (
    "Examples: qbench fit Mistral-7B-Instruct-v0.2 --gpu 24GB |"
    " qbench fit ./my-model --gpu a100-80gb --rank 16 --target all-linear |"
    " qbench fit Llama-3.1-8B --precision nf4 --kv-cache int8 --kv-cache int4 --gpu 24GB |"
    " qbench fit Llama-3-70B --gpu h200 --format markdown -o fit.md"
)
_LONGEST = 2**31
"""Tokens and ranks beyond any model's; larger numbers no longer fit a float."""


def fit(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="Hub id, folder, bundled:NAME, or a known configuration: Llama-3-8B, Qwen2.5-7B.",
        ),
    ],
    *,
    gpu: Annotated[
        str | None,
        typer.Option(
            help="A size (24GB, 24GiB) or a GPU: t4, 4090, a100-40gb, h100; several: 2xh100."
            " \\[default: this machine's first]"
        ),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(help="Only this precision. May be given several times. \\[default: all]"),
    ] = None,
    kv_cache: Annotated[
        list[str] | None,
        typer.Option(
            help="Also with this kind of quantized KV cache: fp8, int8, int4, int2. May be given"
            " several times."
        ),
    ] = None,
    length: Annotated[
        list[int] | None,
        typer.Option(
            min=2,
            max=_LONGEST,
            help="Tokens of a sequence. May be given several times. \\[default: 512 to 8192]",
        ),
    ] = None,
    rank: Annotated[int, typer.Option(min=1, max=_LONGEST, help="Rank of the adapters.")] = 64,
    target: Annotated[
        str,
        typer.Option(help="Layers with an adapter: default, all-linear, or names with commas."),
    ] = "default",
    optimizer: Annotated[
        Literal["adamw", "adamw_8bit", "paged_adamw_32bit", "paged_adamw_8bit"],
        typer.Option(help="The optimizer; the states of a paged one need not fit."),
    ] = "adamw",
    format_name: FormatName = "text",
    output: Output = None,
) -> None:
    """Show the largest batch and sequence length that fit, by precision and method, from shapes."""
    from qbench.cli import fit_table as fitting
    from qbench.report.format import Subject
    from qbench.report.formats import find_format

    form = find_format(format_name, "page")
    names = fitting.check_precisions(precision or ())
    caches = fitting.check_caches(kv_cache or ())
    device = fitting.find_memory(gpu)
    table = fitting.make_table(
        fitting.find_model(model),
        device,
        names=names,
        caches=caches,
        lengths=sorted(set(length or ())),
        rank=rank,
        target=target,
        optimizer=optimizer,
    )
    show(Subject(lambda: fitting.fit_page(table)), form, output)
