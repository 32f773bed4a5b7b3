"""The `lm_eval` command itself, which tests hold the scores of tasks against."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_CALLS = """
import json, sys
import bitsandbytes.nn.modules as modules
# On some CPUs this repacks 4-bit weights into another format; qbench keeps it off as well.
modules.has_avx512bf16 = lambda: False
from lm_eval.__main__ import cli_evaluate
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["lm_eval", *arguments]
    cli_evaluate()
"""


def call_lm_eval(calls: Sequence[Sequence[str]], folder: Path) -> None:
    """Calls it once for each list of arguments, all of them in one process in a folder."""
    done = subprocess.run(
        [sys.executable, "-c", _CALLS, json.dumps(calls)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
