"""Tensors that say they lie on a GPU: their bytes lie on the CPU, their storages know where.

Two of torch's modes see every operation. The upper one answers what is asked of a device and takes
`device=cuda:N` from what makes and moves tensors. The lower one says of each result where it lies,
counts its bytes, and refuses operands of several devices as CUDA does.

Not shown: kernels, speed, gradients that cross devices, managed (paged) memory, the bytes of
temporaries within a single operation.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Self

import torch
from gpu_cards import GIB, faults
from gpu_driver import driver, memories
from torch._C import DisableTorchFunction, TensorBase
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import (
    TorchDispatchMode,
    is_traceable_wrapper_subclass,
    transform_subclass,
)
from torch.utils._pytree import tree_iter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

CPU = -1
NOWHERE = -2
"""Of tensors without bytes of their own: on the meta device, or within `torch.func`."""

_MIXES_DEVICES = {"aten::copy_", "aten::_to_copy", "aten::set_", "aten::_local_scalar_dense"}
_INDEXES = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_"}
_MULTIPLIES = {"aten::linear", "aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"}
_LEAST_INT8_ROWS = 16

_gpu_of: dict[int, int] = {}
_kept: dict[int, Callable[[], None]] = {}
_has_workspace: set[int] = set()


def place(tensor: torch.Tensor) -> int:
    """The GPU that a tensor lies on, or `CPU`, or `NOWHERE`."""
    with DisableTorchFunction():
        if is_traceable_wrapper_subclass(tensor):
            names, _ = tensor.__tensor_flatten__()
            return place(getattr(tensor, names[0]))
        storage = _storage(tensor)
    return NOWHERE if storage is None else _gpu_of.get(storage._cdata, CPU)


def put(tensor: torch.Tensor, gpu: int) -> None:
    """Says of a tensor's bytes that they lie there; what lies on a GPU already stays."""
    with DisableTorchFunction():
        if is_traceable_wrapper_subclass(tensor):
            for name in tensor.__tensor_flatten__()[0]:
                put(getattr(tensor, name), gpu)
            return
        storage = _storage(tensor)
    if storage is None or storage._cdata in _gpu_of or gpu < 0:
        return
    key, taken = storage._cdata, memories[gpu].take(storage.nbytes())
    _gpu_of[key] = gpu

    def gone(_: object = None) -> None:
        if _gpu_of.pop(key, None) is not None:
            memories[gpu].give_back(taken)
        _kept.pop(key, None)

    reference = weakref.ref(storage, gone)
    _kept[key] = lambda: gone(reference)


def move(tensor: torch.Tensor, to: int) -> torch.Tensor:
    """The tensor itself where it lies there already, else a copy."""
    if place(tensor) in (to, NOWHERE):
        return tensor
    if is_traceable_wrapper_subclass(tensor):
        moved = transform_subclass(tensor, lambda _, inner: move(inner, to))
        return torch.nn.Parameter(moved, tensor.requires_grad) if _is_parameter(tensor) else moved
    copy = tensor.clone(memory_format=torch.preserve_format)
    with DisableTorchFunction():
        key = copy.untyped_storage()._cdata
    if key in _kept:  # the lower mode took it for one of its source's GPU
        _kept[key]()
    put(copy, to)
    return copy


def _is_parameter(tensor: torch.Tensor) -> bool:
    return isinstance(tensor, torch.nn.Parameter)


def _storage(tensor: torch.Tensor) -> torch.UntypedStorage | None:
    if tensor.device.type != "cpu":
        return None
    try:
        return TensorBase.untyped_storage(tensor)
    except (RuntimeError, NotImplementedError):  # within torch.func there is none
        return None


def _device_of(tensor: torch.Tensor) -> torch.device:
    where = place(tensor)
    return torch.device("cuda", where) if where >= 0 else TensorBase.device.__get__(tensor)


