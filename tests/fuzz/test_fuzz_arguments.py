"""The command line with anything as an argument."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.conftest import of_usual
from tests.fuzz.mutations import HOSTILE_TEXTS
from tests.fuzz.places import check, place, write_json
from tests.record_factory import footprint_record
from tests.workplace import keep

pytestmark = pytest.mark.slow

SUITE = """\
name: quickstart
models: [bundled:tiny-mistral]
precisions: [fp32]
measure: [footprint]
gate: {memory.static: {max_increase: 1%}}
"""
COMMANDS = (
    ("plan", "{}"),
    ("plan", "suite.yaml", "--results", "{}"),
    ("plan", "suite.yaml", "--device", "{}"),
    ("plan", "suite.yaml", "--only", "{}"),
    ("plan", "suite.yaml", "--gpu", "{}"),
    ("plan", "suite.yaml", "--set", "{}"),
    ("plan", "suite.yaml", "--set", "{}=1"),
    ("plan", "suite.yaml", "--set", "measure.memory.batch_size={}"),
    ("plan", "suite.yaml", "--set", "models.0.{}={}"),
    ("plan", "bundled:{}", "--quick"),
    ("plan", "bundled:tiny-mistral", "--precisions", "{}", "--measure", "footprint"),
    ("run", "bundled:tiny-mistral", "--name", "{}", "--measure", "footprint,{}", "--print-suite"),
    ("run", "bundled:tiny-mistral", "--tasks", "{}", "--reference", "{}", "--print-suite"),
    ("run", "{}"),
    ("run", "suite.yaml", "--device", "{}", "--only", "none"),
    ("run", "suite.yaml", "--only", "x{}"),
    ("run", "suite.yaml", "--retry", "{}x"),
    ("run", "suite.yaml", "--gpus", "{}x"),
    ("run", "suite.yaml", "--shard", "{}x"),
    ("plan", "suite.yaml", "--shard", "{}"),
    ("merge", "{}", "--to", "reports/joined"),
    ("merge", "results", "--to", "reports/x{}"),
    ("merge", "results", "--to", "reports/joined", "--suite", "{}"),
    ("merge", "results", "--to", "reports/joined", "--prefer", "{}"),
    ("report", "{}"),
    ("report", "--format", "{}"),
    ("report", "--reports", "reports/x{}"),
    ("report", "--output", "reports/x{}"),
    ("recommend", "{}"),
    ("recommend", "results", "--max-bytes", "{}"),
    ("recommend", "results", "--max-decode", "{}ms"),
    ("recommend", "results", "--max-perplexity-increase", "{}%"),
    ("recommend", "results", "--min-task", "{}"),
    ("recommend", "results", "--min-task", "{}: {}"),
    ("recommend", "results", "--gpu", "{}"),
    ("recommend", "results", "--minimize", "{}"),
    ("recommend", "results", "--price", "{}", "--minimize", "price"),
    ("recommend", "results", "--gpu-hour", "{}"),
    ("recommend", "results", "--machine-hour", "{}", "--max-price", "{}"),
    ("report", "results", "--machine-hour", "{}", "--currency", "{}"),
    ("compare", "{}", "tiny-mistral--fp32"),
    ("compare", "tiny-mistral--fp32", "{}"),
    ("compare", "tiny-mistral--fp32", "results", "--results", "{}"),
    ("history", "{}"),
    ("history", "quickstart", "--metric", "{}"),
    ("history", "quickstart", "--only", "{}", "--device", "{}"),
    ("history", "quickstart", "--since", "{}"),
    ("history", "quickstart", "--results", "{}"),
    ("gate", "suite.yaml", "--baseline", "{}"),
    ("gate", "suite.yaml", "--results", "{}"),
    ("gate", "suite.yaml", "--only", "{}"),
    ("gate", "suite.yaml", "--junit", "reports/x{}"),
    ("gate", "suite.yaml", "--step-summary", "reports/x{}"),
    ("gate", "suite.yaml", "--write", "{}"),
    ("gate", "suite.yaml", "--write", "html=reports/x{}"),
    ("baseline", "suite.yaml", "--results", "{}"),
    ("baseline", "suite.yaml", "--output", "reports/x{}"),
    ("fit", "{}", "--gpu", "t4"),
    ("fit", "Mistral-7B", "--gpu", "{}"),
    ("fit", "Mistral-7B", "--gpu", "t4", "--precision", "{}"),
    ("fit", "Mistral-7B", "--gpu", "t4", "--target", "{}", "--length", "64"),
    ("fit", "Mistral-7B", "--gpu", "t4", "--length", "{}"),
    ("fit", "Mistral-7B", "--gpu", "t4", "--length", "64", "--output", "reports/x{}"),
    ("init", "reports/x{}"),
    ("list", "--device", "{}"),
    ("{}",),
    ("report", "{}", "{}"),
)
TEXTS = (*HOSTILE_TEXTS, "results", "suite.yaml", "1", "-1", "1e400GB", "9" * 400, "ä\udc80")


@of_usual(1)
@given(
    command=st.sampled_from(COMMANDS),
    text=st.sampled_from(TEXTS) | st.text(st.characters(exclude_characters="\0"), max_size=20),
)
def test_arguments(command: tuple[str, ...], text: str) -> None:
    text = text.replace("\0", "")  # which no argument can hold
    text = "" if text.strip() == "/" else text  # whose files are no business of a test
    if any(part.startswith("reports/") for part in command):
        text = text.replace("..", "")  # who names a place to write to may name any
    arguments = [part.replace("{}", text) for part in command]
    with place() as folder:
        keep(folder / "results", footprint_record("fp32"))
        write_json(folder / "results" / "baselines" / "other.json", {"baseline_version": 1})
        (folder / "reports").mkdir()
        (folder / "suite.yaml").write_text(SUITE, encoding="utf-8")
        check(folder, *arguments)
