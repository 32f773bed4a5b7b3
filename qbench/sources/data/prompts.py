"""Which prompts a suite means, with their references where they have any, and reading them."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from qbench.core.errors import TextError
from qbench.core.names import what_there_is
from qbench.core.paths import written_path
from qbench.core.spec import Frozen, slugify
from qbench.sources.bundled import BUNDLED_FOLDER, PREFIX
from qbench.sources.data.chat import Message, read_messages
from qbench.sources.data.texts import read_file

LINE_KEYS = ("prompt", "messages", "reference")
"""Keys that a line of a JSON lines file may have; `prompt` or `messages` must be there."""
_HASH_SHOWN = 8
_ID_DIGITS = 12


@dataclass(frozen=True)
class Prompt:
    """What a model is given to continue."""

    text: str
    """Of a conversation the contents of its messages, a blank line between them: what stands for it
    where no chat template puts it."""
    reference: str | None = None
    """The continuation to score against; None if there is none."""
    messages: tuple[Message, ...] = ()
    """The conversation that asks for an answer; none where the prompt is a text."""

    @property
    def conversation(self) -> list[Message]:
        """What a chat template is given: the messages, or the text as a user's."""
        return list(self.messages) or [{"role": "user", "content": self.text}]


class ResolvedPrompts(Frozen):
    """Prompts that were found: the first `count` of a file or a list."""

    name: str
    """Short and safe in file names."""
    source: str
    """As written in the suite; `inline` for prompts that stand in the suite itself."""
    kind: Literal["bundled", "file", "inline"]
    location: str | None
    """The file's absolute path; the name of bundled prompts; None for inline ones."""
    count: int
    fingerprint: str
    """sha256 of the prompts and references that are used, whatever stands behind them."""
    inline: tuple[str, ...] = ()


def bundled_prompts() -> dict[str, Path]:
    """Prompt files that ship with qbench, by name."""
    return {path.stem: path for path in sorted((BUNDLED_FOLDER / "prompts").glob("*.jsonl"))}


def resolve_prompts(source: str | tuple[str, ...], *, count: int, base: Path) -> ResolvedPrompts:
    """Finds the first `count` prompts, or all if there are fewer.

    `source` is `bundled:<name>`, a `.jsonl` or `.txt` file (absolute, from `~`, or from `base`, the
    suite's folder), or the prompts themselves. A line of a `.jsonl` file is an object with
    `prompt`, or `messages` with role and content, and perhaps `reference`; a line of a `.txt` file
    is a prompt. Raises `TextError` for what cannot be found or used.
    """
    if not isinstance(source, str):
        prompts = _checked([Prompt(text) for text in source], "inline")[:count]
        fingerprint = _fingerprint(prompts)
        return ResolvedPrompts(
            name=f"inline-{fingerprint[:_HASH_SHOWN]}",
            source="inline",
            kind="inline",
            location=None,
            count=len(prompts),
            fingerprint=fingerprint,
            inline=tuple(prompt.text for prompt in prompts),
        )
    kind: Literal["bundled", "file"] = "file"
    if source.startswith(PREFIX):
        kind, path = "bundled", _bundled(source)
        location = path.stem
    else:
        path = written_path(source, base, TextError)
        location = str(path)
        _check_suffix(source, path)
    prompts = _read_file(path, source)[:count]
    return ResolvedPrompts(
        name=slugify(path.stem),
        source=source,
        kind=kind,
        location=location,
        count=len(prompts),
        fingerprint=_fingerprint(prompts),
    )


def read_prompts(resolved: ResolvedPrompts) -> list[Prompt]:
    """The prompts themselves. Raises `TextError` for a file that changed since it was resolved."""
    if resolved.location is None:
        return [Prompt(text) for text in resolved.inline]
    bundled = resolved.kind == "bundled"
    path = _bundled(resolved.source) if bundled else Path(resolved.location)
    prompts = _read_file(path, resolved.source)[: resolved.count]
    if _fingerprint(prompts) != resolved.fingerprint:
        raise TextError(
            f"{resolved.source}: the file has changed since the run was planned; start the run"
            " again"
        )
    return prompts


