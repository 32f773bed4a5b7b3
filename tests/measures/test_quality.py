"""Perplexity and bits per byte against naive loops, and what cannot be scored."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import random
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from qbench.core.errors import MeasurementError, NonFiniteError
from qbench.measures.quality.head import find_head
from qbench.measures.quality.quality import QUALITY, QualityOptions
from qbench.precisions.verification import linear_layers
from qbench.predict.inference import CHUNK_TOKENS
from tests.measures import naive_perplexity as naive
from tests.precisions.numpy_formats import four_bit
from tests.precisions.tiny_cells import TinyCells, Variant, load_fresh

if TYPE_CHECKING:
    from pathlib import Path

    from qbench.measures.loaded import LoadedModel, Outcome

LONG = {"context": 2048, "layers": 1}
VARIANTS = [
    Variant("llama", "llama", LONG),
    Variant("llama-tied-nobos", "llama", {**LONG, "tied": True, "bos": False}),
    Variant("gpt2-tied", "gpt2", {**LONG, "tied": True}),
    Variant("gpt2-nobos", "gpt2", {**LONG, "bos": False}),
    Variant("opt", "opt", LONG),
    Variant("opt-tied-nobos", "opt", {**LONG, "tied": True, "bos": False}),
    Variant("qwen2-tied", "qwen2", {**LONG, "tied": True}),
    Variant("qwen2-nobos", "qwen2", {**LONG, "bos": False}),
]
LLAMA, LLAMA_NOBOS = VARIANTS[:2]
# Their logits are scaled or capped after the head.
STUBBED = [
    Variant("gemma2", "gemma2", {"tied": True, "final_logit_softcapping": 3.0}),
    Variant("cohere", "cohere", {"tied": True, "logit_scale": 0.5}),
    Variant("granite", "granite", {"logits_scaling": 3.0}),
]
WORDS = ("def", "return", "first", "second", "print", "(", ")", "+", ":\n", "1", "xyz", "0.5", "#")
ACCENTED = "«Müßiggang», naïve café — 日本語のテキスト 🙂 "


def make_text(count: int, *, seed: int = 0) -> str:
    """Text of that many words."""
    chosen = random.Random(seed).choices(WORDS, k=count)
    return " ".join(chosen)


def write_text(folder: Path, text: str) -> Path:
    path = folder / "text.txt"
    path.write_text(text, encoding="utf-8")
    return path


def score(loaded: LoadedModel, path: Path, **options: Any) -> Outcome:
    chosen = QualityOptions(text=(str(path),), **options)
    (item,) = QUALITY.items(chosen, loaded.resolved, path.parent)
    return QUALITY.measure(loaded, item)


def values(outcome: Outcome) -> dict[str, float | None]:
    return {metric.name: metric.value for metric in outcome.metrics}


def token_bytes(folder: Path, targets: tuple[int, ...]) -> int:
    """Bytes that the tokens stand for: a byte-level vocabulary writes each as one character."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    return sum(len(tokenizer.id_to_token(target) or "") for target in targets)


def assert_equals(outcome: Outcome, expected: naive.Naive, folder: Path) -> None:
    found = values(outcome)
    assert found["tokens"] == expected.count
    assert found["perplexity"] == pytest.approx(expected.perplexity, rel=1e-5)
    scored_bytes = token_bytes(folder, expected.targets)
    assert found["bits_per_byte"] == pytest.approx(
        expected.nll / math.log(2) / scored_bytes, rel=1e-5
    )
    assert found["nonfinite_share"] == 0
    assert outcome.warnings == ()


@pytest.fixture(params=VARIANTS, ids=lambda variant: variant.label)
def variant(request: pytest.FixtureRequest) -> Variant:
    chosen: Variant = request.param
    return chosen


