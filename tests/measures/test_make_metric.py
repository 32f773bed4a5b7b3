"""A metric is a finite number, or none with a reason."""

from __future__ import annotations

import math

import pytest

from qbench.core.record import MetricDefinition
from qbench.measures.loaded import make_metric

DEFINITIONS = (
    MetricDefinition(name="size", unit="B", better="lower", title="size", formula="bytes"),
    MetricDefinition(name="speed", unit="tokens/s", better="higher", title="speed", formula="1/t"),
)


def test_unit_and_direction_are_those_of_the_definition() -> None:
    metric = make_metric(DEFINITIONS, "speed", 3, samples=[2.0, 4.0])
    assert (metric.name, metric.unit, metric.better) == ("speed", "tokens/s", "higher")
    assert metric.value == 3.0
    assert isinstance(metric.value, float)
    assert metric.samples == (2.0, 4.0)
    assert metric.reason is None


def test_what_it_varies_by_is_the_definitions_or_what_is_usual_of_its_unit() -> None:
    resident = MetricDefinition(
        name="rss", unit="B", better="lower", title="rss", formula="VmHWM", varies_by="process"
    )
    definitions = (*DEFINITIONS, resident)
    found = {one.name: make_metric(definitions, one.name, 1).varies_by for one in definitions}
    assert found == {"size": "nothing", "speed": "process", "rss": "process"}
    assert make_metric(definitions, "rss", 1, varies_by="nothing").varies_by == "nothing"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"size.*not a finite number"):
        make_metric(DEFINITIONS, "size", value)
    with pytest.raises(ValueError, match=r"size.*not a finite number"):
        make_metric(DEFINITIONS, "size", value, reason="whatever")


@pytest.mark.parametrize("reason", [None, ""])
def test_a_missing_value_needs_a_reason(reason: str | None) -> None:
    with pytest.raises(ValueError, match=r"size.*needs a reason"):
        make_metric(DEFINITIONS, "size", None, reason=reason)


def test_a_missing_value_keeps_its_reason() -> None:
    metric = make_metric(DEFINITIONS, "size", None, reason="not on this device")
    assert metric.value is None
    assert metric.reason == "not on this device"


def test_a_value_has_no_reason_for_missing() -> None:
    assert make_metric(DEFINITIONS, "size", 1.0, reason="if it were missing").reason is None


def test_zero_is_a_value() -> None:
    assert make_metric(DEFINITIONS, "size", 0).value == 0.0
