"""The gate by its command: a model damaged on purpose is caught, a mere rerun is not."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from qbench.cli.sides import load_baseline
from qbench.compare.gate.gate import run_gate
from qbench.core.store import read_folder
from qbench.plan.suite.suite import load_suite
from qbench.sources.bundled import bundled_models, bundled_texts
from tests.inline_runs import run_inline
from tests.workplace import REPOSITORY, Workplace

if TYPE_CHECKING:
    from pathlib import Path

SUITE = """\
name: guarded
models: [./model]
precisions: [fp32]
measure:
  footprint:
  quality: {{text: text.txt, window: 128, batch: {batch}{more}}}
gate:
  perplexity: {{max_increase: 1%}}
  memory.static: {{max_increase: 0.1%}}
"""
DAMAGED = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """The bundled model in a folder of its own, measured once and made the baseline."""
    folder = tmp_path_factory.mktemp("gate")
    shutil.copytree(bundled_models()["tiny-mistral"], folder / "model")
    text = bundled_texts()["stdlib-heldout"].read_text(encoding="utf-8")[:60_000]
    (folder / "text.txt").write_text(text, encoding="utf-8")
    (folder / "suite.yaml").write_text(SUITE.format(batch=4, more=""), encoding="utf-8")
    made = Workplace(folder, folder / "model")
    assert not run_inline(made).result.failed
    assert made.call_here("baseline", "suite.yaml").code == 0
    return made


def gate(place: Workplace) -> tuple[int, str]:
    finished = place.call_here("gate", "suite.yaml", "--baseline", "results/baselines")
    return finished.code, finished.output


def round_to_three_bits(path: Path) -> None:
    """Rounds one layer's weights to eight levels a row."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    weight = tensors[DAMAGED]
    scale = weight.abs().amax(1, keepdim=True) / 3.5
    tensors[DAMAGED] = ((weight / scale - 0.5).round() + 0.5) * scale
    save_file(tensors, path, metadata={"format": "pt"})


@pytest.mark.slow
def test_a_rerun_with_other_batches_threads_and_attention_passes(place: Workplace) -> None:
    assert not run_inline(place, fresh=True).result.failed
    code, output = gate(place)
    assert code == 0, output
    (place.folder / "suite.yaml").write_text(
        SUITE.format(batch=3, more=", attention: eager"), encoding="utf-8"
    )
    # Two threads that wait for each other asleep, as both cores may be busy with other tests.
    other = place.with_environment(OMP_NUM_THREADS="2", OMP_WAIT_POLICY="PASSIVE")
    assert other.call("run", "suite.yaml").code == 0
    code, output = gate(other)
    assert code == 0, output
    assert "holds" in output


@pytest.mark.slow
def test_one_layer_rounded_to_three_bits_is_caught(place: Workplace) -> None:
    path = place.folder / "model" / "model.safetensors"
    whole = path.read_bytes()
    round_to_three_bits(path)
    try:
        assert not run_inline(place).result.failed
        code, output = gate(place)
    finally:
        path.write_bytes(whole)
    assert code == 1, output
    assert "broken" in output
    assert "perplexity" in output


def test_the_published_records_hold_against_the_committed_baseline() -> None:
    suite = load_suite(REPOSITORY / "suites" / "quickstart.yaml")
    records, _ = read_folder(REPOSITORY / "results" / "published" / "quickstart")
    baseline = load_baseline(REPOSITORY / "results" / "baselines", suite.name)
    expected = [(record.cell, record.item) for record in records]
    outcome = run_gate(suite.gate, records, baseline.records, expected=expected)
    assert {check.verdict.name for check in outcome.checks} == {"holds"}
    names = {check.name.split(":")[0] for check in outcome.checks}
    assert {"full-bf16--merged", "lora-bf16--attached"} <= names