@pytest.mark.parametrize(("window", "batch"), [(32, 1), (300, 4)])
def test_default_equals_a_naive_loop(
    window: int, batch: int, variant: Variant, cells: TinyCells, tmp_path: Path
) -> None:
    text = make_text(400)
    folder, loaded = cells.folder(variant), cells.load(variant, "fp32")
    tokens, bos = naive.text_ids(folder, text), naive.bos_id(folder)
    assert (bos is None) == (variant.options.get("bos") is False)
    expected = naive.default(loaded.model, tokens, window, bos)
    outcome = score(loaded, write_text(tmp_path, text), window=window, batch=batch)
    assert_equals(outcome, expected, folder)
    if bos is not None:
        assert expected.targets == tuple(tokens)


# Windows of 2,048 take long; what the models differ in is the same for every protocol.
@pytest.mark.parametrize("variant", VARIANTS[::3], ids=lambda variant: variant.label)
def test_gptq_equals_a_naive_loop(variant: Variant, cells: TinyCells, tmp_path: Path) -> None:
    text = make_text(2500)
    folder, loaded = cells.folder(variant), cells.load(variant, "fp32")
    tokens = naive.text_ids(folder, text)
    assert len(tokens) > 2 * 2048
    expected = naive.gptq(loaded.model, tokens, 2048)
    outcome = score(loaded, write_text(tmp_path, text), protocol="gptq-2048-nobos")
    assert_equals(outcome, expected, folder)


def test_llamacpp_equals_a_naive_loop(variant: Variant, cells: TinyCells, tmp_path: Path) -> None:
    text = make_text(1000)
    folder, loaded = cells.folder(variant), cells.load(variant, "fp32")
    tokens = naive.text_ids(folder, text)
    assert len(tokens) > 2 * 512
    expected = naive.llamacpp(loaded.model, tokens, 512, naive.bos_id(folder))
    outcome = score(loaded, write_text(tmp_path, text), protocol="llamacpp-512-half")
    assert_equals(outcome, expected, folder)


def test_strided_equals_a_naive_loop(variant: Variant, cells: TinyCells, tmp_path: Path) -> None:
    text = make_text(600)
    folder, loaded = cells.folder(variant), cells.load(variant, "fp32")
    tokens = naive.text_ids(folder, text)
    expected, guide = naive.strided(loaded.model, tokens, max_length=256, stride=128)
    outcome = score(loaded, write_text(tmp_path, text), protocol="strided", window=256)
    assert_equals(outcome, expected, folder)
    assert values(outcome)["perplexity"] == pytest.approx(guide, rel=1e-2)


@pytest.mark.parametrize("variant", VARIANTS[::2], ids=lambda variant: variant.label)
@pytest.mark.parametrize("name", ["nf4", "fp4"])
def test_a_four_bit_cell_equals_a_naive_code_book_model(
    name: str, variant: Variant, cells: TinyCells, tmp_path: Path
) -> None:
    import torch

    text = make_text(300)
    folder = cells.folder(variant)
    original = cells.load(variant, "fp32")
    code_book = copy.deepcopy(original.model)
    for _, layer in linear_layers(code_book):
        weight = layer.weight.numpy()
        if variant.architecture == "gpt2":
            layer.weight.data = torch.tensor(four_bit(weight.T, name).T, dtype=torch.float32)
        else:
            layer.weight.data = torch.tensor(four_bit(weight, name), dtype=torch.float32)
    expected = naive.default(code_book, naive.text_ids(folder, text), 128, naive.bos_id(folder))
    loaded = cells.load(variant, name, dtype="fp32", compute_dtype="fp32")
    path = write_text(tmp_path, text)
    assert_equals(score(loaded, path, window=128), expected, folder)
    unquantized = values(score(original, path, window=128))["perplexity"]
    assert unquantized is not None
    assert abs(expected.perplexity / unquantized - 1) > 1e-3


