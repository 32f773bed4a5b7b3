"""Names that other tools use: each means what qbench's own name means, and only that one is kept."""

# ruff: noqa: E501  (a table: one case a line reads best)

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from qbench.compare.gate.rules import RuleEntry
from qbench.core.aliases import other_names
from qbench.core.errors import Problem, SuiteError
from qbench.finetune import methods
from qbench.measures import asked_for
from qbench.plan.plan import make_plan
from qbench.plan.suite.cluster import SlurmSection
from qbench.plan.suite.file import FineTuneEntry, MethodEntry, ModelEntry
from qbench.plan.suite.schema import suite_schema
from qbench.plan.suite.settings import read_settings
from qbench.plan.suite.suite import Suite, load_suite_text, make_suite
from qbench.plan.suite.written import read_text
from qbench.precisions import precisions
from qbench.precisions.integer.options import SHORT_NAMES
from qbench.sources.data.tuning import TuningDataOptions
from tests.workplace import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator

BASE = Path(__file__).parent
VALUES: dict[str, Any] = {
    "prefill_chunk": 64,
    "source": "bundled:tiny-mistral",
    "dtype": "fp32",
    "compute_dtype": "fp16",
    "threshold": 5,
    "bits": 8,
    "mapping": "symmetric",
    "scales": "minmax",
    "group": 32,
    "damping": 0.02,
    "clipping": False,
    "rounding_steps": 9,
    "calibration_windows": 4,
    "calibration_window": 16,
    "optimizer": "adamw_8bit",
    "warmup_share": 0.5,
    "epochs": 2,
    "steps": 3,
    "batch": 2,
    "accumulate": 3,
    "clip": 0.5,
    "checkpointing": True,
    "validate_every": 7,
    "rank": 3,
    "alpha": 5,
    "dropout": 0.5,
    "target": "all-linear",
    "rslora": True,
    "dora": True,
    "init": "gaussian",
    "prompt_tokens": 7,
    "new_tokens": 3,
    "output_tokens": 3,
    "concurrency": 3,
    "rate": 2.5,
    "requests": 50,
    "seconds": 7,
    "min_seconds": 0.5,
    "rows": 3,
    "window": 64,
    "lengths": [128, 256],
    "depths": 30,
    "needles": 3,
    "attention": "eager",
    "divergence": False,
    "names": "stdlib-choice",
    "include": "tasks",
    "few_shot": 1,
    "chat_template": True,
    "system_prompt": "Be brief.",
    "thinking": False,
    "context": 2048,
    "count": 3,
    "seeds": [3],
    "dataset": "rows.jsonl",
    "config": "main",
    "max_drop": "1%",
    "time": "4:00:00",
    "gpus": "gpu:h100:2",
    "cpus": 4,
    "memory": "64G",
    "at_once": 8,
}
"""A value for each key that has another name; of most it is not the default."""


@dataclass(frozen=True)
class Case:
    """Another name of a key, and where in a suite it stands."""

    part: str
    own: str
    other: str

    @property
    def suite(self) -> dict[str, Any]:
        """A suite with the key by its own name."""
        return self.written({self.own: self.value})

    @property
    def value(self) -> Any:
        if self.part in SHORT_NAMES and self.own != "dtype":
            # Its format is fixed, and most of them calibrate nothing.
            return precisions()[self.part].options.model_fields[self.own].default
        return VALUES[self.own]

    def written(self, keys: dict[str, Any]) -> dict[str, Any]:
        """A suite with those keys there."""
        suite: dict[str, Any] = {"models": ["./m"], "precisions": ["fp32"]}
        if self.part == "model":
            suite["models"] = [keys]
        elif self.part in precisions():
            more = {"granularity": "group"} if self.part == "integer" else {}
            more |= {"group": 8} if more and self.own != "group" else {}
            weights = {"clipping": "awq", "rounding_steps": "autoround"}.get(self.own, "gptq")
            more |= {"weights": weights} if self.part == "integer" else {}
            suite["precisions"] = ["fp32", {self.part: more | keys}]
        elif self.part in methods():
            more = {"rank": 2} if self.own == "alpha" else {}
            more |= {"precision": "int4-g32"} if self.part == "qat" else {}
            suite["finetune"] = {"methods": [{"method": self.part} | more | keys]}
        elif self.part in asked_for():
            more = {"chat_template": True} if self.own == "thinking" else {}
            suite["measure"] = {self.part: more | keys}
        elif self.part == "finetune":
            suite["finetune"] = {"methods": ["lora"]} | keys
        elif self.part == "data":
            suite["finetune"] = {"methods": ["lora"], "data": keys}
        elif self.part == "slurm":
            suite["cluster"] = {"slurm": keys}
        else:
            suite["gate"] = {"perplexity": [keys]}
        return suite


