"""The JSON Schema for editors says what `load_suite` says, wherever one value decides."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from qbench.core.errors import SuiteError
from qbench.measures import asked_for
from qbench.plan.suite.file import SuiteFile
from qbench.plan.suite.schema import suite_schema
from qbench.plan.suite.suite import load_suite_text
from qbench.plan.suite.yaml_lines import read_yaml
from qbench.precisions import precisions
from tests.workplace import REPOSITORY

SCHEMA_FILE = REPOSITORY / "suites" / "schema.json"


@cache
def validator() -> Draft202012Validator:
    return Draft202012Validator(suite_schema())


def accepted_by_schema(text: str) -> bool:
    top, problems = read_yaml(text, "suite.yaml")
    assert not problems
    return validator().is_valid(None if top is None else top.plain())


def accepted_by_load(text: str) -> bool:
    try:
        load_suite_text(text, "suite.yaml", Path(__file__).parent)
    except SuiteError:
        return False
    return True


GOOD = [
    "precisions: nf4",
    "precisions: [fp32, {nf4: }, {nf4: {compute_dtype: fp16}}, {int8: {}, name: own}]",
    "precisions: [int8: {threshold: [0, 6, 7.5]}, nf4: {compute_dtype: [fp16], dtype: null}]",
    "measure: quality",
    "measure: [footprint, quality]",
    "measure: {footprint: , memory: {}, quality: {text: [a.txt, b.txt], window: null}}",
    "measure: {latency: {batch: [1, 4], prompt_tokens: 8, min_seconds: 0.5, repeats: 3.0}}",
    "include: {precision: '*'}",
    "include: [{precision: fp32}, {model: 'm*', precision: 'nf4*'}]",
    "exclude: [{precision: nf4}]",
    "finetune: {methods: lora}",
    "finetune: {methods: [full, {method: lora, precision: [bf16, nf4], rank: [1, 8]}]}",
    "finetune: {methods: {method: lora, target: [q_proj]}, seeds: [0, 1], deploy: merged}",
    "finetune: {methods: lora, data: {recipe: text, train: 10}}",
    "finetune: {methods: lora, data: {recipe: {prompt: '{{a}}', completion: '{{b}}'}}}",
    "reference: bf16",
    "gate: {kl: {max: 0.1}, 'tasks.*': [{max_drop: 1%, cells: 'nf4*'}, {min: 0, items: [a, b]}]}",
    "timeout_s: 0.5",
    "cluster: {}",
    "cluster: {slurm: {}}",
    "cluster: {slurm: {partition: 'gpu,long', time: 4:00:00, gpus: [h100, gpu:a100:2, v100:1]}}",
    "cluster: {slurm: {time: 1-12, gpus: 2, memory: 9G, constraint: '[a|b]&c', exclusive: true}}",
    "cluster: {slurm: {mem: 500M, cpus_per_task: 8, setup: module load cuda}}",
    "name: a_b-1.2=c",
]
BAD = [
    "finetune: lora",
    "finetune: {}",
    "finetune: {methods: [qlora]}",
    "finetune: {methods: [{method: lora, rank: 0}]}",
    "finetune: {methods: [{method: full, rank: 4}]}",
    "finetune: {methods: lora, seeds: [-1]}",
    "finetune: {methods: lora, deploy: [merge]}",
    "finetune: {methods: lora, data: {test: 0}}",
    "precision: nf4",
    "precisions: [nf5]",
    "precisions: []",
    "precisions:",
    "precisions: {}",
    "precisions: [{name: x}]",
    "precisions: [{fp32: , nf4: }]",
    "precisions: [fp32: {compute_dtype: fp16}]",
    "precisions: [nf4: {compute_dtype: []}]",
    "precisions: [nf4: {compute_dtype: null}]",
    "precisions: [nf4: {compute_dtype: [[fp16]]}]",
    "precisions: [nf4: []]",
    "precisions: [int8: {threshold: -1}]",
    "precisions: [int8: {threshold: '6'}]",
    "precisions: [{nf4: , name: a b}]",
    "measure: []",
    "measure: {}",
    "measure:",
    "measure: speed",
    "measure: [quality, quality]",
    "measure: [quality: {}]",
    "measure: {speed: {}}",
    "measure: {quality: {window: 1}}",
    "measure: {quality: {window: 2.5}}",
    "measure: {quality: {windows: 256}}",
    "measure: {quality: {protocol: other}}",
    "measure: {quality: []}",
    "measure: {latency: {batch: []}}",
    "measure: {latency: {batch: [0]}}",
    "measure: {latency: {batch: true}}",
    "measure: {latency: {batch: '4'}}",
    "measure: {latency: {batch: null}}",
    "measure: {latency: {repeats: [3]}}",
    "include: []",
    "include: nf4",
    "exclude: [{}]",
    "exclude: [{precision: 4}]",
    "exclude: [{precision: ''}]",
    "exclude: [{precsion: nf4}]",
    "reference: 32",
    "timeout_s: 0",
    "timeout_s: '60'",
    "cluster: {slurm: {memory: 0.5}}",
    "cluster: {slurm: {exclusive: 'yes'}}",
    "cluster: {slurm: {time: ''}}",
    "cluster: {slurm: {gpus: {h100: 1}}}",
    "gate: {}",
    "gate: {kl: []}",
    "gate: {kl: {maximum: 1}}",
    "gate: {kl: {max: null}}",
    "gate: {kl: {max: 1, cells: []}}",
    "measure: {footprint: all}",
    "name: 12",
    "name: a/b",
    "name: .hidden",
    "name: ''",
    f"name: {'n' * 81}",
]
MODELS = {
    "models: ./m": True,
    "models: [./m, owner/name@main]": True,
    "models: [{source: ./m, name: n, trust_remote_code: false}]": True,
    "models: [{source: ./m, device_map: auto}]": True,
    "models: [{source: ./m, device_map: balanced}]": False,
    "models: [{source: ./m, nme: n}]": False,
    "models: [{name: n}]": False,
    "models: [{source: ./m, trust_remote_code: 'yes'}]": False,
    "models: []": False,
    "models:": False,
    "models: ''": False,
    "models: 3": False,
    "name: n": False,
    "[]": False,
    "text": False,
}


def test_it_is_a_valid_schema() -> None:
    Draft202012Validator.check_schema(suite_schema())


@pytest.mark.parametrize("line", GOOD)
def test_schema_and_load_accept(line: str) -> None:
    text = f"models: [./m]\n{line}\n"
    assert accepted_by_load(text)
    assert accepted_by_schema(text)


@pytest.mark.parametrize("line", BAD)
def test_schema_and_load_refuse(line: str) -> None:
    text = f"models: [./m]\n{line}\n"
    assert not accepted_by_load(text)
    assert not accepted_by_schema(text)


@pytest.mark.parametrize(("text", "good"), MODELS.items())
def test_schema_and_load_agree_on_models(text: str, *, good: bool) -> None:
    assert accepted_by_load(text) is good
    assert accepted_by_schema(text) is good


def test_editors_say_what_load_says() -> None:
    schema = suite_schema()
    with pytest.raises(SuiteError) as caught:
        load_suite_text("models: ./m\nname: a b\ntimeout_s: soon\n", "suite.yaml", Path.cwd())
    for problem in caught.value.problems:
        assert problem.expected == schema["properties"][problem.place]["errorMessage"]


def test_every_precision_and_measurement_is_there() -> None:
    for name in precisions():
        assert accepted_by_schema(f"models: ./m\nprecisions: [{name}, {name}: {{}}]\n")
    for name in asked_for():
        assert accepted_by_schema(f"models: ./m\nmeasure: {{{name}: {{}}}}\n")


def test_every_key_and_option_is_described() -> None:
    schema = suite_schema()
    assert tuple(schema["properties"]) == tuple(SuiteFile.model_fields)

    def undescribed(part: Any, path: str) -> list[str]:
        if isinstance(part, list):
            return [
                p for index, item in enumerate(part) for p in undescribed(item, f"{path}[{index}]")
            ]
        if not isinstance(part, dict):
            return []
        missing = [
            f"{path}.{key}"
            for key, value in part.get("properties", {}).items()
            if not (value.get("description") or key in precisions())
        ]
        return missing + [
            p for key, value in part.items() for p in undescribed(value, f"{path}.{key}")
        ]

    assert undescribed(schema, "") == []


def test_the_shipped_schema_is_current() -> None:
    shipped = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    assert shipped == json.loads(json.dumps(suite_schema())), (
        "run `qbench schema > suites/schema.json`"
    )
