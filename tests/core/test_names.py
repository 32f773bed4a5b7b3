"""The nearest name of those that there are: one rule for all messages."""

from __future__ import annotations

import pytest

from qbench.core.names import did_you_mean, what_there_is


@pytest.mark.parametrize(
    ("name", "names", "asked"),
    [
        ("nf5", ("fp4", "nf4"), "did you mean 'nf4'?"),
        ("NF5", ("fp4", "nf4"), "did you mean 'nf4'?"),
        ("mistral-7b", ("Mistral-7B", "GPT2"), "did you mean 'Mistral-7B'?"),
        ("xyz", ("fp4", "nf4"), None),
        ("nf4", (), None),
    ],
)
def test_the_nearest_whatever_its_case(name: str, names: tuple[str, ...], asked: str) -> None:
    assert did_you_mean(name, names) == asked


def test_all_names_stand_behind_the_nearest() -> None:
    assert what_there_is("nf5", ["fp4", "nf4"]) == "did you mean 'nf4'? There is fp4, nf4"
    assert what_there_is("xyz", ["fp4", "nf4"]) == "There is fp4, nf4"
    assert what_there_is("xyz", []) == "there is none in this installation"
