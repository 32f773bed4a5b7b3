"""Greedy continuations of a fixed list of prompts, to be put beside the reference's.

Token ids and texts are kept in the record: the report shows where two cells part. Where the prompts
have references, the texts are scored against them.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PositiveInt

from qbench.core.aliases import Also
from qbench.core.errors import MeasurementError, Problem
from qbench.core.options import plain_options, typed_options
from qbench.core.record import MetricDefinition
from qbench.core.spec import Frozen, Item
from qbench.finetune.train.examples import prompt_ids
from qbench.measures.generation import references as scoring
from qbench.measures.generation.continuation import (
    check_prompts,
    continue_prompt,
    encode,
    find_stop_ids,
    new_tokens_misfit,
)
from qbench.measures.generation.evaluate_metrics import EvaluateName, evaluated, resolve_name
from qbench.measures.generation.references import METRIC_OF_SCORE, SCORES, ScoreName
from qbench.measures.loaded import Outcome, make_metric
from qbench.measures.measurement import Measurement
from qbench.sources.data.prompts import (
    Prompt,
    ResolvedPrompts,
    item_names,
    read_prompts,
    resolve_prompts,
)
from qbench.sources.data.tuning import ResolvedTuningData, load_splits

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from qbench.core.record import Metric
    from qbench.core.spec import ResolvedModel
    from qbench.measures.loaded import LoadedModel

BATCH = 1
"""Prompts at once: padding and neighbours would change LLM.int8's outliers, and so the tokens."""

Scored = Literal["whole", "paragraph", "line"]
_END_OF: dict[Scored, str | None] = {
    "whole": None,
    "paragraph": r"\n[ \t\r]*\n",
    "line": r"\n",
}

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
    """`bundled:<name>`, a `.jsonl` file (`{"prompt": …, "reference": …}` a line, of a conversation
    `messages` in place of `prompt`), a `.txt` file (a prompt a line), or a list of prompts."""
    count: Annotated[PositiveInt, Also("num_prompts")] = 8
    """Take the first so many of the prompts, or all if there are fewer."""
    new_tokens: Annotated[PositiveInt, Also("max_new_tokens", "max_tokens")] = 64
    """Tokens to generate, unless the model ends before."""
    scores: tuple[EvaluateName, ...] = SCORES
    """What to compute where the prompts have references: these, or metrics of `evaluate` by name or
    folder, which need the suite's `trust_code: true`."""
    scored: Scored = "whole"
    """How much of each text is scored, from its first character that is no white space: all, up to
    the first blank line, or up to the end of the line. A model that never ends needs it; what is
    shown is not cut."""
    chat_template: Annotated[bool, Also("apply_chat_template")] = False
    """Give each prompt as a user's message in the tokenizer's chat template."""


class GenerationParams(Frozen):
    """What one item generates, as it stands in its record."""

    text: ResolvedPrompts | None = None
    """The prompts, by this name as a text: where they lie is no part of a record's identity."""
    data: ResolvedTuningData | None = None
    """In place of a text: what is tuned on, whose test split has the prompts."""
    count: int
    new_tokens: int
    scores: tuple[str, ...]
    scored: Scored
    chat_template: bool
    batch: int


