"""A tuned model that cannot be made concerns what needs it and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.inline_runs import run_inline
from tests.tiny_models import make_tiny_model
from tests.workplace import Workplace, write_rows

if TYPE_CHECKING:
    from pathlib import Path

SUITE = """\
models: [{model}]
precisions: [fp32]
finetune:
  data:
    dataset: rows.jsonl
    recipe: {{prompt: "{{{{ name }}}} is", completion: " {{{{ kind }}}}"}}
    train: 8
    validation: 2
    test: 4
  methods:
    # Its second step has an infinite query on any CPU.
    - {{method: lora, name: diverges, precision: fp32, target: [q_proj], learning_rate: 1.0e+37,
       alpha: 1.0e+6, clip: null, rank: 2, batch: 4, steps: 6}}
    - {{method: lora, name: good, precision: fp32, rank: 2, batch: 4, steps: 1}}
  deploy: [attached, merged]
measure: {{footprint: }}
"""


def test_the_other_arms_are_trained_and_measured(tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "model", "llama")
    place = Workplace(tmp_path, model)
    write_rows(tmp_path)
    place.write("suite.yaml", SUITE.format(model=model))
    ran = run_inline(place)
    assert ran.result.failed
    found: dict[str, set[tuple[str, str | None]]] = {}
    for record in place.records().values():
        found.setdefault(record.cell.label, set()).add((record.status, record.phase))
    assert found == {
        "fp32": {("ok", None)},
        "diverges-fp32": {("nan", "measure")},
        "diverges-fp32--attached": {("error", "prepare")},
        "diverges-fp32--merged": {("error", "prepare")},
        "good-fp32": {("ok", None)},
        "good-fp32--attached": {("ok", None)},
        "good-fp32--merged": {("ok", None)},
    }
    reasons = {r.reason for r in place.records().values() if r.phase == "prepare"}
    (reason,) = reasons
    assert reason is not None
    assert reason.startswith("its training failed (nan): the loss became")
    # What is known to be in vain starts no worker.
    asked = {job.cell.label for job in ran.jobs}
    assert {"good-fp32--attached", "good-fp32--merged", "diverges-fp32"} <= asked
    assert not any("diverges-fp32--" in label for label in asked)
