"""What a precision is: how a model is held in memory, and all that others must know of it.

A precision is an object of a class below `Precision`: its name, its options, and how a model is
loaded, verified and counted. Everything else has an answer that is true of a format whose layers
are not known; the more a precision says, the more is predicted and offered.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from qbench.core.packages import missing_packages
from qbench.core.spec import Frozen
from qbench.precisions.conversion import conversion_misfit

if TYPE_CHECKING:
    from collections.abc import Mapping

    import torch
    from torch import nn
    from transformers import PreTrainedModel

    from qbench.core.checkpoint import Checkpoint
    from qbench.core.page import Page
    from qbench.core.record import Environment
    from qbench.core.spec import ModelShape, ResolvedModel, StaticBytes
    from qbench.precisions.explain.weights import Weight
    from qbench.precisions.integer.options import IntegerOptions
    from qbench.precisions.products import Products
    from qbench.precisions.verification import Verification
    from qbench.precisions.writing.form import CheckpointForm


class NoOptions(Frozen):
    """Nothing to choose."""


class Precision(ABC):
    """How a model is held in memory and loaded that way.

    Where a method takes `options`, it is an object of the class that `options` names.
    """

    name: str
    """As written in a suite."""
    summary: str
    """One line for `qbench list`."""
    needs: tuple[str, ...] = ()
    """Packages it needs beside torch and transformers."""
    options: type[Frozen] = NoOptions
    """Its typed options; every one has a default."""
    also_called: tuple[str, ...] = ()
    """Other names that a suite or a command may give it, such as other tools' names of it."""
    known_by_title: bool = False
    """Whether pages call it by its title, since its name is that of other formats too."""
    title: str | None = None
    """What words about training call it, such as `NF4`; its name unless given."""
    order: int = 45
    """Its place in lists and tables: floating types are 10 to 12, LLM.int8 20, 8-bit floats 22 to
    25, 4-bit formats 30 to 38, integers 40, GGUF 42, checkpoints as stored 50; those with the same
    as a suite has them."""
    unlabelled: tuple[str, ...] = ()
    """Options that no label of its own shows, since they are long: where a suite has it twice,
    each needs a `name`."""
    by_default: bool = True
    """Whether it is taken where a suite or a command names no precision."""
    takes_quantized: bool = False
    """Whether it is for checkpoints that are quantized already, and for no others."""
    stand_in: str | None = None
    """The precision that a rehearsal takes in its place, on a model that is not quantized."""
    merges_in_place: bool = False
    """Whether PEFT can merge an adapter into its layers, which stay quantized."""
    slow_on_cpu: bool = False
    """Whether a CPU computes it much slower than other types."""
    random_weights: str | None = None
    """What of time and memory is not real where weights are random, as a sentence."""

    def unavailable(self, environment: Environment) -> str | None:
        """Why it cannot run on this machine, with the remedy; None if it can."""
        return missing_packages(self.needs, environment)

    def incapable(self, options: Any, environment: Environment) -> str | None:
        """Why the machine's device cannot compute it with these options, with the remedy."""
        return None

    def random_weights_of(self, options: Any) -> str | None:
        """What of time and memory is not real where weights are random, as a sentence."""
        return self.random_weights

    def pools_batch(self, options: Any) -> bool:
        """Whether what comes out for one sequence depends on those beside it in a batch."""
        return False

    def misfit(self, options: Any, model: ResolvedModel) -> str | None:
        """Why the model cannot be held in it, known before anything is loaded; None if it can."""
        return conversion_misfit(model)

    def needs_of(self, model: ResolvedModel, options: Any) -> tuple[str, ...]:
        """Packages that decide the numbers of this model."""
        return self.needs

    def unavailable_for(
        self, model: ResolvedModel, options: Any, environment: Environment
    ) -> str | None:
        """Why this model cannot be held in it on this machine, with the remedy; None if it can."""
        return missing_packages(self.needs_of(model, options), environment)

    @abstractmethod
    def storage(self, shape: ModelShape, options: Any) -> StaticBytes:
        """Static bytes by arithmetic from the shapes alone."""

    def for_device(self, options: Any, device: str, *, bf16: bool) -> dict[str, Any]:
        """Options that the device decides, such as the kernel, where they are left to it.

        `device` is `cpu` or `cuda`, `bf16` whether it multiplies that (compute capability 8.0).
        """
        return {}

    def misplaced(self, options: Any, device: str, *, bf16: bool) -> str | None:
        """Why it cannot run on such a device, with the remedy; None if it can."""
        return None

    def loads_whole(self, options: Any) -> bool:
        """Whether the model is there in its floating type before its layers are quantized.

        Loading then takes as much as that; else each layer is quantized as it is read.
        """
        return False

    def packed_bytes(self, shape: ModelShape, options: Any) -> float | None:
        """Static bytes if codes took the bits they have; None where they do, or nobody knows."""
        return None

    def unlike_served(self, options: Any, device: str) -> str | None:
        """Why its times on a device of torch's are not those of the format as it is served.

        A sentence; None where they are, as far as is known. What of quality is real is real anyway.
        """
        return None

    def products(self, options: Any, config: Mapping[str, Any] | None = None) -> Products | None:
        """How its layers multiply: peaks, rates and advice follow from it. None: not known.

        `config` is the checkpoint's config.json, where there is one.
        """
        return None

    def products_of_layer(
        self, name: str, options: Any, config: Mapping[str, Any] | None = None
    ) -> Products | None:
        """How the layer of a name multiplies: as all do, but for mixes."""
        return self.products(options, config)

    @abstractmethod
    def load(self, checkpoint: Checkpoint, options: Any) -> PreTrainedModel:
        """Loads the model in this precision onto the checkpoint's device, in eval mode."""

    def hold_layer(self, name: str, layer: nn.Linear, options: Any) -> nn.Module | None:
        """A plain linear layer as this precision holds it, in a model whose rest is of its type.

        The layer's weight, (out, in), and bias are on their device in the type of the rest. It is
        changed itself, or the layer that is to stand in its place is returned. One that does not
        fall into the precision's groups of weights stays as it is. Only asked of options that
        `in_mix` made, and where `unmixable` says nothing.
        """
        raise NotImplementedError(f"{self.name} does not hold single layers")

    def library_config(self, options: Any) -> Any | None:
        """What transformers is told so that its library holds layers exactly so.

        A configuration of bitsandbytes or torchao, by which a checkpoint of such layers is loaded;
        None where no library has one.
        """
        return None

    def is_all_in_weights(self, options: Any) -> bool:
        """Whether its layers compute what plain ones would with the numbers that `weights` tells.

        Codes do, unless inputs are rounded too. What holds no codes has nothing to tell.
        """
        products = self.products(options)
        kind = "dequantized" if products is None else products.kind
        return self.dequantizes and kind in ("dequantized", "4bit", "packed")

    def forms(self, options: Any) -> tuple[CheckpointForm, ...]:
        """Checkpoints that hold its codes as they were measured, the first unless one is named."""
        return ()

    def unwritable(self, options: Any) -> str:
        """Why there is none, where `forms` has none."""
        return f"qbench knows no checkpoint that holds the codes of {self.name}"

    def in_mix(self, options: Any) -> Any:
        """The options where only some layers of a model are held in it: of linear layers alone."""
        return options

    def unmixable(self, options: Any) -> str | None:
        """Why no single layer can be held in it beside others in other precisions; None if one can.

        What every layer is quantized with must be known from its own weights.
        """
        if type(self).hold_layer is not Precision.hold_layer:
            return None
        return (
            f"{self.name} quantizes whole models: qbench knows no way to hold a single layer in it"
        )

    @abstractmethod
    def verify(self, model: PreTrainedModel, options: Any) -> Verification:
        """What was really loaded, compared with what was asked for."""

    def weights(self, layer: Any) -> torch.Tensor:
        """The weights that one of its linear layers computes with, (out, in), codes or not.

        Unless it is written anew nothing is measured of weights that are codes.
        """
        from qbench.precisions.layer_weights import held_weight

        return held_weight(layer)

    def untrainable(self, options: Any, method: str, training: Frozen) -> str | None:
        """Why a method of fine-tuning, with all its options, cannot train on it; None if it can.

        What follows from its products (codes have no gradient) is known without it. Unless this is
        written anew, DoRA is refused, for which PEFT must know which weights the codes stand for.
        """
        if getattr(training, "dora", False):
            return (
                f"DoRA needs the weights that codes stand for, and PEFT does not know those of"
                f" {self.name}; leave dora out"
            )
        return None

    def rounding(self, options: Any) -> IntegerOptions | None:
        """The integers that QAT trains for where it is asked for this precision; None: none."""
        return None

    def row_multiple(self, options: Any) -> int | None:
        """What the rows of a weight must be a multiple of to be held in codes; None: nothing."""
        group: int | None = getattr(options, "group", None)
        return group

    def rounded(self, values: torch.Tensor, options: Any) -> torch.Tensor | None:
        """A matrix (out, in) in fp32 as a layer would hold it: what `explain` shows.

        None where a layer of that size is not quantized.
        The values are rounded to the type of the rest already, where `products` tells it. Of no use
        where `explain` itself is written.
        """
        return None

    def explain(self, weight: Weight, options: Any) -> Page | None:
        """What it does to a weight, as a page; None where nothing is said of it."""
        from qbench.precisions.explain.rounded import explain_rounding
        from qbench.precisions.explain.weights import rounded

        products, values = self.products(options), weight.values
        if products is not None:
            values = rounded(weight, products.rest, "which it is loaded in").float()
        held = self.rounded(values, options)
        return None if held is None else explain_rounding(self, weight, held, options)

    @property
    def dequantizes(self) -> bool:
        """Whether `weights` knows its codes."""
        return type(self).weights is not Precision.weights

    @property
    def is_explained(self) -> bool:
        """Whether `explain` says something."""
        own = type(self)
        return own.explain is not Precision.explain or own.rounded is not Precision.rounded
