"""Examples as token ids, with what of them is scored.

An example has the ids of its whole text, where they begin with the prompt's: so a chat template's
are its own, and no space is put in that only begins a text. Where a token would span prompt and
completion, the completion is encoded as it follows the prompt: masking the prompt stays exact, and
the model is asked to go on from the ids that it is given when it generates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from qbench.core.errors import MeasurementError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from transformers import PreTrainedTokenizerBase

    from qbench.sources.data.tuning import Example

NOT_SCORED = -100
"""The label that torch's and transformers' cross entropies leave out."""


@dataclass(frozen=True)
class Encoded:
    """One sequence: an example, or several packed into a block."""

    ids: list[int]
    labels: list[int]
    """As long as `ids`, not shifted: the id itself where it is scored, else `NOT_SCORED`."""
    altered: bool = False
    """Whether they say another text than the example's."""
    lengths: tuple[int, ...] = ()
    """Of the examples in a block, one behind the other; empty for a single one."""

    @property
    def examples(self) -> int:
        """How many it holds."""
        return len(self.lengths) or 1

    @property
    def scored(self) -> int:
        """Tokens whose loss counts."""
        return sum(label != NOT_SCORED for label in self.labels)

    def folded(self, vocabulary: int) -> Encoded:
        """The same with each id modulo the size of a vocabulary."""
        return Encoded(
            [one % vocabulary for one in self.ids],
            [one if one == NOT_SCORED else one % vocabulary for one in self.labels],
            self.altered,
            self.lengths,
        )


def encode_examples(
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_tokens: int,
    loss_on: Literal["completion", "all"],
) -> list[Encoded]:
    """The examples that have at most `max_tokens`, in their order.

    Longer ones are left out, never cut: compare the lengths to count them. So is one that has
    nothing to score, a single token without `<s>` and `</s>`. `<s>` stands at the start, once,
    where the tokenizer has one and no chat template wrote the text, and `</s>` at the end of the
    completion; an example's first token is never scored, as nothing of its own comes before it.

    Raises `MeasurementError` when none is left.
    """
    encoded = encode_all(examples, tokenizer, loss_on=loss_on)
    kept = [one for one in encoded if len(one.ids) <= max_tokens and one.scored]
    if encoded and not kept:
        shortest = min(len(one.ids) for one in encoded)
        raise MeasurementError(
            f"all {len(encoded)} examples are longer than {max_tokens} tokens, the shortest of them"
            f" has {shortest}; expected examples that fit whole; allow more tokens, up to the"
            " model's context, or give shorter data"
        )
    return kept


def encode_all(
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    *,
    loss_on: Literal["completion", "all"],
) -> list[Encoded]:
    """All examples, whatever their length; see `encode_examples`."""
    eos = tokenizer.eos_token_id
    prompts = _encode(tokenizer, [example.prompt for example in examples])
    wholes = _encode(tokenizer, [example.prompt + example.completion for example in examples])
    made = []
    for example, prompt, whole in zip(examples, prompts, wholes, strict=True):
        head = _head(prompt, tokenizer, templated=example.templated)
        follows, altered = _completion_ids(prompt, whole, example.completion, tokenizer)
        # A chat template writes `</s>` into the text itself.
        tail = follows if eos is None or follows[-1:] == [eos] else [*follows, eos]
        ids = [*head, *tail]
        first = max(1, len(head)) if loss_on == "completion" else 1
        made.append(Encoded(ids, [NOT_SCORED] * first + ids[first:], altered))
    return made


