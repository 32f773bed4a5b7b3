"""The tables of metrics and options that are filled into the pages of docs/."""

from __future__ import annotations

import importlib.util
import re
from typing import TYPE_CHECKING

import pytest
import yaml

from qbench.measures import asked_for, measures
from qbench.precisions import precisions
from tests.workplace import REPOSITORY

if TYPE_CHECKING:
    from types import ModuleType


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "docs_tables", REPOSITORY / "tools" / "docs_tables.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_metric_stands_on_the_page_of_measurements(tables: ModuleType) -> None:
    page = (REPOSITORY / "docs" / "measurements.md").read_text(encoding="utf-8")
    filled = tables.on_page_markdown(page)
    for name, measurement in measures().items():
        section = filled.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        for metric in measurement.metrics:
            assert f"| `{metric.name}` |" in section


def test_each_option_that_a_suite_may_give_stands_there() -> None:
    page = (REPOSITORY / "docs" / "measurements.md").read_text(encoding="utf-8")
    shown = re.findall(r"options: measures (\w+)", page)
    assert shown == [name for name, one in asked_for().items() if one.options.model_fields]


def test_an_option_is_shown_with_its_default_and_meaning(tables: ModuleType) -> None:
    rows = tables.options_table("measures", "latency").splitlines()
    assert (
        "| `min_seconds` | `1.0` | The fewest seconds of timed iterations. Also: `min_run_time`. |"
        in rows
    )


def test_the_page_on_ci_has_each_input_and_output_of_the_action(tables: ModuleType) -> None:
    action = yaml.safe_load((REPOSITORY / "action.yml").read_text(encoding="utf-8"))
    page = (REPOSITORY / "docs" / "ci.md").read_text(encoding="utf-8")
    filled = tables.on_page_markdown(page)
    assert "| `suite` | must be given | The suite's YAML file. |" in filled
    assert "| `results` | `results` | The folder of the records. |" in filled
    assert "| `device` | – | auto, cpu, cuda or cuda:N." in filled
    for name, about in {**action["inputs"], **action["outputs"]}.items():
        assert about["description"]
        assert f"\n| `{name}` | " in filled


def test_what_two_methods_share_stands_once(tables: ModuleType) -> None:
    rows = tables.options_table("methods", "lora", beside="full")
    assert "| `rank` | `16` |" in rows
    assert "`warmup_share`" not in rows
    assert "`warmup_share`" in tables.options_table("methods", "full")


def test_each_precision_stands_on_its_page(tables: ModuleType) -> None:
    page = (REPOSITORY / "docs" / "precisions.md").read_text(encoding="utf-8")
    filled = tables.on_page_markdown(page)
    for name, precision in precisions().items():
        assert f"| `{name}` | {precision.summary}" in filled
        assert all(other.replace("_", r"\_") in filled for other in precision.also_called)


def test_signs_of_markdown_are_taken_as_they_are(tables: ModuleType) -> None:
    [row] = [row for row in tables.metrics_table("tasks").splitlines() if "lm-eval" in row]
    assert row.startswith("| `tasks.*` | 1 |")
    assert r"tasks.\<task>.\<metric>" in row


def test_the_names_of_other_tools_stand_beside_the_metrics(tables: ModuleType) -> None:
    rows = tables.metrics_table("quality").splitlines()
    (row,) = [row for row in rows if row.startswith("| `top1_agreement` |")]
    assert row.endswith("| same top p |")
    assert tables.metrics_table("latency").count("| TTFT, ppN |") == 1


def test_an_unknown_name_ends_the_build(tables: ModuleType) -> None:
    with pytest.raises(KeyError):
        tables.on_page_markdown("<!-- metrics: latenzy -->")
