"""What a problem says, and which errors mean that memory was lacking."""

from __future__ import annotations

import errno

import numpy as np
import pytest
import torch

from qbench.core.errors import ModelError, OutOfMemoryError, Problem, is_out_of_memory


@pytest.mark.parametrize(
    ("problem", "told"),
    [
        (
            Problem("measure.quality.window", "0", "at least 2", "leave it out", "a.yaml", 3),
            "a.yaml:3: measure.quality.window: found 0; expected at least 2; leave it out",
        ),
        (Problem("", "no such file", None, None, "a.yaml"), "a.yaml: no such file"),
        (Problem("models[0]", "found nothing", file="a.yaml"), "a.yaml: models[0]: found nothing"),
        (Problem("disk", "1 GiB is free", remedy="free some"), "disk: 1 GiB is free; free some"),
    ],
)
def test_a_problem_tells_place_found_expected_and_remedy(problem: Problem, told: str) -> None:
    assert str(problem) == told


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be reported"),
        RuntimeError("CUDA driver error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError(
            "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate`"
        ),
        RuntimeError("CUDA_ERROR_OUT_OF_MEMORY: out of memory"),
        RuntimeError(
            "NVML_SUCCESS == DriverAPI::get()->nvmlInit_v2_() INTERNAL ASSERT FAILED at"
            ' "../c10/cuda/CUDACachingAllocator.cpp":1131'
        ),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
        RuntimeError("std::bad_alloc"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        MemoryError(),
        OutOfMemoryError("no memory left in step 3"),
    ],
    ids=str,
)
def test_memory_was_lacking(error: Exception) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("out of resource: shared memory, Required: 131072, Hardware limit: 101376"),
        # Without a GPU in use there is none that could be full.
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate`"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"),
        ImportError("libgomp.so.1: cannot allocate memory in static TLS block"),
        OSError(errno.ENOSPC, "No space left on device"),
        ModelError("hub/out of memory: not a folder"),
    ],
    ids=str,
)
def test_something_else_was_wrong(error: Exception) -> None:
    assert not is_out_of_memory(error)


def test_what_the_libraries_here_really_raise() -> None:
    with pytest.raises(RuntimeError) as of_torch:
        torch.empty(2**58, dtype=torch.uint8)
    with pytest.raises(MemoryError) as of_numpy:
        np.empty(2**58, dtype=np.uint8)
    assert is_out_of_memory(of_torch.value)
    assert is_out_of_memory(of_numpy.value)
