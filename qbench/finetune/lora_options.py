"""The options of LoRA, checked against the arguments of the PEFT that is installed."""

from __future__ import annotations

import ast
import importlib.util
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt, field_validator

from qbench.core.aliases import Also, other_names
from qbench.core.names import what_there_is
from qbench.finetune.lora_extra import SERVED, refused_argument
from qbench.finetune.options import PositiveNumber, TrainingOptions

CHANGES_THE_BASE = ("pissa", "olora")
"""Ways to begin that take their part out of the weights."""
_Name = Annotated[str, Field(min_length=1)]


class LoraOptions(TrainingOptions):
    """Options of `lora`."""

    rank: Annotated[PositiveInt, Also("r", "lora_r", "lora_rank")] = 16
    """Columns of B and rows of A: the rank of the update."""
    alpha: Annotated[PositiveNumber | None, Also("lora_alpha")] = None
    """The update counts alpha/rank times; twice the rank unless given, so that a sweep over ranks
    keeps its scale. (PEFT's own default is 8 whatever the rank.)"""
    dropout: Annotated[float, Field(ge=0, lt=1), Also("lora_dropout")] = 0.0
    """Share of a layer's inputs that the adapter does not see in a step."""
    target: Annotated[
        Literal["default", "all-linear"] | Annotated[tuple[_Name, ...], Field(min_length=1)],
        Also("target_modules", "lora_target_modules", "lora_target"),
    ] = "default"
    """Layers with an adapter: PEFT's choice for the architecture (the attention's query and value
    for Llama and Mistral), every linear layer but the head, or a list of names."""
    bias: Literal["none", "all", "lora_only"] = "none"
    """Whether biases are trained too: all, or those of the layers with an adapter."""
    rslora: Annotated[bool, Also("use_rslora")] = False
    """Scale by alpha/√rank instead (Kalajdzievski 2023, arXiv 2312.03732)."""
    dora: Annotated[bool, Also("use_dora")] = False
    """Train each column's length apart from its direction (Liu et al. 2024, arXiv 2402.09353)."""
    init: Annotated[
        Literal["default", "gaussian", "pissa", "olora", "loftq"], Also("init_lora_weights")
    ] = "default"
    """How A and B begin. `pissa` and `olora` take them from the weights, and save the difference
    as a plain adapter of twice the rank; `loftq` from what a 4-bit base lost."""
    extra: Annotated[
        dict[str, Any],
        Also(unlike=lambda: dict.fromkeys(lora_arguments(), "put it under `extra`: {name: value}")),
    ] = Field(default_factory=dict)
    """More arguments of PEFT's `LoraConfig`, as they are: those that a tuned model can be served
    with. A module of `modules_to_save` is trained in the type that its base holds it in."""

    @field_validator("extra")
    @classmethod
    def _check_extra(cls, extra: dict[str, Any]) -> dict[str, Any]:
        known = lora_arguments()
        for name, value in extra.items():
            if name in own_options():
                raise ValueError(f"`{own_options()[name]}` beside `extra` in place of '{name}'")
            if known and name not in known:
                raise ValueError(
                    f"arguments of peft's LoraConfig, which has no '{name}';"
                    f" {what_there_is(name, [*known, *own_options()])}"
                )
            if name not in SERVED and value is not None and value is not False:
                raise ValueError(f"no '{name}', which {refused_argument(name)}; leave it out")
        return extra

    @property
    def saved_rank(self) -> int:
        """The rank of the adapter that is left: what PiSSA and OLoRA began with is saved beside."""
        return self.rank * (2 if self.init in CHANGES_THE_BASE else 1)

    @property
    def is_plain(self) -> bool:
        """Whether the two factors are all that is trained, as PEFT's own defaults have it."""
        return not (self.dora or self.bias != "none" or self.extra)

    @property
    def scale_alpha(self) -> float:
        """The alpha that is used."""
        return 2 * self.rank if self.alpha is None else self.alpha


def own_options() -> dict[str, str]:
    """What PEFT and others call the options that stand here, with the name of each."""
    return {**other_names(LoraOptions), "bias": "bias"}


@cache
def lora_arguments() -> tuple[str, ...]:
    """The arguments of the installed PEFT's `LoraConfig`, but those that are options here.

    Read from its source: an import would take seconds, and torch with it. Empty without PEFT.
    """
    spec = importlib.util.find_spec("peft")
    if spec is None or spec.origin is None:
        return ()
    try:
        source = (Path(spec.origin).parent / "tuners/lora/config.py").read_text(encoding="utf-8")
        classes = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    except (OSError, SyntaxError, ValueError):
        return ()
    return tuple(
        field.target.id
        for node in classes
        if node.name == "LoraConfig"
        for field in node.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
        if field.target.id not in own_options()
    )