def prompt_ids(example: Example, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """What a model that learned from examples is given to go on from: all before a completion."""
    [prompt] = _encode(tokenizer, [example.prompt])
    return _head(prompt, tokenizer, templated=example.templated)


def added_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """What the tokenizer puts before and behind a text by itself, such as `<s>`."""
    plain: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
    full: list[int] = tokenizer("a")["input_ids"]
    for at in range(len(full) - len(plain) + 1 if plain else 0):
        if full[at : at + len(plain)] == plain:
            return full[:at], full[at + len(plain) :]
    return [], []


def _head(prompt: list[int], tokenizer: PreTrainedTokenizerBase, *, templated: bool) -> list[int]:
    """The prompt's ids behind what begins a text, once."""
    if templated:  # the template writes it, where it belongs there
        return prompt
    before, _ = added_ids(tokenizer)
    if not before and tokenizer.bos_token_id is not None:
        before = [tokenizer.bos_token_id]
    return prompt if before and prompt[: len(before)] == before else [*before, *prompt]


def _completion_ids(
    prompt: list[int], whole: list[int], completion: str, tokenizer: PreTrainedTokenizerBase
) -> tuple[list[int], bool]:
    """The completion's ids behind the prompt's, and whether both say another text than `whole`."""
    if whole[: len(prompt)] == prompt:
        return whole[len(prompt) :], False
    [apart, anchor, anchored] = _encode(tokenizer, [completion, "\n", f"\n{completion}"])
    found = [apart]
    if anchored[: len(anchor)] == anchor:
        # Behind a line break no tokenizer puts in the space that begins a text.
        found.append(anchored[len(anchor) :])
    text = _decode(tokenizer, whole)
    same = (ids for ids in found if _decode(tokenizer, [*prompt, *ids]) == text)
    chosen = next(same, None)
    return (apart, True) if chosen is None else (chosen, False)


def altered_warning(encoded: Sequence[Encoded]) -> tuple[str, ...]:
    """A sentence on examples whose ids say another text than theirs, if there are any."""
    count = sum(one.altered for one in encoded)
    if not count:
        return ()
    words = (
        f"in {count} of {len(encoded)} examples a token spans the end of the prompt, and the"
        " tokenizer has no ids for the completion alone that keep the text: white space between"
        " them differs; end the prompt, or begin the completion, with a line break"
    )
    return (words,)


def pack(encoded: Sequence[Encoded], max_tokens: int) -> list[Encoded]:
    """Blocks of at most `max_tokens`, each of as many whole examples, in order, as fit.

    The examples of a block are kept apart by their positions, see
    `qbench.finetune.train.packing`. Raises ValueError for an example that is longer than a block.
    """
    blocks: list[Encoded] = []
    for one in encoded:
        if len(one.ids) > max_tokens:
            raise ValueError(f"an example of {len(one.ids)} tokens is longer than {max_tokens}")
        last = blocks[-1] if blocks else None
        if last is not None and len(last.ids) + len(one.ids) <= max_tokens:
            lengths = (*(last.lengths or (len(last.ids),)), len(one.ids))
            blocks[-1] = Encoded(last.ids + one.ids, last.labels + one.labels, lengths=lengths)
        else:
            blocks.append(Encoded(list(one.ids), list(one.labels)))
    return blocks


def collate(
    batch: Sequence[Encoded], *, pad_id: int, length: int | None
) -> dict[str, torch.Tensor]:
    """`input_ids`, `attention_mask` and `labels`, each (batch, tokens), int64, padded on the right.

    `length` is the number of tokens of each row; None for the longest's. What is padded has mask 0
    and is not scored. Where a row has several examples there are `position_ids` in place of the
    mask, which begin at 0 for each of them, and for what is padded. Raises ValueError for a
    sequence that is longer than `length`.
    """
    import torch

    longest = max(len(one.ids) for one in batch)
    width = longest if length is None else length
    if longest > width:
        raise ValueError(f"a sequence of {longest} tokens does not fit into {width}")

    def padded(rows: list[list[int]], filler: int) -> torch.Tensor:
        return torch.tensor([row + [filler] * (width - len(row)) for row in rows])

    if any(one.lengths for one in batch):
        counted = [
            [at for size in one.lengths or (len(one.ids),) for at in range(size)] for one in batch
        ]
        rows = [[*row, *range(width - len(row))] for row in counted]
        seen = {"position_ids": torch.tensor(rows)}
    else:
        seen = {"attention_mask": padded([[1] * len(one.ids) for one in batch], 0)}
    return {
        "input_ids": padded([one.ids for one in batch], pad_id),
        **seen,
        "labels": padded([one.labels for one in batch], NOT_SCORED),
    }


def _encode(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    if not texts:
        return []
    encoded: list[list[int]] = tokenizer(texts, add_special_tokens=False, verbose=False)[
        "input_ids"
    ]
    return encoded


def _decode(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> str:
    text: str = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    return text
