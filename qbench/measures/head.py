"""Logits from final hidden states, a few positions at a time.

The fp32 logits of a whole window would take 4 bytes x vocabulary a token: 1 GiB for 2048 tokens
of a 128 k vocabulary. So the model's body runs once, and its output head chunk by chunk.

For most models the head's layer applied to the final states gives the model's own logits bit for
bit. Some scale or cap them afterwards (Gemma 2, Cohere, Granite); for those the model's own
forward is run with its body replaced by a stub that returns the stored states.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from qbench.errors import MeasurementError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class OutputHead:
    """Turns final hidden states into logits exactly as the model does."""

    model: PreTrainedModel
    route: Literal["head", "stub"]
    """`head`: its output layer alone. `stub`: its whole forward with the body replaced."""

    @property
    def device(self) -> torch.device:
        """Where states and logits lie: of a model on several GPUs, on that of the output layer."""
        device: torch.device = self.model.get_output_embeddings().weight.device
        return device

    def states(self, ids: torch.Tensor) -> torch.Tensor:
        """Final hidden states, (batch, tokens, hidden), of ids (batch, tokens)."""
        states: torch.Tensor = _body(self.model)(input_ids=ids, use_cache=False).last_hidden_state
        return states.to(self.device)

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Logits in fp32, (positions, vocabulary), of states (positions, hidden)."""
        if self.route == "head":
            logits: torch.Tensor = self.model.get_output_embeddings()(states)
        else:
            logits = _stub_logits(self.model, states)
        return logits.to(self.device).float()


def find_head(model: PreTrainedModel, ids: torch.Tensor) -> OutputHead:
    """Chooses the route that gives the model's own logits for `ids` (1, tokens), bit for bit.

    Raises `MeasurementError` when neither does.
    """
    own = model(input_ids=ids, use_cache=False).logits[0].float()
    own = own.to(model.get_output_embeddings().weight.device)
    routes: tuple[Literal["head", "stub"], ...] = ("head", "stub")
    for route in routes:
        head = OutputHead(model, route)
        rebuilt = head.logits(head.states(ids)[0])
        if ((own == rebuilt) | (own.isnan() & rebuilt.isnan())).all():
            return head
    raise MeasurementError(
        f"the logits of {type(model).__name__} cannot be rebuilt from its final hidden states;"
        " qbench cannot score this architecture"
    )


def _body(model: PreTrainedModel) -> torch.nn.Module:
    """The model below its output head."""
    body: torch.nn.Module = model.base_model
    return body


def _stub_logits(model: PreTrainedModel, states: torch.Tensor) -> torch.Tensor:
    import torch

    ids = torch.zeros(1, states.shape[0], dtype=torch.long, device=states.device)
    with _replaced_body(model, states[None]):
        logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits[0]
    return logits


@contextmanager
def _replaced_body(model: PreTrainedModel, states: torch.Tensor) -> Iterator[None]:
    from transformers.modeling_outputs import BaseModelOutputWithPast

    body = _body(model)
    own_forward = body.forward

    def stub(*_: object, **__: object) -> BaseModelOutputWithPast:
        return BaseModelOutputWithPast(last_hidden_state=states)

    body.forward = stub
    try:
        yield
    finally:
        body.forward = own_forward
