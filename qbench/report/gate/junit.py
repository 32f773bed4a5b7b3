"""The outcome of a gate as JUnit XML, which CI systems show as test results."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from qbench.report.suspects import suspect_lines

if TYPE_CHECKING:
    from qbench.compare.gate.gate import Check
    from qbench.report.format import Gated

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot hold, such as the escape codes of a terminal."""


def render(gated: Gated) -> str:
    """One test case a check: broken, missing and inconclusive fail, incomparable is an error."""
    outcome = gated.outcome
    states = [check.state for check in outcome.checks]
    counts = {
        "tests": str(len(states)),
        "failures": str(states.count("fail")),
        "errors": str(states.count("error")),
        "skipped": str(states.count("skip")),
    }
    top = ET.Element("testsuites", counts)
    one = ET.SubElement(top, "testsuite", {"name": f"qbench gate: {gated.suite}", **counts})
    properties = ET.SubElement(one, "properties")
    ET.SubElement(properties, "property", {"name": "method", "value": outcome.method})
    if outcome.against is not None:
        value = _clean(outcome.against.words)
        ET.SubElement(properties, "property", {"name": "against", "value": value})
    for change in outcome.conditions:
        value = _clean(f"{change.new}, was {change.old}")
        attributes = {"name": f"changed: {_clean(change.name)}", "value": value}
        ET.SubElement(properties, "property", attributes)
    if outcome.suspects is not None:
        lines = [*suspect_lines(outcome.suspects), *outcome.suspects.bisect]
        ET.SubElement(properties, "property", {"name": "suspects"}).text = _clean("\n".join(lines))
    for check in outcome.checks:
        _add_case(one, check)
    ET.indent(top)
    declaration = '<?xml version="1.0" encoding="utf-8"?>'
    return f"{declaration}\n{ET.tostring(top, encoding='unicode')}\n"


def _add_case(suite: ET.Element, check: Check) -> None:
    place = "rules"
    if check.cell is not None and check.item is not None:
        place = f"{check.cell.model}.{check.cell.label}.{check.item.measurement}"
    name = check.rule.metric
    if check.metric is not None and check.item is not None:
        name = f"{check.metric} on {check.item.slug}"
    attributes = {"classname": _clean(place), "name": _clean(f"{name}: {check.allowed}")}
    case = ET.SubElement(suite, "testcase", {**attributes, "time": "0"})
    message = _clean(f"{check.verdict.name}: {check.verdict.reason}")
    told = _clean(f"allowed: {check.allowed}\nfound: {check.found}\n{check.verdict.reason}")
    tags = {"fail": "failure", "error": "error", "skip": "skipped"}
    if check.state in tags:
        kind = {"message": message}
        if check.state != "skip":
            kind["type"] = check.verdict.name
        outcome = ET.SubElement(case, tags[check.state], kind)
        outcome.text = told
    else:
        output = ET.SubElement(case, "system-out")
        warning = check.verdict.warning
        output.text = told + (f"\nwarning: {_clean(warning)}" if warning else "")


def _clean(text: str) -> str:
    return _NOT_XML.sub("�", text)
