import errno
import os

import pytest
import torch

from autoseg.network.shortage import is_shortage, is_shortage_of_device

OF_DEVICE = (
    torch.OutOfMemoryError("the device is full"),
    RuntimeError("CUDA out of memory. Tried to allocate 2.25 GiB."),
    torch.AcceleratorError("CUDA error: out of memory\nCompile with TORCH_USE_CUDA_DSA."),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"),
    RuntimeError("FIND was unable to find an engine to execute this computation"),
    RuntimeError("MPS backend out of memory (MPS allocated: 8.05 GB)."),
)
OF_MACHINE = (
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: not enough memory: you tried to ..."),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."),
    OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
)
NEITHER = (
    RuntimeError("shapes differ"),
    RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasSgemm(handle)`"),
    OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    ValueError("out of memory"),
)


@pytest.mark.parametrize("error", OF_DEVICE, ids=str)
def test_a_full_device_is_known_by_whatever_it_says(error: Exception) -> None:
    assert is_shortage(error)
    assert is_shortage_of_device(error)


@pytest.mark.parametrize("error", OF_MACHINE, ids=str)
def test_a_full_machine_is_no_full_device(error: Exception) -> None:
    assert is_shortage(error)
    assert not is_shortage_of_device(error)


@pytest.mark.parametrize("error", NEITHER, ids=str)
def test_other_errors_are_no_shortage(error: Exception) -> None:
    assert not is_shortage(error)
    assert not is_shortage_of_device(error)
