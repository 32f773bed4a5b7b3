"""A module that a test starts in place of one that builds a model: it acts as it is told."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path

from qbench.core.marks import Marks


def main() -> None:
    """`python -m … PARENT_PID REQUEST MARKS`: the request is `{"act": …}`."""
    request = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    marks = Marks(sys.argv[3])
    marks("imports")
    marks("weights")
    sys.stdout.write(f"parent {sys.argv[1]}, hub offline: {os.environ.get('HF_HUB_OFFLINE')}\n")
    sys.stdout.flush()
    match request["act"]:
        case "tells":
            marks.tell({"answer": 42})
        case "fails":
            marks.fail(request["status"], "as told")
        case "memory":
            sys.stderr.write("Error out of memory at line 380 in file /src/interface.cpp\n")
            sys.exit(1)
        case "exits":
            sys.exit(3)
        case "is killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "segfault":
            ctypes.string_at(0)
        case "half a line":
            os.write(os.open(sys.argv[3], os.O_WRONLY | os.O_APPEND), b'{"told": {"answ')
        case "sleeps":
            time.sleep(600)


if __name__ == "__main__":
    main()
