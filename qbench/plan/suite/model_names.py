"""A model's name in place of a suite, and the folders that the records of its runs have."""

from __future__ import annotations

import re
from pathlib import Path

from qbench.core.errors import ModelError
from qbench.core.spec import LONGEST_NAME, slugify
from qbench.sources.bundled import PREFIX
from qbench.sources.models.gguf_file import SUFFIX
from qbench.sources.models.headers import ADAPTER_CONFIG
from qbench.sources.models.random_models import RANDOM_PREFIX

_OF_QUICK = "-quick"
_HUB_ID = re.compile(r"(?P<owner>[A-Za-z0-9][\w.-]*)/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")


def names_model(argument: str) -> bool:
    """Whether it means a model rather than a suite's file, which need not be there."""
    if argument.startswith((PREFIX, RANDOM_PREFIX)):
        return True
    try:
        path = Path(argument).expanduser()
        if path.suffix == SUFFIX:
            return True
        if path.is_dir():
            named = any((path / name).is_file() for name in ("config.json", ADAPTER_CONFIG))
            return named or any(path.glob(f"*{SUFFIX}"))
        if path.exists() or path.suffix in {".yaml", ".yml"}:
            return False
        hub = _HUB_ID.fullmatch(argument)
        return hub is not None and not Path(hub["owner"]).is_dir()
    except (OSError, ValueError, RuntimeError):  # a path that is none, or of a user who is none
        return False


def names_of_results(argument: str) -> tuple[str, str]:
    """The folders of a model's results, in full and quick: its own name, a hub's with its owner."""
    from qbench.sources.models.resolve import parse_model

    try:
        model = parse_model(argument, base=Path.cwd())
        own = slugify(argument) if model.kind == "hub" else model.name
    except ModelError:
        own = slugify(argument)
    own = slugify(own[: LONGEST_NAME - len(_OF_QUICK)])
    return own, own + _OF_QUICK
