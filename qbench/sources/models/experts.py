"""A mixture's experts: how many a layer has, and how many of them read each token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
_CHOSEN = ("num_experts_per_tok", "experts_per_token", "moe_top_k", "moe_topk", "moe_k")


def experts_of(config: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Experts of a layer, and how many of them a token is sent to, as configurations name them.

    `config` is what config.json states, or `config.to_dict()`; None for what it does not state.
    """
    parts = [config, *(config.get(name) for name in ("ffn_config", "text_config"))]

    def first(names: tuple[str, ...]) -> int | None:
        found = (part.get(name) for part in parts if isinstance(part, dict) for name in names)
        return next((one for one in found if isinstance(one, int) and one > 0), None)

    return first(_EXPERTS), first(_CHOSEN)
