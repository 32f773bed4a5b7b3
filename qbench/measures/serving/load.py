"""The load: guidellm as a process of its own, told by a file, read by its report.

guidellm is kept by the vLLM project: https://github.com/vllm-project/guidellm. It makes the prompts
with the model's own tokenizer: words at random, cut to the asked number of tokens. Each begins with
a number of its own, so that a server's prefix cache finds nothing of an earlier one.

How many tokens are to come is told as `max_tokens` (chat: `max_completion_tokens`), and not by
guidellm's `output_tokens`, with which it adds `ignore_eos` to each request: `transformers serve`
refuses a field that it does not know. What has a server go on after a stop token is the server's to
tell: see `Server.body`.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qbench.core.errors import ProcessFailedError
from qbench.core.processes import python_command, python_environment
from qbench.measures.serving.guidellm_report import Report, read_report

if TYPE_CHECKING:
    from pathlib import Path

    from qbench.measures.serving.options import LoadPoint

ENDPOINTS = {"completions": "/v1/completions", "chat": "/v1/chat/completions"}
LOG_TAIL_LINES = 20
_OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
}
"""Nothing but the server is asked for anything, and no thread is taken but those that send."""


@dataclass(frozen=True)
class Loaded:
    """What a load found."""

    report: Report
    cpu_s: float
    """Processor time that guidellm itself took."""


@dataclass(frozen=True)
class Target:
    """What is loaded."""

    url: str
    """Without a path: `http://127.0.0.1:8123`."""
    model: str
    """As requests name it."""
    tokenizer: Path
    """Folder of the tokenizer that makes the prompts."""
    body: dict[str, Any]
    """Further fields of each request."""


def apply_load(point: LoadPoint, target: Target, folder: Path, timeout_s: float) -> Loaded:
    """Loads the server as the point says; guidellm's files and log are left in the folder.

    Raises `MeasurementError`, with the log's last lines, where guidellm fails or does not end.
    """
    report = folder / "guidellm.json"
    scenario = folder / "load.json"
    scenario.write_text(
        json.dumps(scenario_of(point, target, report, timeout_s), indent=1), encoding="utf-8"
    )
    environment = python_environment(gpu=False) | _OFFLINE
    # Settings of guidellm that the user may have would be told beside the file.
    environment = {
        name: value for name, value in environment.items() if not name.startswith("GUIDELLM__")
    }
    log = folder / "guidellm.log"
    before = _children_cpu_s()
    with log.open("wb") as output:
        process = subprocess.Popen(
            python_command(
                "guidellm", "run", "--config", str(scenario), "--disable-console-interactive"
            ),
            cwd=folder,  # where it would look for a file of settings
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise ProcessFailedError(
                "timeout",
                f"the load did not end within {timeout_s:g} s: the server answers too slowly or not"
                " at all; ask for fewer requests or tokens, or raise `timeout`",
                log_tail=tail_of(log),
            ) from None
        finally:
            _end_group(process)
    cpu_s = _children_cpu_s() - before
    if code != 0:
        raise ProcessFailedError(
            "error", f"guidellm ended with exit code {code}", log_tail=tail_of(log)
        )
    return Loaded(read_report(report), cpu_s)


def scenario_of(
    point: LoadPoint, target: Target, report: Path, timeout_s: float
) -> dict[str, Any]:
    """What guidellm is told, as the JSON of its `--config`."""
    body = {"temperature": 0.0, **target.body, **(point.extra_body or {})}
    constraints: list[dict[str, Any]] = []
    if point.requests is not None:
        constraints.append({"kind": "max_requests", "count": point.requests})
    if point.seconds is not None:
        constraints.append({"kind": "max_duration", "seconds": point.seconds})
    spec = {
        "backend": {
            "kind": "openai_http",
            "target": target.url,
            "model": target.model,
            "request_format": ENDPOINTS[point.endpoint],
            "max_tokens": point.output_tokens,
            "timeout": timeout_s,
            "validate_backend": False,  # the server was found healthy
            "extras": {"body": body},
        },
        "profile": _profile(point),
        "constraints": constraints,
        "tokenizer": {"kind": "hf_auto", "model": str(target.tokenizer)},
        "data": [{"kind": "synthetic_text", "prompt_tokens": point.prompt_tokens}],
        "seed": {"kind": "static", "value": point.seed},
        "metrics": {"kind": "generative", "sample_size": 0, "slo": _objectives(point)},
        "outputs": [{"kind": "json", "path": str(report)}],
    }
    return {"spec": spec}


def _profile(point: LoadPoint) -> dict[str, Any]:
    if point.warmup >= 1:
        warmup = {"value": int(point.warmup), "mode": "requests"}
    else:
        warmup = {"percent": point.warmup, "mode": "duration"}
    if point.rate is not None:
        return {"kind": point.arrival, "rate": [point.rate], "warmup": warmup}
    return {"kind": "concurrent", "streams": [point.concurrency], "warmup": warmup}


def _objectives(point: LoadPoint) -> dict[str, float] | None:
    if point.slo is None:
        return None
    seconds = {"ttft_ms": point.slo.ttft, "tpot_ms": point.slo.itl, "e2el_ms": point.slo.e2e}
    return {name: 1000 * value for name, value in seconds.items() if value is not None}


def tail_of(log: Path) -> str:
    """The last lines of a log; empty where there is none."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-LOG_TAIL_LINES:])


def _children_cpu_s() -> float:
    """Processor time of the processes that were started here and have ended, with their own."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Ends what guidellm left running: its senders are processes of its own."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