@pytest.mark.parametrize("variant", STUBBED, ids=lambda variant: variant.label)
def test_scaled_and_capped_logits_go_by_the_models_own_forward(
    variant: Variant, cells: TinyCells, tmp_path: Path
) -> None:
    import torch

    text = make_text(200)
    folder, loaded = cells.folder(variant), cells.load(variant, "fp32")
    tokens = naive.text_ids(folder, text)
    ids = torch.tensor([tokens[:40]])
    with torch.inference_mode():
        head = find_head(loaded.model, ids)
        assert head.route == "stub"
        own = loaded.model(input_ids=ids).logits[0]
        assert torch.equal(head.logits(head.states(ids)[0]), own)
        bare = loaded.model.get_output_embeddings()(head.states(ids)[0])
        assert not torch.allclose(bare, own)
    expected = naive.default(loaded.model, tokens, 64, naive.bos_id(folder))
    outcome = score(loaded, write_text(tmp_path, text), window=64)
    assert_equals(outcome, expected, folder)


@pytest.mark.parametrize(
    ("precision", "variant"),
    [
        *(pytest.param("fp32", one, id=f"fp32-{one.label}") for one in VARIANTS),
        # The head stays as it is whatever holds the layers below it.
        *(
            pytest.param(name, one, id=f"{name}-{one.label}")
            for name, one in zip(("bf16", "fp16", "int8", "nf4"), VARIANTS[::2], strict=True)
        ),
    ],
)
def test_plain_logits_go_by_the_head_alone(
    precision: str, variant: Variant, cells: TinyCells
) -> None:
    import torch

    loaded = cells.load(variant, precision)
    ids = torch.arange(5, 45)[None]
    with torch.inference_mode():
        head = find_head(loaded.model, ids)
        assert head.route == "head"
        own = loaded.model(input_ids=ids).logits[0].float()
        assert torch.equal(head.logits(head.states(ids)[0]), own)


@pytest.mark.parametrize("precision", ["bf16", "fp16", "int8", "nf4", "nf4-dq"])
def test_every_precision_is_near_its_own_naive_loop(
    precision: str, cells: TinyCells, tmp_path: Path
) -> None:
    text = make_text(200)
    folder, loaded = cells.folder(LLAMA), cells.load(LLAMA, precision)
    outcome = score(loaded, write_text(tmp_path, text), window=64, batch=1)
    expected = naive.default(loaded.model, naive.text_ids(folder, text), 64, naive.bos_id(folder))
    assert values(outcome)["perplexity"] == pytest.approx(expected.perplexity, rel=1e-3)


