"""Puts one task of lm-eval to a model that is already loaded.

The same steps as the `lm_eval` command takes, in the same order and with the same seeds, so that
its scores for the same saved checkpoint are the same, under two conditions:

- On a CPU with AVX512-BF16 bitsandbytes repacks 4-bit weights into another format at their first
  use, and computes other numbers with it. That is kept off here, and is not in the command.
- LLM.int8 finds its outlier columns over a whole batch, so that an item's score depends on those
  beside it. The command puts the items of all its `--tasks` into batches together, here a task is
  alone: the same scores need one task a command, and the same batch size and limit.

Of several repeats each is one such command, with the next seed of torch's.
"""

from __future__ import annotations

import copy
import os
import random
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from qbench.core.errors import MeasurementError, NonFiniteError
from qbench.measures.generation.continuation import refuse_nonfinite
from qbench.measures.tasks.conversation import check_conversation
from qbench.measures.tasks.data import DATA, data_of
from qbench.measures.tasks.index import GENERATED
from qbench.measures.tasks.loading import load_tasks
from qbench.measures.tasks.repeats import mean_outcome
from qbench.measures.tasks.results import make_outcome
from qbench.measures.tasks.thoughts import Thoughts
from qbench.measures.untrusted_code import templates_within_bounds

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

    from qbench.measures.loaded import LoadedModel, Outcome
    from qbench.measures.tasks.options import TaskParams

BOOTSTRAP_RESAMPLES = 1000
"""For the standard error of a metric that has no formula of its own."""


def take(loaded: LoadedModel, params: TaskParams, yaml_files: Sequence[Path]) -> Outcome:
    """Every item of a task, or of a group's tasks, put to a loaded model, as often as is asked.

    Raises `MeasurementError` when the task or its data is not there, or is not of a kind that can
    be put to this model, and `NonFiniteError` where the model's next token is not known for the
    lack of finite logits.
    """
    outcomes = [
        _once(loaded, params, yaml_files, params.seeds_of(repeat))
        for repeat in range(params.repeats)
    ]
    return mean_outcome(outcomes, params)


def seed_all(seeds: Sequence[int]) -> None:
    """Seeds Python, numpy and torch as the command does before its model and tasks are made."""
    import numpy as np
    import torch

    random.seed(seeds[0])
    np.random.seed(seeds[1])  # noqa: NPY002 - the generator that tasks use
    torch.manual_seed(seeds[2])


def evaluated(
    lm: Any, tasks: dict[str, Any], params: TaskParams, *, trust_code: bool
) -> dict[str, Any]:
    """The results of `lm_eval.evaluate`, samples included; raises `NonFiniteError`."""
    from lm_eval.evaluator import evaluate

    # Without this lm-eval would start a process for every core to resample in.
    os.environ["DISABLE_MULTIPROC"] = "1"
    try:
        with templates_within_bounds(trusted=trust_code):
            results: dict[str, Any] = evaluate(
                lm=lm,
                task_dict=tasks,
                limit=params.limit,
                bootstrap_iters=BOOTSTRAP_RESAMPLES,
                log_samples=True,
                cache_requests=False,
                system_instruction=params.system_prompt,
                apply_chat_template=params.chat_template,
                fewshot_as_multiturn=params.multiturn,
            )
    except NonFiniteError as error:
        raise NonFiniteError(f"task {params.task.name}: {error}") from error
    return results


def with_prompts(outcome: Outcome, params: TaskParams, prompts: dict[str, Any]) -> Outcome:
    """The outcome with how its prompts were put, and what of that is not as it was asked for."""
    name, warnings = params.task.name, list(outcome.warnings)
    if prompts.get("longer_items"):
        warnings.append(
            f"{prompts['longer_items']} of {outcome.details['items']} items of {name} are longer"
            " than the model's context: what becomes of them is the server's own matter, which may"
            " cut them or read beyond what the model was made for"
        )
    if prompts.get("truncated_items"):
        warnings.append(
            f"{prompts['truncated_items']} of {outcome.details['items']} items of {name}"
            f" are longer than the model's context of {prompts['context_tokens']} tokens and"
            " were cut at their beginning: compare with care, or ask for fewer examples"
        )
    if params.few_shot not in {None, outcome.details["few_shot"]}:
        warnings.append(
            f"{name} was taken with {outcome.details['few_shot']} examples, as it says"
            f" itself, not with few_shot: {params.few_shot}; leave few_shot out"
        )
    return replace(outcome, details={**outcome.details, **prompts}, warnings=tuple(warnings))


