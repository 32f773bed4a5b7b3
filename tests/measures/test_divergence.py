"""Divergence from the reference against a naive fp64 computation from both models' own logits."""

from __future__ import annotations

import json
import math
import shutil
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest

from qbench.compare.series import find_series
from qbench.core.binned_windows import binned_windows
from qbench.core.errors import MeasurementError
from qbench.core.log_bins import EDGES, counts_of
from qbench.measures.quality.quality import QUALITY, QualityOptions
from qbench.measures.quality.reference_states import has_states, states_path
from qbench.measures.quality.windows import cut_windows
from qbench.sources.bundled import bundled_models
from tests.measures.test_quality import STUBBED, make_text, write_text
from tests.precisions.tiny_cells import TinyCells, Variant, load_fresh
from tests.record_factory import make_record

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from qbench.core.spec import Item
    from qbench.measures.loaded import LoadedModel, Outcome

KEY = "0123456789abcdef"
CHANGE_QUANTILES = {
    "min": 0.0,
    "p0_1": 0.001,
    "p1": 0.01,
    "p5": 0.05,
    "p10": 0.1,
    "p25": 0.25,
    "median": 0.5,
    "p75": 0.75,
    "p90": 0.9,
    "p95": 0.95,
    "p99": 0.99,
    "p99_9": 0.999,
    "max": 1.0,
}
HELD_OUT = next(bundled_models()["tiny-mistral"].parent.glob("stdlib-heldout/*.txt"))
WINDOW = 24
ARCHITECTURES = [
    Variant("llama", "llama"),
    Variant("gpt2-tied", "gpt2", {"tied": True}),
    Variant("opt-nobos", "opt", {"bos": False}),
    *STUBBED,
]


def make_item(loaded: LoadedModel, text: Path, **options: object) -> Item:
    chosen = QualityOptions.model_validate({"text": str(text), "window": WINDOW, **options})
    [item] = QUALITY.items(chosen, loaded.resolved, text.parent)
    return item.model_copy(update={"states_key": KEY})


def measure(loaded: LoadedModel, text: Path, *, reference: bool = False) -> Outcome:
    item = make_item(loaded, text).model_copy(update={"makes_states": reference})
    return QUALITY.measure(loaded, item)


def values(outcome: Outcome) -> dict[str, float | None]:
    return {metric.name: metric.value for metric in outcome.metrics}


class Naive(NamedTuple):
    """What a naive loop finds of every scored token."""

    kl: np.ndarray
    same: np.ndarray
    change: np.ndarray
    """Of the true token's probability."""
    reverse: np.ndarray
    confidence: np.ndarray
    """The reference's highest probability."""


def naive_divergence(reference: LoadedModel, cell: LoadedModel, text: str) -> Naive:
    """From both models' own logits, window by window, in fp64."""
    import torch

    tokens = reference.tokenizer(text, add_special_tokens=False)["input_ids"]
    size = max(reference.tokenizer.get_vocab().values()) + 1
    found: list[tuple[np.ndarray, ...]] = []
    for window in cut_windows(tokens, "default", WINDOW, reference.tokenizer.bos_token_id):
        ids = torch.tensor([window.ids])
        with torch.inference_mode():
            first, second = (
                loaded.model(input_ids=ids).logits[0, :-1, :size].float().double().numpy()
                for loaded in (reference, cell)
            )
        p, q = (np.exp(logits - logits.max(1, keepdims=True)) for logits in (first, second))
        p, q = p / p.sum(1, keepdims=True), q / q.sum(1, keepdims=True)
        true = np.array(window.ids[1:])
        rows = np.arange(len(true))
        found.append(
            (
                (p * (np.log(p) - np.log(q))).sum(1),
                first.argmax(1) == second.argmax(1),
                q[rows, true] - p[rows, true],
                (q * (np.log(q) - np.log(p))).sum(1),
                p.max(1),
            )
        )
    return Naive(*(np.concatenate(column) for column in zip(*found, strict=True)))


