"""A task, or a group's tasks, loaded with their data and set up as a suite asks."""

from __future__ import annotations

import json
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from qbench.core.errors import MeasurementError
from qbench.core.files import scratch_folder
from qbench.core.packages import install_command
from qbench.measures.tasks.clusters import check_field
from qbench.measures.tasks.definitions import makes_data, packages_lacking_in
from qbench.measures.tasks.index import GENERATED
from qbench.measures.untrusted_code import nothing_fetched, templates_within_bounds

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

    from qbench.measures.tasks.options import TaskParams


def load_tasks(
    params: TaskParams,
    yaml_files: Sequence[Path],
    lm: Any,
    tokenizer: PreTrainedTokenizerBase,
    *,
    examples_seed: int,
    trust_code: bool,
) -> dict[str, Any]:
    """The task, or the group's tasks, as lm-eval's `evaluate` takes them.

    `yaml_files` are those of the task, or of the group and its members; `lm` is lm-eval's model.
    Raises `MeasurementError` when the task or its data is not there, or is not of a kind that can
    be put to this model. Unless `trust_code`, templates are confined and no metric's script is
    loaded; none is fetched.
    """
    name = params.task.name
    with (
        nothing_fetched(trusted=trust_code),
        templates_within_bounds(trusted=trust_code),
        _metadata(params, yaml_files, tokenizer) as metadata,
    ):
        tasks = _load(name, yaml_files, metadata)
    for task_name, task in tasks["tasks"].items():
        _check_fit(task_name, task)
        _check_tokens(task_name, task, lm, tokenizer)
        _check_metrics(task_name, task)
        check_field(task_name, next(iter(task.eval_docs), {}), params.cluster)
        if params.gen_kwargs and task.get_config("output_type") == GENERATED:
            task.set_config(key="generation_kwargs", value=dict(params.gen_kwargs), update=True)
        _set_few_shot(task, params.few_shot)
        task.set_fewshot_seed(examples_seed)
    return tasks


@contextmanager
def _metadata(
    params: TaskParams, yaml_files: Sequence[Path], tokenizer: PreTrainedTokenizerBase
) -> Iterator[dict[str, Any]]:
    """What tasks that make their own data are told: as by the command, where the tokenizer is too.

    They load it with its repository's Python; a copy of what was loaded here names none.
    """
    if not makes_data(yaml_files):
        yield dict(params.metadata)
        return
    with scratch_folder("qbench-tokenizer") as folder:
        tokenizer.save_pretrained(folder)
        config = folder / "tokenizer_config.json"
        held = json.loads(config.read_text(encoding="utf-8"))
        held.pop("auto_map", None)
        config.write_text(json.dumps(held), encoding="utf-8")
        yield {"pretrained": str(folder), **params.metadata}


def _load(name: str, yaml_files: Sequence[Path], metadata: dict[str, Any]) -> dict[str, Any]:
    """The task, or the group's tasks, with their data.

    lm-eval looks through the folders of these files alone, not through all its own.
    """
    from lm_eval.tasks import TaskManager

    folders = list(dict.fromkeys(path.parent for path in yaml_files))
    try:
        manager = TaskManager(include_path=folders, include_defaults=False, metadata=metadata)
        loaded: dict[str, Any] = manager.load([name])
    except MemoryError:
        raise
    except Exception as error:
        message = next(iter(str(error).strip().splitlines()), "no message")
        raise MeasurementError(
            f"task {name}: the task or its data cannot be loaded ({type(error).__name__}:"
            f" {message}); {_remedy(error, yaml_files)}"
        ) from error
    return loaded


def _remedy(error: Exception, yaml_files: Sequence[Path]) -> str:
    if isinstance(error, ImportError):
        lacking = packages_lacking_in(yaml_files)
        return f"{install_command(lacking)}" if lacking else "install the package that it names"
    if "haystack" in str(error):
        return (
            "check the lengths in `metadata`, in tokens of this model; of essays, sentences are"
            " told apart by nltk's punkt_tab, which `python -m nltk.downloader punkt_tab` fetches"
        )
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


def _check_tokens(name: str, task: Any, lm: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises `MeasurementError` where the tokenizer lacks a token that the task cannot do without.

    lm-eval ends what a model writes at the end token, and begins a text with `<s>` or with it.
    """
    kind = task.OUTPUT_TYPE
    needed = {"generate_until": lm.eot_token_id, "loglikelihood_rolling": lm.prefix_token_id}
    if kind in needed and needed[kind] is None:
        raise MeasurementError(
            f"task {name}: the tokenizer in {tokenizer.name_or_path} has no end token, which"
            " lm-eval needs to put it; add eos_token to its tokenizer_config.json, as the model's"
            " maker has it"
        )


def _set_few_shot(task: Any, few_shot: int | None) -> None:
    """As the command does: a task that says 0 by itself stays at 0."""
    own = task.get_config("num_fewshot")
    if few_shot is not None and own != 0:
        task.set_config(key="num_fewshot", value=few_shot)
    elif own is None:
        task.set_config(key="num_fewshot", value=0)
