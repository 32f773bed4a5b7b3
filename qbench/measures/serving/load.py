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
import resource
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from qbench.core.errors import ProcessFailedError
from qbench.core.keeper import kept
from qbench.core.process_ends import tail_of_log
from qbench.core.processes import python_command, python_environment
from qbench.measures.serving.asking import CHAT, COMPLETIONS
from qbench.measures.serving.guidellm_report import Report, read_report
from qbench.measures.serving.starting import QUIET

if TYPE_CHECKING:
    from pathlib import Path

    from qbench.measures.serving.options import LoadPoint

ENDPOINTS = {"completions": COMPLETIONS, "chat": CHAT}
_ONE_THREAD = {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
"""No thread is taken from the server but those that send."""


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
    key: str | None = field(default=None, repr=False)
    """That requests need; it is written into the folder of the load alone, which is not kept."""


def apply_load(
    point: LoadPoint, target: Target, folder: Path, timeout_s: float, log: Path
) -> Loaded:
    """Loads the server as the point says; guidellm's report is left in the folder.

    Raises `ProcessFailedError`, with its log's last lines, where guidellm fails or does not end,
    and `MeasurementError` where its report is not one.
    """
    report = folder / "guidellm.json"
    scenario = folder / "load.json"
    told = scenario_of(point, target, report, timeout_s)
    scenario.write_text(json.dumps(told, indent=1), encoding="utf-8")
    command = python_command(
        "guidellm", "run", "--config", str(scenario), "--disable-console-interactive"
    )
    before = _children_cpu_s()
    with log.open("wb") as output:
        process = subprocess.Popen(
            kept(command, 0.0),
            cwd=folder,  # where guidellm would look for a file of settings
            env=_environment(),
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
                log_tail=tail_of_log(log),
            ) from None
        finally:
            process.terminate()  # the keeper kills all of it
            process.wait()
    if code != 0:
        raise ProcessFailedError(
            "error", f"guidellm ended with exit code {code}", log_tail=tail_of_log(log)
        )
    return Loaded(read_report(report), _children_cpu_s() - before)


def _environment() -> dict[str, str]:
    """Nothing but the server is asked for anything, and no settings of the user's are taken."""
    given = python_environment(gpu=False) | QUIET | _ONE_THREAD
    return {name: value for name, value in given.items() if not name.startswith("GUIDELLM__")}


def scenario_of(point: LoadPoint, target: Target, report: Path, timeout_s: float) -> dict[str, Any]:
    """What guidellm is told, as the JSON of its `--config`."""
    given = {"temperature": 0.0, **target.body, **(point.extra_body or {})}
    body = {name: value for name, value in given.items() if value is not None}
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
            "follow_redirects": False,  # nothing but the server is asked
            "validate_backend": False,  # the server was found healthy
            "extras": {"body": body},
            **({} if target.key is None else {"api_key": target.key}),
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


def _children_cpu_s() -> float:
    """Processor time of the processes that were started here and have ended, with their own."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
