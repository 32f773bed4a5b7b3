"""The part `finetune` of a suite: arms, seeds, deployments, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from qbench.core.errors import SuiteError
from qbench.plan.suite.suite import Suite, load_suite_text

BASE = Path(__file__).parent


def load(finetune: str, more: str = "") -> Suite:
    text = f"models: bundled:tiny-mistral\nprecisions: [fp32, nf4]\nfinetune: {finetune}\n{more}"
    return load_suite_text(text, "suite.yaml", BASE)


def problems(finetune: str, more: str = "") -> str:
    with pytest.raises(SuiteError) as caught:
        load(finetune, more)
    return str(caught.value)


def labels(suite: Suite) -> list[str]:
    return [cell.label for cell in suite.cells()]


def test_a_training_is_followed_by_what_it_serves() -> None:
    suite = load("{methods: [{method: full}, {method: lora, precision: [bf16, nf4]}]}")
    assert labels(suite) == [
        "fp32",
        "nf4",
        "full-bf16",
        "full-bf16--merged",
        "lora-bf16",
        "lora-bf16--merged",
        "lora-bf16--attached",
        "qlora-nf4",
        "qlora-nf4--merged",
        "qlora-nf4--attached",
    ]


def test_what_each_deployment_is_served_in() -> None:
    deployments = (
        "[attached, attached-fp16, merged, merged-requantized, merged-dequantized,"
        " merged-in-place, adapter-int8, adapter-nf4]"
    )
    suite = load(f"{{methods: [{{method: lora, precision: nf4}}], deploy: {deployments}}}")
    served = {cell.deploy: cell.precision.name for cell in suite.cells() if cell.deploy}
    assert served == {
        "merged": "bf16",
        "attached": "nf4",
        "attached-fp16": "nf4",
        "merged-requantized": "nf4",
        "merged-dequantized": "bf16",
        "merged-in-place": "nf4",
        "adapter-int8": "nf4",
        "adapter-nf4": "nf4",
    }


def test_lists_of_options_precisions_and_seeds_sweep() -> None:
    suite = load(
        "{methods: [{method: lora, precision: [int8, nf4-dq], rank: [1, 64]}], seeds: [0, 1]}"
    )
    assert suite.finetune is not None
    arms = {tuning.arm: tuning for tuning in suite.finetune.tunings}
    assert set(arms) == {
        "qlora-int8-rank=1",
        "qlora-nf4-dq-rank=1",
        "qlora-int8-rank=64",
        "qlora-nf4-dq-rank=64",
    }
    assert arms["qlora-int8-rank=64"].options["rank"] == 64
    assert [t.label for t in suite.finetune.tunings][:2] == [
        "qlora-int8-rank=1-s0",
        "qlora-int8-rank=1-s1",
    ]
    assert {t.seed for t in suite.finetune.tunings} == {0, 1}


def test_selectors_pick_tuned_cells_by_name() -> None:
    chosen = "{methods: [{method: lora, precision: [bf16, nf4]}]}"
    kept = load(chosen, "exclude: [{finetune: 'qlora*'}]")
    assert labels(kept) == ["fp32", "nf4", "lora-bf16", "lora-bf16--merged", "lora-bf16--attached"]
    alone = load(chosen, "include: [{finetune: none}]")
    assert labels(alone) == ["fp32", "nf4"]
    only = [cell.label for cell in load(chosen).select(["qlora-nf4"])]
    assert only == ["qlora-nf4", "qlora-nf4--merged", "qlora-nf4--attached"]
    assert [cell.label for cell in load(chosen).select(["nf4"])] == ["nf4"]


def test_what_is_served_goes_with_its_training() -> None:
    suite = load(
        "{methods: [{method: lora, precision: nf4}]}", "exclude: [{precision: nf4, finetune: '*'}]"
    )
    assert labels(suite) == ["fp32", "nf4"]


@pytest.mark.parametrize(
    ("finetune", "words"),
    [
        ("lora", ("finetune", "a mapping")),
        ("{}", ("no methods", "add `methods")),
        ("{methods: []}", ("at least one method",)),
        ("{methods: [{precision: nf4}]}", ("`method`", "full, lora")),
        ("{methods: [{method: lorra}]}", ("'lorra'", "did you mean 'lora'")),
        ("{methods: [{method: qlora}]}", ("LoRA on a quantized base",)),
        ("{methods: [{method: {lora: {rank: 8}}}]}", ("a mapping (lora)", "one of full, lora")),
        ("{methods: [{method: [lora, full]}]}", ("a list of 2", "an entry for each")),
        ("{methods: [lora], deploy: [{merged: 1}]}", ("deploy[0]", "a mapping (merged)")),
        ("{methods: [{method: lora, rnak: 4}]}", ("'rnak'", "did you mean 'rank'")),
        ("{methods: [{method: lora, rank: 0}]}", ("finetune.methods[0].rank", "the number 0")),
        ("{methods: [{method: lora, precision: nf5}]}", ("'nf5'", "did you mean 'nf4'")),
        ("{methods: [lora, lora]}", ("'lora-bf16' twice",)),
        ("{methods: lora, seeds: [a]}", ("seeds", "a whole number from 0")),
        ("{methods: lora, deploy: [merge]}", ("'merge'", "did you mean 'merged'")),
        ("{methods: lora, data: {recipe: chatt}}", ("recipe",)),
        ("{methods: lora, data: {test: 0}}", ("finetune.data.test", "the number 0")),
        (
            "{methods: lora, data: {recipe: {prompt: '{{a}}', completion: b, scores: [rogue]}}}",
            ("'rogue'", "rouge"),
        ),
        ("{methods: lora, sedes: [0]}", ("'sedes'", "did you mean 'seeds'")),
    ],
)
def test_what_is_wrong_is_told(finetune: str, words: tuple[str, ...]) -> None:
    told = problems(finetune)
    for word in words:
        assert word in told
