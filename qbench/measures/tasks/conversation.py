"""Whether a tokenizer's chat template can do what a suite asks of it, before items are put."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qbench.core.errors import MeasurementError
from qbench.measures.tasks.fit import THINKING
from qbench.sources.data.chat import ChatTemplateError, apply_chat_template

if TYPE_CHECKING:
    from qbench.measures.tasks.options import TaskParams


def check_conversation(params: TaskParams, tokenizer: Any, place: str) -> None:
    """Raises `MeasurementError` for what lm-eval would pass over in silence.

    `place` is where the tokenizer lies.
    """
    task = f"task {params.task.name}"
    _check_end_token(task, params.think_end_token, tokenizer)
    if not params.chat_template:
        return
    if not tokenizer.chat_template:
        raise MeasurementError(
            f"{task}: chat_template is asked for, but the tokenizer in {place} has none; set"
            " chat_template: false, or use the model's instruction-tuned sibling"
        )
    if params.thinking is not None and THINKING not in str(tokenizer.chat_template):
        raise MeasurementError(
            f"{task}: thinking is asked for, but the chat template of the tokenizer in {place} has"
            f" no `{THINKING}`; leave thinking out"
        )
    if params.system_prompt is not None:
        _check_system(task, params.system_prompt, tokenizer, place)


def _check_end_token(task: str, token: str | int | None, tokenizer: Any) -> None:
    if isinstance(token, int) and token >= len(tokenizer):
        raise MeasurementError(
            f"{task}: think_end_token: found id {token}; expected one below {len(tokenizer)}, the"
            " tokens of the tokenizer; correct it"
        )
    if isinstance(token, str) and token in tokenizer.all_special_tokens:
        raise MeasurementError(
            f"{task}: think_end_token: found {token}, a special token, which is not in the text"
            f" that is read; give its id: {tokenizer.convert_tokens_to_ids(token)}"
        )


def _check_system(task: str, prompt: str, tokenizer: Any, place: str) -> None:
    messages = [{"role": "system", "content": prompt}, {"role": "user", "content": "?"}]
    try:
        written = apply_chat_template(tokenizer, messages, ask=True)
    except ChatTemplateError as error:
        written, why = "", f"refuses it ({error})"
    else:
        why = "leaves it out"
    if prompt.strip() not in written:
        raise MeasurementError(
            f"{task}: system_prompt is given, but the chat template of the tokenizer in {place}"
            f" {why}; leave system_prompt out"
        )
