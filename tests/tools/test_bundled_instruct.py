"""The bundled instruction data is what its rules give, fits the model, and leaks nothing."""

from __future__ import annotations

import ast
import json
import re
from typing import TYPE_CHECKING

import pytest

from qbench.finetune.train.examples import encode_examples
from qbench.sources.bundled import BUNDLED_FOLDER, bundled_instruct, bundled_texts
from qbench.sources.data.tuning import TuningDataOptions, load_splits, resolve_tuning_data
from tools.bundled.build_instruct import RECIPES, instruct_rows, main
from tools.bundled.corpus import Corpus, read_corpus

if TYPE_CHECKING:
    from pathlib import Path

    from tokenizers import Tokenizer

    from qbench.sources.data.recipes import RecipeName

Row = dict[str, str]

MODULE = '''\
class Thing:
    @property
    def size(self):
        """The number of things
            in it.
        """
        return len(self)

    def size_{0}(self):
        """The number {0} of things in it."""
        if self:
            return {0}

    def short(self):
        """Too short"""
        return 1

    def nothing(self):
        """It has no code of its own."""


def no_docstring():
    return 2
'''


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    text = bundled_instruct()["stdlib-instruct"].read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(BUNDLED_FOLDER / "tiny-mistral" / "tokenizer.json"))


def plain(text: str) -> str:
    return "\n".join(line.strip() for line in text.splitlines() if line.strip())


def test_its_size(rows: list[Row]) -> None:
    assert 1500 <= len(rows) <= 3000
    assert bundled_instruct()["stdlib-instruct"].stat().st_size < 1_000_000


def test_every_row_is_a_function_and_its_docstring(rows: list[Row]) -> None:
    for row in rows:
        assert list(row) == ["instruction", "input", "output"]
        [function] = ast.parse(row["output"]).body
        assert isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        assert row["output"].startswith(row["input"])
        assert row["input"].rstrip().endswith(":") or "#" in row["input"]
        assert len(row["instruction"].split()) >= 4
        assert ast.get_docstring(function) != row["instruction"]


def test_no_two_rows_ask_or_answer_the_same(rows: list[Row]) -> None:
    for column in ("instruction", "output"):
        assert len({row[column] for row in rows}) == len(rows)


def test_nothing_stands_in_the_held_out_text(rows: list[Row]) -> None:
    held_out = plain(bundled_texts()["stdlib-heldout"].read_text(encoding="utf-8"))
    for row in rows:
        assert plain(row["instruction"]) not in held_out
        assert plain(row["output"]) not in held_out


@pytest.mark.parametrize("recipe", RECIPES)
def test_it_fits_the_bundled_model(recipe: RecipeName) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(BUNDLED_FOLDER / "tiny-mistral")
    options = TuningDataOptions(recipe=recipe, train=2200)
    splits = load_splits(resolve_tuning_data(options, base=BUNDLED_FOLDER))
    assert (splits.rows, splits.empty, splits.duplicates) == (2400, 0, 0)
    examples = [*splits.train, *splits.validation, *splits.test]
    encoded = encode_examples(examples, tokenizer, max_tokens=256, loss_on="completion")
    assert len(encoded) == 2400


def test_the_rules_hold_for_any_library(tokenizer: Tokenizer) -> None:
    train = {"a.py": MODULE.format(1), "b.py": MODULE.format(2), "test/c.py": MODULE.format(3)}
    found = instruct_rows(Corpus(train=train, held_out={}), tokenizer)
    assert [row["instruction"] for row in found] == [
        "The number of things\nin it.",
        "The number 1 of things in it.",
        "The number 2 of things in it.",
    ]
    assert found[0]["input"] == "@property\ndef size(self):"
    assert found[0]["output"] == "@property\ndef size(self):\n    return len(self)"
    held_out = {"h.py": "def x():\n  def size_1(self):\n    if self:\n\n      return 1\n"}
    left = instruct_rows(Corpus(train=train, held_out=held_out), tokenizer)
    assert left == [found[0], found[2]]
    assert instruct_rows(Corpus(train=train, held_out={}), tokenizer, count=1) == found[:1]


@pytest.mark.slow
def test_it_is_what_the_script_makes_of_the_library(tmp_path: Path) -> None:
    readme = (bundled_instruct()["stdlib-instruct"].parent / "README.md").read_text()
    [stated] = re.findall(r"[0-9a-f]{64}", readme)
    if read_corpus().sha256 != stated:
        pytest.skip("another version of the standard library than the file was made from")
    main(["--out", str(tmp_path / "made.jsonl")])
    kept = bundled_instruct()["stdlib-instruct"]
    assert (tmp_path / "made.jsonl").read_bytes() == kept.read_bytes()
