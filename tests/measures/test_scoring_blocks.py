"""Scoring asks the device for nothing until all windows are done, whatever the block."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from qbench.measures.quality.divergence import divergence_metrics, divergence_series
from qbench.measures.quality.head import find_head
from qbench.measures.quality.reference_states import CachedStates, OwnStates
from qbench.measures.quality.scoring import Scores, rounding_kl, score_windows
from qbench.measures.quality.windows import Window
from qbench.predict import inference
from tests.precisions.tiny_cells import TinyCells, Variant

if TYPE_CHECKING:
    from qbench.measures.quality.head import OutputHead

KEY = "0123456789abcdef"
WAITING = {
    "aten::_local_scalar_dense",
    "aten::equal",
    "aten::is_nonzero",
    "aten::item",
    "aten::masked_select",
    "aten::nonzero",
    "aten::unique_dim",
    "aten::_unique2",
}
"""Operations whose result a program must have before it can go on: a GPU is waited for."""
WINDOWS = [
    Window(tuple((at * 7 + k * 3) % 290 + 2 for k in range(40)), 1, (at + 1) * 39)
    for at in range(10)
]


class Waits(TorchDispatchMode):
    """Operations that scoring waits for; indices by a mask are such, too.

    The model's own are left out: transformers looks once a pass whether texts are packed.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.seen: list[str] = []
        self._inside = False
        self._hooks = [
            model.base_model.register_forward_pre_hook(lambda *_: self._is_inside(value=True)),
            model.base_model.register_forward_hook(lambda *_: self._is_inside(value=False)),
        ]

    def _is_inside(self, *, value: bool) -> None:
        self._inside = value

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)  # type: ignore[arg-type]
        for hook in self._hooks:
            hook.remove()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        masked = name.startswith("aten::index") and any(
            isinstance(one, torch.Tensor) and one.dtype == torch.bool
            for given in args[1:]
            for one in (given if isinstance(given, (list, tuple)) else [])
        )
        if not self._inside and (name in WAITING or masked):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def head(cells: TinyCells) -> OutputHead:
    loaded = cells.load(Variant("llama", "llama"), "bf16")
    with torch.inference_mode():
        return find_head(loaded.model, torch.tensor([WINDOWS[0].ids]))


@pytest.fixture
def reference(cells: TinyCells) -> OutputHead:
    loaded = cells.load(Variant("llama", "llama"), "fp32")
    with torch.inference_mode():
        found = find_head(loaded.model, torch.tensor([WINDOWS[0].ids]))
        own = OwnStates(found)
        score_windows(found, WINDOWS, 4, 300, own)
        own.save(KEY, "ids", None)
    return found


def score(head: OutputHead, windows: list[Window], *, against: bool) -> Scores:
    with torch.inference_mode():
        held = CachedStates(KEY, head, "ids") if against else None
        return score_windows(head, windows, 4, 290, held)


@pytest.mark.parametrize("against", [True, False])
def test_nothing_waits_for_the_device(
    head: OutputHead, reference: OutputHead, *, against: bool
) -> None:
    held = CachedStates(KEY, head, "ids") if against else None
    if held is not None:
        held._states = held._states[:]  # reading a file waits, but for no device
    with torch.inference_mode(), Waits(head.model) as waits:
        score_windows(head, WINDOWS, 4, 290, held)
    assert waits.seen == []


def test_the_reference_and_the_share_of_rounding_wait_once(reference: OutputHead) -> None:
    with torch.inference_mode(), Waits(reference.model) as waits:
        score_windows(reference, WINDOWS, 4, 300, OwnStates(reference))
        assert waits.seen == []
        rounding, _ = rounding_kl(reference, WINDOWS, 4, 300)
    assert rounding is not None
    assert waits.seen == ["aten::item"]


def test_the_block_decides_nothing_but_rounding(
    head: OutputHead, reference: OutputHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for logits in (290, 2**13, 2**23):
        monkeypatch.setitem(inference.BLOCK_LOGITS, "cpu", logits)
        found.append(score(head, WINDOWS, against=True))
    one, some, whole = found
    for name in ("nll", "kl", "reverse_kl", "same_top", "change", "squared_change"):
        assert getattr(one, name) == pytest.approx(getattr(whole, name), rel=1e-12)
        assert getattr(some, name) == pytest.approx(getattr(whole, name), rel=1e-12)
    assert one.token_kl is not None
    assert whole.token_kl is not None
    assert torch.allclose(one.token_kl, whole.token_kl, rtol=1e-12)
    assert len(one.token_kl) == sum(window.scored for window in WINDOWS)


def test_a_gpu_takes_more_positions_at_once() -> None:
    assert inference.block_rows(128_256, "cpu") == 2
    assert inference.block_rows(128_256, "cuda") == 65
    assert inference.block_rows(32_000, "cuda") == 262
    assert inference.block_rows(2**30, "cuda") == 1


def test_a_token_that_the_reference_rules_out_counts_nothing(
    head: OutputHead, reference: OutputHead
) -> None:
    """Logits of minus infinity on the reference's side, finite ones on the cell's."""

    class RuledOut:
        def logits(self, start: int, own_states: torch.Tensor) -> torch.Tensor:
            logits = reference.logits(own_states.float())
            logits[:, 5] = -torch.inf
            return logits

    with torch.inference_mode():
        scores = score_windows(head, WINDOWS[:2], 2, 290, RuledOut())
        states = head.states(torch.tensor([window.ids for window in WINDOWS[:2]]))[:, :-1]
        q = head.logits(states.flatten(0, 1))[:, :290].double().log_softmax(-1)
        wanted = RuledOut().logits(0, states.flatten(0, 1))[:, :290].double().log_softmax(-1)
        kept = [column for column in range(290) if column != 5]
        kl = (wanted.exp() * (wanted - q))[:, kept].sum(-1)
    assert sum(scores.kl) == pytest.approx(float(kl.sum()), rel=1e-9)
    # The cell finds likely what the reference rules out: no number is large enough for that.
    assert scores.reverse_kl == [math.inf] * 2
    assert "window_reverse_kl_sum" not in divergence_series(scores)
    tokens = sum(window.scored for window in WINDOWS[:2])
    metrics = {one.name: one for one in divergence_metrics(scores, tokens, (0.0, None), None)}
    assert metrics["kl.reverse"].value is None
    assert "infinite at 2 of 2 windows" in str(metrics["kl.reverse"].reason)
    assert metrics["kl.mean"].value == pytest.approx(float(kl.mean()))


def test_logits_that_are_no_numbers_give_none(head: OutputHead, reference: OutputHead) -> None:
    """One bad logit spoils its own position, whatever it is, and no other."""

    class Spoilt:
        def logits(self, start: int, own_states: torch.Tensor) -> torch.Tensor:
            logits = reference.logits(own_states.float())
            logits[3, 7], logits[5, 8] = torch.nan, torch.inf
            return logits

    with torch.inference_mode():
        scores = score_windows(head, WINDOWS[:1], 1, 290, Spoilt())
    for found in (scores.token_kl, scores.token_change, scores.token_confidence):
        assert found is not None
        assert found.isnan().nonzero().flatten().tolist() == [3, 5]
