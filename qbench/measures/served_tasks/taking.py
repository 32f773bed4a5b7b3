"""One task at one server: the server started, asked, and ended, and what was scored."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from qbench.core.errors import MeasurementError
from qbench.measures.served_tasks.answering import served_model
from qbench.measures.served_tasks.served_tasks import METRICS
from qbench.measures.serving.asking import AnswerError
from qbench.measures.serving.load import ENDPOINTS
from qbench.measures.serving.opening import open_server
from qbench.measures.tasks.conversation import check_conversation
from qbench.measures.tasks.data import DATA, data_of
from qbench.measures.tasks.loading import load_tasks
from qbench.measures.tasks.repeats import mean_outcome
from qbench.measures.tasks.results import make_outcome
from qbench.measures.tasks.run import evaluated, seed_all, with_prompts
from qbench.measures.tasks.thoughts import Thoughts
from qbench.precisions.loading import TOKENIZER_FAULTS, load_tokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from qbench.measures.loaded import Outcome, UnbuiltCell
    from qbench.measures.served_tasks.served_tasks import ServedTaskParams
    from qbench.measures.serving.server import Server

_CONTEXT = 4096
"""Tokens of a model that does not say how many it takes."""
_DEFAULT_TOKENS = 256
"""That lm-eval has generated where a task does not say."""
_MOST_WAITS, _WAIT_S = 20, 0.1
"""For the end of a server that gave no answer to be noticed as what it is."""


def take(params: ServedTaskParams, cell: UnbuiltCell, yaml_files: Sequence[Path]) -> Outcome:
    """Starts the server, puts every item of the task to it as often as is asked, ends the server.

    Raises `MeasurementError` as a task in this process, and for what the server did wrong
    `ProcessFailedError`.
    """
    tokenizer = _tokenizer(cell)
    if params.endpoint == "completions":
        check_conversation(params, tokenizer, str(cell.checkpoint.folder))
    with open_server(
        params.server,
        cell,
        context_tokens=params.context or cell.resolved.context_tokens or _CONTEXT,
        streams=params.concurrency,
        endpoint=ENDPOINTS[params.endpoint],
    ) as server:
        outcomes = [
            _once(params, cell, server, tokenizer, yaml_files, repeat)
            for repeat in range(params.repeats)
        ]
        server.check()
        outcome = mean_outcome(outcomes, params)
        told = {
            "name": params.server.label,
            "version": server.version,
            "flags": list(server.flags),
            "log": None if server.log is None else server.log.name,
        }
        details = {**outcome.details, "server": told, **server.details}
        return replace(outcome, details=details)


def _tokenizer(cell: UnbuiltCell) -> Any:
    try:
        return load_tokenizer(cell.checkpoint, bundled=False)
    except TOKENIZER_FAULTS as error:
        raise MeasurementError(
            f"{cell.checkpoint.folder}: no tokenizer that transformers can load beside the model"
            f" ({error}); save one there with tokenizer.save_pretrained()"
        ) from error


def _once(
    params: ServedTaskParams,
    cell: UnbuiltCell,
    server: Server,
    tokenizer: Any,
    yaml_files: Sequence[Path],
    repeat: int,
) -> Outcome:
    seeds, trust_code = params.seeds_of(repeat), bool(cell.job["trust_code"])
    seed_all(seeds)
    thoughts = Thoughts(params.think_end_token, tokenizer.decode)
    lm = served_model(server, params, tokenizer, thoughts, seeds[2])
    tasks = load_tasks(
        params, yaml_files, lm, tokenizer, examples_seed=seeds[3], trust_code=trust_code
    )
    try:
        results = evaluated(lm, tasks, params, trust_code=trust_code)
    except AnswerError as error:
        _wait_for_an_end(server)
        raise server.fault(f"{lm.base_url} gave {error}", hangs=error.hangs) from error
    outcome = make_outcome(params.task.name, results, params.cluster, METRICS[0])
    prompts = {
        "longer_items": _count_longer(results["samples"], tokenizer, params, cell),
        DATA: data_of(tasks["tasks"]),
    }
    told = with_prompts(outcome, params, prompts | thoughts.details)
    more = thoughts.warnings(params.task.name, expected=params.thinking is not False)
    return replace(told, warnings=(*told.warnings, *more))


def _wait_for_an_end(server: Server) -> None:
    for _ in range(_MOST_WAITS):
        if not server.alive() or server.process is None:
            return
        time.sleep(_WAIT_S)


def _count_longer(
    samples: dict[str, list[dict[str, Any]]],
    tokenizer: Any,
    params: ServedTaskParams,
    cell: UnbuiltCell,
) -> int:
    """Items of which the prompt and the longest answer are more than the model's context."""
    context = params.context or cell.resolved.context_tokens
    if context is None:
        return 0
    return sum(
        len(tokenizer(_text_of(row["arguments"][0][0]))["input_ids"]) + _most_of(row) > context
        for rows in samples.values()
        for row in rows
        if row["filter"] == rows[0]["filter"]
    )


def _text_of(prompt: Any) -> str:
    """A prompt as text; of messages their contents, without what the template adds."""
    if isinstance(prompt, str):
        return prompt
    # lm-eval's JsonChatStr, or the plain tuple that it becomes where Pillow is installed.
    (messages,) = prompt
    return "".join(str(one.get("content")) for one in json.loads(messages))


def _most_of(row: dict[str, Any]) -> int:
    return int(row["arguments"][0][1].get("max_gen_toks") or _DEFAULT_TOKENS)
