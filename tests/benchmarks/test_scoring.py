"""What scoring costs beside the forward passes themselves, and beside two other ways.

    forward     the body of the model over all windows, nothing scored
    qbench      perplexity and divergence from the cached reference, chunk by chunk
    naive       both models' whole logits in fp32, window by window
    lm-eval     its rolling log-likelihood of the same text: perplexity alone

`extra_info` has the peak of the process's resident size above the level before, in MiB.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest

from qbench.measures.head import find_head
from qbench.measures.peaks import PeakMeter
from qbench.measures.quality import QUALITY, QualityOptions
from qbench.measures.scoring import in_groups
from qbench.measures.windows import cut_windows
from qbench.sources.bundled import bundled_models, bundled_texts
from tests.precisions.tiny_cells import load_fresh

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from qbench.measures.loaded import LoadedModel

CHARACTERS = 40_000
WINDOW = 256
BATCH = 4
KEY = "benchmark0000000"


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    whole = bundled_texts()["stdlib-heldout"].read_text(encoding="utf-8")
    path.write_text(whole[:CHARACTERS], encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def reference() -> LoadedModel:
    return dataclasses.replace(load_fresh(bundled_models()["tiny-mistral"], "fp32"), reference=True)


@pytest.fixture(scope="module")
def cell() -> LoadedModel:
    return load_fresh(bundled_models()["tiny-mistral"], "nf4")


def windows_of(loaded: LoadedModel, text: Path) -> list[Any]:
    tokens = loaded.tokenizer(text.read_text(encoding="utf-8"), add_special_tokens=False)
    return cut_windows(tokens["input_ids"], "default", WINDOW, loaded.tokenizer.bos_token_id)


def timed(benchmark: Any, work: Callable[[], object]) -> None:
    meter = PeakMeter("cpu")
    meter.boundary()
    before = meter.level_bytes()
    work()
    benchmark.extra_info["peak_mib"] = round((meter.read().used_bytes - before) / 2**20, 1)
    benchmark.pedantic(work, rounds=3, iterations=1)


def test_forward(benchmark: Any, cell: LoadedModel, text: Path) -> None:
    import torch

    windows = windows_of(cell, text)
    head = find_head(cell.model, torch.tensor([windows[0].ids[:64]]))

    def forward() -> None:
        with torch.inference_mode():
            for group in in_groups(windows, BATCH):
                head.states(torch.tensor([window.ids for window in group]))

    timed(benchmark, forward)


def test_qbench(benchmark: Any, reference: LoadedModel, cell: LoadedModel, text: Path) -> None:
    options = QualityOptions(text=(str(text),), window=WINDOW, batch=BATCH)
    [item] = QUALITY.items(options, cell.resolved, text.parent)
    item = item.model_copy(update={"states_key": KEY})
    QUALITY.measure(reference, item)
    timed(benchmark, lambda: QUALITY.measure(cell, item))


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

    timed(benchmark, naive)


def test_lm_eval_rolling(benchmark: Any, cell: LoadedModel, text: Path) -> None:
    pytest.importorskip("lm_eval")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    model = HFLM(
        pretrained=cell.model, tokenizer=cell.tokenizer, batch_size=BATCH, max_length=WINDOW
    )
    contents = text.read_text(encoding="utf-8")
    request = Instance("loglikelihood_rolling", {}, (contents,), 0)
    timed(benchmark, lambda: model.loglikelihood_rolling([request], disable_tqdm=True))
