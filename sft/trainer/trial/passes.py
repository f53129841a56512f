"""Forward and backward passes of a tiny model, and whether two of them are the same up to rounding.

How much rounding may change is measured: the same products are added in another order.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from sft.trainer.batching import collate
from sft.trainer.data.rows import Row
from sft.trainer.indices import CheckedIndices
from sft.trainer.loss import TargetLoss

LENGTHS = (131, 22, 11)  # tokens of the rows: no multiple of anything, and more than a chunk of the attention
# Two results are the same if they differ by no more than this share, or than so many times as much as the order of sums
# changes them.
SHARE = {torch.float32: 1e-4}
SHARE_ROUNDED = 2e-2  # bf16 and fp16
TIMES = 10.0
# A gradient that should be zero, such as that of a key's bias, is nothing but rounding. This share of the norm of all
# gradients is added to its own norm before a difference is divided by it.
NEGLIGIBLE = {torch.float32: 1e-5}
NEGLIGIBLE_ROUNDED = 1e-2


@dataclass(frozen=True)
class Result:
    """The loss of some rows, and the gradient of each trained weight by its name."""

    loss: float
    gradients: dict[str, torch.Tensor]

    @property
    def is_finite(self) -> bool:
        """Whether no number in it is infinite or NaN."""
        return bool(np.isfinite(self.loss)) and all(bool(one.isfinite().all()) for one in self.gradients.values())

    def without_gradient(self) -> list[str]:
        """Return the names of the weights whose gradient is zero."""
        return [name for name, gradient in self.gradients.items() if not bool(gradient.any())]


def rows_of(vocabulary: int, seed: int) -> list[Row]:
    """Return rows of random tokens; the second half of each is its target."""
    random = np.random.default_rng(seed)
    ids = [random.integers(3, max(4, vocabulary // 2), length, dtype=np.int32) for length in LENGTHS]
    return [(row, np.arange(len(row)) >= len(row) // 2) for row in ids]


def without_targets(row: Row) -> Row:
    """Return a row that no loss is of."""
    return row[0], np.zeros(len(row[0]), dtype=np.bool_)


def run(loss: TargetLoss, rows: list[Row], packed: bool, device: torch.device, alone: bool = False) -> Result:
    """Compute the summed loss of some rows and its gradients: in one micro-batch, or each row `alone`."""
    loss.zero_grad(set_to_none=True)
    total = 0.0
    for batch in [[row] for row in rows] if alone else [rows]:
        with CheckedIndices():
            part = loss(*collate(batch, packed, device))
        part.backward()
        total += float(part.detach())
    found = {
        name: torch.zeros_like(weight) if weight.grad is None else weight.grad.detach().clone()
        for name, weight in loss.model.named_parameters()
        if weight.requires_grad
    }
    loss.zero_grad(set_to_none=True)
    return Result(total, found)


def differences(one: Result, other: Result, dtype: torch.dtype) -> dict[str, float]:
    """Return by what share of itself the loss differs in another result, and the gradient of each weight."""
    shares = {"the loss": abs(one.loss - other.loss) / max(abs(one.loss), 1e-9)}
    whole = sum(float(gradient.float().square().sum()) for gradient in one.gradients.values()) ** 0.5
    least = NEGLIGIBLE.get(dtype, NEGLIGIBLE_ROUNDED) * whole + 1e-30
    for name, gradient in one.gradients.items():
        apart = float((gradient.float() - other.gradients[name].float()).norm())
        shares[f"the gradient of {name}"] = apart / (float(gradient.float().norm()) + least)
    return {name: share if np.isfinite(share) else float("inf") for name, share in shares.items()}


def allowed(plain: Result, reordered: Result, dtype: torch.dtype) -> dict[str, float]:
    """Return by what shares the loss and the gradients may differ from the plain ones."""
    least = SHARE.get(dtype, SHARE_ROUNDED)
    measured = differences(plain, reordered, dtype)
    return {name: max(least, TIMES * share) if np.isfinite(share) else least for name, share in measured.items()}


class Reordered(TorchFunctionMode):
    """While entered, matrix products add their terms from the last to the first."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, arguments: Any = (), options: dict[str, Any] | None = None
    ) -> Any:
        options = options or {}
        if function is F.linear and not options:
            values, weight, *bias = arguments
            biases = [one.flip(0) if one is not None else None for one in bias]
            if values.dim() > 1:
                return function(values.flip(-1, -2), weight.flip(0, 1), *biases).flip(-1, -2)
            return function(values.flip(-1), weight.flip(0, 1), *biases).flip(-1)
        if function in (torch.matmul, torch.Tensor.matmul, torch.Tensor.__matmul__) and not options:
            left, right = arguments
            if left.dim() > 1 and right.dim() > 1:
                return function(left.flip(-1), right.flip(-2))
        if function is torch.addmm and not options:
            added, left, right = arguments
            return function(added, left.flip(1), right.flip(0))
        return function(*arguments, **options)


@contextmanager
def quietly() -> Iterator[None]:
    """Keep what is tried on a copy from the user, who is told what comes of it."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield
