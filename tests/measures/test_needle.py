"""Needles: of a model that copies, what a count of words says; of any model, naive forwards."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from qbench.core.errors import MeasurementError, NonFiniteError
from qbench.measures.generation.continuation import continue_prompt, find_stop_ids
from qbench.measures.needle.haystack import make_prompt
from qbench.measures.needle.needle import NEEDLE, NeedleOptions
from qbench.measures.needle.words import draw_needles
from tests.copying_model import MATCHED, make_copying_model
from tests.precisions.tiny_cells import TinyCells, Variant, load_fresh
from tests.tiny_models import make_tiny_tokenizer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from qbench.measures.loaded import LoadedModel, Outcome
    from qbench.measures.needle.haystack import Prompt

LLAMA = Variant("llama", "llama", {"context": 1024})
TEXT = "".join(
    f"Line {number} tells of a ship that left the harbour. It sailed past {number % 7} rocks!\n"
    for number in range(90)
)


@pytest.fixture(scope="module")
def copying(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_copying_model(tmp_path_factory.mktemp("copying"))


@pytest.fixture(scope="module")
def copies(copying: Path, cells: TinyCells) -> LoadedModel:
    """The model that copies, in full precision; tests must not change it."""
    assert cells  # with a cache folder of its own
    return load_fresh(copying, "fp32")


def take(loaded: LoadedModel, folder: Path, text: str = TEXT, **options: Any) -> Outcome:
    path = folder / "haystack.txt"
    path.write_text(text)
    chosen = NeedleOptions.model_validate({"text": str(path), **options})
    assert NEEDLE.misfit(chosen, loaded.resolved) is None
    [item] = NEEDLE.items(chosen, loaded.resolved, folder)
    return NEEDLE.measure(loaded, item)


def prompts(
    loaded: LoadedModel, tokens: int, depths: Sequence[float], count: int, seed: int = 0
) -> list[Prompt]:
    return [
        make_prompt(loaded.tokenizer, TEXT, one, tokens, chat=False)
        for one in draw_needles(tuple(depths), count, "number", seed)
    ]


def values(outcome: Outcome) -> dict[str, float | None]:
    return {metric.name: metric.value for metric in outcome.metrics}


def copied(ids: Sequence[int]) -> int:
    """What stands behind the place that is preceded by most of the last tokens; there is one."""
    now = ids[: -MATCHED - 1 : -1]
    alike = {
        place: sum(ids[place - 1 - back] == now[back] for back in range(MATCHED))
        for place in range(MATCHED, len(ids))
    }
    most = max(alike.values())
    [token] = {ids[place] for place, count in alike.items() if count == most}
    return token


class TestCopying:
    """The score of a model that copies is what its rule says, and damage is seen."""

    ASKED: ClassVar[dict[str, Any]] = {
        "lengths": 512,
        "depths": [0, 50, 100],
        "needles": 2,
        "seed": 1,
    }

    def test_full_precision_reaches_what_the_rule_reaches(
        self, copies: LoadedModel, tmp_path: Path
    ) -> None:
        outcome = take(copies, tmp_path, **self.ASKED)
        expected = []
        for prompt in prompts(copies, 512 - 16, (0, 50, 100), 2, seed=1):
            ids, right = list(prompt.ids), True
            for token in prompt.answer:
                right = right and copied(ids) == token
                ids.append(token)
            expected.append(float(right))
        assert sum(expected) / len(expected) >= 0.9
        assert outcome.series["item_exact"] == expected
        assert outcome.series["item_retrieval"] == expected
        assert values(outcome)["needle.retrieval"] == sum(expected) / len(expected)
        # 6 answers, each but those of the rule without a doubt.
        assert values(outcome)["needle.loss"] == pytest.approx(0, abs=0.05)

    def test_damage_is_seen(self, copying: Path, tmp_path: Path) -> None:
        asked = {**self.ASKED, "depths": 0, "needles": 1}
        found = {
            name: values(take(load_fresh(copying, name, **types), tmp_path, **asked))
            for name, types in {
                "nf4": {"compute_dtype": "fp32"},
                "gguf-q2_k": {"dtype": "fp32"},
            }.items()
        }
        assert found["nf4"]["needle.retrieval"] == 1
        assert found["gguf-q2_k"]["needle.retrieval"] == 0
        assert (found["gguf-q2_k"]["needle.loss"] or 0) > 1

    def test_a_quantized_cache_is_read(self, copies: LoadedModel, tmp_path: Path) -> None:
        asked = {**self.ASKED, "depths": 50, "needles": 1, "prefill_chunk": 256}
        found = {}
        for kind in (None, "int2"):
            cell = copies.cell.model_copy(update={"kv_cache": kind})
            found[kind] = values(take(replace(copies, cell=cell), tmp_path, **asked))
        assert {one["needle.retrieval"] for one in found.values()} == {1.0}
        assert len({one["needle.loss"] for one in found.values()}) == 2


class TestNaively:
    """Of a model with random weights: losses of whole forwards, texts of transformers' own loop."""

    ASKED: ClassVar[dict[str, Any]] = {
        "lengths": 512,
        "depths": [0, 80],
        "needles": 2,
        "new_tokens": 12,
    }

    def test_losses_are_those_of_one_forward(self, cells: TinyCells, tmp_path: Path) -> None:
        import torch

        loaded = cells.load(LLAMA, "fp32")
        outcome = take(loaded, tmp_path, **self.ASKED)
        expected = []
        for prompt in prompts(loaded, 500, (0, 80), 2):
            with torch.inference_mode():
                logits = loaded.model(torch.tensor([[*prompt.ids, *prompt.answer]])).logits[0]
            rows = logits.double().log_softmax(-1)[len(prompt.ids) - 1 : -1]
            expected.append(-float(sum(rows[at, one] for at, one in enumerate(prompt.answer))))
        tokens = [float(len(one.answer)) for one in prompts(loaded, 500, (0, 80), 2)]
        assert outcome.series["item_nll"] == pytest.approx(expected, rel=1e-5)
        assert outcome.series["item_tokens"] == tokens
        assert values(outcome)["needle.loss"] == pytest.approx(sum(expected) / sum(tokens))

    def test_what_is_written_is_the_likeliest(self, cells: TinyCells, tmp_path: Path) -> None:
        loaded = cells.load(LLAMA, "fp32")
        outcome = take(loaded, tmp_path, **self.ASKED)
        texts = [
            continue_prompt(
                loaded.model,
                loaded.tokenizer,
                list(one.ids),
                new_tokens=12,
                stop_ids=find_stop_ids(loaded.model, loaded.tokenizer),
            ).text.strip()
            for one in prompts(loaded, 500, (0, 80), 2)
        ]
        assert outcome.details["answers"] == {"needle.retrieval": texts}
        assert outcome.series["item_retrieval"] == [0.0] * 4

    @pytest.mark.parametrize("how", [{"batch": 4}, {"prefill_chunk": 100}], ids=str)
    def test_batches_and_chunks_change_rounding_alone(
        self, cells: TinyCells, tmp_path: Path, how: dict[str, Any]
    ) -> None:
        loaded = cells.load(LLAMA, "fp32")
        plain = take(loaded, tmp_path, **self.ASKED)
        other = take(loaded, tmp_path, **self.ASKED, **how)
        assert other.series["item_nll"] == pytest.approx(plain.series["item_nll"], rel=1e-4)
        assert other.details["ids_sha256"] == plain.details["ids_sha256"]

    def test_logits_that_are_no_numbers_are_no_score(self, tmp_path: Path) -> None:
        import torch

        folder = make_copying_model(tmp_path / "model")
        loaded = load_fresh(folder, "fp32")
        with torch.no_grad():
            loaded.model.lm_head.weight[7] = float("nan")
        with pytest.raises(NonFiniteError, match="the logits after 624 tokens"):
            take(loaded, tmp_path, lengths=640, depths=50, needles=1)