@dataclass(frozen=True)
class Generation(Measurement):
    """What the model writes, token by token the likeliest."""

    name: str = "generation"
    summary: str = "greedy continuations of fixed prompts, scored against references"
    options: type[Frozen] = GenerationOptions
    metrics: tuple[MetricDefinition, ...] = METRICS

    def misfit(self, options: GenerationOptions, model: ResolvedModel) -> Problem | None:
        """More new tokens than the context has room for beside a prompt of one token."""
        return new_tokens_misfit(options.new_tokens, model)

    def items(self, options: GenerationOptions, model: ResolvedModel, base: Path) -> list[Item]:
        """One item: the prompts. Raises `TextError` for prompts that cannot be found or used."""
        prompts = resolve_prompts(options.prompts, count=options.count, base=base)
        slug = f"{prompts.name}-n{prompts.count}-t{options.new_tokens}"
        return [
            Item(
                measurement=self.name,
                slug=f"{slug}-chat" if options.chat_template else slug,
                params=plain_options(
                    GenerationParams(
                        text=prompts,
                        count=prompts.count,
                        new_tokens=options.new_tokens,
                        scores=(
                            *(name for name in SCORES if name in options.scores),
                            *(
                                resolve_name(name, base)
                                for name in options.scores
                                if name not in SCORES
                            ),
                        ),
                        scored=options.scored,
                        chat_template=options.chat_template,
                        batch=BATCH,
                    )
                ),
            )
        ]

    def asked_as(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The prompts; of those of a test split, what is generated and how it is scored."""
        asked = super().asked_as(params)
        if params.get("data") is not None:
            # Its scores may be those of a recipe, and no chat template puts it.
            return {name: asked[name] for name in ("count", "new_tokens", "scored")}
        return {**asked, "prompts": params["text"]}

    def measure(self, loaded: LoadedModel, item: Item) -> Outcome:
        """Generates one prompt after another and scores the texts."""
        params = typed_options(GenerationParams, item.params)
        tokenizer = loaded.tokenizer
        prompts, encoded, warnings = _prompts(params, loaded)
        check_prompts(encoded, loaded, params.new_tokens)
        stop_ids = find_stop_ids(loaded.model, tokenizer)
        made = [
            continue_prompt(
                loaded.model,
                tokenizer,
                ids,
                new_tokens=params.new_tokens,
                stop_ids=stop_ids,
                cache=loaded.new_cache(),
            )
            for ids in encoded
        ]
        texts = [scored_part(one.text, params.scored) for one in made]
        scored = _score(texts, prompts, params.scores)
        tokens = [len(one.new_ids) for one in made]
        return Outcome(
            metrics=(
                make_metric(METRICS, "generation.tokens", sum(tokens)),
                *(
                    make_metric(METRICS, METRIC_OF_SCORE[name], found.value, reason=found.reason)
                    for name, found in scored.items()
                ),
                *_evaluated(texts, prompts, params.scores, trusted=loaded.trust_code),
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
                "item_ids": item_names(prompts),
                "ids_sha256": hashlib.sha256(repr(encoded).encode()).hexdigest(),
                "stop_token_ids": stop_ids,
            },
            warnings=warnings,
        )


def test_split_item(
    options: GenerationOptions, data: ResolvedTuningData, scores: Sequence[str] | None, base: Path
) -> Item:
    """The item for the prompts of the test split of what is tuned on, scored by its completions.

    `scores` are those of the data's own recipe, None for the suite's; paths start at `base`.
    """
    params = GenerationParams(
        data=data,
        count=options.count,
        new_tokens=options.new_tokens,
        scores=tuple(resolve_name(name, base) for name in scores or options.scores),
        scored=options.scored,
        chat_template=False,
        batch=BATCH,
    )
    slug = f"test-split-n{options.count}-t{options.new_tokens}"
    return Item(measurement="generation", slug=slug, params=plain_options(params))


def _prompts(
    params: GenerationParams, loaded: LoadedModel
) -> tuple[list[Prompt], list[list[int]], tuple[str, ...]]:
    """The prompts of the item: of a file, of the suite, or of the test split; and their ids."""
    tokenizer = loaded.tokenizer
    if params.text is not None:
        prompts = read_prompts(params.text)
        chat = params.chat_template
        return prompts, [encode(tokenizer, prompt, chat=chat) for prompt in prompts], ()
    if params.data is None:
        raise MeasurementError("an item needs prompts, or data with a test split")
    splits = load_splits(params.data, tokenizer)
    examples = splits.test[: params.count]
    return (
        [Prompt(one.prompt, one.completion) for one in examples],
        [prompt_ids(one, tokenizer) for one in examples],
        splits.warnings,
    )


def scored_part(text: str, scored: Scored) -> str:
    """What of a generated text is scored."""
    end = _END_OF[scored]
    return text if end is None else re.split(end, text.lstrip(), maxsplit=1)[0]


def _score(
    texts: list[str], prompts: list[Prompt], wanted: Sequence[str]
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


def _evaluated(
    texts: list[str], prompts: list[Prompt], wanted: Sequence[str], *, trusted: bool
) -> list[Metric]:
    """The scores that `evaluate` computes; none where the prompts have no references."""
    references = [prompt.reference for prompt in prompts if prompt.reference is not None]
    if not references:
        return []
    return [
        metric
        for name in wanted
        if name not in SCORES
        for metric in evaluated(name, texts, references, trusted=trusted)
    ]


GENERATION = Generation()
