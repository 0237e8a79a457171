"""What memory that does not suffice looks like: the one home of the many words that torch has for it."""

import torch

_OF_DEVICE = (
    "cuda error: out of memory",  # A context, or pinned memory: no allocation that torch keeps account of.
    "cuda out of memory",
    "mps backend out of memory",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "cublas_status_not_initialized when calling `cublascreate",  # Of a handle, for which a full GPU has no room left.
    "cudnn_status_not_initialized",
    "unable to find an engine to execute this computation",  # Of cuDNN: no algorithm had room for what it needs.
)
"""Of errors that torch raises without a type of their own."""

_OF_ANY = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate memory")
"""Of these, and of the system's."""


def is_shortage(error: BaseException) -> bool:
    """Return whether an error says that memory, of the device or of the machine, was not enough."""
    return isinstance(error, MemoryError) or is_shortage_of_device(error) or _says(error, _OF_ANY)


def is_shortage_of_device(error: BaseException) -> bool:
    """Return whether it is the memory of a GPU that was not enough."""
    return isinstance(error, torch.OutOfMemoryError) or _says(error, _OF_DEVICE)


def _says(error: BaseException, texts: tuple[str, ...]) -> bool:
    said = str(error).lower()
    return isinstance(error, RuntimeError | OSError) and any(text in said for text in texts)