def _once(
    loaded: LoadedModel, params: TaskParams, yaml_files: Sequence[Path], seeds: Sequence[int]
) -> Outcome:
    from lm_eval.models.huggingface import HFLM

    # lm-eval gives the tokenizer a padding token, which other measurements must not see.
    tokenizer = copy.deepcopy(loaded.tokenizer)
    check_conversation(params, tokenizer, str(loaded.checkpoint.folder))
    seed_all(seeds)
    special = _special_token_ids(tokenizer)
    lm = HFLM(
        pretrained=loaded.model,
        tokenizer=tokenizer,
        backend="causal",
        batch_size=params.batch,
        max_length=loaded.resolved.context_tokens,
        # Said outright: by default it would be what the tokenizer does, which is the same.
        add_bos_token=bool(special),
        enable_thinking=params.thinking,
        think_end_token=params.think_end_token,
    )
    thoughts = Thoughts(lm.think_end_token, lm.tok_decode)
    # lm-eval takes the largest of numbers that are none for an answer.
    lm._model_generate = _generating(lm, loaded, params, thoughts)  # noqa: SLF001
    tasks = load_tasks(
        params,
        yaml_files,
        lm,
        loaded.tokenizer,
        examples_seed=seeds[3],
        trust_code=loaded.trust_code,
    )
    _check_lengths(tasks["tasks"], int(lm.max_length))
    results = evaluated(lm, tasks, params, trust_code=loaded.trust_code)
    prompts = {
        "special_token_ids": special,
        "context_tokens": lm.max_length,
        "truncated_items": _count_truncated(results["samples"], lm),
        DATA: data_of(tasks["tasks"]),
        **thoughts.details,
    }
    outcome = make_outcome(params.task.name, results, params.cluster)
    told = with_prompts(outcome, params, prompts)
    more = thoughts.warnings(params.task.name, expected=params.thinking is not False)
    return replace(told, warnings=(*told.warnings, *more))


def _check_lengths(tasks: dict[str, Any], context: int) -> None:
    """Raises `MeasurementError` for answers as long as the context, which leave no prompt."""
    for name, task in tasks.items():
        most = (task.get_config("generation_kwargs") or {}).get("max_gen_toks", 0)
        if task.get_config("output_type") == GENERATED and int(most) >= context:
            raise MeasurementError(
                f"task {name}: max_gen_toks: found {most}; expected fewer than the {context} tokens"
                " of the model's context, which hold the prompt too; set a smaller one in"
                " gen_kwargs"
            )


def _generating(lm: Any, loaded: LoadedModel, params: TaskParams, thoughts: Thoughts) -> Any:
    """How lm-eval's model has a batch continued: checked for numbers, with the cell's own cache."""
    own = partial(lm._model_generate, logits_processor=[refuse_nonfinite])  # noqa: SLF001

    def generate(context: Any, **options: Any) -> Any:
        cache = loaded.new_cache()
        try:
            made = own(context, **options, **({} if cache is None else {"past_key_values": cache}))
        except (TypeError, ValueError) as error:
            # transformers refuses what it does not know, or what does not go together.
            if not params.gen_kwargs:
                raise
            message = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise MeasurementError(
                f"task {params.task.name}: gen_kwargs: {params.gen_kwargs} as the model's"
                f" generate() takes them: {message}; correct them, or leave them out"
            ) from error
        if thoughts.end_token is not None:
            thoughts.count(made[:, context.shape[1] :].tolist(), options.get("stop") or ())
        return made

    return generate


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
