"""Puts one task of lm-eval to a model that is already loaded.

The same steps as the `lm_eval` command takes, in the same order and with the same seeds, so that
its scores for the same saved checkpoint are the same, under two conditions:

- On a CPU with AVX512-BF16 bitsandbytes repacks 4-bit weights into another format at their first
  use, and computes other numbers with it. That is kept off here, and is not in the command.
- LLM.int8 finds its outlier columns over a whole batch, so that an item's score depends on those
  beside it. The command puts the items of all its `--tasks` into batches together, here a task is
  alone: the same scores need one task a command, and the same batch size and limit.
"""

from __future__ import annotations

import copy
import os
import random
from functools import partial
from typing import TYPE_CHECKING, Any

from qbench.core.errors import MeasurementError, NonFiniteError
from qbench.measures.generation.continuation import refuse_nonfinite
from qbench.measures.tasks.clusters import check_field
from qbench.measures.untrusted_code import nothing_fetched, templates_within_bounds

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

    from qbench.measures.loaded import LoadedModel

COMMAND_SEEDS = (0, 1234, 1234, 1234)
"""What the `lm_eval` command seeds Python, numpy, torch and the choice of examples with."""
BOOTSTRAP_RESAMPLES = 1000
"""For the standard error of a metric that has no formula of its own."""


