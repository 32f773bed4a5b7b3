"""Whether a model keeps the examples of a packed block apart.

In a block several examples lie one behind the other. Their positions begin at 0 again, by which
transformers' models know that the attention of each ends at its own beginning: trained so, an
example counts as it does alone. A model that takes no positions, or has a state that goes on from
token to token (ALiBi, RWKV, Mamba), would see the examples before it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from qbench.finetune.train.examples import Encoded

_TOKENS = 8
"""Of each of the two halves that are tried."""
_LEAKED = 0.05
"""Share of what another first half changes in the second when nothing keeps them apart."""


def keeps_apart(model: torch.nn.Module, sequences: Sequence[Encoded]) -> bool:
    """Tries it: whether what comes first in a block changes what the model makes of the second."""
    import torch

    known = sorted({token for sequence in sequences for token in sequence.ids})
    if len(known) < 2:
        return True
    device = next(model.parameters()).device
    second = (known * _TOKENS)[:_TOKENS]
    firsts = [[token] * _TOKENS for token in (known[0], known[-1])]
    ids = [torch.tensor([first + second], device=device) for first in firsts]
    positions = torch.tensor([[*range(_TOKENS), *range(_TOKENS)]], device=device)

    def change(**arguments: Any) -> float:
        with torch.no_grad():
            made = [model(input_ids=one, use_cache=False, **arguments).logits for one in ids]
        return float((made[0] - made[1])[0, _TOKENS:].float().abs().max())

    training = model.training
    model.eval()
    try:
        return change(position_ids=positions) <= _LEAKED * change()
    except (TypeError, ValueError):
        return False  # it takes no positions
    finally:
        model.train(training)