class TestPrompts:
    """A stretch of the text, the needle at its depth, the question: of a stated length."""

    @pytest.mark.parametrize("tokens", [450, 451, 777])
    @pytest.mark.parametrize("depth", [0.0, 30.0, 100.0])
    def test_of_a_stated_length_and_depth(self, tokens: int, depth: float) -> None:
        tokenizer = make_tiny_tokenizer()
        for needle in draw_needles((depth,), 3, "number", 5):
            made = make_prompt(tokenizer, TEXT, needle, tokens, chat=False)
            text = tokenizer.decode(made.ids)
            assert len(made.ids) == tokens
            # As a person's text would be tokenized, value and all.
            assert tokenizer(text.removeprefix("<s>"))["input_ids"] == list(made.ids)
            assert tokenizer.decode(made.answer) == f" {needle.value}"
            before, after = text.split(f"{needle.sentence}\n")
            assert text.endswith(f"{needle.question}\n{needle.begun}")
            before = before.removeprefix(f"<s>{needle.before}\n")
            after = after.removesuffix(f"{needle.question}\n{needle.begun}")
            reached = 100 * len(before) / (len(before) + len(after) - 1)
            assert reached == pytest.approx(made.depth, abs=1)
            assert reached == pytest.approx(depth, abs=4)
            # Nothing of the text is lost, but for white space no word is parted.
            assert "".join((before + after).split()) in "".join((TEXT + TEXT).split())
            assert (
                depth == 100
                or not before
                or before[-2:-1] in {"!", ".", "\n"}
                or (f"{before.split()[-1]} {after.split()[0]}" in TEXT)
            )

    def test_tokens_that_merge_with_the_value_are_no_part_of_the_prompt(self) -> None:
        needles = draw_needles((50,), 2, "number", 0)
        tokenizer = merging_tokenizer([f"is {one.value[0]}" for one in needles])
        for needle in needles:
            made = make_prompt(tokenizer, TEXT, needle, 400, chat=False)
            whole = tokenizer.decode([*made.ids, *made.answer])
            assert whole.endswith(f"{needle.begun} {needle.value}")
            assert tokenizer.decode(made.answer).startswith("is")
            assert len(made.ids) <= 400
            assert list(tokenizer(whole)["input_ids"]) == [*made.ids, *made.answer]

    def test_needles_are_the_same_whatever_else_is_drawn(self) -> None:
        few = draw_needles((50,), 2, "word", 7)
        many = draw_needles((0, 50, 100), 4, "word", 7)
        assert few == [one for one in many if one.id in {"d50-1", "d50-2"}]
        assert len({one.key for one in many}) > 10
        assert all(one.key != one.value for one in many)
        assert draw_needles((50,), 2, "word", 8) != few

    def test_a_text_that_is_shorter_begins_again(self) -> None:
        tokenizer = make_tiny_tokenizer()
        [needle] = draw_needles((100,), 1, "number", 0)
        made = make_prompt(tokenizer, "One line.", needle, 500, chat=False)
        assert len(made.ids) == 500
        assert tokenizer.decode(made.ids).count("One line.\n") > 10

    def test_a_chat_template_writes_what_stands_around(self) -> None:
        own = merging_tokenizer([])
        own.chat_template = "{% for m in messages %}U: {{ m.content }}\nA:{% endfor %}"
        [needle] = draw_needles((0,), 1, "number", 0)
        text = own.decode(make_prompt(own, TEXT, needle, 600, chat=True).ids)
        assert text.startswith(f"U: {needle.before}\n{needle.sentence}\n")
        assert text.endswith(f"{needle.question}\nA:{needle.begun}")

    def test_a_template_that_drops_the_message_is_told(self) -> None:
        own = merging_tokenizer([])
        own.chat_template = "Say something."
        [needle] = draw_needles((0,), 1, "number", 0)
        with pytest.raises(MeasurementError, match="does not write a user's message"):
            make_prompt(own, TEXT, needle, 600, chat=True)