def _bundled(source: str) -> Path:
    name, known = source.removeprefix(PREFIX), bundled_prompts()
    if name not in known:
        raise TextError(f"{source}: no bundled prompts of that name; {what_there_is(name, known)}")
    return known[name]


def _check_suffix(source: str, path: Path) -> None:
    if path.suffix in {".jsonl", ".txt"}:
        return
    names = [PREFIX + name for name in bundled_prompts()]
    raise TextError(
        f"{source}: expected a .jsonl or .txt file, or bundled prompts;"
        f" {what_there_is(source, names)}; or write the prompts themselves as a list"
    )


def _read_file(path: Path, source: str) -> list[Prompt]:
    contents, _ = read_file(path, str(path))
    # Only line feeds end a line: JSON may hold other line separators within its strings.
    lines = [line.removesuffix("\r") for line in contents.split("\n")]
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if path.suffix == ".txt":
        return _checked([Prompt(line) for _, line in numbered], source)
    prompts = [_parse_line(line, f"{source}:{number}") for number, line in numbered]
    return _checked(prompts, source)


def _parse_line(line: str, place: str) -> Prompt:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TextError(
            f'{place}: found no valid JSON ({error}); expected an object such as {{"prompt": "…",'
            ' "reference": "…"}'
        ) from error
    if not isinstance(entry, dict):
        raise TextError(
            f"{place}: found a JSON {type(entry).__name__}; expected an object with the key prompt"
        )
    unknown = next((key for key in entry if key not in LINE_KEYS), None)
    if unknown is not None:
        raise TextError(
            f"{place}: found the unknown key '{unknown}'; {what_there_is(unknown, LINE_KEYS)};"
            " remove or rename it"
        )
    reference = _words(entry, "reference", place)
    if "messages" not in entry:
        return Prompt(_words(entry, "prompt", place) or "", reference)
    if "prompt" in entry:
        raise TextError(
            f"{place}: found prompt and messages; expected one of them; remove the other"
        )
    messages = read_messages(entry["messages"], place)
    if not messages or messages[-1]["role"] == "assistant":
        found = "an answer at the end of" if messages else "no message under"
        raise TextError(
            f"{place}: found {found} messages; expected messages that ask for an answer, the last"
            " of them a user's; correct the line"
        )
    text = "\n\n".join(message["content"] for message in messages)
    return Prompt(text, reference, tuple(messages))


def _words(entry: dict[str, Any], key: str, place: str) -> str | None:
    value = entry.get(key)
    if isinstance(value, str) or (value is None and key == "reference"):
        return value
    found = "nothing" if value is None else f"a value of type {type(value).__name__}"
    raise TextError(f"{place}: found {found} under {key}; expected text; correct the line")


def _checked(prompts: list[Prompt], source: str) -> list[Prompt]:
    """The prompts. Raises `TextError` if there are none, or one of them cannot be used."""
    if not prompts:
        raise TextError(f"{source}: found no prompt; expected at least one")
    for number, prompt in enumerate(prompts, 1):
        for key, text in (("prompt", prompt.text), ("reference", prompt.reference)):
            if text is None:
                continue
            if not text.strip():
                raise TextError(f"{source}: {key} {number} is empty; expected text; remove it")
            if not _is_unicode(text):
                raise TextError(
                    f"{source}: {key} {number} holds half of a surrogate pair, which no UTF-8 file"
                    " can hold; write the whole character"
                )
    without = [number for number, prompt in enumerate(prompts, 1) if prompt.reference is None]
    if without and len(without) < len(prompts):
        raise TextError(
            f"{source}: {len(without)} of {len(prompts)} prompts have no reference, the first of"
            f" them prompt {without[0]}; expected references for all or for none"
        )
    return prompts


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _fingerprint(prompts: list[Prompt]) -> str:
    rows = [
        [prompt.text, prompt.reference, *([list(prompt.messages)] if prompt.messages else [])]
        for prompt in prompts
    ]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def item_names(prompts: list[Prompt]) -> list[str]:
    """Names the prompts for paired statistics: the same words, as often, are the same items."""
    times: Counter[str] = Counter()
    names = []
    for prompt in prompts:
        digest = hashlib.sha256(prompt.text.encode()).hexdigest()[:_ID_DIGITS]
        times[digest] += 1
        names.append(f"{digest}-{times[digest]}")
    return names
