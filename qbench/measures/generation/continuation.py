"""How a model continues a prompt: with the likeliest next token each time, or with a drawn one."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qbench.core.errors import MeasurementError, NonFiniteError, Problem
from qbench.finetune.train.examples import added_ids
from qbench.sources.data.chat import ChatTemplateError, apply_chat_template

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

    from qbench.core.spec import ResolvedModel
    from qbench.measures.loaded import LoadedModel
    from qbench.sources.data.prompts import Prompt


@dataclass(frozen=True)
class Continuation:
    """What the model made of one prompt."""

    prompt_ids: list[int]
    new_ids: list[int]
    """The end token last, where the model ended."""
    text: str
    """New text only, special tokens left out; U+FFFD where the bytes are no UTF-8."""
    ended: bool
    """Whether an end token came before the limit of tokens or with it."""


def encode(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, *, chat: bool) -> list[int]:
    """The prompt's ids as the model is used: with `<s>` if its tokenizer puts it there, once.

    What a tokenizer puts behind a text is left out: nothing goes on after an end.

    `chat`: its messages, or its text as a user's, in the tokenizer's chat template. Raises
    `MeasurementError` where there is none that takes them.
    """
    return encode_text(tokenizer, as_asked(tokenizer, prompt, chat=chat), chat=chat)


def as_asked(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, *, chat: bool) -> str:
    """The text that a model goes on with; the arguments are those of `encode`."""
    return _as_chat(tokenizer, prompt) if chat else prompt.text


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str, *, chat: bool) -> list[int]:
    """The ids of what `as_asked` wrote, or of that and the beginning of an answer behind it."""
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    # A chat template writes the special tokens itself.
    before = [] if chat else added_ids(tokenizer)[0]
    return ids if ids[: len(before)] == before else [*before, *ids]


def _as_chat(tokenizer: PreTrainedTokenizerBase, prompt: Prompt) -> str:
    if not tokenizer.chat_template:
        raise MeasurementError(
            "chat_template is on, but the model's tokenizer has no chat template; set"
            " chat_template: false, or save a template with the tokenizer"
        )
    try:
        return apply_chat_template(tokenizer, prompt.conversation, ask=True)
    except ChatTemplateError as error:
        taken = "these messages" if prompt.messages else "a single user message"
        raise MeasurementError(
            f"the tokenizer's chat template does not take {taken} ({error}); set"
            " chat_template: false, or fix the template"
        ) from error


def new_tokens_misfit(new_tokens: int, model: ResolvedModel) -> Problem | None:
    """More new tokens than the context has room for beside a prompt of one token."""
    context = model.context_tokens
    if context is None or new_tokens < context:
        return None
    return Problem(
        "new_tokens",
        str(new_tokens),
        f"fewer than {context}, the context of {model.ref.name}",
        "leave room for the prompts too",
    )


def check_prompts(encoded: list[list[int]], loaded: LoadedModel, new_tokens: int) -> None:
    """Raises `MeasurementError` for a prompt that the model cannot take with what it writes."""
    context = loaded.resolved.context_tokens
    for number, ids in enumerate(encoded, 1):
        if not ids:
            raise MeasurementError(
                f"prompt {number} has no tokens under this model's tokenizer; give another prompt"
            )
        if context is not None and len(ids) + new_tokens > context:
            raise MeasurementError(
                f"prompt {number} has {len(ids)} tokens, and with {new_tokens} new ones does not"
                f" fit the model's context of {context}; expected at most {context - new_tokens};"
                " shorten the prompt or lower new_tokens"
            )
        loaded.check_ids(max(ids))


def find_stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids that end a text: of the generation configuration, else the model's or tokenizer's."""
    for holder in (getattr(model, "generation_config", None), model.config, tokenizer):
        found = getattr(holder, "eos_token_id", None)
        if found is not None:
            return [found] if isinstance(found, int) else list(found)
    return []


