"""What of the options means something for a task, by what the task's own files say.

An option is kept with the tasks that it concerns, so that the others are the items that they are
without it; one that concerns none of those that are taken is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qbench.core.errors import Problem, TextError
from qbench.measures.tasks.definitions import (
    generation_of,
    likelihood_tasks,
    metrics_of_group,
    reads_metadata,
    writes,
)
from qbench.sources.models.tokenizer_files import chat_template_in

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qbench.core.spec import ResolvedModel
    from qbench.measures.tasks.index import Index
    from qbench.measures.tasks.options import TaskOptions

THINKING = "enable_thinking"
"""What a chat template is told whether to think by."""
LENGTHS = "max_seq_lengths"
"""Of the metadata of RULER's tasks, which score each length by itself."""


def kept_options(options: TaskOptions, name: str, index: Index) -> dict[str, Any]:
    """Those options that a task keeps among its parameters: what concerns it and is not default."""
    given = options.cluster
    kept: dict[str, Any] = {
        "cluster": given.get(name) if isinstance(given, dict) else given,
        "fewshot_as_multiturn": options.fewshot_as_multiturn,
        "system_prompt": options.system_prompt,
        "thinking": options.thinking,
    }
    if writes(name, index):
        kept |= {
            "think_end_token": options.think_end_token,
            "gen_kwargs": options.gen_kwargs or None,
        }
        kept["repeats"] = options.repeats if options.repeats > 1 else None
    if reads_metadata(name, index):
        kept["metadata"] = options.metadata or None
    return {key: value for key, value in kept.items() if value is not None}


def check_effects(options: TaskOptions, names: Sequence[str], index: Index) -> None:
    """Raises `TextError` for an option that no task takes, or that a task must not be given."""
    if not any(writes(name, index) for name in names):
        for key, asked in (
            ("gen_kwargs", bool(options.gen_kwargs)),
            ("think_end_token", options.think_end_token is not None and not options.thinking),
            ("repeats", options.repeats > 1),
        ):
            if asked:
                raise TextError(
                    f"{key}: {', '.join(names)}: scored by the likelihoods of given texts, so that"
                    " nothing is generated; name a task that generates, or leave it out"
                )
    if options.metadata and not any(reads_metadata(name, index) for name in names):
        raise TextError(
            f"metadata: {', '.join(names)}: no function of the task's own makes its data, so that"
            " none would read it; leave it out"
        )
    for name in names:
        _check_thinking(options, name, index)
        _check_sampling(options, name, index)
        _check_lengths(options, name, index)


def _check_thinking(options: TaskOptions, name: str, index: Index) -> None:
    scored = likelihood_tasks(name, index) if options.thinking else []
    if scored:
        raise TextError(
            f"thinking: {', '.join(scored)}: scored by the likelihoods of given texts, before which"
            " lm-eval has no model think; name tasks that generate"
        )


def _check_sampling(options: TaskOptions, name: str, index: Index) -> None:
    """What lm-eval would pass over in silence: a temperature of greedy answers, equal repeats."""
    for generation in generation_of(name, index, options.gen_kwargs):
        asked, sampled = options.gen_kwargs.get("temperature"), generation.get("do_sample")
        if asked and sampled is False:
            raise TextError(
                f"gen_kwargs: temperature {asked} for {name}, whose answers are greedy"
                " (do_sample: false); add do_sample: true"
            )
        given = options.gen_kwargs or options.repeats > 1
        if given and sampled and not generation.get("temperature"):
            raise TextError(
                f"gen_kwargs: do_sample: true for {name}, without a temperature above 0, at which"
                " answers are greedy; add a temperature"
            )
        if options.repeats > 1 and not (sampled or (sampled is None and asked)):
            raise TextError(
                f"repeats: {options.repeats} of {name}, whose answers are greedy and come out the"
                " same each time; sample them with `gen_kwargs: {do_sample: true, temperature: …}`"
            )


def _check_lengths(options: TaskOptions, name: str, index: Index) -> None:
    """Raises `TextError` for a group with scores of other lengths than are asked for."""
    lengths = options.metadata.get(LENGTHS)
    if lengths is None or not reads_metadata(name, index):
        return
    if not (isinstance(lengths, list | tuple) and lengths) or not all(
        isinstance(one, int) and not isinstance(one, bool) and one > 0 for one in lengths
    ):
        raise TextError(f"metadata: {LENGTHS}: found {lengths}; expected a list such as [4096]")
    scored = metrics_of_group(name, index)
    if scored and all(one.isdecimal() and int(one) not in lengths for one in scored):
        raise TextError(
            f"metadata: {LENGTHS}: the group {name} has a score at {', '.join(scored)} alone; name"
            " its tasks in its place, each of which scores every length"
        )


def thinking_misfit(options: TaskOptions, model: ResolvedModel) -> Problem | None:
    """Thinking that is asked of a chat template which knows nothing of it, where it is here."""
    if options.thinking is None or model.folder is None:
        return None
    template = chat_template_in(Path(model.folder))
    if template is None or THINKING in template:
        return None
    return Problem(
        "thinking",
        f"{str(options.thinking).lower()}, and the chat template of {model.ref.name} has no"
        f" `{THINKING}`",
        "a template that can be told whether to think",
        "leave `thinking` out; `think_end_token` alone strips the thoughts of a model that always"
        " thinks",
    )
