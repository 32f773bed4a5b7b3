"""Answers of a tuned model: held against the base's, and against its own tuning merged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qbench.core.page import Table
from qbench.report.report_page import report_page
from tests.inline_runs import run_inline

if TYPE_CHECKING:
    from tests.workplace import Workplace

SUITE = """\
models: [{model}]
precisions: [fp32]
finetune:
  data: {{dataset: rows.jsonl, recipe: {{prompt: "{{{{ a }}}}", completion: "{{{{ b }}}}"}},
         train: 8, validation: 2, test: 2}}
  methods: [{{name: qlora, method: lora, precision: nf4, steps: 3, batch: 2, learning_rate: 0.05}}]
  deploy: [attached, merged]
measure:
  chat: {{prompts: [def f(, import, return], new_tokens: 6}}
"""


def test_it_is_held_against_both(workplace: Workplace) -> None:
    place = workplace
    row = '{"a": "name %d is ", "b": "value %d"}'
    place.write("rows.jsonl", "".join(f"{row % (at, at)}\n" for at in range(12)))
    place.write("suite.yaml", SUITE.format(model=place.model))
    ran = run_inline(place)
    assert not ran.result.failed, ran.output
    found = {
        (one.cell.label, one.item.slug.endswith("vs-merged")): one
        for one in ran.after.values()
        if one.item.measurement == "chat"
    }
    kl = {name: record.value("chat.kl.mean") for name, record in found.items()}
    assert kl["fp32", False] == 0.0
    assert kl["qlora-nf4--merged", True] == 0.0
    # The merged one writes answers of its own, which what it was tuned to decides.
    merged = found["qlora-nf4--merged", True].details
    assert merged["answers"] != found["fp32", False].details["answers"]
    assert (kl["qlora-nf4--attached", False] or 0) > (kl["qlora-nf4--attached", True] or 0) > 0

    (table,) = (
        part
        for part in report_page(list(ran.after.values())).parts
        if isinstance(part, Table) and part.title == "How the tuned model is served"
    )
    shown = {
        row.label: dict(zip([one.title for one in table.columns], row.figures, strict=True))
        for row in table.rows
    }
    attached, served = shown["qlora-nf4--attached"], shown["qlora-nf4--merged"]
    assert attached["drift on answers"].value == kl["qlora-nf4--attached", False]
    assert attached["damage on answers"].value == kl["qlora-nf4--attached", True]
    assert served["damage on answers"].word == "ref"