@pytest.mark.parametrize("variant", ARCHITECTURES, ids=lambda variant: variant.label)
@pytest.mark.parametrize("precision", ["bf16", "nf4"])
def test_divergence_equals_a_naive_one(
    cells: TinyCells, tmp_path: Path, variant: Variant, precision: str
) -> None:
    text = make_text(200)
    path = write_text(tmp_path, text)
    reference = cells.load(variant, "fp32")
    cell = cells.load(variant, precision)
    measure(reference, path, reference=True)
    # Windows one at a time in both, as the naive loop takes them.
    item = make_item(cell, path, batch=1)
    outcome = QUALITY.measure(cell, item)
    found = values(outcome)
    kl, same, change, reverse, _ = naive_divergence(reference, cell, text)
    counts = counts_of(outcome.details["kl_histogram"])
    assert counts is not None
    assert sum(counts) == len(kl)
    for edge, below in zip(EDGES, np.cumsum(counts), strict=False):
        assert (kl < edge - 1e-6).sum() <= below <= (kl < edge + 1e-6).sum()
    kept = binned_windows(outcome.details["kl_by_window"], outcome.details["windows"])
    assert kept is not None
    starts = np.cumsum([0, *outcome.series["window_tokens"]]).astype(int)
    for place, (start, end) in enumerate(pairwise(starts)):
        for edge, below in zip(kept.edges, np.cumsum(kept.counts[place]), strict=False):
            tokens = kl[start:end]
            assert (tokens < edge - 1e-6).sum() <= below <= (tokens < edge + 1e-6).sum()
    assert {found[f"kl.{name}"] for name in ("p90", "p99", "p99_9")} <= {*kept.edges}
    assert found["kl.mean"] == pytest.approx(kl.mean(), abs=1e-7)
    assert found["kl.max"] == pytest.approx(kl.max(), abs=1e-6)
    for name, share in (("median", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99_9", 0.999)):
        assert found[f"kl.{name}"] == pytest.approx(np.quantile(kl, share), abs=1e-6)
    assert found["top1_agreement"] == pytest.approx(same.mean())
    assert found["rms_probability_change"] == pytest.approx(math.sqrt((change**2).mean()), abs=1e-7)
    assert found["kl.reverse"] == pytest.approx(reverse.mean(), abs=1e-7)
    assert found["probability_change.mean"] == pytest.approx(change.mean(), abs=1e-7)
    for name, share in CHANGE_QUANTILES.items():
        expected = np.quantile(change, share)
        assert found[f"probability_change.{name}"] == pytest.approx(expected, abs=1e-6)


def test_token_ids_with_a_gap(cells: TinyCells, tmp_path: Path) -> None:
    """Real tokens beyond the gap count; the rows after the last of them pad the head."""
    from transformers import AutoModelForCausalLM

    folder = shutil.copytree(cells.folder(ARCHITECTURES[0]), tmp_path / "model")
    written = json.loads((folder / "tokenizer.json").read_text())
    vocab = written["model"]["vocab"]
    beyond = {token: at if at < 270 else at + 90 for token, at in vocab.items()}
    written["model"]["vocab"] = beyond
    (folder / "tokenizer.json").write_text(json.dumps(written))
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(420, mean_resizing=False)
    model.save_pretrained(folder)
    text = make_text(200)
    path = write_text(tmp_path, text)
    reference, cell = load_fresh(folder, "fp32"), load_fresh(folder, "nf4")
    ids = reference.tokenizer(text)["input_ids"]
    assert max(ids) > len(reference.tokenizer)
    measure(reference, path, reference=True)
    outcome = QUALITY.measure(cell, make_item(cell, path, batch=1))
    kl = naive_divergence(reference, cell, text).kl
    assert values(outcome)["kl.mean"] == pytest.approx(kl.mean(), abs=1e-7)
    assert outcome.details["vocabulary"] == max(beyond.values()) + 1


@pytest.mark.parametrize(
    ("variant", "route"),
    [
        # Its final states stay in fp32, and are cast before the head multiplies them.
        (Variant("mamba", "mamba", {"state_size": 8}), "stub"),
        # It is named as its own base.
        (
            Variant(
                "llama4-text",
                "llama4_text",
                {"intermediate_size_mlp": 128, "head_dim": 16, "num_local_experts": 2},
            ),
            "head",
        ),
    ],
    ids=lambda given: getattr(given, "label", given),
)
def test_bodies_that_are_not_found_by_their_name(
    cells: TinyCells, tmp_path: Path, variant: Variant, route: str
) -> None:
    text = make_text(100)
    path = write_text(tmp_path, text)
    reference, cell = cells.load(variant, "fp32"), cells.load(variant, "bf16")
    measure(reference, path, reference=True)
    outcome = QUALITY.measure(cell, make_item(cell, path, batch=1))
    assert outcome.details["head_route"] == route
    kl = naive_divergence(reference, cell, text).kl
    assert values(outcome)["kl.mean"] == pytest.approx(kl.mean(), abs=1e-7)


def test_the_reference_against_itself_is_exactly_zero(cells: TinyCells, tmp_path: Path) -> None:
    path = write_text(tmp_path, make_text(200))
    reference = cells.load(ARCHITECTURES[0], "fp32")
    own = values(measure(reference, path, reference=True))
    again = values(measure(reference, path))
    for found in (own, again):
        assert found["kl.mean"] == found["kl.max"] == found["rms_probability_change"] == 0.0
        assert found["kl.reverse"] == found["probability_change.mean"] == 0.0
        assert found["top1_agreement"] == 1.0


def test_sums_by_window_add_up(cells: TinyCells, tmp_path: Path) -> None:
    path = write_text(tmp_path, make_text(200))
    measure(cells.load(ARCHITECTURES[0], "fp32"), path, reference=True)
    outcome = measure(cells.load(ARCHITECTURES[0], "nf4"), path)
    found, series = values(outcome), outcome.series
    tokens = sum(series["window_tokens"])
    assert found["kl.mean"] == pytest.approx(sum(series["window_kl_sum"]) / tokens)
    assert found["top1_agreement"] == pytest.approx(sum(series["window_same_top"]) / tokens)
    record = make_record("nf4", "quality", {}, series=dict(series))
    for metric, name in (
        ("kl.reverse", "window_reverse_kl_sum"),
        ("probability_change.mean", "window_change"),
    ):
        assert found[metric] == pytest.approx(sum(series[name]) / tokens)
        series_of = find_series(record, metric, found[metric] or 0.0)
        assert series_of is not None
        assert series_of.sums == tuple(series[name])
    assert len(series["window_kl_sum"]) == len(series["window_nll"])


def test_columns_that_pad_the_vocabulary_are_left_out(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from tests.tiny_models import make_tiny_model

    folder = make_tiny_model(tmp_path / "padded", "llama")
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.resize_token_embeddings(len(AutoTokenizer.from_pretrained(folder)) + 20)
    model.save_pretrained(folder)
    text = make_text(150)
    path = write_text(tmp_path, text)
    reference, cell = load_fresh(folder, "fp32"), load_fresh(folder, "nf4")
    measure(reference, path, reference=True)
    found = values(QUALITY.measure(cell, make_item(cell, path, batch=1)))
    assert found["kl.mean"] == pytest.approx(
        naive_divergence(reference, cell, text).kl.mean(), abs=1e-7
    )


def test_without_the_references_states_there_is_a_reason(cells: TinyCells, tmp_path: Path) -> None:
    path = write_text(tmp_path, make_text(150))
    outcome = measure(cells.load(ARCHITECTURES[0], "bf16"), path)
    [metric] = [metric for metric in outcome.metrics if metric.name == "kl.mean"]
    assert metric.value is None
    assert metric.reason is not None
    assert "states are not in the cache" in metric.reason
    assert values(outcome)["perplexity"] is not None


def test_states_of_another_text_are_refused(cells: TinyCells, tmp_path: Path) -> None:
    measure(
        cells.load(ARCHITECTURES[0], "fp32"), write_text(tmp_path, make_text(150)), reference=True
    )
    other = write_text(tmp_path, make_text(150, seed=1))
    outcome = measure(cells.load(ARCHITECTURES[0], "bf16"), other)
    [metric] = [metric for metric in outcome.metrics if metric.name == "kl.mean"]
    assert metric.value is None
    assert "other token ids" in str(metric.reason)


@pytest.fixture(scope="module")
def trained() -> Callable[[str], LoadedModel]:
    """The bundled model, loaded once a precision."""
    return cache(lambda precision: load_fresh(bundled_models()["tiny-mistral"], precision))


def test_a_trained_model_is_unlike_the_reference_where_that_is_unsure(
    trained: Callable[[str], LoadedModel], tmp_path: Path
) -> None:
    text = HELD_OUT.read_text()[:1500]
    path = write_text(tmp_path, text)
    reference, cell = trained("fp32"), trained("nf4")
    asked = {"window": WINDOW, "batch": 1}
    item = make_item(reference, path, **asked).model_copy(update={"makes_states": True})
    QUALITY.measure(reference, item)
    outcome = QUALITY.measure(cell, make_item(cell, path, **asked))
    found = values(outcome)
    kl, same, change, reverse, confidence = naive_divergence(reference, cell, text)
    assert found["kl.reverse"] == pytest.approx(reverse.mean(), abs=1e-7)
    assert found["kl.reverse"] != pytest.approx(kl.mean(), rel=1e-3)
    told = outcome.details["by_confidence"]
    starts = [0, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 1.1]
    expected_rows = [
        (low, inside.sum(), kl[inside].sum(), change[inside].sum(), same[inside].sum())
        for low, high in pairwise(starts)
        if (inside := (confidence >= low) & (confidence < high)).any()
    ]
    columns = ("from", "tokens", "kl", "change", "same_top")
    found_rows = list(zip(*(told[name] for name in columns), strict=True))
    assert np.array(found_rows) == pytest.approx(np.array(expected_rows), abs=1e-5)
    means = [kl_sum / tokens for _, tokens, kl_sum, _, _ in found_rows]
    assert means[-1] < min(means[:4])


def rounding_and_kl(loaded: LoadedModel, path: Path) -> tuple[float, float]:
    found = values(QUALITY.measure(loaded, make_item(loaded, path, window=128)))
    assert found["kl.rounding"] is not None
    assert found["kl.mean"] is not None
    return found["kl.rounding"], found["kl.mean"]


@pytest.mark.slow
@pytest.mark.parametrize("reference", ["fp32", "bf16"])
def test_rounding_is_a_part_of_the_divergence(
    reference: str, trained: Callable[[str], LoadedModel], tmp_path: Path
) -> None:
    """Most of it where only the type differs, a small part where weights were quantized."""
    path = write_text(tmp_path, HELD_OUT.read_text()[:4000])
    held = trained(reference)
    item = make_item(held, path, window=128).model_copy(update={"makes_states": True})
    own = values(QUALITY.measure(held, item))["kl.rounding"]
    assert own is not None
    if reference == "fp32":
        assert own < 1e-9
    for precision in ("bf16", "int8", "nf4"):
        if precision == reference:
            continue
        rounding, kl = rounding_and_kl(trained(precision), path)
        assert own < rounding < kl
        assert (rounding > kl / 4) == (precision != "nf4")


def test_rounding_is_half_of_what_two_runs_differ_by(
    trained: Callable[[str], LoadedModel], tmp_path: Path
) -> None:
    import torch

    text = HELD_OUT.read_text()[:1500]
    path = write_text(tmp_path, text)
    cell = trained("bf16")
    item = make_item(cell, path, window=64, batch=1).model_copy(update={"makes_states": True})
    found = values(QUALITY.measure(cell, item))["kl.rounding"]
    ids = cell.tokenizer(text, add_special_tokens=False)["input_ids"]
    total, count = 0.0, 0
    for window in cut_windows(ids, "default", 64, cell.tokenizer.bos_token_id):
        logs = []
        for kernel in ("sdpa", "eager"):
            cell.model.set_attn_implementation(kernel)
            with torch.inference_mode():
                logits = cell.model(input_ids=torch.tensor([window.ids])).logits[0]
            logs.append(logits[:-1].double().log_softmax(-1)[:, : len(cell.tokenizer)])
        cell.model.set_attn_implementation("sdpa")
        total += float((logs[0].exp() * (logs[0] - logs[1])).sum())
        count += len(logs[0])
        if count >= 1024:
            break
    assert found == pytest.approx(total / count / 2, rel=1e-3)
    assert cell.model.config._attn_implementation == "sdpa"


FIXED_KERNEL = [
    Variant("falcon", "falcon"),
    Variant("bloom", "bloom"),
    Variant("gptj", "gptj", {"n_embd": 64, "n_layer": 2, "n_head": 4, "rotary_dim": 8}),
    Variant("rwkv", "rwkv", {"attention_hidden_size": 64}),
    Variant("mamba", "mamba", {"state_size": 8}),
]


@pytest.mark.parametrize("variant", FIXED_KERNEL, ids=lambda variant: variant.label)
def test_a_kernel_that_is_not_changed_is_not_measured(
    variant: Variant, cells: TinyCells, tmp_path: Path
) -> None:
    loaded = cells.load(variant, "fp32")
    path = write_text(tmp_path, make_text(80))
    outcome = measure(loaded, path, reference=True)
    [rounding] = [metric for metric in outcome.metrics if metric.name == "kl.rounding"]
    assert rounding.value is None
    own = loaded.model.config._attn_implementation
    assert own in str(rounding.reason)
    # Falcon gives sdpa a mask, which torch's faster kernels for a CPU do not take.
    expected = {"falcon": ["sdpa: math"], "rwkv": [], "mamba": []}.get(variant.label, ["eager"])
    assert outcome.details["attention_ran"] == expected
    other = "eager" if own == "sdpa" else "sdpa"
    with pytest.raises(MeasurementError, match=f"{own}.*{other}|{other}.*{own}"):
        QUALITY.measure(loaded, make_item(loaded, path, attention=other))


@pytest.mark.parametrize(("kernel", "ran"), [("eager", "eager"), ("sdpa", "sdpa: flash")])
def test_the_kernel_that_ran_is_told(
    kernel: str, ran: str, cells: TinyCells, tmp_path: Path
) -> None:
    loaded = cells.load(ARCHITECTURES[0], "bf16")
    item = make_item(loaded, write_text(tmp_path, make_text(80)), attention=kernel)
    assert QUALITY.measure(loaded, item).details["attention_ran"] == [ran]


def test_states_are_kept_in_the_models_own_type(cells: TinyCells, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    path = write_text(tmp_path, make_text(100))
    outcome = measure(cells.load(ARCHITECTURES[0], "bf16"), path, reference=True)
    states = load_file(states_path(KEY))["states"]
    assert str(states.dtype) == "torch.bfloat16"
    assert len(states) == values(outcome)["tokens"]


@pytest.mark.parametrize("how", ["a bit", "another reference", "gone"])
def test_states_that_are_not_what_was_written_are_not_believed(
    cells: TinyCells, tmp_path: Path, how: str
) -> None:
    text = write_text(tmp_path, make_text(100))
    measure(cells.load(ARCHITECTURES[0], "fp32"), text, reference=True)
    assert has_states(KEY)
    path = states_path(KEY)
    if how == "a bit":
        contents = path.read_bytes()
        path.write_bytes(contents[:-1] + bytes([contents[-1] ^ 1]))
        words = "states.safetensors is not what was written; run again"
    elif how == "another reference":
        # Of the same text, so of the same token ids.
        other = states_path("0" * 16)
        path.parent.rename(other.parent)
        measure(cells.load(ARCHITECTURES[0], "bf16"), text, reference=True)
        path.parent.rename(tmp_path / "aside")
        other.parent.rename(path.parent)
        seal = path.parent / "seal.json"
        seal.write_text(seal.read_text().replace(KEY, "0" * 16))
        words = f"it was made for {'0' * 16}"
    else:
        path.unlink()
        words = "not in the cache"
    assert not has_states(KEY)
    outcome = measure(cells.load(ARCHITECTURES[0], "nf4"), text)
    [metric] = [metric for metric in outcome.metrics if metric.name == "kl.mean"]
    assert metric.value is None
    assert words in str(metric.reason)
