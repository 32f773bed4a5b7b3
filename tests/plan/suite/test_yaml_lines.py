"""YAML with places: values, lines and paths, and files that are broken or meant to hurt."""

from __future__ import annotations

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from qbench.plan.suite.node import Node
from qbench.plan.suite.yaml_lines import MAX_DEPTH, MAX_NODES, read_yaml, write_yaml

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**16), 10**16)
    | st.text("abc :#-'[]{}é", max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("abcde", min_size=1), inner)
    ),
    max_leaves=20,
)


def top_of(text: str) -> Node:
    top, problems = read_yaml(text, "suite.yaml")
    assert top is not None
    assert problems == []
    return top


@given(JSON_VALUES)
def test_what_was_written_is_read(value: object) -> None:
    top = top_of(yaml.safe_dump(value, allow_unicode=True) if value is not None else "null")
    assert top.plain() == value


@given(JSON_VALUES | st.text("0123456789.xeoEinfaNul~-+:# [", max_size=6))
def test_what_is_written_is_read(value: object) -> None:
    assert top_of(write_yaml(value)).plain() == value


@given(st.text())
def test_any_text_is_read_or_refused_with_a_problem(text: str) -> None:
    top, problems = read_yaml(text, "suite.yaml")
    assert isinstance(top, Node) or problems or top is None
    assert all(problem.file == "suite.yaml" for problem in problems)


def test_places() -> None:
    top = top_of("a: 1\nb:\n  - x\n  - {c: 2,\n     d: 3}\n")
    assert top.lines() == {"a": 1, "b": 2, "b[0]": 3, "b[1]": 4, "b[1].c": 4, "b[1].d": 5}
    b = top.child("b")
    assert b is not None
    assert (b.key_line, b.line) == (2, 3)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("on", "on"),
        ("yes", "yes"),
        ("True", True),
        ("~", None),
        ("", None),
        ("1e3", 1000),
        ("010", 10),
        ("0x10", 16),
        ("1_000", "1_000"),
        ("1:30", "1:30"),
        ("2.50", 2.5),
        ("2024-01-01", "2024-01-01"),
        ("'12'", "12"),
        ("!!str 12", "12"),
        ("=", "="),
    ],
)
def test_scalars_are_those_of_yaml_1_2(written: str, value: object) -> None:
    assert top_of(f"a: {written}\n").plain() == {"a": value}


def test_aliases_and_merges_are_written_out() -> None:
    top = top_of("a: &x {p: 1, q: 2}\nb: *x\nc: {<<: *x, q: 3}\n")
    assert top.plain() == {"a": {"p": 1, "q": 2}, "b": {"p": 1, "q": 2}, "c": {"p": 1, "q": 3}}


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("a: 1\n\tb: 2\n", 2, ["tab", "spaces"]),
        ("a: b: c\n", 1, ["column 5", "quote"]),
        ("a:\n - b\n  c: 1\n", 3, ["indentation"]),
        ("a: [1,\n2\n", 3, ["close the bracket", "line 1"]),
        ("a: 'x\n", 2, ["close the quotes"]),
        ("p: {precision: *}\n", 1, ['"*"']),
        ("p: *nf4\n", 1, ["quote a pattern"]),
        ("a: @x\n", 1, ["quotes"]),
        ("a: 1\n---\nb: 2\n", 2, ["one suite"]),
        ("a: 1\nb: \x01\n", 2, ["U+0001"]),
        ('a: "\\UFFFFFFFF"\n', 1, ["not YAML"]),
        ("a: !!python/object/apply:os.system [ls]\n", 1, ["!!python/object/apply:os.system"]),
        ("a: !!binary aaaa\n", 1, ["!!binary", "remove the tag"]),
        ("a: !!int x\n", 1, ["!!int"]),
        ("a: .nan\n", 1, [".nan", "finite"]),
        ("a: 1e999\n", 1, ["1e999"]),
        ("a: " + "9" * 5000 + "\n", 1, ["number 999"]),
        ('a: "x\\0y"\n', 1, ["U+0000"]),
        ("a: 1\n[b]: 2\n", 2, ["as a key"]),
        ("a: 1\nb: 2\na: 3\n", 3, ["'a' twice", "line 1"]),
        ("a: {<<: 3}\n", 1, ["<<"]),
    ],
)
def test_broken_yaml_names_its_line_and_remedy(text: str, line: int, words: list[str]) -> None:
    _, problems = read_yaml(text, "suite.yaml")
    assert len(problems) == 1
    message = str(problems[0])
    assert message.startswith(f"suite.yaml:{line}:")
    assert [word for word in words if word not in message] == []
    assert len(message) < 400


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "a: &a [*a]\n",
        "a: &a {b: *a}\n",
        "- " * (MAX_DEPTH + 2) + "x\n",
        "a: [" + "x," * (MAX_NODES + 1) + "]\n",
        "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n"
        + "".join(f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)),
    ],
    ids=["brackets", "list in itself", "mapping in itself", "dashes", "long", "bomb"],
)
def test_files_meant_to_hurt_are_refused_at_once(text: str) -> None:
    top, problems = read_yaml(text, "suite.yaml")
    assert top is None
    assert len(problems) == 1
    assert "more than" in problems[0].found


@pytest.mark.parametrize("text", ["", "\n\n", "# a comment\n", "---\n...\n"])
def test_a_file_without_a_value_is_no_problem_here(text: str) -> None:
    top, problems = read_yaml(text, "suite.yaml")
    assert problems == []
    assert top is None or top.value is None
