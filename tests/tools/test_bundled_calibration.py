"""The bundled calibration text: what is in it, and by which rules."""

from __future__ import annotations

import json

import pytest

from qbench.sources.bundled import bundled_instruct, bundled_texts
from tools.bundled.build_calibration import FILE_BYTES, MOST_BYTES, calibration_text
from tools.bundled.corpus import Corpus

_LONG = 40


@pytest.fixture(scope="module")
def text() -> str:
    return bundled_texts()["stdlib-calibration"].read_text(encoding="utf-8")


def test_it_is_small_and_long_enough_for_the_default(text: str) -> None:
    """128 windows of 2,048 tokens of a large vocabulary, such as Llama's or Qwen's."""
    bytes_a_token = 4.5  # of Python source
    assert 128 * 2048 * bytes_a_token < len(text.encode()) <= MOST_BYTES


def test_no_long_line_stands_in_the_held_out_text(text: str) -> None:
    held_out = bundled_texts()["stdlib-heldout"].read_text(encoding="utf-8")
    own, other = (
        {line.strip() for line in one.splitlines() if len(line.strip()) >= _LONG}
        for one in (text, held_out)
    )
    assert own
    assert not own & other


def test_no_function_of_the_instruction_data_stands_in_it(text: str) -> None:
    rows = bundled_instruct()["stdlib-instruct"].read_text(encoding="utf-8").splitlines()
    plain = "\n".join(line.strip() for line in text.splitlines())
    for row in map(json.loads, rows):
        code = "\n".join(line.strip() for line in row["output"].splitlines())
        assert len(code) < _LONG or code not in plain


def test_files_are_whole_spread_evenly_and_not_of_the_instructions() -> None:
    def module(number: int) -> str:
        body = f'def f{number}(x):\n    """Says what f{number} is for."""\n    return x\n'
        return body + "# so long\n" * (FILE_BYTES[0] // 10)

    train = {f"m{number}.py": module(number) for number in range(6)}
    train["short.py"] = "x = 1\n"
    train["m6.py"] = module(6) + "class A:\n  def plain(self):\n    return self.held.plain()\n"
    rows = [
        {
            "instruction": "Says what f2 is for.",
            "input": "def f2(x):",
            "output": "def f2(x):\n    return x",
        },
        {
            "instruction": "Elsewhere it has a docstring.",
            "input": "def plain(self):",
            "output": "def plain(self):\n    return self.held.plain()",
        },
    ]
    made = calibration_text(Corpus(train=train, held_out={"h.py": "held out"}), rows)
    assert made == "\n".join(module(number) for number in (0, 1, 3, 4, 5))
