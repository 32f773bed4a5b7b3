"""The peak of what tensors hold while something runs: the allocator's on CUDA, counted on a CPU.

A CPU has no allocator that could be asked, and the resident size of a process tells pages that were
touched, not tensors that live. So every storage is counted when an operation first touches it, and
taken off when it is freed. The count of tensors is exact, to the byte, and the same in every run;
what a kernel takes and gives back within one operation is not seen.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any, Self

from qbench.precisions.workspaces import workspace_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable
    from contextlib import AbstractContextManager
    from types import TracebackType

    import torch


class LivePeak:
    """The highest number of bytes that tensors of a device hold inside the block.

    Leaving the block sets `peak_bytes`:

        with LivePeak(model.device, held_tensors(model, optimizer)) as peak:
            one_step()
        peak.peak_bytes

    On CUDA it is the allocator's `max_memory_allocated`, all tensors of the process included but
    cuBLAS' workspaces, plus what of `held` bitsandbytes keeps in pages of its own, which the
    allocator knows nothing of and which may lie in the machine's memory instead. Of the GPUs that
    `held` lies on it is the sum: each has its highest level at a moment of its own.

    On a CPU it is the sum over the storages passed as `held` and those that an operation reads or
    writes; a storage that is first met as an input was there from the start. What a kernel takes
    and gives back within one operation is not seen. That includes operations that Python code
    implements by others: bitsandbytes' multiplication by 4-bit weights dequantizes them unseen in
    the forward pass (in the backward pass, that is an operation of its own). Counting takes
    microseconds an operation, and makes autograd add gradients out of place: time nothing inside.
    """

    def __init__(self, device: torch.device | str, held: Iterable[torch.Tensor] = ()) -> None:
        import torch

        self.peak_bytes = 0
        self.by_device: dict[str, int] = {}
        """Of each GPU, pages apart; empty on a CPU."""
        self._device = torch.device(device)
        self._held: tuple[torch.Tensor, ...] = tuple(held)
        places = {self._device, *(tensor.device for tensor in self._held)}
        self._gpus = sorted(str(place) for place in places if place.type == "cuda")
        self._paged_bytes = 0
        self._count = StorageCount()
        self._mode = _counting_mode(self._count)

    def __enter__(self) -> Self:
        import torch

        if self._device.type == "cuda":
            for gpu in self._gpus:
                torch.cuda.synchronize(gpu)
                torch.cuda.reset_peak_memory_stats(gpu)
            self._paged_bytes = sum(
                tensor.nbytes for tensor in self._held if getattr(tensor, "is_paged", False)
            )
        else:
            for tensor in self._held:
                self._count.see(tensor, made_now=False)
            self._mode.__enter__()
        self._held = ()  # nothing may live on because of the counting
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        import torch

        if self._device.type == "cuda":
            for gpu in self._gpus:
                torch.cuda.synchronize(gpu)
                self.by_device[gpu] = torch.cuda.max_memory_allocated(gpu) - workspace_bytes([gpu])
            self.peak_bytes = sum(self.by_device.values()) + self._paged_bytes
            return
        self._mode.__exit__(kind, error, trace)
        self.peak_bytes = self._count.peak_bytes
        self._count.close()


class StorageCount:
    """Bytes of the live storages that it has seen, and their maximum."""

    def __init__(self) -> None:
        self.live_bytes = 0
        self.peak_bytes = 0
        self._sizes: dict[weakref.ref[torch.UntypedStorage], int] = {}

    def see(self, tensor: torch.Tensor, *, made_now: bool) -> None:
        """Counts the tensor's storage, once; what is not made now was there from the start."""
        storage = tensor.untyped_storage()
        # torch keeps one Python object a storage for as long as the storage lives, whoever holds
        # it: this reference dies with the memory, not with the last tensor that Python sees.
        reference = weakref.ref(storage, self._forget)
        grown_bytes = storage.nbytes() - self._sizes.get(reference, 0)
        if grown_bytes == 0:
            return
        self._sizes[reference] = storage.nbytes()
        self.live_bytes += grown_bytes
        if not made_now:
            self.peak_bytes += grown_bytes
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)

    def close(self) -> None:
        """Lets go of all storages; the peak stays."""
        self._sizes.clear()

    def _forget(self, reference: weakref.ref[torch.UntypedStorage]) -> None:
        self.live_bytes -= self._sizes.pop(reference, 0)


def _counting_mode(count: StorageCount) -> AbstractContextManager[Any]:
    """A dispatch mode that shows the count what every operation reads and makes."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_iter

    class CountingMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
        ) -> Any:
            named = kwargs or {}
            for value in tree_iter((args, named)):
                if isinstance(value, torch.Tensor):
                    count.see(value, made_now=False)
            made = func(*args, **named)
            for value in tree_iter(made):
                if isinstance(value, torch.Tensor):
                    count.see(value, made_now=True)
            return made

    mode: AbstractContextManager[Any] = CountingMode()  # type: ignore[no-untyped-call]
    return mode