def test_no_more_positions_than_a_chunk_reach_the_head(cells: TinyCells, tmp_path: Path) -> None:
    loaded = cells.load(LLAMA, "fp32")
    seen: list[int] = []
    rows = loaded.model.get_output_embeddings().out_features
    hook = loaded.model.get_output_embeddings().register_forward_hook(
        lambda module, inputs, logits: seen.append(logits.numel() // rows)
    )
    score(loaded, write_text(tmp_path, make_text(2000)), window=1024, batch=4)
    hook.remove()
    assert max(seen) == CHUNK_TOKENS
    assert sum(seen) > 2000


def test_windows_add_up_and_are_counted(cells: TinyCells, tmp_path: Path) -> None:
    text = make_text(300)
    loaded = cells.load(LLAMA, "fp32")
    tokens = naive.text_ids(cells.folder(LLAMA), text)
    outcome = score(loaded, write_text(tmp_path, text), window=64)
    losses, counts = outcome.series["window_nll"], outcome.series["window_tokens"]
    assert len(losses) == len(counts) == outcome.details["windows"] == -(-len(tokens) // 63)
    assert sum(counts) == len(tokens) == values(outcome)["tokens"] == outcome.details["text_tokens"]
    assert values(outcome)["perplexity"] == pytest.approx(
        math.exp(math.fsum(losses) / len(tokens)), rel=1e-12
    )
    start = naive.bos_id(cells.folder(LLAMA))
    assert start is not None
    for at in (0, 3, len(losses) - 1):
        ids = [start, *tokens[at * 63 : (at + 1) * 63]]
        assert losses[at] == pytest.approx(math.fsum(naive.losses(loaded.model, ids)), rel=1e-5)
    each = [math.exp(loss / count) for loss, count in zip(losses, counts, strict=True)]
    found = {metric.name: metric.value for metric in outcome.metrics}
    for name, share in (("p10", 0.1), ("median", 0.5), ("p90", 0.9)):
        assert found[f"window_perplexity.{name}"] == pytest.approx(np.quantile(each, share))


def test_rows_of_a_file_are_scored_as_their_text_and_kept_as_documents(
    cells: TinyCells, tmp_path: Path
) -> None:
    rows = [make_text(length) for length in (20, 300, 45, 120)]
    plain = write_text(tmp_path, "\n\n".join(rows))
    of_rows = tmp_path / "rows.jsonl"
    of_rows.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    loaded = cells.load(LLAMA, "fp32")
    wanted, found = (score(loaded, path, window=64) for path in (plain, of_rows))
    assert values(found) == values(wanted)
    assert "window_document" not in wanted.series
    documents = found.series["window_document"]
    assert len(documents) == len(found.series["window_nll"])
    assert documents == sorted(documents)
    sizes = [len(naive.text_ids(cells.folder(LLAMA), row)) / 63 for row in rows]
    for at, size in enumerate(sizes):
        assert documents.count(at) == pytest.approx(size, abs=1.5)


def test_a_limit_takes_the_first_windows_alone(cells: TinyCells, tmp_path: Path) -> None:
    loaded, path = cells.load(LLAMA, "fp32"), write_text(tmp_path, make_text(400))
    whole = score(loaded, path, window=32, batch=2)
    first = score(loaded, path, window=32, batch=2, limit=5)
    assert first.series["window_nll"] == pytest.approx(whole.series["window_nll"][:5], rel=1e-6)
    assert first.series["window_tokens"] == whole.series["window_tokens"][:5]
    assert values(first)["tokens"] == sum(first.series["window_tokens"])
    text = path.read_text(encoding="utf-8")
    targets = naive.text_ids(cells.folder(LLAMA), text)[: 5 * 31]
    assert first.details["scored_bytes"] == token_bytes(cells.folder(LLAMA), tuple(targets))
    assert values(score(loaded, path, window=32, limit=10_000)) == values(
        score(loaded, path, window=32)
    )


def test_a_limit_is_part_of_the_key_only_where_it_is_given(
    cells: TinyCells, tmp_path: Path
) -> None:
    path = write_text(tmp_path, make_text(50))
    resolved = cells.load(LLAMA, "fp32").resolved
    plain, limited = (
        QUALITY.items(QualityOptions(text=(str(path),), **options), resolved, tmp_path)[0]
        for options in ({}, {"limit": 5})
    )
    assert "limit" not in plain.params
    assert limited.params["limit"] == 5
    assert limited.slug == f"{plain.slug}-first5"


def test_the_size_of_a_batch_changes_nothing_but_rounding(cells: TinyCells, tmp_path: Path) -> None:
    loaded = cells.load(LLAMA, "fp32")
    path = write_text(tmp_path, make_text(300))
    one, many = (score(loaded, path, window=64, batch=batch) for batch in (1, 7))
    assert one.series["window_nll"] == pytest.approx(many.series["window_nll"], rel=1e-5)
    assert one.details["ids_sha256"] == many.details["ids_sha256"]


def test_bytes_of_accented_text(cells: TinyCells, tmp_path: Path) -> None:
    text = ACCENTED * 8
    with_start = score(cells.load(LLAMA, "fp32"), write_text(tmp_path, text), window=31)
    assert with_start.details["scored_bytes"] == len(text.encode())
    assert with_start.details["text_bytes"] == len(text.encode())
    total = math.fsum(with_start.series["window_nll"])
    assert values(with_start)["bits_per_byte"] == pytest.approx(
        total / math.log(2) / len(text.encode()), rel=1e-9
    )
    without = score(cells.load(LLAMA_NOBOS, "fp32"), write_text(tmp_path, text), window=31)
    assert 0 < without.details["scored_bytes"] < len(text.encode())


def test_the_start_token_is_recorded_where_it_is_used(cells: TinyCells, tmp_path: Path) -> None:
    path = write_text(tmp_path, make_text(1000))
    loaded = cells.load(LLAMA, "fp32")
    start = naive.bos_id(cells.folder(LLAMA))
    assert start is not None
    assert score(loaded, path, window=64).details["bos"] == start
    assert score(loaded, path, protocol="llamacpp-512-half").details["bos"] == start
    assert score(loaded, path, protocol="strided", window=64).details["bos"] is None
    assert score(cells.load(LLAMA_NOBOS, "fp32"), path, window=64).details["bos"] is None


def test_llamacpp_has_no_start_where_the_tokenizer_puts_none(
    cells: TinyCells, tmp_path: Path
) -> None:
    text = make_text(1000)
    quiet = tmp_path / "quiet"
    shutil.copytree(cells.folder(LLAMA), quiet)
    # As GPT-2's: there is a start token, and nothing puts it before a text.
    whole = json.loads((quiet / "tokenizer.json").read_text())
    (quiet / "tokenizer.json").write_text(json.dumps({**whole, "post_processor": None}))
    loaded = load_fresh(quiet, "fp32")
    assert loaded.tokenizer.bos_token_id == naive.bos_id(quiet) is not None
    expected = naive.llamacpp(loaded.model, naive.text_ids(quiet, text), 512, None)
    outcome = score(loaded, write_text(tmp_path, text), protocol="llamacpp-512-half")
    assert outcome.details["bos"] is None
    assert_equals(outcome, expected, quiet)


def test_the_hash_of_the_ids_follows_text_window_and_protocol(
    cells: TinyCells, tmp_path: Path
) -> None:
    loaded = cells.load(LLAMA, "fp32")
    path = write_text(tmp_path, make_text(100))
    first = score(loaded, path, window=64).details["ids_sha256"]
    again = score(cells.load(LLAMA, "bf16"), path, window=64).details["ids_sha256"]
    hashes = [
        first,
        score(loaded, path, window=32).details["ids_sha256"],
        score(loaded, path, window=64, protocol="strided").details["ids_sha256"],
        score(loaded, write_text(tmp_path, make_text(100, seed=1)), window=64).details[
            "ids_sha256"
        ],
    ]
    assert again == first
    assert len(set(hashes)) == len(hashes)
    assert all(len(found) == len(hashlib.sha256().hexdigest()) for found in hashes)


@pytest.mark.parametrize(
    ("protocol", "words"), [("gptq-2048-nobos", 300), ("llamacpp-512-half", 20)]
)
def test_a_text_too_short_for_a_window(
    protocol: str, words: int, cells: TinyCells, tmp_path: Path
) -> None:
    path = write_text(tmp_path, make_text(words))
    with pytest.raises(MeasurementError, match=rf"text text has \d+ tokens: too short.*{protocol}"):
        score(cells.load(LLAMA, "fp32"), path, protocol=protocol)


def test_one_token_without_a_start_is_too_short(cells: TinyCells, tmp_path: Path) -> None:
    with pytest.raises(MeasurementError, match="has 1 tokens: too short"):
        score(cells.load(LLAMA_NOBOS, "fp32"), write_text(tmp_path, "x"), window=8)


def test_a_tokenizer_with_ids_beyond_the_embedding(cells: TinyCells, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = tmp_path / "foreign"
    shutil.copytree(cells.folder(LLAMA), folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = len(tokenizer)
    tokenizer.add_tokens(["second"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(
        MeasurementError, match=rf"gives id {rows}, but the model's embedding has {rows} rows"
    ):
        score(load_fresh(folder, "fp32"), write_text(tmp_path, make_text(50)), window=16)


def test_a_folder_without_a_tokenizer(tmp_path: Path, cells: TinyCells) -> None:
    folder = tmp_path / "mute"
    shutil.copytree(cells.folder(LLAMA), folder)
    for path in folder.glob("token*"):
        path.unlink()
    with pytest.raises(MeasurementError, match=r"no tokenizer.*save_pretrained"):
        score(load_fresh(folder, "fp32"), write_text(tmp_path, make_text(50)), window=16)


def test_control_tokens_that_the_text_writes_out_are_counted(
    cells: TinyCells, tmp_path: Path
) -> None:
    text = make_text(200)
    assert score(cells.load(LLAMA, "fp32"), write_text(tmp_path, text)).warnings == ()
    strange = f"{text}<s>{text}<|endoftext|><s>"
    [warning] = score(cells.load(LLAMA, "fp32"), write_text(tmp_path, strange)).warnings
    assert "control tokens of the tokenizer out, 3 times (<|endoftext|>, <s>)" in warning


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("layer", ["model.layers.0.mlp.up_proj", "lm_head"])
def test_weights_that_are_no_numbers(
    layer: str, value: float, cells: TinyCells, tmp_path: Path
) -> None:
    loaded = load_fresh(cells.folder(LLAMA), "fp32")
    loaded.model.get_submodule(layer).weight.data[:] = value
    with pytest.raises(NonFiniteError, match="not finite"):
        score(loaded, write_text(tmp_path, make_text(50)), window=16)


def test_tokens_that_the_model_rules_out_are_counted_and_told(
    cells: TinyCells, tmp_path: Path
) -> None:
    # Phi's head has a bias: one of minus infinity rules a token out.
    loaded = load_fresh(cells.folder(Variant("phi", "phi", {"layers": 1})), "fp32")
    head = loaded.model.get_output_embeddings()
    head.bias.data[0] = -math.inf
    outcome = score(loaded, write_text(tmp_path, make_text(50)), window=16)
    assert values(outcome)["nonfinite_share"] == pytest.approx(1 / head.out_features)
    (warning,) = outcome.warnings
    assert "logits are not finite" in warning


def test_a_loss_beyond_all_perplexities(cells: TinyCells, tmp_path: Path) -> None:
    loaded = load_fresh(cells.folder(LLAMA), "fp32")
    loaded.model.get_submodule("lm_head").weight.data *= 1e6
    with pytest.raises(NonFiniteError):
        score(loaded, write_text(tmp_path, make_text(50)), window=16)


def test_the_window_fits_the_context_unless_told_otherwise(
    cells: TinyCells, tmp_path: Path
) -> None:
    path = write_text(tmp_path, make_text(50))
    resolved = cells.load(LLAMA, "fp32").resolved

    def window(context: int | None, **options: Any) -> int:
        model = resolved.model_copy(update={"context_tokens": context})
        (item,) = QUALITY.items(QualityOptions(text=(str(path),), **options), model, tmp_path)
        found: int = item.params["window"]
        return found

    assert window(128) == 128
    assert window(4096) == 2048
    assert window(None) == 2048
    assert window(4096, window=100) == 100
    assert window(4096, protocol="llamacpp-512-half") == 512


def test_what_does_not_fit_the_model(cells: TinyCells) -> None:
    model = cells.load(LLAMA, "fp32").resolved.model_copy(update={"context_tokens": 256})
    assert QUALITY.misfit(QualityOptions(window=256), model) is None
    assert QUALITY.misfit(QualityOptions(), model) is None
    long = QUALITY.misfit(QualityOptions(window=257), model)
    assert long is not None
    assert (long.place, long.found) == ("window", "257")
    fixed = QUALITY.misfit(QualityOptions(protocol="gptq-2048-nobos"), model)
    assert fixed is not None
    assert (fixed.place, fixed.found) == ("protocol", "gptq-2048-nobos")
    both = QUALITY.misfit(QualityOptions(protocol="llamacpp-512-half", window=100), model)
    assert both is not None
    assert both.place == "window"
