"""What loading a checkpoint takes, by the `quant_method` of its config.json.

The methods are those of transformers 5.23 (`transformers.quantizers.auto`); what each does where
there is no GPU was tried, or read in its quantizer. A method that needs what it fetches from a hub
while it runs is refused: a worker runs no code that is not installed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from qbench.core.packages import missing_packages

if TYPE_CHECKING:
    from collections.abc import Mapping

    from qbench.core.record import Environment

_ORIGINAL = "give the original model, in a precision that quantizes it on loading"
_NO_READER = "transformers can at most quantize by it on loading, and reads nothing that it saved"
_FROM_A_HUB = "its layers multiply by kernels that are fetched from a hub while they run"


@dataclass(frozen=True)
class Method:
    """What a checkpoint of one method needs."""

    needs: tuple[str, ...] = ("accelerate",)
    """Packages."""
    gpu: bool = False
    """Whether it needs a GPU."""
    capability: tuple[int, int] | None = None
    """The least compute capability of that, where it is known."""
    refused: str | None = None
    """Why it is not loaded anywhere."""
    nearest: str | None = None
    """Of one that is refused, the precision that makes the nearest of the original model."""

    def misfit(self, name: str) -> str | None:
        """Why such a checkpoint is loaded nowhere, with the remedy; None if it can be."""
        if self.refused is None:
            return None
        from qbench.precisions import precisions

        is_there = self.nearest in precisions()
        remedy = f"{_ORIGINAL}, such as {self.nearest}" if is_there else _ORIGINAL
        return f"the checkpoint is quantized by {name}: {self.refused}; {remedy}"

    def unavailable(self, name: str, environment: Environment) -> str | None:
        """Why it cannot be loaded on this machine, with the remedy; None if it can."""
        if self.gpu:
            least = self.capability
            of_which = f" of compute capability {least[0]}.{least[1]} or later" if least else ""
            needed = f"a checkpoint quantized by {name} needs a GPU{of_which}"
            if environment.device_type != "cuda":
                return f"{needed}; found {environment.device}; {_ORIGINAL}"
            found = environment.capability
            if least is not None and found is not None and found < least:
                said = f"{environment.device}, which has {found[0]}.{found[1]}"
                return f"{needed}; found {said}; {_ORIGINAL}"
        return missing_packages(self.needs, environment)


METHODS: Mapping[str, Method] = {
    "bitsandbytes": Method(("bitsandbytes", "accelerate")),
    "gptq": Method(("gptqmodel", "optimum", "accelerate")),
    "awq": Method(("gptqmodel", "accelerate")),
    "auto-round": Method(("auto-round", "accelerate")),
    "compressed-tensors": Method(("compressed-tensors", "accelerate")),
    "torchao": Method(("torchao", "accelerate")),
    "fp8": Method(),
    "mxfp8": Method(),
    "mxfp4": Method(),
    "metal": Method(),
    "bitnet": Method(),
    "gemma": Method(),
    "aqlm": Method(("aqlm", "accelerate")),
    "quark": Method(("amd-quark", "accelerate")),
    "sinq": Method(("sinq", "accelerate")),
    "fouroversix": Method(("fouroversix", "accelerate")),
    "fbgemm_fp8": Method(("fbgemm-gpu-genai", "accelerate"), gpu=True, capability=(9, 0)),
    "spqr": Method(("spqr_quant", "accelerate"), gpu=True),
    "vptq": Method(("vptq", "accelerate"), gpu=True),
    "higgs": Method(("flute-kernel", "fast_hadamard_transform", "accelerate"), gpu=True),
    "fp_quant": Method(("fp_quant", "accelerate"), gpu=True),
    "gguf": Method(("gguf",)),
    "eetq": Method(refused=_FROM_A_HUB, nearest="int8-wo"),
    "hqq": Method(
        refused=_NO_READER,
        nearest="hqq4",
    ),
    "quanto": Method(
        refused="its own layers fail in inference mode, and transformers reads nothing it saved",
        nearest="quanto-int4",
    ),
    "nvfp4": Method(
        refused=_NO_READER,
        nearest="nvfp4",
    ),
    "modelopt": Method(
        refused="transformers has no loader for it; such files are for TensorRT-LLM and vLLM",
        nearest="nvfp4",
    ),
}
"""By the name that config.json has."""


def unknown_method(name: str) -> str:
    """Why a checkpoint by a method that is in no table is not loaded, with the remedy."""
    loaded = ", ".join(known for known, method in METHODS.items() if method.refused is None)
    return (
        f"the checkpoint is quantized by {name}, for which transformers has no loader; expected one"
        f" of {loaded}; {_ORIGINAL}"
    )
