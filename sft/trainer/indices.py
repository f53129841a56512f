"""An index out of range, while a model is tried: an error to go on from, on a GPU too."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode, _pop_mode_temporarily

ALONG = {torch.gather, torch.Tensor.gather, torch.index_select, torch.Tensor.index_select}


class CheckedIndices(TorchFunctionMode):
    """While entered, an index out of range raises IndexError before the kernel that would use it.

    A CPU does that by itself. A GPU's kernel asserts, and the process cannot use the GPU any more: what is tried with
    more tokens than a table of positions has would end the run in place of that way. Waits for the GPU at each index.
    """

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, arguments: Any = (), options: dict[str, Any] | None = None
    ) -> Any:
        options = options or {}
        for index, size, least in used(function, arguments, options):
            if is_plain(index) and index.numel() and not (least <= int(index.min()) and int(index.max()) < size):
                raise IndexError(f"{function.__name__}: an index is out of range of {size} entries")
        return function(*arguments, **options)

    @staticmethod
    @contextmanager
    def left() -> Iterator[None]:
        """Leave every mode like this one inside."""
        with contextlib.ExitStack() as stack:
            for _ in range(torch._C._len_torch_function_stack()):
                stack.enter_context(_pop_mode_temporarily())
            yield


def is_plain(index: object) -> bool:
    """Tell whether something is a tensor whose values can be read: in a function that torch maps, they cannot."""
    return isinstance(index, torch.Tensor) and not torch._C._functorch.is_functorch_wrapped_tensor(index)


def used(
    function: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]
) -> Iterator[tuple[torch.Tensor, int, int]]:
    """Yield each tensor of indices that a call uses, the size that they index, and the least of them allowed."""
    if function is F.embedding:
        index, weight = (*arguments, *(options[name] for name in ("input", "weight") if name in options))[:2]
        yield index, weight.shape[0], 0
    elif function in ALONG:
        names = [name for name in ("input", "dim", "index") if name in options]
        values, dim, index = (*arguments, *(options[name] for name in names))[:3]
        yield index, values.shape[dim], 0
    elif function is torch.Tensor.__getitem__:
        yield from in_brackets(*arguments)


def in_brackets(values: torch.Tensor, keys: object) -> Iterator[tuple[torch.Tensor, int, int]]:
    """Yield the tensors of whole numbers among the keys of values[keys]."""
    dim, keys = 0, keys if isinstance(keys, tuple) else (keys,)
    for i, key in enumerate(keys):
        if key is Ellipsis:
            dim = values.dim() - sum(takes(one) for one in keys[i + 1 :])
            continue
        if isinstance(key, torch.Tensor) and key.dtype not in (torch.bool, torch.uint8) and dim < values.dim():
            yield key, values.shape[dim], -values.shape[dim]
        dim += takes(key)


def takes(key: object) -> int:
    """Return how many dimensions a key in brackets indexes."""
    if isinstance(key, torch.Tensor) and key.dtype in (torch.bool, torch.uint8):
        return key.dim()
    return 0 if key is None or isinstance(key, bool) else 1
