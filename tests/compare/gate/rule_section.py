"""The section `gate` of a suite, read as a suite reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from qbench.compare.gate.rules import RuleSection, rules_of

if TYPE_CHECKING:
    from qbench.compare.gate.rules import GateRule


def read_rules(section: Any) -> tuple[GateRule, ...]:
    return rules_of(TypeAdapter(RuleSection).validate_python(section))
