"""Answers on GPUs: what the reference writes, and how far cells are from it, is as on a CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.gpu_standin.machines import measured, with_gpus
from tests.tiny_models import make_tiny_model

if TYPE_CHECKING:
    from tests.workplace import Workplace

pytestmark = pytest.mark.slow

SUITE = """\
models: [{{source: ./untied{more}}}]
precisions: [fp32, nf4]
reference: fp32
measure:
  chat: {{prompts: [def f(, import, return x], new_tokens: 6{asked}}}
"""
LONG = ", prompt_tokens: 40, context_text: text.txt, prefill_chunk: 16, decoded: true"


@pytest.mark.parametrize("cards", [("h100",), ("h100", "h100")], ids=["one", "two"])
def test_answers_are_those_of_a_cpu(workplace: Workplace, cards: tuple[str]) -> None:
    make_tiny_model(workplace.folder / "untied", "llama", layers=4)
    place = with_gpus(workplace, *cards)
    asked = "" if len(cards) == 1 else LONG
    place.write("suite.yaml", SUITE.format(more="", asked=asked))
    expected = measured(place, "cpu")
    more = ", device_map: auto" if len(cards) > 1 else ""
    place.write("suite.yaml", SUITE.format(more=more, asked=asked))
    found = measured(place, "cuda")
    for label in ("fp32", "nf4"):
        ids = [one[label].details["ids_sha256"] for one in (expected, found)]
        assert ids[0] == ids[1]
    for name in ("chat.kl.mean", "chat.kl.reverse", "chat.perplexity"):
        values = [one["nf4"].value(name) for one in (expected, found)]
        assert values[0] is not None
        assert values[1] == pytest.approx(values[0], rel=0.02)


def test_answers_are_drawn_by_the_seed_on_a_gpu_too(workplace: Workplace) -> None:
    make_tiny_model(workplace.folder / "untied", "llama", layers=2)
    place = with_gpus(workplace, "h100")
    place.write("suite.yaml", SUITE.format(more="", asked=", temperature: 0.9"))
    first, again = measured(place, "cuda"), measured(place, "cuda")
    assert first["fp32"].details["answers"] == again["fp32"].details["answers"]
    assert first["nf4"].value("chat.kl.mean") == again["nf4"].value("chat.kl.mean")
