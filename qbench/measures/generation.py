"""Greedy continuations of a fixed list of prompts, to be put beside the reference's.

Token ids and texts are kept in the record: the report shows where two cells part. Where the prompts
have references, the texts are scored against them.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, PositiveInt

from qbench.errors import MeasurementError, NonFiniteError
from qbench.measures import references as scoring
from qbench.measures.loaded import Outcome, make_metric
from qbench.measures.references import METRIC_OF_SCORE, SCORES, ScoreName
from qbench.record import MetricDefinition
from qbench.sources.prompts import Prompt, ResolvedPrompts, read_prompts, resolve_prompts
from qbench.spec import Frozen, Item

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import torch
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

    from qbench.measures.loaded import LoadedModel
    from qbench.spec import ResolvedModel

BATCH = 1
"""Prompts at once: padding and neighbours would change LLM.int8's outliers, and so the tokens."""
_ID_DIGITS = 12

METRICS = (
    MetricDefinition(
        name="generation.tokens",
        unit="1",
        better="neither",
        title="generated tokens",
        formula="new tokens over all prompts, end tokens included",
    ),
    *scoring.METRICS,
)


class GenerationOptions(Frozen):
    """Options of `generation`."""

    prompts: (
        Annotated[str, Field(min_length=1)]
        | Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
    ) = "bundled:stdlib-prompts"
    """`bundled:<name>`, a `.jsonl` file (`{"prompt": …, "reference": …}` a line), a `.txt` file (a
    prompt a line), or a list of prompts."""
    count: PositiveInt = 8
    """Take the first so many of the prompts, or all if there are fewer."""
    new_tokens: PositiveInt = 64
    """Tokens to generate, unless the model ends before."""
    scores: Annotated[tuple[ScoreName, ...], Field(min_length=1)] = SCORES
    """What to compute where the prompts have references."""
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """Only the text before the first of these is scored; what is shown is not cut."""
    chat_template: bool = False
    """Give each prompt as a user's message in the tokenizer's chat template."""


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


@dataclass(frozen=True)
class Generation:
    """What the model writes, token by token the likeliest."""

    name: str = "generation"
    summary: str = "greedy continuations of fixed prompts, scored against references"
    needs: tuple[str, ...] = ()
    options: type[Frozen] = GenerationOptions
    metrics: tuple[MetricDefinition, ...] = METRICS
    trusts_kernels: bool = True

    def misfit(
        self, options: GenerationOptions, model: ResolvedModel
    ) -> tuple[str, str, str, str] | None:
        """More new tokens than the context has room for beside a prompt of one token."""
        context = model.context_tokens
        if context is None or options.new_tokens < context:
            return None
        return (
            "new_tokens",
            str(options.new_tokens),
            f"fewer than {context}, the context of {model.ref.name}",
            "leave room for the prompts too",
        )

    def items(self, options: GenerationOptions, model: ResolvedModel, base: Path) -> list[Item]:
        """One item: the prompts. Raises `TextError` for prompts that cannot be found or used."""
        prompts = resolve_prompts(options.prompts, count=options.count, base=base)
        slug = f"{prompts.name}-n{prompts.count}-t{options.new_tokens}"
        return [
            Item(
                measurement=self.name,
                slug=f"{slug}-chat" if options.chat_template else slug,
                params={
                    # By this name, as a text: where it lies is no part of a record's identity.
                    "text": prompts.model_dump(mode="json"),
                    "count": prompts.count,
                    "new_tokens": options.new_tokens,
                    "scores": [name for name in SCORES if name in options.scores],
                    "stop": list(options.stop),
                    "chat_template": options.chat_template,
                    "batch": BATCH,
                },
            )
        ]

    def measure(self, loaded: LoadedModel, item: Item) -> Outcome:
        """Generates one prompt after another and scores the texts."""
        params = item.params
        prompts = read_prompts(ResolvedPrompts(**params["text"]))
        tokenizer = loaded.tokenizer
        encoded = [_encode(tokenizer, prompt.text, params["chat_template"]) for prompt in prompts]
        _check(encoded, loaded, params["new_tokens"])
        stop_ids = _stop_ids(loaded.model, tokenizer)
        made = [
            _continue(loaded, ids, params["new_tokens"], stop_ids, number)
            for number, ids in enumerate(encoded, 1)
        ]
        texts = [_cut(one.text, params["stop"]) for one in made]
        scored = _score(texts, prompts, params["scores"])
        tokens = [len(one.new_ids) for one in made]
        return Outcome(
            metrics=(
                make_metric(METRICS, "generation.tokens", sum(tokens)),
                *(
                    make_metric(
                        METRICS, METRIC_OF_SCORE[name], found.value, reason=found.reason
                    )
                    for name, found in scored.items()
                ),
            ),
            series={
                "item_tokens": [float(count) for count in tokens],
                **{
                    f"item_{METRIC_OF_SCORE[name].rpartition('.')[2]}": list(found.each)
                    for name, found in scored.items()
                    if found.each is not None
                },
            },
            details={
                "prompts": [prompt.text for prompt in prompts],
                "references": [prompt.reference for prompt in prompts]
                if prompts[0].reference is not None
                else None,
                "generated": [one.text for one in made],
                "generated_ids": [one.new_ids for one in made],
                "ended": [one.ended for one in made],
                "prompt_tokens": [len(one.prompt_ids) for one in made],
                "item_ids": _item_ids(prompts),
                "ids_sha256": hashlib.sha256(repr(encoded).encode()).hexdigest(),
                "stop_token_ids": stop_ids,
            },
        )