def merging_tokenizer(words: list[str]) -> Any:
    """Bytes, and these words as single tokens, whatever stands around them."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({sign: at for at, sign in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_tokens([AddedToken(word, normalized=False) for word in dict.fromkeys(words)])
    return PreTrainedTokenizerFast(tokenizer_object=made)


class TestOutcome:
    def test_by_depth_and_over_all(self, copies: LoadedModel, tmp_path: Path) -> None:
        outcome = take(copies, tmp_path, lengths=640, depths=[100, 0], needles=3)
        told = outcome.details["by_depth"]
        assert told["depth"] == [100, 0]
        assert told["needles"] == [3, 3]
        assert told["reached"] == pytest.approx([100, 0])
        series = outcome.series
        for at, own in enumerate((slice(0, 3), slice(3, 6))):
            assert told["retrieval"][at] == pytest.approx(sum(series["item_retrieval"][own]) / 3)
            assert told["loss"][at] == pytest.approx(
                sum(series["item_nll"][own]) / sum(series["item_tokens"][own])
            )
        assert outcome.details["item_ids"] == [
            f"d{depth}-{n}" for depth in (100, 0) for n in (1, 2, 3)
        ]
        assert math.isclose(
            values(outcome)["needle.retrieval"] or 0, sum(series["item_retrieval"]) / 6
        )
        assert outcome.details["prompt_tokens"] == {"least": 624, "most": 624}

    def test_what_cannot_be_asked_says_what_can(self, copies: LoadedModel, tmp_path: Path) -> None:
        with pytest.raises(MeasurementError, match="set new_tokens to at least 8"):
            take(copies, tmp_path, lengths=640, new_tokens=4)
        with pytest.raises(
            MeasurementError, match=r"no room for a haystack: .* alone are 3[0-9][0-9]"
        ):
            take(copies, tmp_path, lengths=64)
        with pytest.raises(MeasurementError, match="has no chat template"):
            take(copies, tmp_path, lengths=640, chat_template=True)
