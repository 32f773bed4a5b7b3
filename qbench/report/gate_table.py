"""The outcome of a gate for a terminal: every rule with what was allowed, found, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType

    from qbench.comparison.gate import GateOutcome, State

_STYLES: dict[State, str] = {
    "pass": "green",
    "fail": "bold red",
    "error": "bold red",
    "skip": "dim",
}


def render(outcome: GateOutcome) -> RenderableType:
    """One row a check, those that do not pass last, so that they stand above the prompt."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, header_style="bold")
    for title in ("verdict", "check", "allowed", "found", "why"):
        table.add_column(title, overflow="fold")
    order: dict[State, int] = {"skip": 0, "pass": 1, "error": 2, "fail": 3}
    for check in sorted(outcome.checks, key=lambda check: order[check.state]):
        verdict = Text(check.verdict.name, style=_STYLES[check.state])
        texts = (check.name, check.allowed, check.found, check.verdict.reason)
        table.add_row(verdict, *map(Text, texts))
    parts: list[RenderableType] = [table]
    if outcome.conditions:
        parts.append(Text("Conditions that differ from the baseline's", style="bold"))
        parts += [Text(f"{c.name}: {c.new}, was {c.old}") for c in outcome.conditions]
    parts += [Text(f"warning: {warning}", style="yellow") for warning in outcome.warnings]
    parts.append(Text(outcome.method, style="dim"))
    style = "bold green" if outcome.exit_code == 0 else "bold red"
    return Group(*parts, Text(outcome.summary, style=style))