def run_task(
    loaded: LoadedModel,
    name: str,
    yaml_files: Sequence[Path],
    *,
    seeds: Sequence[int],
    batch: int,
    limit: int | None,
    few_shot: int | None,
    chat_template: bool,
    trust_code: bool = False,
    cluster: str | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The results of `lm_eval.evaluate`, samples included, and how the prompts were put.

    `yaml_files` are those of the task, or of the group and its members. Raises `MeasurementError`
    when the task or its data is not there, or is not of a kind that can be put to this model, and
    `NonFiniteError` where the model's next token is not known for the lack of finite logits.
    `cluster` is the field that the suite says items share. Unless `trust_code`, templates are
    confined and no metric's script is loaded; none is fetched.
    """
    import numpy as np
    import torch
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    # lm-eval gives the tokenizer a padding token, which other measurements must not see.
    tokenizer = copy.deepcopy(loaded.tokenizer)
    if chat_template and not tokenizer.chat_template:
        raise MeasurementError(
            f"task {name}: chat_template is asked for, but the tokenizer in"
            f" {loaded.checkpoint.folder} has none; set chat_template: false, or use the"
            " model's instruction-tuned sibling"
        )
    random.seed(seeds[0])
    np.random.seed(seeds[1])  # noqa: NPY002 - the generator that tasks use
    torch.manual_seed(seeds[2])
    special = _special_token_ids(tokenizer)
    lm = HFLM(
        pretrained=loaded.model,
        tokenizer=tokenizer,
        backend="causal",
        batch_size=batch,
        max_length=loaded.resolved.context_tokens,
        # Said outright: by default it would be what the tokenizer does, which is the same.
        add_bos_token=bool(special),
    )
    # lm-eval takes the largest of numbers that are none for an answer.
    lm._model_generate = _generating(lm, loaded)  # noqa: SLF001
    with nothing_fetched(trusted=trust_code), templates_within_bounds(trusted=trust_code):
        tasks = _load(name, yaml_files)
    for task_name, task in tasks["tasks"].items():
        _check_fit(task_name, task)
        _check_tokens(task_name, task, lm, loaded.checkpoint.folder)
        _check_metrics(task_name, task)
        check_field(task_name, next(iter(task.eval_docs), {}), cluster)
        _set_few_shot(task, few_shot)
        task.set_fewshot_seed(seeds[3])
    # Without this lm-eval would start a process for every core to resample in.
    os.environ["DISABLE_MULTIPROC"] = "1"
    try:
        with templates_within_bounds(trusted=trust_code):
            results = evaluate(
                lm=lm,
                task_dict=tasks,
                limit=limit,
                bootstrap_iters=BOOTSTRAP_RESAMPLES,
                log_samples=True,
                cache_requests=False,
                apply_chat_template=chat_template,
                fewshot_as_multiturn=chat_template,
            )
    except NonFiniteError as error:
        raise NonFiniteError(f"task {name}: {error}") from error
    prompts = {
        "special_token_ids": special,
        "context_tokens": lm.max_length,
        "truncated_items": _count_truncated(results["samples"], lm),
    }
    return results, prompts


def _generating(lm: Any, loaded: LoadedModel) -> Any:
    """How lm-eval's model has a batch continued: checked for numbers, with the cell's own cache."""
    own = partial(lm._model_generate, logits_processor=[refuse_nonfinite])  # noqa: SLF001

    def generate(*arguments: Any, **options: Any) -> Any:
        cache = loaded.new_cache()
        return own(*arguments, **options, **({} if cache is None else {"past_key_values": cache}))

    return generate


def _load(name: str, yaml_files: Sequence[Path]) -> dict[str, Any]:
    """The task, or the group's tasks, with their data.

    lm-eval looks through the folders of these files alone, not through all its own.
    """
    from lm_eval.tasks import TaskManager

    folders = list(dict.fromkeys(path.parent for path in yaml_files))
    try:
        manager = TaskManager(include_path=folders, include_defaults=False)
        loaded: dict[str, Any] = manager.load([name])
    except MemoryError:
        raise
    except Exception as error:
        message = next(iter(str(error).strip().splitlines()), "no message")
        raise MeasurementError(
            f"task {name}: the task or its data cannot be loaded ({type(error).__name__}:"
            f" {message}); {_remedy(error)}"
        ) from error
    return loaded


def _remedy(error: Exception) -> str:
    if isinstance(error, ImportError):
        return "install the package that it names"
    # Most of the data library's own errors, and of the hub's, are an OSError of some kind.
    if isinstance(error, OSError) or "cache" in str(error):
        return (
            "check the network, HF_HUB_OFFLINE and the dataset_path in the task's YAML; the bundled"
            " tasks stdlib-choice and stdlib-completion need no network"
        )
    if "scripts are no longer supported" in str(error):
        return (
            "its data comes by a loading script, which the package datasets no longer runs; choose"
            " another task"
        )
    return "check the task's YAML file and what it names"


def _check_fit(name: str, task: Any) -> None:
    """Raises `MeasurementError` for a task that runs code, or asks about more than text."""
    if getattr(task, "UNSAFE_CODE", False):
        raise MeasurementError(
            f"task {name} runs code that the model writes; qbench does not: leave it out"
        )
    if getattr(task, "MULTIMODAL", False):
        raise MeasurementError(
            f"task {name} asks about images or sound; qbench measures text models: leave it out"
        )


def _check_metrics(name: str, task: Any) -> None:
    """Raises `MeasurementError` for a metric that lm-eval found nowhere, and would call."""
    if getattr(task.config, "process_results", None) is not None:
        return  # the task's own function gives the figures
    for metric, function in getattr(task, "_metric_fn_list", {}).items():
        if function is None:
            raise MeasurementError(
                f"task {name}: the metric {metric} is none of lm-eval's, and a script of the"
                " package evaluate is fetched by no run; with `trust_code: true` in the suite one"
                " that evaluate has loaded on this machine before is used; or leave the task out"
            )


def _check_tokens(name: str, task: Any, lm: Any, folder: Path) -> None:
    """Raises `MeasurementError` where the tokenizer lacks a token that the task cannot do without.

    lm-eval ends what a model writes at the end token, and begins a text with `<s>` or with it.
    """
    kind = task.OUTPUT_TYPE
    needed = {"generate_until": lm.eot_token_id, "loglikelihood_rolling": lm.prefix_token_id}
    if kind in needed and needed[kind] is None:
        raise MeasurementError(
            f"task {name}: the tokenizer in {folder} has no end token, which lm-eval needs to put"
            " it; add eos_token to its tokenizer_config.json, as the model's maker has it"
        )


def _set_few_shot(task: Any, few_shot: int | None) -> None:
    """As the command does: a task that says 0 by itself stays at 0."""
    own = task.get_config("num_fewshot")
    if few_shot is not None and own != 0:
        task.set_config(key="num_fewshot", value=few_shot)
    elif own is None:
        task.set_config(key="num_fewshot", value=0)


def _special_token_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids that the tokenizer adds to a text by itself, such as `<s>`."""
    plain = tokenizer("a", add_special_tokens=False)["input_ids"]
    return [token for token in tokenizer("a")["input_ids"] if token not in plain]


def _count_truncated(samples: dict[str, list[dict[str, Any]]], lm: Any) -> int:
    """Items of which the prompt and the longest answer do not fit: lm-eval cuts their beginning."""
    return sum(
        _room(row["arguments"], lm) < 0
        for rows in samples.values()
        for row in rows
        if row["filter"] == rows[0]["filter"]
    )


def _room(requests: list[tuple[Any, ...]], lm: Any) -> int:
    """Tokens of the model's context that an item leaves free; negative where it does not fit.

    A request is (prompt, answer), (prompt, options of generation), or (text,), which is cut into
    windows and always fits. The last token of an answer is predicted, not read.
    """
    if len(requests[0]) == 1:
        return 0
    if isinstance(requests[0][1], dict):
        prompt, generation = requests[0][:2]
        most = int(generation.get("max_gen_toks") or lm.max_gen_toks)
        return int(lm.max_length) - len(lm.tok_encode(prompt)) - most
    longest = max((f"{prompt}{answer}" for prompt, answer, *_ in requests), key=len)
    return int(lm.max_length) + 1 - len(lm.tok_encode(longest))