def models() -> Iterator[tuple[str, Any]]:
    """Every class that has keys of a suite with other names, by what its part is called."""
    yield "model", ModelEntry
    for table in (precisions, methods, asked_for):
        yield from ((name, entry.options) for name, entry in table().items())
    yield from (("finetune", FineTuneEntry), ("data", TuningDataOptions), ("gate", RuleEntry))
    yield "slurm", SlurmSection


EVERY = [
    Case(part, own, other) for part, model in models() for other, own in other_names(model).items()
]
CASES = [case for case in EVERY if case.part not in SHORT_NAMES or case.part == "w8a8-static"]
"""Of the short names, whose options are those of `integer`, one is enough."""


def load(written: object) -> Suite:
    text = written if isinstance(written, str) else yaml.safe_dump(written, sort_keys=False)
    return load_suite_text(text, "suite.yaml", BASE)


def problems_of(text: str) -> tuple[Problem, ...]:
    with pytest.raises(SuiteError) as caught:
        load(text)
    return caught.value.problems


def names_of(case: Case) -> str:
    return f"{case.part}-{case.other}"


@pytest.mark.parametrize("case", CASES, ids=names_of)
def test_a_suite_by_other_names_is_the_same_suite(case: Case) -> None:
    by_other_name = case.written({case.other: case.value})
    assert load(by_other_name).model_dump() == load(case.suite).model_dump()
    assert Draft202012Validator(suite_schema()).is_valid(by_other_name)


@pytest.mark.parametrize("case", CASES, ids=names_of)
def test_both_names_together_are_an_error(case: Case) -> None:
    both = case.written({case.own: case.value, case.other: case.value})
    (problem,) = problems_of(yaml.safe_dump(both, sort_keys=False))
    assert problem.found.startswith(f"'{case.other}' beside '{case.own}' (line ")
    assert problem.place.endswith(f".{case.other}")
    assert problem.remedy == f"keep `{case.own}`"
    assert problem.line
    assert not Draft202012Validator(suite_schema()).is_valid(both)


def test_no_other_name_is_the_own_name_of_another_key() -> None:
    for part, model in models():
        own = {field.alias or name for name, field in model.model_fields.items()}
        if part in methods():
            own |= set(MethodEntry.model_fields)
        assert not own & set(other_names(model)), part


OWN = """\
models: bundled:tiny-mistral
precisions: [fp32, nf4: {compute_dtype: [bf16, fp16]}]
measure:
  memory: {batch: 2, prompt_tokens: 8, new_tokens: 4}
  tasks: {names: stdlib-choice, few_shot: 1, batch: 2, limit: 3}
finetune:
  data: {train: 4, validation: 2, test: 2}
  methods:
    - {method: lora, rank: [2, 4], alpha: 8, target: [q_proj], warmup_share: 0.1, batch: 2,
       accumulate: 2, optimizer: adamw_8bit, compute: fp32}
"""
OTHER = """\
models: {model_name_or_path: bundled:tiny-mistral}
precisions: [fp32, nf4: {bnb_4bit_compute_dtype: [bfloat16, torch.float16]}]
measure:
  memory: {batch_size: 2, input_len: 8, max_new_tokens: 4}
  tasks: {tasks: stdlib-choice, num_fewshot: 1, batch_size: 2, limit: 3}
finetune:
  data: {train: 4, validation: 2, test: 2}
  methods:
    - {method: lora, r: [2, 4], lora_alpha: 8, target_modules: [q_proj], warmup_ratio: 0.1,
       per_device_train_batch_size: 2, gradient_accumulation_steps: 2, optim: adamw_bnb_8bit,
       compute: float32}
"""


