"""The cell's own model behind transformers' server: the one that is measured, and no other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psutil
import pytest

from qbench.core.errors import ProcessFailedError
from qbench.measures.serving.asking import CHAT, ask_json
from qbench.measures.serving.opening import open_server
from qbench.measures.serving.servers import ServerOptions
from tests.measures.test_servers import cell_of
from tests.precisions.tiny_cells import load_fresh
from tests.tiny_models import make_tiny_model
from tests.workplace import MARK, Workplace

if TYPE_CHECKING:
    from pathlib import Path

PROMPT = "def add(first, second):"
TOKENS = 6


@pytest.fixture
def place(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    monkeypatch.setenv(MARK, str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "there is no hub"))
    return Workplace(tmp_path, tiny_model)


def said_by_itself(model: Path, precision: str) -> str:
    """What the model continues the prompt with, token after token by the highest logit."""
    import torch

    loaded = load_fresh(model, precision)
    ids = loaded.tokenizer(PROMPT, return_tensors="pt").input_ids
    begins = ids.shape[1]
    with torch.inference_mode():
        for _ in range(TOKENS):
            logits = loaded.model(ids).logits[:, -1]
            ids = torch.cat([ids, logits.argmax(-1, keepdim=True)], dim=1)
    said: str = loaded.tokenizer.decode(ids[0, begins:], skip_special_tokens=True)
    return said


@pytest.mark.parametrize(
    ("precision", "batching"),
    [("fp32", True), pytest.param("nf4", False, marks=pytest.mark.slow)],
)
def test_it_says_what_the_cells_model_says(
    precision: str, *, batching: bool, place: Workplace
) -> None:
    options = ServerOptions(engine="transformers", continuous_batching=batching)
    body: dict[str, Any] = {"prompt": PROMPT, "max_tokens": TOKENS, "temperature": 0}
    with open_server(options, cell_of(place, precision), context_tokens=40, streams=2) as server:
        assert server.model == str(place.model)
        answer = ask_json(server.url + "/v1/completions", 60.0, {"model": server.model, **body})
        listed = ask_json(server.url + "/v1/models", 10.0)
        assert [one["id"] for one in listed["data"]] == [server.model]
        assert server.version is not None
        assert server.version.startswith("transformers 5.")
        loaded = server.details["loaded"]
        assert loaded["faults"] == []
        assert loaded.get("quant_type") == ("nf4" if precision == "nf4" else None)
        assert ("--continuous-batching" in server.flags) is batching
        memory, (process,) = server.memory(), psutil.Process(server.pid).children()
        assert memory is not None
        assert memory.serve_bytes is not None
        assert memory.serve_bytes < 3 * process.memory_info().rss  # no cache of the whole machine
        assert server.log is not None
        assert f"CB: {batching}" in server.log.read_text(encoding="utf-8")
    assert answer["choices"][0]["text"] == said_by_itself(place.model, precision)
    assert place.survivors() == []


@pytest.mark.slow
def test_a_model_that_cannot_be_built_says_why(place: Workplace, tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "broken", "llama")
    broken = Workplace(place.folder, model)
    cell = cell_of(broken)
    (model / "model.safetensors").write_bytes(b"no weights")
    options = ServerOptions(engine="transformers")
    with pytest.raises(ProcessFailedError) as caught:
        open_server(options, cell, context_tokens=40).__enter__()
    assert caught.value.status == "error"
    assert caught.value.phase == "load"
    assert "header" in str(caught.value).lower()
    assert "SafetensorError: Error while deserializing" in (caught.value.log_tail or "")
    assert place.survivors() == []


@pytest.mark.slow
def test_what_transformers_cannot_do_ends_with_the_line_that_says_so(
    place: Workplace, tmp_path: Path
) -> None:
    """A state space model has no pages to batch by; a model without a template cannot chat."""
    model = make_tiny_model(tmp_path / "mamba", "mamba")
    cell = cell_of(Workplace(place.folder, model))
    batching = ServerOptions(engine="transformers", continuous_batching=True)
    with pytest.raises(
        ProcessFailedError, match=r"status 500.*its log says: ValueError: Invalid layer type"
    ):
        open_server(batching, cell, context_tokens=40).__enter__()
    plain = ServerOptions(engine="transformers")
    with pytest.raises(ProcessFailedError, match=f"{CHAT} gave status 500"):
        open_server(plain, cell, context_tokens=40, endpoint=CHAT).__enter__()
    assert place.survivors() == []
