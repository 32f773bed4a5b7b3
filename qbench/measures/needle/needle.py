"""A needle in a haystack: a fact somewhere in a long text, and a question for it at the end.

Which lengths a model still reads, and at which depths (Kamradt 2023, Needle In A Haystack). One
item is one length; its needles stand at all depths, each in a stretch of the text of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, NonNegativeInt, PositiveInt

from qbench.core.aliases import Also
from qbench.core.errors import MeasurementError, Problem
from qbench.core.options import plain_options, typed_options
from qbench.core.spec import Frozen, Item
from qbench.measures.generation.continuation import find_stop_ids
from qbench.measures.measurement import Measurement
from qbench.measures.needle.haystack import make_prompt
from qbench.measures.needle.outcome import METRICS, make_outcome
from qbench.measures.needle.reading import Reader
from qbench.measures.needle.words import Kind, draw_needles
from qbench.measures.options import (
    CONTEXT,
    OneOrMoreLengths,
    OneOrMoreText,
    PrefillChunk,
    as_tuple,
    not_empty,
)
from qbench.measures.quality.windows import tokenize
from qbench.sources.data.control_tokens import written_out
from qbench.sources.data.texts import ResolvedText, read_text, resolve_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from qbench.core.record import MetricDefinition
    from qbench.core.spec import ResolvedModel
    from qbench.measures.loaded import LoadedModel, Outcome
    from qbench.measures.needle.haystack import Prompt
    from qbench.measures.needle.reading import Reading

LENGTH_MOST = 4096
"""Greatest length by default, of a model with a longer context."""

_Depth = Annotated[float, Field(ge=0, le=100)]


class NeedleOptions(Frozen):
    """Options of `needle`."""

    text: OneOrMoreText = ("bundled:stdlib-heldout",)
    """What haystacks are made of: `bundled:<name>`, a local file, or the name of a known data set
    (`wikitext-2`). A text that is shorter than a haystack begins again."""
    lengths: Annotated[OneOrMoreLengths | None, Also("max_seq_lengths", "context_lengths")] = None
    """Tokens of the prompt and of what is written after it, `<s>` and the question included, or
    `context` for the model's own context. Half of the context and all of it unless given, at most
    4096. Of a list, lengths beyond a model's context are skipped."""
    depths: Annotated[
        tuple[_Depth, ...],
        AfterValidator(not_empty),
        BeforeValidator(
            as_tuple,
            json_schema_input_type=_Depth | Annotated[list[_Depth], Field(min_length=1)],
        ),
        Also("document_depth_percents"),
    ] = (0.0, 25.0, 50.0, 75.0, 100.0)
    """Percent of the haystack that stands before the needle."""
    needles: Annotated[PositiveInt, Also("num_samples")] = 10
    """Prompts at each length and depth, each with a needle and a stretch of the text of its own."""
    value: Kind = "number"
    """What is to be found: a `number` of seven digits, or two words."""
    seed: NonNegativeInt = 0
    """What keys, values and stretches are drawn by; the same ones at every length."""
    new_tokens: Annotated[
        PositiveInt, Also("max_new_tokens", "max_tokens", "tokens_to_generate")
    ] = 16
    """Tokens that the model may write."""
    chat_template: Annotated[bool, Also("apply_chat_template")] = False
    """Whether text and question are put as a user's message, by the tokenizer's template."""
    batch: Annotated[PositiveInt, Also("batch_size")] = 1
    """Prompts of equal length at once: the same in every cell."""
    prefill_chunk: PrefillChunk = None
    """Tokens of a prompt that one forward reads; all at once unless given."""


class NeedleParams(Frozen):
    """What one item puts to the model, as it stands in its record."""

    text: ResolvedText
    length: int
    new_tokens: int
    depths: tuple[float, ...]
    needles: int
    value: Kind
    seed: int
    chat_template: bool
    batch: int
    prefill_chunk: int | None = None
    """Absent where a prompt is read at once."""