def test_records_by_other_names_have_the_same_keys(tmp_path: Path) -> None:
    keys = [
        [(task.key, task.item.slug) for task in make_plan(load(text), tmp_path, device="cpu").tasks]
        for text in (OWN, OTHER)
    ]
    assert keys[0] == keys[1]
    assert load(OTHER).precisions[2].label == "nf4-compute_dtype=fp16"
    arms = [tuning.arm for tuning in getattr(load(OTHER).finetune, "tunings", ())]
    assert arms == ["lora-bf16-rank=2", "lora-bf16-rank=4"]


@pytest.mark.parametrize(
    ("line", "place", "words"),
    [
        ("measure: {latency: {batch_size: two}}", "measure.latency.batch", ["the text 'two'"]),
        ("measure: {latency: {batch_size: .inf}}", "measure.latency.batch", [".inf", "finite"]),
        ("measure: {tasks: {num_fewsht: 1}}", "measure.tasks.num_fewsht", ["'num_fewshot', which is `few_shot`?"]),
        ("measure: {batch_size: 1}", "measure.batch_size", ["option of memory, latency, quality, decoded, sensitivity, needle, tasks"]),
        ("batch_size: 1", "batch_size", ["option of memory, latency", "under `measure`"]),
        ("measure: {latency: {num_iters: 3}}", "measure.latency.num_iters", ["`min_iterations` are the fewest"]),
        ("measure: {latency: {batch_size: 1, input_len: 3, n_prompt: 4}}", "measure.latency.n_prompt", ["'input_len' (line 2)", "keep `prompt_tokens`"]),
        ("precisions: [fp32: {bnb_4bit_compute_dtype: fp16}]", "precisions[0].fp32.bnb_4bit_compute_dtype", ["option of fp4, nf4, nf4-dq"]),
        ("precisions: [nf4: {bnb_4bit_quant_type: nf4}]", "precisions[0].nf4.bnb_4bit_quant_type", ["the precision's own name says it"]),
        ("precisions: [int8: {load_in_8bit: true}]", "precisions[0].int8.load_in_8bit", ["the precision's own name says it"]),
        ("precisions: [nf4: {bnb_4bit_compute_dtype: float64}]", "precisions[0].nf4.compute_dtype", ["one of bf16, fp16, fp32"]),
        ("finetune: {methods: [{method: full, optim: adamw_troch}]}", "finetune.methods[0].optimizer", ["one of adamw, adamw_8bit", "did you mean 'adamw_torch'?"]),
        ("finetune: {methods: [{method: full, r: 3}]}", "finetune.methods[0].r", ["unknown option of full 'r'", "option of lora, qat"]),
        ("finetune: {methods: [{method: lora, warmup_steps: 3}]}", "finetune.methods[0].warmup_steps", ["a share of the steps, not a number of them"]),
        ("finetune: {methods: [{method: lora, max_seq_length: 3}]}", "finetune.methods[0].max_seq_length", ["`max_tokens`, which leaves longer examples out"]),
        ("finetune: {methods: [{method: lora, modules_to_save: [a]}]}", "finetune.methods[0].modules_to_save", ["under `extra`"]),
        ("finetune: {methods: [{method: lora, seed: 3}]}", "finetune.methods[0].seed", ["a key of finetune"]),
        ("finetune: {methods: lora, data: {max_train_samples: 3}}", "finetune.data.max_train_samples", ["`train`: exactly so many"]),
        ("gate: {kl: {max_decrease: -1}}", "gate.kl.max_drop", ["at least 0"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_by_the_own_name(line: str, place: str, words: list[str]) -> None:
    (problem,) = problems_of(f"models: [./model]\n{line}\n")
    assert (problem.place, problem.line) == (place, 2)
    for word in words:
        assert word in str(problem)


OTHER_VALUES = [
    *(
        ("precisions: [nf4: {{compute_dtype: {}}}]", own, other)
        for own, name in (("bf16", "bfloat16"), ("fp16", "float16"), ("fp32", "float32"))
        for other in (name, f"torch.{name}")
    ),
    ("precisions: [int8: {{dtype: [fp32, {}]}}]", "fp16", "float16"),
    ("precisions: [integer: {{dtype: {}}}]", "fp32", "torch.float32"),
    ("finetune: {{methods: [{{method: lora, compute: {}}}]}}", "fp32", "float32"),
    ("finetune: {{methods: [{{method: full, master_weights: {}}}]}}", "bf16", "bfloat16"),
    ("finetune: {{methods: [{{method: full, optimizer: {}}}]}}", "adamw", "adamw_torch"),
    ("finetune: {{methods: [{{method: full, optimizer: {}}}]}}", "adamw_8bit", "adamw_bnb_8bit"),
    ("finetune: {{methods: [{{method: full, schedule: {}}}]}}", "constant", "constant_with_warmup"),
]


@pytest.mark.parametrize(("line", "own", "other"), OTHER_VALUES)
def test_a_value_by_its_other_name_is_the_same(line: str, own: str, other: str) -> None:
    text = f"models: [./m]\n{line}\n"
    by_other_name = text.format(other)
    assert load(by_other_name).model_dump() == load(text.format(own)).model_dump()
    assert other not in load(by_other_name).model_dump_json()
    assert Draft202012Validator(suite_schema()).is_valid(yaml.safe_load(by_other_name))


def test_a_rule_may_call_its_metric_what_other_tools_do() -> None:
    text = "models: ./m\ngate: {{{}: {{max_increase: 1%}}, {}: {{max: 1}}, {}: {{max: 2}}}}\n"
    own = load(text.format("perplexity", "kl.mean", "latency.decode"))
    assert load(text.format("PPL", "KLD", "tpot")).gate == own.gate
    assert [rule.metric for rule in own.gate] == ["perplexity", "kl.mean", "latency.decode"]
    (problem,) = problems_of(text.format("PPL", "perplexity", "kl"))
    assert problem.found == "'PPL' beside 'perplexity' (line 2), two names of one key"
    changed = read_text(text.format("perplexity", "kl", "x"), "suite.yaml", BASE)
    made = make_suite(changed.set(read_settings(["gate.PPL.max_increase=3%"])))
    assert made.gate[0].bound[1].value == pytest.approx(0.03)


def test_lines_of_later_problems_are_those_of_the_other_name() -> None:
    suite = load("models: ./m\nmeasure:\n  quality:\n    ctx_size: 64\n")
    assert suite.problem("measure.quality.window", "what").line == 4


def test_the_page_lists_all_of_them() -> None:
    text = (REPOSITORY / "docs" / "suite.md").read_text(encoding="utf-8")
    section = text.partition("## Names of other tools")[2].partition("\n## ")[0]
    told = set()
    for row in re.findall(r"^\| (.+) \| (`.+) \| (`.+) \|$", section, re.MULTILINE):
        parts, (own,), others = (re.findall(r"`([^`]+)`", cell) for cell in row)
        parts += SHORT_NAMES if "integer" in parts else []
        told |= {Case(part, own, other) for part in parts for other in others}
    assert told == set(EVERY)
