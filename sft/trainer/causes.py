"""What an error of a library comes from: memory ran out, or another rank has ended. Otherwise it is the code's own."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import torch

from sft.failures import MAY_FOLLOW, Kind, kind_of_library_error

# Errors of CUDA, its driver, NCCL, cuBLAS and cuDNN that mean the same as torch.OutOfMemoryError. An error belongs to a
# group if its text has all words of that group.
GPU_WORDS = (("cuda", "out of memory"), ("nccl", "out of memory"), ("status_alloc_failed",))
# Numbers of CUDA's errors (cudaError_t) after which a process cannot use its GPU any more: a kernel read from a wrong
# address, its assertion failed, or it had a wrong instruction.
ENDS_GPU = {700, 710, 714, 715, 716, 717, 718, 719}
HOST_WORDS = ("defaultcpuallocator: can't allocate", "defaultcpuallocator: not enough memory")


def is_of_gpu(error: BaseException) -> bool:
    """Tell whether an error, or one of its causes, means that the GPU ran out of memory."""
    for found in with_causes(error):
        text = str(found).lower()
        is_named = any(all(word in text for word in words) for words in GPU_WORDS)
        if is_named or isinstance(found, torch.OutOfMemoryError):
            return True
    return False


def is_of_host(error: BaseException) -> bool:
    """Tell whether an error, or one of its causes, means that the machine ran out of main memory."""
    for found in with_causes(error):
        no_memory = isinstance(found, MemoryError) or (isinstance(found, OSError) and found.errno == errno.ENOMEM)
        if no_memory or any(words in str(found).lower() for words in HOST_WORDS):
            return True
    return False


def ends_gpu(error: BaseException) -> bool:
    """Tell whether an error, or one of its causes, has ended this process's use of the GPU."""
    errors = (found for found in with_causes(error) if isinstance(found, torch.AcceleratorError))
    return any(getattr(found, "error_code", None) in ENDS_GPU for found in errors)


def with_causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and its causes: those that it was raised from, or while they were handled."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def kind_of_unexpected(error: BaseException) -> Kind:
    """Return the kind of an exception of a library. Errors between ranks are RuntimeErrors, in torch and in gloo."""
    kind = kind_of_library_error(str(error))
    return "crash" if kind in MAY_FOLLOW and not isinstance(error, RuntimeError) else kind


def is_not_the_models(error: BaseException) -> bool:
    """Tell whether an error says nothing of the model that was tried, or nothing can be tried after it."""
    return is_of_gpu(error) or is_of_host(error) or ends_gpu(error) or kind_of_unexpected(error) in MAY_FOLLOW


def reason_of(error: Exception) -> str:
    """Return an error as a few words in one line."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0]}"