def _encode(tokenizer: PreTrainedTokenizerBase, prompt: str, chat_template: bool) -> list[int]:  # noqa: FBT001 - as the option
    """The prompt's ids as the model is used: with `<s>` if its tokenizer puts it there, once."""
    text = _as_chat(tokenizer, prompt) if chat_template else prompt
    # A chat template writes the special tokens itself.
    ids = list(tokenizer(text, add_special_tokens=not chat_template, verbose=False)["input_ids"])
    bos = tokenizer.bos_token_id
    return ids[1:] if bos is not None and ids[:2] == [bos, bos] else ids


def _as_chat(tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    from jinja2 import TemplateError

    if not tokenizer.chat_template:
        raise MeasurementError(
            "chat_template is on, but the model's tokenizer has no chat template; set"
            " chat_template: false, or save a template with the tokenizer"
        )
    message = [{"role": "user", "content": prompt}]
    try:
        text: str = tokenizer.apply_chat_template(
            message, tokenize=False, add_generation_prompt=True
        )
    except (TemplateError, TypeError, ValueError) as error:
        raise MeasurementError(
            f"the tokenizer's chat template does not take a single user message ({error}); set"
            " chat_template: false, or mend the template"
        ) from error
    return text


def _check(encoded: list[list[int]], loaded: LoadedModel, new_tokens: int) -> None:
    """Raises `MeasurementError` for a prompt that the model cannot take with its continuation."""
    context = loaded.resolved.context_tokens
    rows = loaded.model.get_input_embeddings().weight.shape[0]
    for number, ids in enumerate(encoded, 1):
        if not ids:
            raise MeasurementError(
                f"prompt {number} has no tokens under this model's tokenizer; give another prompt"
            )
        if context is not None and len(ids) + new_tokens > context:
            room = context - new_tokens
            raise MeasurementError(
                f"prompt {number} has {len(ids)} tokens, and with {new_tokens} new ones does not"
                f" fit the model's context of {context}; expected at most {room}; shorten the"
                " prompt or lower new_tokens"
            )
        if max(ids) >= rows:
            raise MeasurementError(
                f"the tokenizer gives id {max(ids)}, but the model's embedding has {rows} rows: the"
                f" tokenizer in {loaded.folder} is not this model's"
            )


def _stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Ids that end a text: of the generation configuration, else the model's or tokenizer's."""
    for holder in (getattr(model, "generation_config", None), model.config, tokenizer):
        found = getattr(holder, "eos_token_id", None)
        if found is not None:
            return [found] if isinstance(found, int) else list(found)
    return []


def _continue(
    loaded: LoadedModel, prompt_ids: list[int], new_tokens: int, stop_ids: list[int], number: int
) -> Continuation:
    """The likeliest next token, up to `new_tokens` times; the first of equally likely ones."""
    import torch
    from transformers import GenerationConfig

    model = loaded.model
    if not (hasattr(model, "generate") and model.can_generate()):
        raise MeasurementError(
            f"{type(model).__name__} cannot generate text; expected a causal language model; leave"
            " generation out of the suite"
        )
    greedy = GenerationConfig(
        max_new_tokens=new_tokens,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        eos_token_id=stop_ids or None,
        # Never used for a single sequence; without it transformers chooses one and says so.
        pad_token_id=stop_ids[0] if stop_ids else 0,
    )
    ids = torch.tensor([prompt_ids], device=loaded.torch_device)
    with torch.inference_mode(), _without_defaults(model):
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=greedy,
            logits_processor=[_NumbersOnly(number)],
        )
    new_ids: list[int] = out[0, len(prompt_ids) :].tolist()
    return Continuation(
        prompt_ids=prompt_ids,
        new_ids=new_ids,
        text=_text(loaded.tokenizer, prompt_ids, new_ids),
        ended=bool(new_ids) and new_ids[-1] in stop_ids,
    )


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


@dataclass(frozen=True)
class _NumbersOnly:
    """Ends generation at logits that no token can be chosen by; minus infinity is ruled out."""

    prompt_number: int

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if not bool((scores < float("inf")).all()):
            raise NonFiniteError(
                f"prompt {self.prompt_number}: the logits after {input_ids.shape[1]} tokens are"
                " infinite or not numbers; hold the model in a type with a wider range"
            )
        return scores


def _text(tokenizer: PreTrainedTokenizerBase, prompt_ids: list[int], new_ids: list[int]) -> str:
    """The new tokens' text as it follows the prompt's: some tokenizers drop a leading space."""

    def decode(ids: list[int]) -> str:
        text: str = tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    before, whole = decode(prompt_ids), decode([*prompt_ids, *new_ids])
    return whole.removeprefix(before) if whole.startswith(before) else decode(new_ids)


def _cut(text: str, stop: Sequence[str]) -> str:
    """The text before the first of the stops."""
    ends = [at for each in stop if (at := text.find(each)) >= 0]
    return text[: min(ends, default=len(text))]


def _score(
    texts: list[str], prompts: list[Prompt], wanted: Sequence[ScoreName]
) -> dict[ScoreName, scoring.Scored]:
    """Every score by name; without a value, and with the reason, where it was not computed."""
    references = [prompt.reference for prompt in prompts if prompt.reference is not None]
    found: dict[ScoreName, scoring.Scored] = {}
    for name in SCORES:
        if not references:
            found[name] = scoring.Scored(None, None, "the prompts have no references")
        elif name not in wanted:
            found[name] = scoring.Scored(None, None, f"{name} is not among the suite's scores")
        else:
            found[name] = scoring.score(name, texts, references)
    return found


def _item_ids(prompts: list[Prompt]) -> list[str]:
    """Names the prompts for paired statistics: the same words, as often, are the same items."""
    times: Counter[str] = Counter()
    names = []
    for prompt in prompts:
        digest = hashlib.sha256(prompt.text.encode()).hexdigest()[:_ID_DIGITS]
        times[digest] += 1
        names.append(f"{digest}-{times[digest]}")
    return names


GENERATION = Generation()
