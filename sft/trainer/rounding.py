"""By how much rounding may change what a model computes: measured, as families differ by far.

Scores of attention that are large (Gemma 4's are not divided by anything) are rounded by as much as others are in all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

PRODUCTS = {
    F.linear, F.scaled_dot_product_attention, torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__, torch.bmm,
    torch.Tensor.bmm, torch.baddbmm, torch.addmm, torch.einsum,
}  # fmt: skip


class RoundedOtherwise(TorchFunctionMode):
    """While entered, every number that is the result of a product is rounded up or down by chance, the same each time.

    It is changed by half the distance of two numbers of its type, or up to twice as much.
    """

    def __enter__(self) -> RoundedOtherwise:
        self.generators: dict[torch.device, torch.Generator] = {}
        return super().__enter__()

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, arguments: Any = (), options: dict[str, Any] | None = None
    ) -> Any:
        found = function(*arguments, **(options or {}))
        if function not in PRODUCTS or not isinstance(found, torch.Tensor) or not found.is_floating_point():
            return found
        if found.device not in self.generators:
            self.generators[found.device] = torch.Generator(found.device).manual_seed(0)
        signs = torch.randint(0, 2, found.shape, generator=self.generators[found.device], device=found.device) * 2 - 1
        return (found.float() * (1 + signs * torch.finfo(found.dtype).eps / 2)).to(found.dtype)
