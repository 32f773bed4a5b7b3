"""The list of what an installation consists of, made and checked by CycloneDX's own tools."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING

import pytest

from tests.workplace import REPOSITORY

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.slow
def test_it_names_versions_and_licences_of_what_the_wheel_needs(tmp_path: Path) -> None:
    """Of this environment, which has more than the wheel's: a fresh one takes minutes."""
    script, output = REPOSITORY / "tools" / "sbom.sh", tmp_path / "build" / "sbom.json"
    done = subprocess.run(
        [str(script), sys.executable, str(output), sys.prefix],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    made = json.loads(output.read_text(encoding="utf-8"))
    assert (made["bomFormat"], made["metadata"]["component"]["name"]) == ("CycloneDX", "qbench-llm")
    parts = {part["name"].lower(): part for part in made["components"]}
    for name in ("torch", "tokenizers", "peft", "bitsandbytes", "safetensors", "jinja2"):
        assert parts[name]["version"] == version(name)
        assert parts[name]["licenses"]
        assert parts[name]["purl"].startswith(f"pkg:pypi/{name}@")
