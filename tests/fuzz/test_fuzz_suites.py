"""Suites with anything anywhere, as values and as bytes: planned, or refused with all problems."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.conftest import of_usual
from tests.fuzz.mutations import HOSTILE_TEXTS, Mutant, mutated, paths
from tests.fuzz.places import check, place

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

TEXT = """\
name: every-key
models:
  - {source: bundled:tiny-mistral, name: small, trust_remote_code: false}
precisions:
  - fp32
  - nf4: {compute_dtype: [fp16, fp32]}
  - integer: {bits: 4, granularity: group, group: 32, mapping: asymmetric}
  - {w8a8-static: {calibration_text: "bundled:stdlib-calibration"}, name: static}
reference: fp32
include: [{model: "*"}]
exclude: [{model: small, precision: "nf4*fp32"}]
measure:
  footprint:
  memory: {prompt_tokens: 16, new_tokens: 4}
  latency: {batch_size: [1, 4], repeats: 1, min_iterations: 1, min_seconds: 0.5}
  weight_error:
  quality: {text: [text.txt, "bundled:stdlib-heldout"], window: 64, attention: eager}
  tasks: {tasks: [stdlib-choice, own], include_path: tasks, limit: 4, num_fewshot: 1, seed: 3}
  generation: {prompts: [one, two], new_tokens: 4, scores: [exact_match], scored: line}
finetune:
  data: {dataset: rows.jsonl, recipe: instruction, train: 4, validation: 2, test: 2}
  methods:
    - {method: lora, precision: [nf4], r: 4, target_modules: all-linear, name: low}
    - {method: full, optimizer: adamw, steps: 3}
    - {method: qat, precision: int4-g32, rank: 4}
  seeds: [0]
  deploy: [attached, merged, quantized]
  quantize: [nf4]
gate:
  perplexity: {max_increase: 1%, cells: "nf4*", items: ["*"], against: reference, ceiling: 50%}
  kl: [{max: 0.1}, {min: 0, inconclusive: pass}]
timeout_s: 60
trust_code: false
"""
OWN_TASK = """\
task: own
dataset_path: json
dataset_kwargs: {data_files: rows.jsonl}
test_split: train
output_type: multiple_choice
doc_to_text: "{{instruction}}"
doc_to_target: 0
doc_to_choice: [a, b]
metric_list: [{metric: acc}]
"""
GOOD = yaml.safe_load(TEXT)
PLACES = [path for path in paths(GOOD) if path]


def put(folder: Path, suite: str | bytes) -> None:
    (folder / "suite.yaml").write_bytes(suite if isinstance(suite, bytes) else suite.encode())
    rows = [{"instruction": f"ask {at}", "output": f"answer {at}"} for at in range(20)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    (folder / "text.txt").write_text("words to read " * 200, encoding="utf-8")
    (folder / "tasks").mkdir()
    (folder / "tasks" / "own.yaml").write_text(OWN_TASK, encoding="utf-8")


def test_the_suite_is_good() -> None:
    with place() as folder:
        put(folder, TEXT)
        finished = check(folder, "plan", "suite.yaml")
        assert finished.code == 0, finished.errors


@of_usual(2)
@given(suite=mutated(GOOD, PLACES, most=2))
def test_values(suite: Mutant) -> None:
    with place() as folder:
        put(folder, json.dumps(suite.value))  # as good as all JSON is YAML
        check(folder, "plan", "suite.yaml")


@of_usual(1)
@given(data=st.data())
def test_lines(data: st.DataObject) -> None:
    """The text with a piece of it taken out, doubled, or replaced by another."""
    start = data.draw(st.integers(0, len(TEXT)))
    end = data.draw(st.integers(start, min(len(TEXT), start + 40)))
    new = data.draw(
        st.sampled_from(["", TEXT[start:end] * 2, "&a ", "*a", "!!python/name:os ", "{", "- "])
        | st.text(max_size=10)
        | st.sampled_from(HOSTILE_TEXTS)
    )
    made = (TEXT[:start] + new + TEXT[end:]).encode(errors="surrogatepass")
    with place() as folder:
        put(folder, made)
        check(folder, "plan", "suite.yaml")


@of_usual(1)
@given(contents=st.binary(max_size=100) | st.text(max_size=100).map(lambda t: t.encode()))
def test_any_bytes(contents: bytes) -> None:
    with place() as folder:
        put(folder, contents)
        for command in ("plan", "gate", "baseline"):
            check(folder, command, "suite.yaml")
