"""Which files of a model's folder decide how text becomes tokens."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from qbench.core.untrusted import read_bounded

if TYPE_CHECKING:
    from pathlib import Path

_LARGEST_BYTES = 2**24
"""Of a file that holds a chat template."""

_PATTERNS = (
    "added_tokens.json",
    "additional_chat_templates/*.jinja",
    "bpe.codes",
    "chat_template.jinja",
    "merges.txt",
    "special_tokens_map.json",
    "tekken.json",
    "tokenizer.*",  # tokenizer.4.0.0.json for a version of transformers, tokenizer.model.v3 …
    "tokenizer_config.json",
    "vocab*.json",
    "vocab.txt",
    "*.model",
    "*.spm",
    "*.tiktoken",
)


def tokenizer_files(folder: Path) -> list[str]:
    """Paths below the folder, sorted; a model has some of these files."""
    found = {path for pattern in _PATTERNS for path in folder.glob(pattern) if path.is_file()}
    return sorted(path.relative_to(folder).as_posix() for path in found)


def chat_template_in(folder: Path) -> str | None:
    """The text of the chat template in a model's folder, several after one another; None for none.

    A .gguf file holds its own, which is not looked at.
    """
    files = [folder / "chat_template.jinja", *folder.glob("additional_chat_templates/*.jinja")]
    try:
        texts = [
            read_bounded(one, _LARGEST_BYTES).decode(errors="replace")
            for one in files
            if one.is_file()
        ]
        config = folder / "tokenizer_config.json"
        held = json.loads(read_bounded(config, _LARGEST_BYTES)) if config.is_file() else {}
    except (OSError, ValueError, RecursionError):
        return None  # the tokenizer cannot be loaded either, which is told then
    own = held.get("chat_template") if isinstance(held, dict) else None
    texts += [] if own is None else [own if isinstance(own, str) else json.dumps(own)]
    return "\n".join(texts) or None
