"""What of an example is scored, and how sequences are put together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from qbench.core.errors import MeasurementError
from qbench.finetune.train.examples import (
    NOT_SCORED,
    Encoded,
    added_ids,
    altered_warning,
    collate,
    encode_examples,
    pack,
    prompt_ids,
)
from qbench.measures.generation import continuation
from qbench.sources.data.prompts import Prompt
from qbench.sources.data.tuning import Example
from tests.tiny_models import make_tiny_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

EXAMPLES = [
    Example("a", "def add(first", ", second):\n    return first"),
    Example("b", "", "print(add(1, 2))"),
    Example("c", "print(", " 1)\n"),
]


def ids_of(text: str, *, bos: bool = True) -> list[int]:
    """By the tokenizer's own backend, with nothing added."""
    tokenizer = make_tiny_tokenizer(bos=bos)
    ids: list[int] = tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def encode(examples: list[Example], *, bos: bool = True, **options: Any) -> list[Encoded]:
    chosen = {"max_tokens": 1000, "loss_on": "completion", **options}
    return encode_examples(examples, make_tiny_tokenizer(bos=bos), **chosen)


def test_prompts_are_masked_and_both_ends_are_marked() -> None:
    tokenizer = make_tiny_tokenizer()
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    for example, found in zip(EXAMPLES, encode(EXAMPLES), strict=True):
        prompt, completion = ids_of(example.prompt), ids_of(example.completion)
        assert found.ids == [bos, *prompt, *completion, eos]
        assert found.labels == [NOT_SCORED] * (1 + len(prompt)) + [*completion, eos]
        assert found.scored == len(completion) + 1


def test_loss_on_all_but_the_first() -> None:
    for found in encode(EXAMPLES, loss_on="all"):
        assert found.labels == [NOT_SCORED, *found.ids[1:]]


def test_without_a_beginning_token() -> None:
    eos = make_tiny_tokenizer(bos=False).eos_token_id
    first, second, _ = encode(EXAMPLES, bos=False)
    prompt, completion = (
        ids_of(EXAMPLES[0].prompt, bos=False),
        ids_of(EXAMPLES[0].completion, bos=False),
    )
    assert first.ids == [*prompt, *completion, eos]
    assert first.labels == [NOT_SCORED] * len(prompt) + [*completion, eos]
    # Nothing comes before the first token of what has no prompt.
    assert second.labels == [NOT_SCORED, *second.ids[1:]]


def test_special_tokens_that_a_template_wrote_are_not_doubled() -> None:
    tokenizer = make_tiny_tokenizer()
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    [found] = encode([Example("a", f"{tokenizer.bos_token}print(", f"1){tokenizer.eos_token}")])
    assert found.ids == [bos, *ids_of("print("), *ids_of("1)"), eos]
    assert found.ids.count(bos) == found.ids.count(eos) == 1


def test_a_completion_has_the_same_tokens_behind_any_prompt() -> None:
    ends = []
    for prompt in ("", "def", "def ad", "x = "):
        [found] = encode([Example("a", prompt, "d(first)")])
        ends.append(found.ids[-found.scored :])
    assert all(end == ends[0] for end in ends)


def test_what_is_too_long_is_left_out_whole() -> None:
    lengths = [len(one.ids) for one in encode(EXAMPLES)]
    kept = encode(EXAMPLES, max_tokens=max(lengths) - 1)
    assert kept == [one for one in encode(EXAMPLES) if len(one.ids) < max(lengths)]
    assert len(encode(EXAMPLES, max_tokens=max(lengths))) == len(EXAMPLES)


def test_nothing_left() -> None:
    shortest = min(len(one.ids) for one in encode(EXAMPLES))
    message = f"all 3 examples are longer than 2 tokens, the shortest of them has {shortest}"
    with pytest.raises(MeasurementError, match=message):
        encode(EXAMPLES, max_tokens=2)


def made(*lengths: int) -> list[Encoded]:
    """Sequences of these lengths, each of one number."""
    return [
        Encoded([at] * length, [NOT_SCORED] + [at] * (length - 1))
        for at, length in enumerate(lengths, 1)
    ]


def test_packing_keeps_examples_whole_and_in_order() -> None:
    blocks = pack(made(3, 4, 2, 5, 1, 9, 1), 9)
    assert [len(block.ids) for block in blocks] == [9, 6, 9, 1]
    assert [token for block in blocks for token in block.ids] == [
        token for one in made(3, 4, 2, 5, 1, 9, 1) for token in one.ids
    ]
    assert [block.lengths for block in blocks] == [(3, 4, 2), (5, 1), (), ()]
    assert blocks[0].labels == [NOT_SCORED, 1, 1, NOT_SCORED, 2, 2, 2, NOT_SCORED, 3]


def test_packing_changes_no_example() -> None:
    examples = made(2, 2)
    pack(examples, 4)
    assert examples == made(2, 2)
    assert pack([], 4) == []


def test_an_example_longer_than_a_block() -> None:
    with pytest.raises(ValueError, match="longer than 4"):
        pack(made(2, 5), 4)


@pytest.mark.parametrize(("length", "width"), [(None, 3), (5, 5)])
def test_rows_are_padded_on_the_right(length: int | None, width: int) -> None:
    batch = collate(made(1, 3), pad_id=7, length=length)
    assert {tuple(tensor.shape) for tensor in batch.values()} == {(2, width)}
    pads = width - 3
    assert batch["input_ids"].tolist() == [[1, *[7] * (2 + pads)], [2, 2, 2, *[7] * pads]]
    assert batch["attention_mask"].tolist() == [[1, *[0] * (2 + pads)], [1, 1, 1, *[0] * pads]]
    assert batch["labels"].tolist() == [[-100] * width, [-100, 2, 2, *[-100] * pads]]


