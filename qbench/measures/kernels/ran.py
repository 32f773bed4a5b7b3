"""Which kernel a layer really runs: told by the operators that torch calls, never by its name.

bitsandbytes, torchao and quanto choose anew at each call, by the rows, the type and the device. So
one call is watched by torch's profiler, which also sees what a library's operator calls itself:
`bitsandbytes::gemm_4bit` is a kernel that reads codes, unless it dequantizes them and calls
`aten::linear`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from qbench.precisions.products import ProductKind

Kernel = Literal["fused", "dequantize and multiply", "fall-back", "plain"]
"""How a layer multiplied:

    fused                    a kernel multiplied the codes as they are
    dequantize and multiply  floating weights were made of the codes, then multiplied
    fall-back                the same, in a format that is meant to be multiplied as codes; or
                             the codes were made wider integers first
    plain                    the weights are floating ones and were multiplied as they are
"""
OF_CODES = frozenset(
    {
        "aten::_int_mm",
        "aten::_scaled_mm",
        "aten::_scaled_mm_v2",
        "aten::_weight_int8pack_mm",
        "aten::_weight_int4pack_mm",
        "aten::_weight_int4pack_mm_for_cpu",
        "aten::_weight_int4pack_mm_with_scales_and_zeros",
        "aten::_dyn_quant_matmul_4bit",
        "bitsandbytes::gemm_4bit",
        "bitsandbytes::gemv_4bit",
        "bitsandbytes::int8_linear_matmul",
        "quanto::gemm_f16i4_awq",
        "quanto::gemm_f16i4_marlin",
        "quanto::gemm_f16f8_marlin",
        "torchao::scaled_int8_mm",
        "torchao::blockwise_scaled_mm",
        "mslk::bf16i4bf16_rowwise",
        "mslk::bf16i4bf16_shuffled",
        "mslk::f8i4bf16_rowwise",
        "mslk::f8i4bf16_shuffled",
        "mslk::f8f8bf16",
        "mslk::f8f8bf16_rowwise",
    }
)
"""Operators that multiply by codes, unless they call a floating product themselves."""
FLOATING = frozenset(
    {
        "aten::mm",
        "aten::addmm",
        "aten::bmm",
        "aten::baddbmm",
        "aten::mv",
        "aten::addmv_",
        "aten::dot",
        "aten::mkldnn_linear",
        "mkldnn::_linear_pointwise",
    }
)
"""Operators that multiply floating numbers, or integers that are wider than codes."""
_MEANT_AS_CODES: frozenset[ProductKind] = frozenset({"packed", "outliers", "codes", "rounded"})
_FLOATING_KIND, _WITH_OUTLIERS = "floating", "outliers"
_LABEL = "qbench: "
_MOST_NAMED = 8


@dataclass(frozen=True)
class Operator:
    """An operator that was called, with those that it called."""

    name: str
    inner: tuple[Operator, ...] = ()

    def all(self) -> Iterator[Operator]:
        """This one and all within it, in the order of their calls."""
        yield self
        for one in self.inner:
            yield from one.all()


@dataclass(frozen=True)
class Ran:
    """How one call of a layer multiplied."""

    kernel: Kernel | None
    operators: tuple[str, ...]
    """That say so: products, and all that are a library's own, each once."""
    reason: str | None = None
    """Why the kernel is not known."""


def called_operators(calls: Mapping[str, Callable[[], Any]]) -> dict[str, tuple[Operator, ...]]:
    """Makes each call once under torch's profiler: the operators by its label. Time none of it."""
    from torch.profiler import ProfilerActivity, profile, record_function

    with profile(activities=[ProfilerActivity.CPU]) as watched:
        for label, call in calls.items():
            with record_function(f"{_LABEL}{label}"):
                call()
    return {
        event.name.removeprefix(_LABEL): tuple(map(_operator, event.cpu_children))
        for event in watched.events() or ()
        if event.name.startswith(_LABEL)
    }


def what_ran(operators: Iterable[Operator], *, coded: bool, kind: ProductKind | None = None) -> Ran:
    """The kernel of a call by its operators.

    `coded` says whether the layer holds codes, `kind` how its precision multiplies as far as that
    is known.
    """
    every = [one for outer in operators for one in outer.all()]
    shown = tuple(dict.fromkeys(one.name for one in every if _tells(one.name)))
    of_codes = [
        at for at, one in enumerate(every) if one.name in OF_CODES and not _multiplies_floating(one)
    ]
    floating = [at for at, one in enumerate(every) if one.name in FLOATING]
    # A product that was refused is called all the same: what is taken in its place follows it.
    # LLM.int8 multiplies outlier columns apart.
    refused = of_codes and floating and floating[-1] > of_codes[-1] and kind != _WITH_OUTLIERS
    if of_codes and not refused:
        return Ran("fused", shown)
    if floating:
        if not coded or kind == _FLOATING_KIND:
            return Ran("plain", shown)
        fell_back = refused or kind in _MEANT_AS_CODES
        return Ran("fall-back" if fell_back else "dequantize and multiply", shown)
    named = list(dict.fromkeys(one.name for one in every))
    cut = ", ".join(named[:_MOST_NAMED]) + (" …" if len(named) > _MOST_NAMED else "")
    return Ran(None, shown, f"none of the operators that it called is a product known: {cut}")


def _operator(event: Any) -> Operator:
    return Operator(event.name, tuple(map(_operator, event.cpu_children)))


def _tells(name: str) -> bool:
    if name in OF_CODES or name in FLOATING:
        return True
    space = name.partition("::")
    return bool(space[1]) and space[0] not in ("aten", "profiler")


def _multiplies_floating(operator: Operator) -> bool:
    return any(one.name in FLOATING for one in operator.all())
