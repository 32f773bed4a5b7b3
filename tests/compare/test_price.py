"""What an hour costs, and what that makes of measured times: against arithmetic by hand."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qbench.compare.price import Price, devices_of, hour_of
from qbench.compare.recommend.arms import arm_choices
from qbench.compare.recommend.budget import Budget
from qbench.compare.recommend.choices import choices
from qbench.compare.recommend.prices import GENERATED, PROMPT, TRAINING
from qbench.compare.recommend.recommend import recommend
from qbench.compare.selection import select
from qbench.core.store import read_folder
from tests.record_factory import latency_record, make_environment

if TYPE_CHECKING:
    from qbench.compare.selection import TableRecords
    from qbench.core.record import Record

PUBLISHED = Path(__file__).parents[2] / "results" / "published"
H100 = make_environment(device="H100", device_kind="nvidia-h100-80gb-hbm3", device_type="cuda")
CPU = make_environment()


def table_of(suite: str) -> TableRecords:
    return next(iter(select(read_folder(PUBLISHED / suite)[0]).tables))


def table_with(**changes: Any) -> TableRecords:
    records = [latency_record("fp32", repeat, **changes) for repeat in range(5)]
    return next(iter(select(records).tables))


def test_a_gpu_is_paid_by_the_gpu_and_a_cpu_by_the_machine() -> None:
    price = Price(gpu_hour=2.49, machine_hour=0.2)
    assert hour_of(price, H100) == (2.49, "")
    assert hour_of(price, CPU) == (0.2, "")
    amount, reason = hour_of(Price(gpu_hour=2.49), CPU)
    assert amount is None
    assert "machine_hour states it" in reason


def test_the_most_particular_name_of_a_device_holds() -> None:
    hours = {"nvidia": 1.0, "nvidia-h100": 2.0, "H100-80GB": 3.0, "h10": 9.0, "a100": 8.0}
    assert hour_of(Price(gpu_hour=hours), H100)[0] == 2.0  # by its length
    assert hour_of(Price(gpu_hour={"h100": 4}), H100)[0] == 4.0
    amount, reason = hour_of(Price(gpu_hour={"h10": 9.0, "a100": 8.0}), H100)
    assert amount is None
    assert "nvidia-h100-80gb-hbm3" in reason
    assert "h10, a100" in reason


def test_tokens_cost_the_hour_over_what_was_measured_in_it() -> None:
    table = table_of("mistral-shape")
    made = choices(table, Budget(batch=8), Price(gpu_hour=3.6, currency="USD"))
    for cell, choice in zip(table.cells, made.cells, strict=True):
        records = cell.of("latency", "b8-p256-n16")
        for key, metric in ((PROMPT, "throughput.prefill"), (GENERATED, "throughput.decode")):
            # 3.6 an hour is 0.001 a second
            each = [1e6 * 0.001 / value for one in records if (value := one.value(metric))]
            assert choice.ranges[key].value == pytest.approx(median(each))
    assert made.axis(GENERATED).unit == "USD per 1M tokens"


def test_the_interval_is_that_of_the_times() -> None:
    table = table_with()
    made = choices(table, None, Price(machine_hour=3600.0))
    (cell,) = made.cells
    for key, step, tokens in ((PROMPT, "prefill", 128), (GENERATED, "decode", 1)):
        time, price = cell.ranges[step], cell.ranges[key]
        assert (time.value, time.low, time.high) != (None, None, None)
        for mine, its in (
            (price.value, time.value),
            (price.low, time.low),
            (price.high, time.high),
        ):
            assert mine == pytest.approx(None if its is None else its * 1e6 / tokens)


def test_every_gpu_that_the_model_lies_on_is_paid() -> None:
    def laid_over(count: int | None) -> list[Record]:
        lies = {f"cuda:{index}": 1 for index in range(count or 0)}
        loaded = {"placement": {"static_bytes": lies}} if count else {}
        made = []
        for record in table_with(environment=H100).cells[0].records:
            model = record.cell.model.model_copy(update={"device_map": "auto"})
            cell = record.cell.model_copy(update={"model": model})
            details = {**record.details, "loaded": loaded}
            made.append(record.model_copy(update={"cell": cell, "details": details}))
        return made

    prices = {}
    for count in (1, 2, 4, None):
        records = laid_over(count)
        assert devices_of(records)[0] == count
        (cell,) = choices(next(iter(select(records).tables)), None, Price(gpu_hour=2)).cells
        prices[count] = cell.ranges.get(GENERATED)
    one, two, four = (prices[count] for count in (1, 2, 4))
    assert one
    assert two
    assert four
    assert one.value
    assert two.value == pytest.approx(2 * one.value)
    assert four.value == pytest.approx(4 * one.value)
    assert prices[None] is None  # nothing of it is known


def test_a_training_costs_its_steps() -> None:
    table = table_of("finetune")
    made = arm_choices(table, None, Price(machine_hour=0.36))
    assert made is not None
    for choice in made.cells:
        arm = choice.label.rpartition("--")[0]
        times = [
            value
            for cell in table.tuned
            if cell.is_training and cell.tuning is not None and cell.tuning.arm == arm
            for record in cell.of("training")
            if (value := record.value("training.total_time")) is not None
        ]
        cost = choice.ranges[TRAINING]
        assert times
        assert cost.value is not None
        assert min(times) * 1e-4 <= cost.value <= max(times) * 1e-4


def test_without_a_price_nothing_is_priced_and_the_reason_is_told() -> None:
    table = table_with()
    assert not {GENERATED, PROMPT} & {axis.key for axis in choices(table).axes}
    made = choices(table, Budget(minimize="price"))
    assert made.cells[0].ranges[GENERATED].reason == "no price of an hour was given"
    assert recommend(made).best is None
    made = choices(table, Budget(max_price=1.0), Price(gpu_hour=2.0))
    assert "machine_hour states it" in str(made.cells[0].ranges[GENERATED].reason)


def test_a_limit_on_the_price_decides() -> None:
    table = table_with()
    price = Price(machine_hour=1.0)
    known = choices(table, None, price).cells[0].ranges[GENERATED]
    assert known.high is not None
    assert known.low is not None
    for bound, best in ((known.high * 1.01, True), (known.low * 0.99, False)):
        found = recommend(choices(table, Budget(max_price=bound), price))
        assert (found.best is not None) == best


AMOUNTS = st.floats(1e-6, 1e9)


@given(AMOUNTS, AMOUNTS)
def test_a_dearer_hour_makes_everything_as_much_dearer(first: float, second: float) -> None:
    table = table_with()
    costs = [
        choices(table, None, Price(machine_hour=hour)).cells[0].ranges for hour in (first, second)
    ]
    for key in (PROMPT, GENERATED):
        one, other = (cost[key].value for cost in costs)
        assert one is not None
        assert other is not None
        assert one / first == pytest.approx(other / second)
        assert (one <= other) == (first <= second)
