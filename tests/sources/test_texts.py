"""Texts are found by name or path, read as they are, and refused with a remedy."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import qbench
from qbench.core.errors import TextError
from qbench.sources.data.documents import parted
from qbench.sources.data.texts import DATASETS, read_documents, read_text, resolve_text


def test_local_file(tmp_path: Path) -> None:
    contents = "Grüße,\r\nworld\n\n"
    (tmp_path / "my notes.txt").write_bytes(contents.encode())
    text = resolve_text("my notes.txt", base=tmp_path)
    assert (text.kind, text.name) == ("file", "my-notes")
    assert text.location == str(tmp_path / "my notes.txt")
    assert text.fingerprint == hashlib.sha256(contents.encode()).hexdigest()
    assert read_text(text) == contents


def test_any_existing_file_and_absolute_paths(tmp_path: Path) -> None:
    (tmp_path / "corpus").write_text("words")
    assert resolve_text("corpus", base=tmp_path).kind == "file"
    elsewhere = resolve_text(str(tmp_path / "corpus"), base=Path("/"))
    assert read_text(elsewhere) == "words"


def test_fingerprint_follows_contents_not_place(tmp_path: Path) -> None:
    for name, contents in (("a.txt", "same"), ("b.txt", "same"), ("c.txt", "other")):
        (tmp_path / name).write_text(contents)
    first, second, third = (
        resolve_text(name, base=tmp_path).fingerprint for name in ("a.txt", "b.txt", "c.txt")
    )
    assert first == second != third


def test_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfwords")
    assert read_text(resolve_text("a.txt", base=tmp_path)) == "words"


def test_bundled_text() -> None:
    text = resolve_text("bundled:stdlib-heldout", base=Path("/"))
    assert (text.kind, text.name) == ("bundled", "stdlib-heldout")
    assert len(read_text(text)) > 50_000


def test_rows_of_a_file_are_documents_after_one_another(tmp_path: Path) -> None:
    documents = ["Grüße,\nworld", "  ", "second one", "third"]
    rows = [{"text": one, "title": f"t{at}", "n": at} for at, one in enumerate(documents)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    text = resolve_text("a.jsonl", base=tmp_path)
    assert (text.kind, text.name) == ("rows", "a")
    found = read_documents(text)
    assert found.text == read_text(text) == "Grüße,\nworld\n\nsecond one\n\nthird"
    assert found.starts is not None
    assert [found.text[at:][:5] for at in found.starts] == ["Grüße", "secon", "third"]
    plain = tmp_path / "plain.txt"
    plain.write_bytes((tmp_path / "a.jsonl").read_bytes())
    assert text.fingerprint != resolve_text("plain.txt", base=tmp_path).fingerprint
    assert read_documents(resolve_text("plain.txt", base=tmp_path)).starts is None
    (tmp_path / "a.jsonl").write_text('{"text": "other"}\n')
    with pytest.raises(TextError, match="has changed"):
        read_text(text)


def test_the_only_column_of_text_holds_the_documents(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"body": "one", "n": 1}\n{"body": "two", "note": "x"}\n')
    assert read_text(resolve_text("a.jsonl", base=tmp_path)) == "one\n\ntwo"


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ('{"a": "x", "b": "y"}\n', "found the columns a, b; expected a document a row"),
        ('{"a": 1}\n', "no column that is text in each row"),
        ('{"text": " "}\n', "all rows are empty"),
        ('{"text": "x"}\n{"text": \n', r"a\.jsonl:\d+: found no valid JSON"),
        ('["x"]\n', "row 1 is a JSON str"),
    ],
)
def test_rows_without_documents(tmp_path: Path, contents: str, message: str) -> None:
    (tmp_path / "a.jsonl").write_text(contents)
    with pytest.raises(TextError, match=message):
        resolve_text("a.jsonl", base=tmp_path)


def test_articles_of_wikitext_are_its_documents() -> None:
    rows = [
        "",
        " = Robert Boulter = \n",
        "",
        " Robert Boulter is an English film actor . x = 5 \n",
        " = = Career = = \n",
        " = = = 2000 = = = \n",
        " He had a guest role . \n",
        "",
        " = Du Fu = \n",
        " Du Fu was a poet . \n",
    ]
    data = DATASETS["wikitext-2"]
    text = data.separator.join(rows)
    found = parted(text, data.document)
    assert found.text == text
    assert found.starts == (0, text.index(" = Du Fu"))
    assert parted("no title in it", data.document).starts is None


def test_unknown_bundled_text_names_the_nearest() -> None:
    with pytest.raises(TextError, match="did you mean 'stdlib-heldout"):
        resolve_text("bundled:stdlib-heldot", base=Path("/"))


def test_known_data_set_is_resolved_without_a_network(tmp_path: Path) -> None:
    (tmp_path / "wikitext-2").mkdir()
    text = resolve_text("wikitext-2", base=tmp_path)
    assert (text.kind, text.name) == ("hub", "wikitext-2")
    assert text.fingerprint is not None
    for part in ("Salesforce/wikitext", "wikitext-2-raw-v1", "test"):
        assert part in text.fingerprint
    assert DATASETS["wikitext-2"].revision in text.fingerprint


def test_unknown_name_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(TextError, match="did you mean 'wikitext-2") as caught:
        resolve_text("wikitext2", base=tmp_path)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (None, "no such file"),
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"caf\xe9 au lait", "not UTF-8 at offset 3"),
    ],
)
def test_unusable_file(tmp_path: Path, contents: bytes | None, message: str) -> None:
    if contents is not None:
        (tmp_path / "a.txt").write_bytes(contents)
    with pytest.raises(TextError, match=message):
        resolve_text("a.txt", base=tmp_path)


def test_a_folder_without_texts_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_text("x")
    with pytest.raises(TextError, match="found a folder without a text in it"):
        resolve_text("./", base=tmp_path)


def test_files_of_a_folder_are_documents_after_one_another(tmp_path: Path) -> None:
    folder = tmp_path / "My Articles"
    folder.mkdir()
    for name, contents in (("b.md", "second"), ("a.txt", "Grüße"), ("skip.json", "{}")):
        (folder / name).write_text(contents)
    text = resolve_text("My Articles", base=tmp_path)
    assert (text.kind, text.name) == ("folder", "My-Articles")
    found = read_documents(text)
    assert found.text == "Grüße\n\nsecond"
    assert found.starts == (0, 7)
    (folder / "skip.json").write_text("[]")
    assert read_documents(text) == found
    (folder / "c.txt").write_text(" ")
    with pytest.raises(TextError, match=r"c\.txt: the file is empty"):
        read_text(text)
    (folder / "c.txt").write_text("third")
    with pytest.raises(TextError, match="files have changed"):
        read_text(text)
    again = resolve_text(str(folder), base=Path("/"))
    assert again.fingerprint != text.fingerprint
    (folder / "c.txt").rename(folder / "0.txt")
    assert resolve_text(str(folder), base=Path("/")).fingerprint != again.fingerprint


def test_file_changed_after_planning(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("before")
    text = resolve_text("a.txt", base=tmp_path)
    (tmp_path / "a.txt").write_text("after")
    with pytest.raises(TextError, match="has changed"):
        read_text(text)


def test_data_set_without_a_network(tmp_path: Path) -> None:
    code = (
        "from pathlib import Path\n"
        "from qbench.core.errors import TextError\n"
        "from qbench.sources.data.texts import read_text, resolve_text\n"
        "try:\n"
        "    read_text(resolve_text('wikitext-2', base=Path('/')))\n"
        "except TextError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={
            **os.environ,
            "PYTHONPATH": str(Path(qbench.__file__).parent.parent),
            "HF_HOME": str(tmp_path),
            "HF_HUB_OFFLINE": "1",
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Salesforce/wikitext" in done.stdout
    assert "check the network" in done.stdout
    assert "Traceback" not in done.stderr
