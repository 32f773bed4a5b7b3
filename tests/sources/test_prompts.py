"""Finding and reading prompts, and every way that they can be wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from qbench.compare.estimates.estimates import FEWEST_UNITS
from qbench.core.errors import TextError
from qbench.sources.data.prompts import Prompt, bundled_prompts, read_prompts, resolve_prompts
from tools.bundled import build_chat, build_prompts


def write_lines(folder: Path, *rows: object, name: str = "p.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_json_lines(tmp_path: Path) -> None:
    write_lines(tmp_path, *({"prompt": f"p{n}", "reference": f"\nr{n}"} for n in range(5)))
    found = resolve_prompts("p.jsonl", count=3, base=tmp_path)
    assert (found.name, found.kind, found.count) == ("p", "file", 3)
    assert read_prompts(found) == [Prompt(f"p{n}", f"\nr{n}") for n in range(3)]


def test_line_separators_within_a_string_end_no_line(tmp_path: Path) -> None:
    text = "a\u2028b\u0085c\x0cd"
    (tmp_path / "p.jsonl").write_text(
        json.dumps({"prompt": text}, ensure_ascii=False) + "\r\n\n", encoding="utf-8"
    )
    assert read_prompts(resolve_prompts("p.jsonl", count=8, base=tmp_path)) == [Prompt(text)]


def test_text_file_has_a_prompt_a_line(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_bytes("\ufeffone \r\n\n  two\n".encode())
    found = read_prompts(resolve_prompts("p.txt", count=8, base=tmp_path))
    assert found == [Prompt("one "), Prompt("  two")]


def test_conversations(tmp_path: Path) -> None:
    messages = [{"role": "system", "content": "be short"}, {"role": "user", "content": "why?"}]
    write_lines(
        tmp_path, {"messages": messages, "reference": "so"}, {"prompt": "p", "reference": "r"}
    )
    found = resolve_prompts("p.jsonl", count=8, base=tmp_path)
    first, second = read_prompts(found)
    assert first == Prompt("be short\n\nwhy?", "so", tuple(messages))
    assert first.conversation == messages
    assert second.conversation == [{"role": "user", "content": "p"}]
    as_text = {"prompt": first.text, "reference": "so"}
    write_lines(tmp_path, as_text, {"prompt": "p", "reference": "r"})
    assert resolve_prompts("p.jsonl", count=8, base=tmp_path).fingerprint != found.fingerprint


def test_inline_prompts() -> None:
    found = resolve_prompts(("one", "two", "three"), count=2, base=Path("/nowhere"))
    assert (found.kind, found.location, found.count) == ("inline", None, 2)
    assert found.name == f"inline-{found.fingerprint[:8]}"
    assert read_prompts(found) == [Prompt("one"), Prompt("two")]
    assert read_prompts(type(found)(**found.model_dump(mode="json"))) == read_prompts(found)


def test_only_what_is_used_decides_the_fingerprint(tmp_path: Path) -> None:
    rows = [{"prompt": "one"}, {"prompt": "two"}]
    write_lines(tmp_path, *rows)
    write_lines(tmp_path, *rows, {"prompt": "three"}, name="longer.jsonl")
    first = resolve_prompts("p.jsonl", count=2, base=tmp_path)
    longer = resolve_prompts("longer.jsonl", count=2, base=tmp_path)
    inline = resolve_prompts(("one", "two"), count=8, base=tmp_path)
    assert first.fingerprint == longer.fingerprint == inline.fingerprint
    other = resolve_prompts("longer.jsonl", count=3, base=tmp_path)
    assert other.fingerprint != first.fingerprint


def test_a_file_changed_after_planning(tmp_path: Path) -> None:
    write_lines(tmp_path, {"prompt": "one"})
    found = resolve_prompts("p.jsonl", count=8, base=tmp_path)
    write_lines(tmp_path, {"prompt": "two"})
    with pytest.raises(TextError, match="has changed"):
        read_prompts(found)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ("", "is empty"),
        ("{", "p.jsonl:1: found no valid JSON"),
        ('{"prompt": "a"}\n[1]', "p.jsonl:2: found a JSON list"),
        ('{"prompt": 3}', "a value of type int under prompt"),
        ('{"reference": "a"}', "found nothing under prompt"),
        ('{"prompt": "a", "refrence": "b"}', "unknown key 'refrence'; did you mean 'reference"),
        ('{"prompt": " "}', "prompt 1 is empty"),
        ('{"prompt": "a", "reference": ""}', "reference 1 is empty"),
        ('{"prompt": "\\ud83d"}', "surrogate"),
        (
            '{"prompt": "a", "reference": "b"}\n{"prompt": "c"}',
            "1 of 2 prompts have no reference, the first of them prompt 2",
        ),
        ("[" * 100_000, "no valid JSON"),
        ('{"prompt": "a", "messages": []}', "found prompt and messages; expected one of them"),
        ('{"messages": []}', "found no message under messages"),
        ('{"messages": 3}', "a value of type int under messages"),
        ('{"messages": [{"role": "user"}]}', "message 1 has no text under role or content"),
        (
            '{"messages": [{"role": "assistant", "content": "a"}]}',
            "found an answer at the end of messages",
        ),
    ],
)
def test_lines_that_cannot_be_used(tmp_path: Path, contents: str, message: str) -> None:
    (tmp_path / "p.jsonl").write_text(contents, encoding="utf-8")
    with pytest.raises(TextError, match=message):
        resolve_prompts("p.jsonl", count=8, base=tmp_path)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("bundled:stdlib-promts", "did you mean 'stdlib-prompts"),
        ("missing.jsonl", "no such file"),
        ("prompts.csv", r"expected a \.jsonl or \.txt file"),
        ("Once upon a time", "write the prompts themselves as a list"),
        (("one", " "), "inline: prompt 2 is empty"),
    ],
)
def test_prompts_that_cannot_be_found(
    tmp_path: Path, source: str | tuple[str, ...], message: str
) -> None:
    with pytest.raises(TextError, match=message):
        resolve_prompts(source, count=8, base=tmp_path)


def test_bundled_prompts_stand_in_the_held_out_text() -> None:
    assert list(bundled_prompts()) == ["stdlib-chat", "stdlib-prompts"]
    found = resolve_prompts("bundled:stdlib-prompts", count=100, base=Path("/"))
    assert (found.kind, found.location) == ("bundled", "stdlib-prompts")
    prompts = read_prompts(found)
    text = build_prompts.SOURCE.read_text(encoding="utf-8")
    assert len(prompts) == len({prompt.text for prompt in prompts}) == build_prompts.COUNT
    for prompt in prompts:
        assert prompt.text + (prompt.reference or "?") in text


def test_bundled_conversations_ask_for_an_answer() -> None:
    found = resolve_prompts("bundled:stdlib-chat", count=100, base=Path("/"))
    prompts = read_prompts(found)
    assert len({prompt.text for prompt in prompts}) == build_chat.COUNT >= 2 * FEWEST_UNITS
    assert {len(prompt.messages) for prompt in prompts} == {1, 3}


def test_the_script_writes_the_conversations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "new" / "stdlib-chat.jsonl"
    monkeypatch.setattr("sys.argv", ["build_chat", "--out", str(out)])
    build_chat.main()
    assert out.read_bytes() == build_chat.OUT.read_bytes()


def test_the_script_writes_what_is_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "new" / "stdlib-prompts.jsonl"
    monkeypatch.setattr("sys.argv", ["build_prompts", "--out", str(out)])
    build_prompts.main()
    assert out.read_bytes() == build_prompts.OUT.read_bytes()