def test_packed_rows_have_positions_for_each_example() -> None:
    batch = collate(pack(made(2, 3, 4), 6), pad_id=0, length=6)
    assert set(batch) == {"input_ids", "position_ids", "labels"}
    # An example each, and behind them what is padded.
    assert batch["position_ids"].tolist() == [[0, 1, 0, 1, 2, 0], [0, 1, 2, 3, 0, 1]]


def test_a_row_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match="3 tokens does not fit into 2"):
        collate(made(1, 3), pad_id=0, length=2)


def spaced_tokenizer(*, breaks: bool = True) -> PreTrainedTokenizerFast:
    """As of Llama 2: a space begins each text, and stands for the space before a word."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    letters = "▁abcdefghijklmnopqrstuvwxyz:.?ANSWERQ"
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{at:02X}>" for at in range(256)), *letters]
    merges = [("▁", "y"), ("▁y", "e"), ("▁ye", "s"), ("y", "e"), ("ye", "s"), ("s", ":")]
    tokens += [first + second for first, second in merges]
    made = Tokenizer(
        models.BPE(
            vocab={token: at for at, token in enumerate(tokens)},
            merges=merges,
            unk_token="<unk>",
            byte_fallback=True,
        )
    )
    made.normalizer = normalizers.Sequence(
        [
            *([] if breaks else [normalizers.Replace("\n", "")]),
            normalizers.Prepend("▁"),
            normalizers.Replace(" ", "▁"),
        ]
    )
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@pytest.mark.parametrize(
    ("prompt", "completion", "tail"),
    [
        ("Q: a", "yes", ["yes"]),
        ("Q: a", " yes", ["▁yes"]),
        ("Q: a\n", "yes", ["yes"]),
        ("Q: a ", "yes", ["yes"]),  # the whole has one token for the space and the word
        ("", "yes", ["▁yes"]),
        ("Qs", ": yes", [":", "▁yes"]),  # the whole has one token for both sides
    ],
)
def test_no_space_is_put_between_prompt_and_completion(
    prompt: str, completion: str, tail: list[str]
) -> None:
    tokenizer = spaced_tokenizer()
    examples = [Example("a", prompt, completion)]
    [found] = encode_examples(examples, tokenizer, max_tokens=99, loss_on="completion")
    assert tokenizer.convert_ids_to_tokens(found.ids[-found.scored :]) == [*tail, "</s>"]
    assert tokenizer.decode(found.ids, skip_special_tokens=True) == prompt + completion
    assert found.ids[: -found.scored] == prompt_ids(examples[0], tokenizer)
    assert prompt_ids(examples[0], tokenizer) == [
        1,
        *tokenizer(prompt, add_special_tokens=False)["input_ids"],
    ]
    assert not found.altered


def test_a_text_that_cannot_be_kept_is_counted() -> None:
    tokenizer = spaced_tokenizer(breaks=False)
    examples = [Example("a", "Q: a ", "yes"), Example("b", "Q: a", "yes")]
    found = encode_examples(examples, tokenizer, max_tokens=99, loss_on="completion")
    assert [one.altered for one in found] == [True, False]
    [warning] = altered_warning(found)
    assert warning.startswith("in 1 of 2 examples a token spans the end of the prompt")
    assert altered_warning(found[1:]) == ()


def test_a_chat_has_the_ids_of_its_template() -> None:
    """Without what else begins a text; where the template writes it, it stands there once."""
    from qbench.sources.data.recipes import render

    messages = [{"role": "user", "content": "Q: a"}, {"role": "assistant", "content": "yes"}]
    body = (
        "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }}"
        "{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
    )
    for template in ("{{ bos_token }}" + body, body):
        tokenizer = spaced_tokenizer()
        tokenizer.chat_template = template
        shown = render("chat", {"messages": messages}, "row 1", tokenizer)
        example = Example("a", shown.prompt, shown.completion, templated=True)
        [found] = encode_examples([example], tokenizer, max_tokens=99, loss_on="completion")
        whole = tokenizer.apply_chat_template(messages, return_dict=False)
        asked = tokenizer.apply_chat_template(
            messages[:1], add_generation_prompt=True, return_dict=False
        )
        assert found.ids == whole
        assert found.ids[: -found.scored] == asked == prompt_ids(example, tokenizer)


def test_what_a_tokenizer_adds_of_its_own_accord() -> None:
    from tokenizers import processors

    tokenizer = spaced_tokenizer()
    assert added_ids(tokenizer) == ([], [])
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> <unk> $A </s>", special_tokens=[("<s>", 1), ("<unk>", 0), ("</s>", 2)]
    )
    assert added_ids(tokenizer) == ([1, 0], [2])
    example = Example("a", "Q", "yes")
    [found] = encode_examples([example], tokenizer, max_tokens=99, loss_on="completion")
    expected = ["<s>", "<unk>", "▁", "Q", "yes", "</s>"]
    assert tokenizer.convert_ids_to_tokens(found.ids) == expected
    # What is given to a model to go on from has no end.
    assert continuation.encode(tokenizer, Prompt("Q"), chat=False) == prompt_ids(example, tokenizer)
    assert prompt_ids(example, tokenizer) == found.ids[:4]