def _wanted(device: Any) -> int | None:
    """Where something is to lie; None for a device that is neither the CPU nor a GPU."""
    chosen = torch.device("cuda", device) if isinstance(device, int) else torch.device(device)
    if chosen.type == "cpu":
        return CPU
    if chosen.type != "cuda":
        return None
    torch.cuda.init()
    gpu = driver.current if chosen.index is None else chosen.index
    if gpu >= len(driver.begin()):
        raise torch.AcceleratorError("CUDA error: invalid device ordinal")
    if gpu == 1 and "second-broken" in faults():
        raise torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered")
    return gpu


def _to(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """`Tensor.to` in all its forms."""
    device, dtype = kwargs.pop("device", None), kwargs.pop("dtype", None)
    other, copy = kwargs.pop("other", None), kwargs.pop("copy", False)
    kwargs.pop("non_blocking", None)
    flags = []
    for given in args:
        if isinstance(given, bool):
            flags.append(given)
        elif isinstance(given, torch.dtype):
            dtype = given
        elif isinstance(given, torch.Tensor):
            other = given
        elif given is not None:
            device = given
    if other is not None:
        device, dtype = _device_of(other), other.dtype
    copy = copy or flags[1:] == [True]
    to = None if device is None else _wanted(device)
    if device is not None and (to is None or place(tensor) == NOWHERE):
        return TensorBase.to(tensor, device, dtype or tensor.dtype, **kwargs)
    converted = tensor
    if copy or kwargs or dtype not in (None, tensor.dtype):
        converted = TensorBase.to(tensor, dtype=dtype or tensor.dtype, copy=copy, **kwargs)
    return converted if to is None else move(converted, to)


def _to_numpy(function: Callable[..., Any]) -> Callable[..., Any]:
    def convert(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        if place(tensor) >= 0:
            raise TypeError(
                f"can't convert {_device_of(tensor)} device type tensor to numpy. Use Tensor.cpu()"
                " to copy the tensor to host memory first."
            )
        return function(tensor, *args, **kwargs)

    return convert


def _make_device(*args: Any, **kwargs: Any) -> torch.device:
    if len(args) == 1 and isinstance(args[0], int):
        return torch.device("cuda", args[0])
    return torch.device(*args, **kwargs)


def _parse_to(*args: Any, **kwargs: Any) -> Any:
    """What `Module.to` was given; a number is a GPU."""
    named = [f"cuda:{one}" if type(one) is int else one for one in args]
    if type(kwargs.get("device")) is int:
        kwargs["device"] = f"cuda:{kwargs['device']}"
    return torch._C._nn._parse_to(*named, **kwargs)


def _answers() -> dict[Any, Callable[..., Any]]:
    tensor = torch.Tensor
    return {
        tensor.device.__get__: _device_of,
        tensor.is_cuda.__get__: lambda one: place(one) >= 0,
        tensor.is_cpu.__get__: lambda one: place(one) == CPU,
        tensor.get_device: lambda one: max(place(one), -1),
        tensor.to: _to,
        tensor.cuda: lambda one, device=None, **_: _to(one, "cuda" if device is None else device),
        tensor.cpu: lambda one, **_: _to(one, "cpu"),
        tensor.pin_memory: lambda one, *_, **__: one,
        tensor.numpy: _to_numpy(tensor.numpy),
        tensor.__array__: _to_numpy(tensor.__array__),
        torch.device: _make_device,
        torch._C._nn._parse_to: _parse_to,
    }


class Devices(TorchFunctionMode):
    """Answers what is asked of devices, and makes and moves tensors there."""

    def __init__(self) -> None:
        super().__init__()
        self._answers = _answers()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        for one in args:  # torchao's tensors choose a function by what is called
            table = getattr(type(one), "_TORCH_FN_TABLE", {}).get(type(one), {})
            if func in table:
                with self:
                    return table[func](func, types, args, kwargs)
        answer = self._answers.get(func)
        if answer is not None:
            return answer(*args, **kwargs)
        to = None if kwargs.get("device") is None else _wanted(kwargs["device"])
        if to is None:
            return func(*args, **kwargs)
        kwargs["device"] = "cpu"
        made = func(*args, **kwargs)
        return move(made, to) if isinstance(made, torch.Tensor) else made


class Operations(TorchDispatchMode):
    """Says of each result where it lies, and refuses operands of several devices."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [one for one in tree_iter((args, kwargs)) if isinstance(one, torch.Tensor)]
        for one in tensors:
            if is_traceable_wrapper_subclass(one):  # what it does with its parts is seen, too
                with self:
                    return type(one).__torch_dispatch__(func, types, args, kwargs)
        name = func._schema.name
        gpu = _place_of_result(name, tensors)
        if gpu < 0:
            return func(*args, **kwargs)
        if name == "aten::_int_mm" and tensors[0].shape[0] <= _LEAST_INT8_ROWS:
            raise RuntimeError(
                f"self.size(0) needs to be greater than {_LEAST_INT8_ROWS}, but got"
                f" {tensors[0].shape[0]}"
            )
        if name in _MULTIPLIES and gpu not in _has_workspace:
            _has_workspace.add(gpu)
            memories[gpu].take(_workspace_bytes(gpu))
        made = func(*args, **kwargs)
        if name != "aten::_local_scalar_dense":
            for one in _tensors(made):
                put(one, gpu)
        return made


def _place_of_result(name: str, tensors: list[torch.Tensor]) -> int:
    """The GPU that an operation runs on; `CPU` and `NOWHERE` besides."""
    if name in _MIXES_DEVICES:
        return place(tensors[0])
    operands = tensors[:1] if name in _INDEXES else tensors
    places = {
        where: one
        for one in operands
        if (where := place(one)) != NOWHERE and not (where == CPU and one.dim() == 0)
    }
    if len(places) > 1:
        listed = ", ".join("cpu" if one == CPU else f"cuda:{one}" for one in sorted(places))
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices,"
            f" {listed}! (when checking argument of {name})"
        )
    return next(iter(places), CPU)


def _workspace_bytes(gpu: int) -> int:
    """What cuBLAS takes for itself at its first product (PyTorch's CUDABlas.cpp)."""
    return GIB // 32 if driver.begin()[gpu].capability >= (9, 0) else 8519680


def _tensors(made: Any) -> Iterable[torch.Tensor]:
    return (one for one in tree_iter(made) if isinstance(one, torch.Tensor))


class Generator(torch.Generator):
    """Random numbers of a device; they are the CPU's."""

    def __new__(cls, device: Any = "cpu") -> Self:
        made = super().__new__(cls)
        made._there = torch.device(device)
        return made

    def __init__(self, device: Any = "cpu") -> None:
        pass

    @property
    def device(self) -> torch.device:
        return self._there


def start() -> None:
    """Puts it all in place for this process, its main thread and its forks."""
    make_wrapper = torch.Tensor._make_wrapper_subclass

    def make_on_cpu(*args: Any, **kwargs: Any) -> torch.Tensor:
        if kwargs.get("device") is not None and torch.device(kwargs["device"]).type == "cuda":
            kwargs["device"] = "cpu"
        return make_wrapper(*args, **kwargs)

    torch.Tensor._make_wrapper_subclass = staticmethod(make_on_cpu)
    torch.Generator = Generator
    # Products under a GPU's autocast are the CPU's.
    for name in ("set_autocast_enabled", "set_autocast_dtype"):
        setattr(torch, name, _for_both(getattr(torch, name)))
    Operations().__enter__()
    Devices().__enter__()


def _for_both(set_one: Callable[[str, Any], None]) -> Callable[[str, Any], None]:
    def set_both(device_type: str, value: Any) -> None:
        set_one(device_type, value)
        if device_type == "cuda":
            set_one("cpu", value)

    return set_both
