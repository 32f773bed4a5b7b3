"""Which files of a model's folder decide how text becomes tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

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