@dataclass(frozen=True)
class NeedleInHaystack(Measurement):
    """What a model finds again in a long text."""

    name: str = "needle"
    summary: str = "a fact hidden in a long text and asked for, by length and depth"
    by_default: bool = False
    options: type[Frozen] = NeedleOptions
    metrics: tuple[MetricDefinition, ...] = METRICS

    def misfit(self, options: NeedleOptions, model: ResolvedModel) -> Problem | None:
        """Lengths that are all beyond the model's context, or leave a prompt no token."""
        context, given = model.context_tokens, options.lengths or ()
        if context is None and CONTEXT in given:
            expected = f"a number of tokens, as the context of {model.ref.name} is not known"
            return Problem("lengths", CONTEXT, expected, "write how long the prompts are")
        lengths = _lengths(options, context)
        least = options.new_tokens + 1
        if min(lengths) < least:
            found, expected = str(min(lengths)), f"at least {least}, one more than new_tokens"
            return Problem("lengths", found, expected, "give greater lengths, or lower new_tokens")
        if context is None or min(lengths) <= context:
            return None
        return Problem(
            "lengths",
            str(min(lengths)),
            f"a length of at most {context}, the context of {model.ref.name}",
            f"give a length of at most {context}",
        )

    def items(self, options: NeedleOptions, model: ResolvedModel, base: Path) -> list[Item]:
        """One item a text and length. Raises `TextError` for a text that cannot be found."""
        chunk = options.prefill_chunk
        made = [
            NeedleParams(
                text=text,
                length=length,
                new_tokens=options.new_tokens,
                depths=options.depths,
                needles=options.needles,
                value=options.value,
                seed=options.seed,
                chat_template=options.chat_template,
                batch=options.batch,
                **({} if chunk is None else {"prefill_chunk": chunk}),
            )
            for text in [resolve_text(source, base=base) for source in options.text]
            for length in _lengths(options, model.context_tokens)
        ]
        return [
            Item(measurement=self.name, slug=_slug(params), params=plain_options(params))
            for params in made
        ]

    def asked_as(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The one length among them."""
        return {**super().asked_as(params), "lengths": params["length"]}

    def measure(self, loaded: LoadedModel, item: Item) -> Outcome:
        """Puts every needle of a length to the model."""
        params = typed_options(NeedleParams, item.params)
        text, tokenizer = read_text(params.text), loaded.tokenizer
        needles = draw_needles(params.depths, params.needles, params.value, params.seed)
        tokens = params.length - params.new_tokens
        chat = params.chat_template
        prompts = [make_prompt(tokenizer, text, one, tokens, chat=chat) for one in needles]
        _check(prompts, loaded, params)
        reader = Reader(
            loaded.model,
            tokenizer,
            loaded.new_cache,
            find_stop_ids(loaded.model, tokenizer),
            params.new_tokens,
            params.prefill_chunk,
        )
        found: dict[str, Reading] = {}
        for group in _in_groups(prompts, params.batch):
            readings = reader.read(group)
            found |= {one.needle.id: read for one, read in zip(group, readings, strict=True)}
        return make_outcome(
            prompts,
            [found[one.needle.id] for one in prompts],
            text_characters=len(text),
            warnings=written_out(tokenizer, tokenize(tokenizer, text)[0]),
        )


def _lengths(options: NeedleOptions, context: int | None) -> list[int]:
    """Tokens of each length, each once."""
    if options.lengths is None:
        most = min(LENGTH_MOST, context or LENGTH_MOST)
        return [most // 2, most]
    found = [context if one == CONTEXT else one for one in options.lengths]
    return list(dict.fromkeys(one for one in found if one is not None))


def _slug(params: NeedleParams) -> str:
    parts = [
        params.text.name,
        f"l{params.length}",
        f"{len(params.depths)}x{params.needles}",
        *(["word"] if params.value == "word" else []),
        *(["chat"] if params.chat_template else []),
    ]
    return "-".join(parts)


def _check(prompts: Sequence[Prompt], loaded: LoadedModel, params: NeedleParams) -> None:
    """Raises `MeasurementError` for values longer than may be written, or ids of another model."""
    longest = max(len(one.answer) for one in prompts)
    if longest > params.new_tokens:
        raise MeasurementError(
            f"new_tokens: found {params.new_tokens}; a value has {longest} tokens under this"
            f" model's tokenizer; set new_tokens to at least {longest}"
        )
    loaded.check_ids(max(max(*one.ids, *one.answer) for one in prompts))


def _in_groups(prompts: Sequence[Prompt], batch: int) -> list[list[Prompt]]:
    """At most `batch` prompts together, of equal length and with answers of equal length."""
    alike: dict[tuple[int, int], list[Prompt]] = {}
    for one in prompts:
        alike.setdefault((len(one.ids), len(one.answer)), []).append(one)
    return [same[at : at + batch] for same in alike.values() for at in range(0, len(same), batch)]


NEEDLE = NeedleInHaystack()
