"""Rows, prompts, texts and tasks with anything in them: planned and read, or refused."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from qbench.core.errors import TextError
from qbench.sources.data.rows import peek
from qbench.sources.data.splits import make_splits
from qbench.sources.data.tuning import TuningDataOptions
from tests.fuzz.conftest import of_usual
from tests.fuzz.mutations import HOSTILE_TEXTS, ODD_VALUES, Mutant, mutated, paths
from tests.fuzz.places import check, place

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.slow

SUITE = """\
models: [bundled:tiny-mistral]
precisions: [fp32]
measure:
  quality: {{text: text.txt, window: 32}}
  generation: {{prompts: {prompts}, new_tokens: 4}}
  tasks: {{names: own, include: tasks}}
finetune:
  data: {{dataset: {rows}, recipe: {recipe}, train: 2, validation: 1, test: 1}}
  methods: [{{method: lora, rank: 4}}]
"""
TASK = {
    "task": "own",
    "tag": ["mine"],
    "include": "base",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "rows.jsonl"}},
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{instruction}}",
    "metric_list": [{"metric": "acc", "aggregation": "mean"}],
}
ROWS = [{"instruction": f"ask {at}", "input": "", "output": f"answer {at}"} for at in range(8)]
CHATS = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
RECIPES = (
    "instruction",
    "reverse-instruction",
    "chat",
    "text",
    "{prompt: '{{ instruction }}', completion: '{{ output }}'}",
    "{prompt: '{{ instruction.x.y }}', completion: '{% for a in output %}{{ a }}{% endfor %}'}",
)
cells = st.sampled_from(ODD_VALUES) | st.text(max_size=20)


def put(folder: Path, *, recipe: str = "instruction", **files: bytes) -> None:
    named = {name.replace("__", "."): contents for name, contents in files.items()}
    whole = {
        "rows.jsonl": "\n".join(map(json.dumps, ROWS)).encode(),
        "text.txt": b"words to read " * 100,
        "prompts.jsonl": b'{"prompt": "a", "reference": "b"}\n',
        "own.yaml": json.dumps({**TASK, "include": []}).encode(),
    } | named
    (folder / "tasks").mkdir()
    for name, contents in whole.items():
        below = folder / "tasks" if name.endswith(".yaml") else folder
        (below / name).write_bytes(contents)
    rows = next((name for name in named if name.startswith("rows.")), "rows.jsonl")
    prompts = next((name for name in named if name.startswith("prompts.")), "prompts.jsonl")
    suite = SUITE.format(rows=rows, recipe=recipe, prompts=prompts)
    (folder / "suite.yaml").write_text(suite, encoding="utf-8")


def test_the_data_are_good() -> None:
    with place() as folder:
        put(folder)
        finished = check(folder, "plan", "suite.yaml")
        assert finished.code == 0, finished.errors


@of_usual(2)
@given(
    rows=st.lists(
        mutated(ROWS[0], list(paths(ROWS[0])))
        | mutated({"messages": CHATS}, list(paths({"messages": CHATS})))
        | st.builds(lambda text: Mutant({"text": text}, (repr(text)[:40],)), cells),
        max_size=6,
    ),
    recipe=st.sampled_from(RECIPES),
)
def test_rows_of_json(rows: list[Mutant], recipe: str) -> None:
    with place() as folder:
        lines = "\n".join(json.dumps(row.value) for row in rows)
        put(folder, recipe=recipe, rows__jsonl=lines.encode())
        check(folder, "plan", "suite.yaml")
        sizes = {"train": 2, "validation": 1, "test": 1}
        chosen = yaml.safe_load(recipe)
        options = TuningDataOptions.model_validate({"recipe": chosen, **sizes})
        with suppress(TextError):
            found = peek(folder / "rows.jsonl", "rows.jsonl")
            assert found is not None
            make_splits(found.rows, options.recipe, options.sizes, seed=0, source="rows.jsonl")


@of_usual(1)
@given(
    name=st.sampled_from(["rows__csv", "rows__json", "prompts__jsonl", "prompts__txt"]),
    table=st.lists(st.lists(st.sampled_from(HOSTILE_TEXTS) | st.text(max_size=9), max_size=4)),
)
def test_tables_of_texts(name: str, table: list[list[str]]) -> None:
    made = "\n".join(",".join(line) for line in [["instruction", "input", "output"], *table])
    with place() as folder:
        put(folder, **{name: made.encode(errors="surrogatepass")})
        check(folder, "plan", "suite.yaml")


@of_usual(1)
@given(task=mutated(TASK, list(paths(TASK))), base=mutated(TASK, list(paths(TASK))))
def test_tasks(task: Mutant, base: Mutant) -> None:
    with place() as folder:
        put(folder, own__yaml=json.dumps(task.value).encode())
        (folder / "tasks" / "base").write_text(json.dumps(base.value), encoding="utf-8")
        check(folder, "plan", "suite.yaml")


@of_usual(1)
@given(
    contents=st.binary(max_size=60),
    name=st.sampled_from(
        ["rows__jsonl", "rows__csv", "rows__parquet", "text__txt", "prompts__txt", "own__yaml"]
    ),
)
def test_any_bytes(contents: bytes, name: str) -> None:
    with place() as folder:
        put(folder, **{name: contents})
        check(folder, "plan", "suite.yaml")
