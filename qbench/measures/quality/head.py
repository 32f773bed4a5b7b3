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
from typing import TYPE_CHECKING, Any, Literal

from qbench.core.errors import MeasurementError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import torch
    from transformers import PreTrainedModel

    from qbench.measures.quality.windows import Window


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

    def states_in_parts(self, ids: torch.Tensor, ends: Sequence[int], cache: Any) -> torch.Tensor:
        """The same, of one pass over the ids up to each of the ends and one over the rest.

        Each pass reads what those before it left in the cache, an empty one; None for one that the
        model makes itself.
        """
        import torch

        body, found = _body(self.model), []
        for part in ids.tensor_split(tuple(ends), dim=1):
            out = body(input_ids=part, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            found.append(out.last_hidden_state)
        return torch.cat(found, dim=1).to(self.device)

    def window_states(self, group: list[Window], ids: torch.Tensor) -> torch.Tensor:
        """The same of the windows whose ids these are, for a head to which they are more."""
        return self.states(ids)

    def logits(self, states: torch.Tensor) -> torch.Tensor:
        """Logits in fp32, (positions, vocabulary), of states (positions, hidden)."""
        if self.route == "head":
            logits: torch.Tensor = self.model.get_output_embeddings()(states)
        else:
            logits = _stub_logits(self.model, states)
        return logits.to(self.device).float()


@dataclass(frozen=True)
class DecodingHead(OutputHead):
    """The same, with states as they come out when the text is decoded through a KV cache."""

    prompt_tokens: int
    """Tokens that are read at once, before those that are read one by one."""
    new_cache: Callable[[], Any]
    """Gives an empty cache; None for one that the model makes itself."""

    def states(self, ids: torch.Tensor) -> torch.Tensor:
        """As `OutputHead.states`: of the prompt in one pass, then a token a pass."""
        ends = range(self.prompt_tokens, ids.shape[1])
        return self.states_in_parts(ids, ends, self.new_cache())


def find_head(model: PreTrainedModel, ids: torch.Tensor) -> OutputHead:
    """Chooses the route that gives the model's own logits for `ids` (1, tokens), bit for bit.

    Raises `MeasurementError` when neither does.
    """
    own = model(input_ids=ids, use_cache=False).logits[0].float()
    own = own.to(model.get_output_embeddings().weight.device)
    routes: tuple[Literal["head", "stub"], ...] = ("head", "stub")
    for route in routes:
        head = OutputHead(model, route)
        states = head.states(ids)[0]
        if route == "head" and not _takes(model.get_output_embeddings(), states):
            continue
        rebuilt = head.logits(states)
        if ((own == rebuilt) | (own.isnan() & rebuilt.isnan())).all():
            return head
    raise MeasurementError(
        f"the logits of {type(model).__name__} cannot be rebuilt from its final hidden states;"
        " qbench cannot score this architecture"
    )


def _takes(output: Any, states: torch.Tensor) -> bool:
    """Whether a plain layer multiplies states of this type, which Mamba's are cast to first."""
    from torch import nn

    return type(output) is not nn.Linear or bool(output.weight.dtype == states.dtype)


def _body(model: Any) -> torch.nn.Module:
    """The model below its output head; raises `MeasurementError` where it is no module of its own.

    Some language models are named as their own base, such as the text model of Llama 4: there it is
    the part that reads the token ids.
    """
    embedding = model.get_input_embeddings()
    readers = [
        part
        for part in model.children()
        if part is not embedding and any(module is embedding for module in part.modules())
    ]
    bodies: list[torch.nn.Module] = [model.base_model, *readers]
    for body in bodies:
        if body is not model:
            return body
    raise MeasurementError(
        f"{type(model).__name__} has no part of its own below its output head; qbench cannot score"
        " this architecture"
    )


def _stub_logits(model: PreTrainedModel, states: torch.Tensor) -> torch.Tensor:
    import torch

    ids = torch.zeros(1, states.shape[0], dtype=torch.long, device=states.device)
    with _replaced_body(model, states[None]):
        logits: torch.Tensor = model(input_ids=ids, use_cache=False).logits[0]
    return logits


@dataclass(frozen=True)
class _BodyOutput:
    """Final states, and None for what else some models hand on, such as Mamba's cache."""

    last_hidden_state: torch.Tensor

    def __getattr__(self, name: str) -> None:
        if name.startswith("_"):
            raise AttributeError(name)

    def __getitem__(self, index: int | slice) -> Any:
        return (self.last_hidden_state,)[index]


@contextmanager
def _replaced_body(model: PreTrainedModel, states: torch.Tensor) -> Iterator[None]:
    body = _body(model)
    own_forward = body.forward

    def stub(*_: object, **__: object) -> _BodyOutput:
        return _BodyOutput(states)

    body.forward = stub
    try:
        yield
    finally:
        body.forward = own_forward
