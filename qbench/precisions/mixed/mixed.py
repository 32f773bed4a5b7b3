"""mixed: each linear layer in the precision that a map of patterns of names gives it.

Which layers bear which format is measured (`sensitivities`) or known; what is made of it is one
model, whose layers are bit for bit those of models that are held in one format as a whole.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qbench.core.errors import ModelError
from qbench.core.spec import Frozen, ModelShape, StaticBytes, TensorShape
from qbench.precisions.by_layer import load_layer_by_layer
from qbench.precisions.conversion import conversion_misfit
from qbench.precisions.mixed.layers import (
    as_plain,
    mark,
    member,
    member_name,
    member_of,
    members,
    parts,
    unmatched,
)
from qbench.precisions.mixed.options import MixedOptions
from qbench.precisions.mixed.sought import bytes_at_most, why_not_found
from qbench.precisions.precision import Precision
from qbench.precisions.products import Products, floating

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import torch
    from torch import nn
    from transformers import PreTrainedModel

    from qbench.core.checkpoint import Checkpoint
    from qbench.core.record import Environment
    from qbench.core.spec import PrecisionRef, ResolvedModel
    from qbench.precisions.verification import Verification
    from qbench.precisions.writing.form import CheckpointForm

NO_MAP = (
    "a mix says which layers are held in what, and this one says nothing: give it a map such as"
    " {mixed: {layers: {'*.down_proj': int8, '*': nf4}}}, or a budget to find one for, such as"
    " {mixed: {budget: 4.5 bits, from: [nf4, int8]}}"
)


@dataclass(frozen=True)
class Mixed(Precision):
    """Layers of several precisions in one model."""

    name: str = "mixed"
    summary: str = "each layer in a precision of its own, by a map or as found for a budget"
    options: type[Frozen] = MixedOptions
    by_default: bool = False
    order: int = 44
    unlabelled: tuple[str, ...] = ("layers", "formats")

    def needs_of(self, model: ResolvedModel, options: MixedOptions) -> tuple[str, ...]:
        """What its members need; and of what finds a mix, another version may find another."""
        needed = (_held(one).needs_of(model, own) for one, own in _each(options))
        finder = () if options.budget is None else ("scipy",)
        return tuple(dict.fromkeys([*(one for packages in needed for one in packages), *finder]))

    def unavailable_for(
        self, model: ResolvedModel, options: MixedOptions, environment: Environment
    ) -> str | None:
        """What one of its members lacks."""
        return _first(
            options,
            lambda one, own: (
                _held(one).unavailable(environment)
                or _held(one).unavailable_for(model, own, environment)
            ),
        )

    def incapable(self, options: MixedOptions, environment: Environment) -> str | None:
        """Where the device cannot compute one of its members."""
        return _first(options, lambda one, own: _held(one).incapable(own, environment))

    def misplaced(self, options: MixedOptions, device: str, *, bf16: bool) -> str | None:
        """Where one of its members cannot run on such a device."""
        return _first(options, lambda one, own: _held(one).misplaced(own, device, bf16=bf16))

    def for_device(self, options: MixedOptions, device: str, *, bf16: bool) -> dict[str, Any]:
        """What the device decides of its members."""
        changed: dict[int, dict[str, Any]] = {}
        for at, rule in enumerate(options.layers):
            if rule.precision is not None:
                one = member(rule, options.dtype)
                own = _held(one).for_device(_options(one), device, bf16=bf16)
                changed |= {at: own} if own else {}
        return as_plain(options, changed) if changed else {}

    def misfit(self, options: MixedOptions, model: ResolvedModel) -> str | None:
        """No map, a pattern that matches no layer, or a member that holds none of its layers.

        Of a budget, one that is too small.
        """
        if options.budget is not None:
            return conversion_misfit(model) or why_not_found(options, model)
        if not options.layers:
            return NO_MAP
        if model.shape is None:
            return None
        wrong = unmatched(_layers(model.shape), options)
        if wrong is not None:
            return wrong
        for one, shape in parts(model.shape, options).items():
            own = model.model_copy(update={"shape": shape})
            reason = _held(one).misfit(_options(one), own)
            if reason is not None:
                return _of_member(one, reason)
        return None

    def pools_batch(self, options: MixedOptions) -> bool:
        """Where one of its members does."""
        return any(_held(one).pools_batch(own) for one, own in _each(options))

    def unlike_served(self, options: MixedOptions, device: str) -> str | None:
        """Where those of one of its members are not."""
        reasons: dict[str, list[str]] = {}
        for one, own in _each(options):
            reason = _held(one).unlike_served(own, device)
            if reason is not None:
                reasons.setdefault(reason, []).append(one.label)
        told = (f"of layers in {', '.join(labels)}: {why}" for why, labels in reasons.items())
        return "; ".join(told) or None

    def random_weights_of(self, options: MixedOptions) -> str | None:
        """What is not real of one of its members."""
        return _first(options, lambda one, own: _held(one).random_weights_of(own))

    def products(self, options: MixedOptions, config: Mapping[str, Any] | None = None) -> Products:
        """Each member's own; without a map they are not known."""
        every = [_held(one).products(own, config) for one, own in _each(options)]
        if options.layers and not every:
            return floating(options.dtype)
        known = (floating(options.dtype), *every) if options.layers else (None,)
        return Products("mixed", options.dtype, options.dtype, members=known)

    def products_of_layer(
        self, name: str, options: MixedOptions, config: Mapping[str, Any] | None = None
    ) -> Products | None:
        """As its member's layers do; without a map it is not known."""
        one = member_of(name, options)
        return _held(one).products(_options(one), config) if options.layers else None

    def storage(self, shape: ModelShape, options: MixedOptions) -> StaticBytes:
        """The sum of what each member takes for its own layers; the rest in its own type.

        Of a mix that is sought, the most that it may take.
        """
        if options.budget is not None:
            return bytes_at_most(shape, options)
        total = dict.fromkeys(StaticBytes.model_fields, 0)
        for one, own in parts(shape, options).items():
            for kind, size in _held(one).storage(own, _options(one)):
                total[kind] += size
        return StaticBytes(**total)

    def packed_bytes(self, shape: ModelShape, options: MixedOptions) -> float | None:
        """Static bytes if the codes of all members took the bits they have."""
        if options.budget is not None:
            return None
        saved = 0.0
        for one, own in parts(shape, options).items():
            packed = _held(one).packed_bytes(own, _options(one))
            if packed is not None:
                saved += _held(one).storage(own, _options(one)).total - packed
        return self.storage(shape, options).total - saved if saved else None

    def untrainable(self, options: MixedOptions, method: str, training: Frozen) -> str | None:
        """PEFT asks what a whole model is held in."""
        return (
            "PEFT chooses how to adapt a layer by what the whole model was loaded in, which a mix"
            " was not in any one format: train on one of its members, or on bf16"
        )

    def unmixable(self, options: MixedOptions) -> str:
        """It is one already."""
        return "a mix within a mix: write its patterns into this one"

    def row_multiple(self, options: MixedOptions) -> int | None:
        """What all members' rows fall into."""
        every = [_held(one).row_multiple(own) for one, own in _each(options)]
        return math.lcm(*(one for one in every if one)) if any(every) else None

    def load(self, checkpoint: Checkpoint, options: MixedOptions) -> PreTrainedModel:
        """Hands each layer to its member as it is read.

        Raises `ModelError` for a pattern that matches none.
        """
        from qbench.precisions.gguf.skeleton import skeleton_of
        from qbench.precisions.verification import linear_layers

        layers = linear_layers(skeleton_of(checkpoint))
        shape = ModelShape(
            tensors=tuple(
                TensorShape(name=f"{name}.weight", shape=tuple(one.weight.shape), role="linear")
                for name, one in layers
            ),
            origin="meta",
        )
        wrong = unmatched(_layers(shape), options)
        if wrong is not None:
            raise ModelError(f"{checkpoint.folder}: {wrong}")

        def quantize(name: str, layer: nn.Linear) -> nn.Module | None:
            one = member_of(name, options)
            made = _held(one).hold_layer(name, layer, _options(one))
            mark(layer if made is None else made, one)
            return made

        return load_layer_by_layer(
            checkpoint,
            dtype=options.dtype,
            quantize=quantize,
            weight_bytes=self.storage(shape, options).total / max(1, shape.weights),
        )

    def forms(self, options: MixedOptions) -> tuple[CheckpointForm, ...]:
        """Of the formats that a library's configuration can mix."""
        from qbench.precisions.mixed.checkpoint import mixed_form

        return (mixed_form(options),)

    def verify(self, model: PreTrainedModel, options: MixedOptions) -> Verification:
        """Every layer holds what its member holds it in, and computes what that says."""
        from qbench.precisions.mixed.verified import verify_mix

        return verify_mix(model, options)

    def weights(self, layer: Any) -> torch.Tensor:
        """As the member that holds the layer makes them."""
        from qbench.precisions import precisions
        from qbench.precisions.layer_weights import held_weight

        held = precisions().get(member_name(layer) or "")
        return held_weight(layer) if held is None else held.weights(layer)


def _held(one: PrecisionRef) -> Precision:
    from qbench.precisions import precisions

    return precisions()[one.name]


def _options(one: PrecisionRef) -> Any:
    from qbench.precisions import options_of

    return options_of(one)


def _each(options: MixedOptions) -> Iterator[tuple[PrecisionRef, Any]]:
    """Its members that hold codes, each with its options."""
    for one in members(options):
        yield one, _options(one)


def _first(options: MixedOptions, asked: Callable[[PrecisionRef, Any], str | None]) -> str | None:
    """What the first member says that says something, with its label."""
    for one, own in _each(options):
        reason = asked(one, own)
        if reason is not None:
            return _of_member(one, reason)
    return None


def _of_member(one: PrecisionRef, reason: str) -> str:
    return f"of the layers in {one.label}: {reason}"


def _layers(shape: ModelShape) -> list[str]:
    return [one.name.removesuffix(".weight") for one in shape.tensors if one.role == "linear"]


PRECISIONS = (Mixed(),)
