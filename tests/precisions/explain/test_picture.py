"""The histogram in characters."""

from __future__ import annotations

import pytest
import torch

from qbench.core.picture import BINS, HEIGHT, WIDTHS, bars, draw, histogram_figures, picture_of


def test_bars_are_drawn_to_an_eighth_of_a_line() -> None:
    assert bars([0, 1, 8, 16], height=2) == ["   █", " ▁██"]
    assert bars([0, 0], height=2) == ["  ", "  "]
    assert bars([1, 1_000_000], height=1) == ["▁█"]  # one weight is seen


def test_every_value_is_counted_once_those_outside_at_the_ends() -> None:
    values = torch.tensor([[-1.0, -0.5, 0.0, 0.5], [1.0, 1.0004, -3.0, 0.25]])
    picture = picture_of(values, -1, 1)
    assert sum(picture.counts) == values.numel()
    assert (picture.counts[0], picture.counts[-1]) == (2, 2)
    assert picture.counts[BINS // 2] == 1  # 0 has a column of its own


@pytest.mark.parametrize(("room", "width"), [(200, 105), (80, 63), (62, 45), (21, 21), (5, 21)])
def test_the_picture_is_as_wide_as_there_is_room(room: int, width: int) -> None:
    picture = picture_of(torch.linspace(-1, 1, 1001), -1, 1, (-1.0, 0.0, 1.0))
    lines = draw(picture, room)
    assert {len(line) for line in lines} == {width}
    assert len(lines) == HEIGHT + 3
    marked = [index for index, character in enumerate(lines[-1]) if character == "▲"]
    assert marked == [0, width // 2, width - 1]
    assert lines[HEIGHT][width // 2] == "┴"


def test_every_width_divides_the_counts() -> None:
    assert [BINS % width for width in WIDTHS] == [0] * len(WIDTHS)
    assert all(width % 2 for width in WIDTHS)


def test_the_figures_are_the_columns_that_are_drawn() -> None:
    picture = picture_of(torch.tensor([-1.0, 0.0, 0.0, 1.0]), -1, 1)
    figures = histogram_figures(picture)
    assert figures is not None
    assert (figures["low"], figures["high"]) == (-1, 1)
    counts = figures["counts"]
    assert (counts[0], counts[31], counts[-1], sum(counts)) == (1, 2, 1, 4)
