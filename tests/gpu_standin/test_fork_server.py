"""What the fork server imports leaves CUDA to its workers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

STANDIN = Path(__file__).parent / "standin"
SCRIPT = """
import json, os, sys
from qbench.running.executors.preload import preload

preload("cuda:0", ["quality"])
reading, writing = os.pipe()
if os.fork() == 0:
    import torch
    from transformers.utils import is_flash_attn_2_available
    try:
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        found = {"names": names, "flash": is_flash_attn_2_available()}
    except Exception as error:
        found = {"error": str(error)}
    os.write(writing, json.dumps(found).encode())
    os._exit(0)
os.close(writing)
print(os.read(reading, 65536).decode(), flush=True)
"""


def test_a_forked_worker_has_the_gpus_that_were_visible(tmp_path: Path) -> None:
    """torchao asks for the capability while transformers imports it: no GPU may be visible then.

    What libraries keep of that time (here: flash attention, which transformers looks for while it
    is imported, needs a GPU) must not outlive it.
    """
    (tmp_path / "flash_attn").mkdir()
    (tmp_path / "flash_attn" / "__init__.py").write_text('__version__ = "2.8.3"\n')
    described = tmp_path / "flash_attn-2.8.3.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: flash-attn\nVersion: 2.8.3\n")
    (described / "top_level.txt").write_text("flash_attn\n")
    log = tmp_path / "who-initialised"
    paths = [str(STANDIN), str(tmp_path), *filter(None, sys.path)]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(paths),
            "GPU_STANDIN": "t4,a100",
            "GPU_STANDIN_LOG": str(log),
            "CUDA_VISIBLE_DEVICES": "GPU-00000001",
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "not preloaded" not in done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {"names": ["NVIDIA A100-SXM4-80GB"], "flash": True}, log.read_text()
    (line,) = log.read_text().splitlines()  # the worker, and nobody before it
    assert "modeling_utils" not in line
