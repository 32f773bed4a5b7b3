"""The heat maps of the weights' errors: every layer in its block, others named apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from qbench.compare.selection import select
from qbench.core.page import Charts
from qbench.report.charts.weight_error import MOST_PICTURES, MOST_TILES, split, weight_error_charts
from tests.record_factory import make_record
from tests.report.charts.specs import values, without_data

if TYPE_CHECKING:
    from qbench.core.record import Record

NAME = "</script>'+alert(1)+'"


def errors(cell: str, layers: dict[str, Any]) -> Record:
    told = [{"name": name, "relative_error": error} for name, error in layers.items()]
    return make_record(
        cell, "weight_error", {"weight_error.relative": 0.1}, details={"layers": told}
    )


def group(*records: Record) -> Charts:
    (found,) = weight_error_charts(select(records).tables[0])
    assert isinstance(found, Charts)
    return found


def test_names_are_parsed_whatever_the_architecture() -> None:
    layers = {
        "model.layers.10.self_attn.q_proj": 0.2,
        "model.layers.9.self_attn.q_proj": 0.1,
        "transformer.h.0.mlp.c_fc": 0.3,
        "model.layers.1.mlp.experts.0.w1": 0.4,
        "model.layers.1.mlp.experts.7.w1": 0.5,
        "model.layers.1.mlp.experts.3.w1": 0.3,
        "0.dense": 0.6,
        "lm_head": 0.7,
        "vision.proj2": 0.8,
    }
    found, apart = split(layers.items())
    assert list(found.items()) == [
        ((0, "c_fc"), 0.3),
        ((0, "dense"), 0.6),
        ((1, "w1"), 0.5),
        ((9, "q_proj"), 0.1),
        ((10, "q_proj"), 0.2),
    ]
    assert apart == [("lm_head", 0.7), ("vision.proj2", 0.8)]


def test_each_layer_has_its_tile_in_percent() -> None:
    layers = {"layers.0.q": 0.0912, "layers.0.v": 0.02, "layers.1.q": 0.1, NAME: 0.5}
    drawn = group(errors("fp32", dict.fromkeys(layers, 0.0)), errors("nf4", layers))
    (chart,) = drawn.charts
    assert [(row["block"], row["kind"], row["error"]) for row in values(chart)] == [
        (0, "q", pytest.approx(9.12)),
        (0, "v", pytest.approx(2.0)),
        (1, "q", pytest.approx(10.0)),
    ]
    assert chart.spec["encoding"]["color"]["scale"] == {"domainMin": 2.0}
    assert "10.00%, of q in block 1" in chart.description
    assert chart.caption == f"Of no block: {NAME} 50.00%."
    assert "alert" not in without_data(chart.spec)


def test_shades_do_not_make_much_of_little() -> None:
    (chart,) = group(errors("nf4", {"layers.0.q": 0.1, "layers.0.v": 0.099})).charts
    assert chart.spec["encoding"]["color"]["scale"] == {"domainMin": 8.0}


def test_many_pictures_are_opened_and_very_many_are_not_drawn() -> None:
    records = [errors(f"cell-{at}", {"layers.0.q": 0.1}) for at in range(MOST_PICTURES + 1)]
    assert not group(*records[:8]).folded
    assert group(*records[:9]).folded == "Error of the weights of each layer, 9 cells"
    drawn = group(*records)
    assert len(drawn.charts) == MOST_PICTURES
    assert drawn.caption.endswith(f"Not drawn, for their number: cell-{MOST_PICTURES}.")


def test_cells_beyond_what_can_be_drawn_are_named() -> None:
    many = {f"layers.{at}.q": 0.1 for at in range(MOST_TILES - 1)}
    drawn = group(errors("nf4", many), errors("fp4", {"layers.0.q": 0.1, "layers.1.q": 0.1}))
    assert len(drawn.charts) == 1
    assert drawn.caption.endswith("Not drawn, for their number: nf4.") or drawn.caption.endswith(
        "Not drawn, for their number: fp4."
    )


@pytest.mark.parametrize("layers", [None, [1], [{"name": "layers.0.q"}], {"a": 1}])
def test_records_without_layers_have_no_picture(layers: Any) -> None:
    record = make_record("nf4", "weight_error", {"a": 1.0}, details={"layers": layers})
    assert weight_error_charts(select([record]).tables[0]) == []
