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

PIECE = 2**23  # numbers that are rounded at once: logits of a whole row fill a card that is nearly full


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
        generator, half = self.generators[found.device], torch.finfo(found.dtype).eps / 2
        flat = found.flatten()
        if function is torch.einsum:  # whose result may be a view of what it was given
            flat = flat.clone()
        for piece in flat.split(PIECE):
            ups = torch.randint(0, 2, piece.shape, generator=generator, device=found.device, dtype=torch.int8)
            piece.mul_(ups.float().mul_(2 * half).add_(1 - half))  # in fp32
        return flat.view(found.shape)