@dataclass(frozen=True)
class Drawing:
    """That tokens are drawn by their probabilities, and how."""

    temperature: float
    """What logits are divided by."""
    seed: int


def continue_prompt(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt_ids: list[int],
    *,
    new_tokens: int,
    stop_ids: list[int],
    cache: Any = None,
    drawing: Drawing | None = None,
    prefill_chunk: int | None = None,
) -> Continuation:
    """The likeliest next token, up to `new_tokens` times; the first of equally likely ones.

    `cache` is an empty one to fill in place of the model's own. With `drawing` each token is drawn
    from all of them instead. `prefill_chunk` tokens of the prompt are read at once, or all.

    Raises `MeasurementError` for a model that cannot generate, `NonFiniteError` for logits that are
    no numbers.
    """
    import torch
    from transformers import GenerationConfig

    if not (hasattr(model, "generate") and model.can_generate()):
        raise MeasurementError(
            f"{type(model).__name__} cannot generate text; expected a causal language model; leave"
            " generation out of the suite"
        )
    drawn: dict[str, Any] = {"do_sample": False}
    if drawing is not None:
        # The library's own defaults would leave out all but 50 tokens.
        drawn = {"do_sample": True, "temperature": drawing.temperature, "top_k": 0, "top_p": 1.0}
    wanted = GenerationConfig(
        max_new_tokens=new_tokens,
        num_beams=1,
        use_cache=True,
        eos_token_id=stop_ids or None,
        # Never used for a single sequence; without it transformers chooses one and says so.
        pad_token_id=stop_ids[0] if stop_ids else 0,
        prefill_chunk_size=prefill_chunk,
        **drawn,
    )
    ids = torch.tensor([prompt_ids], device=model.device)
    with torch.inference_mode(), _without_defaults(model), _seeded(drawing, ids.device):
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=wanted,
            logits_processor=[refuse_nonfinite],
            **({} if cache is None else {"past_key_values": cache}),
        )
    new_ids: list[int] = out[0, len(prompt_ids) :].tolist()
    return Continuation(
        prompt_ids=prompt_ids,
        new_ids=new_ids,
        text=new_text(tokenizer, prompt_ids, new_ids),
        ended=bool(new_ids) and new_ids[-1] in stop_ids,
    )


@contextmanager
def _seeded(drawing: Drawing | None, device: torch.device) -> Iterator[None]:
    """Draws the same numbers each time, and leaves the generators as they were."""
    import torch

    if drawing is None:
        yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(drawing.seed)
        yield


@contextmanager
def _without_defaults(model: PreTrainedModel) -> Iterator[None]:
    """Puts the model's own generation defaults aside, which `generate` would fill in.

    A repetition penalty, suppressed or forced tokens of a checkpoint would make greedy decoding
    something else than the likeliest token.
    """
    from transformers import GenerationConfig

    own: GenerationConfig = model.generation_config
    model.generation_config = GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


def refuse_nonfinite(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """A processor of logits (batch, vocabulary) that changes none, for transformers' `generate`.

    Raises `NonFiniteError` where no token of a row is the likeliest: the largest of numbers that
    are none is still given as one. Minus infinity rules a token out and may stay.
    """
    if not bool(scores.amax(-1).isfinite().all()):
        raise NonFiniteError(
            f"the logits after {input_ids.shape[1]} tokens are infinite or not numbers, so that no"
            " token is the likeliest; hold the model in a type with a wider range"
        )
    return scores


def new_text(tokenizer: PreTrainedTokenizerBase, prompt_ids: list[int], new_ids: list[int]) -> str:
    """The new tokens' text as it follows the prompt's: some tokenizers drop a leading space."""

    def decode(ids: list[int]) -> str:
        text: str = tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    before, whole = decode(prompt_ids), decode([*prompt_ids, *new_ids])
    return whole.removeprefix(before) if whole.startswith(before) else decode(new_ids)
