"""What scoring costs beside the forward passes themselves, and beside two other ways.

    forward     the body of the model over all windows, nothing scored
    qbench      perplexity and divergence from the cached reference, chunk by chunk
    naive       both models' whole logits in fp32, window by window
    lm-eval     its rolling log-likelihood of the same text: perplexity alone

Each on the bundled model, whose body is smaller than the work on its logits, and on a shape nearer
to a real one: 268 M random weights and 32,000 tokens. `extra_info` has the peak of the process's
resident size above the level before, and the size of one chunk of fp32 logits, in MiB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from qbench.measures.peaks import PeakMeter
from qbench.measures.quality.head import find_head
from qbench.measures.quality.quality import QUALITY, QualityOptions
from qbench.measures.quality.scoring import in_groups
from qbench.measures.quality.windows import cut_windows
from qbench.predict.inference import CHUNK_TOKENS
from qbench.sources.bundled import bundled_models, bundled_texts
from tests.precisions.tiny_cells import load_fresh

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from qbench.measures.loaded import LoadedModel

WINDOW = 256
BATCH = 4
KEY = "benchmark0000000"
CHARACTERS = {"tiny-mistral": 40_000, "llama-32k": 16_000}


def make_llama(folder: Path) -> None:
    """Saves a random Llama of 268 M weights, with the bundled tokenizer widened to 32,000."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(bundled_models()["tiny-mistral"])
    tokenizer.add_tokens([f"<extra{at}>" for at in range(32_000 - len(tokenizer))])
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32_000,
        hidden_size=1024,
        intermediate_size=2816,
        num_hidden_layers=16,
        num_attention_heads=16,
        num_key_value_heads=16,
        max_position_embeddings=1024,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


@pytest.fixture(scope="module", params=list(CHARACTERS))
def shape(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(shape: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shape in bundled_models():
        return bundled_models()[shape]
    path = tmp_path_factory.mktemp("llama")
    make_llama(path)
    return path


@pytest.fixture(scope="module")
def text(shape: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    whole = bundled_texts()["stdlib-heldout"].read_text(encoding="utf-8")
    path.write_text(whole[: CHARACTERS[shape]], encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def reference(folder: Path) -> LoadedModel:
    return load_fresh(folder, "bf16")


@pytest.fixture(scope="module")
def cell(folder: Path) -> LoadedModel:
    return load_fresh(folder, "nf4")


def windows_of(loaded: LoadedModel, text: Path) -> list[Any]:
    tokens = loaded.tokenizer(text.read_text(encoding="utf-8"), add_special_tokens=False)
    return cut_windows(tokens["input_ids"], "default", WINDOW, loaded.tokenizer.bos_token_id)


def timed(benchmark: Any, cell: LoadedModel, work: Callable[[], object]) -> None:
    meter = PeakMeter("cpu")
    meter.boundary()
    before = meter.level_bytes()
    work()
    benchmark.extra_info["peak_mib"] = round((meter.read().used_bytes - before) / 2**20, 1)
    chunk_bytes = CHUNK_TOKENS * cell.model.config.vocab_size * 4
    benchmark.extra_info["chunk_of_logits_mib"] = round(chunk_bytes / 2**20, 1)
    benchmark.pedantic(work, rounds=3, iterations=1)


def test_forward(benchmark: Any, cell: LoadedModel, text: Path) -> None:
    import torch

    windows = windows_of(cell, text)
    head = find_head(cell.model, torch.tensor([windows[0].ids[:64]]))

    def forward() -> None:
        with torch.inference_mode():
            for group in in_groups(windows, BATCH):
                head.states(torch.tensor([window.ids for window in group]))

    timed(benchmark, cell, forward)


def test_qbench(benchmark: Any, reference: LoadedModel, cell: LoadedModel, text: Path) -> None:
    options = QualityOptions(text=(str(text),), window=WINDOW, batch=BATCH)
    [item] = QUALITY.items(options, cell.resolved, text.parent)
    item = item.model_copy(update={"states_key": KEY})
    QUALITY.measure(reference, item.model_copy(update={"makes_states": True}))
    timed(benchmark, cell, lambda: QUALITY.measure(cell, item))


def test_naive(benchmark: Any, reference: LoadedModel, cell: LoadedModel, text: Path) -> None:
    import torch

    windows = windows_of(cell, text)

    def naive() -> float:
        total = 0.0
        with torch.inference_mode():
            for group in in_groups(windows, BATCH):
                ids = torch.tensor([window.ids for window in group])
                p, q = (
                    loaded.model(input_ids=ids).logits[:, :-1].float().log_softmax(-1)
                    for loaded in (reference, cell)
                )
                total += float((p.exp() * (p - q)).sum())
                total += float(q.gather(2, ids[:, 1:, None]).sum())
        return total

    timed(benchmark, cell, naive)


def test_lm_eval_rolling(benchmark: Any, cell: LoadedModel, text: Path) -> None:
    pytest.importorskip("lm_eval")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    model = HFLM(
        pretrained=cell.model, tokenizer=cell.tokenizer, batch_size=BATCH, max_length=WINDOW
    )
    contents = text.read_text(encoding="utf-8")
    request = Instance("loglikelihood_rolling", {}, (contents,), 0)
    timed(benchmark, cell, lambda: model.loglikelihood_rolling([request], disable_tqdm=True))
