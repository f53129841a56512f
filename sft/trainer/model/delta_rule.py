"""The gated delta rule in PyTorch, for rows of a batch.

The same sums as transformers' own code, in fp32. Each chunk needs the inverse of a triangular matrix. transformers
solves for it, one row after another; here it is put together from blocks by products, which suit a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

CHUNK = 64  # tokens
BLOCK = 16  # rows of a block that is inverted row by row
EPSILON = 1e-6


class Inverse(torch.autograd.Function):
    """The inverse of 1 + L for strictly lower triangular matrices L [..., CHUNK, CHUNK]."""

    @staticmethod
    def forward(ctx: Any, lower: torch.Tensor) -> torch.Tensor:
        """Invert blocks on the diagonal, and put them together, twice as large each time."""
        inverse = lower.new_zeros(lower.shape) + torch.eye(CHUNK, dtype=lower.dtype, device=lower.device)
        blocks = diagonal(inverse, BLOCK)
        of_lower = diagonal(lower, BLOCK)
        for row in range(1, BLOCK):
            blocks[..., row, :row] -= (of_lower[..., row, None, :row] @ blocks[..., :row, :row])[..., 0, :]
        size = BLOCK
        while size < CHUNK:
            whole, below = diagonal(inverse, 2 * size), diagonal(lower, 2 * size)[..., size:, :size]
            upper_left, lower_right = whole[..., :size, :size], whole[..., size:, size:]
            whole[..., size:, :size] = -(lower_right @ below @ upper_left)
            size *= 2
        ctx.save_for_backward(inverse)
        return inverse

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        """Return the gradient of L: that of an inverse X is -X' grad X'."""
        (inverse,) = ctx.saved_tensors
        transposed = inverse.transpose(-1, -2)
        return -(transposed @ grads[0] @ transposed).tril(-1)


def diagonal(matrices: torch.Tensor, size: int) -> torch.Tensor:
    """Return a view of the blocks on the diagonal, [..., blocks, size, size]."""
    number, (*before, row, column) = matrices.shape[-1] // size, matrices.stride()
    shape = (*matrices.shape[:-2], number, size, size)
    return matrices.as_strided(shape, (*before, size * (row + column), row, column))


def delta_rule(given: dict[str, Any], _: object = None) -> tuple[torch.Tensor, None]:
    """Return [rows, tokens, heads, size], and no state.

    The arguments are those of transformers' function: query and key [rows, tokens, key heads, key size], value [rows,
    tokens, heads, size], g [rows, tokens, heads], the logarithm of the state's decay, and beta, the rate at which it
    learns.
    """
    query, key, value, g, beta = (given[name] for name in ("query", "key", "value", "g", "beta"))
    kind = query.dtype
    rows, tokens, heads, _ = value.shape
    query, key = (part.repeat_interleave(heads // part.shape[2], dim=2) for part in (query, key))
    if given.get("use_qk_l2norm_in_kernel"):
        query, key = (normed(part.float()) for part in (query, key))
    query = query * key.shape[-1] ** -0.5
    query, key, value, learnt = (in_chunks(part.float()) for part in (query, key, value, beta[..., None]))
    decay = in_chunks(g.float()[..., None])[..., 0].cumsum(-1)  # [rows, heads, chunks, CHUNK], from the chunk on

    later = torch.ones(CHUNK, CHUNK, dtype=torch.bool, device=g.device).triu(1)
    between = (decay[..., :, None] - decay[..., None, :]).masked_fill(later, float("-inf")).exp()
    inverse: torch.Tensor = Inverse.apply(((key * learnt) @ key.transpose(-1, -2) * between).tril(-1))
    grown = decay.exp()[..., None]
    new = inverse @ (value * learnt)
    read = inverse @ (key * learnt * grown)
    within = query @ key.transpose(-1, -2) * between
    query, key = query * grown, key * (decay[..., -1:] - decay).exp()[..., None]
    whole = grown[..., -1:, :]

    state = value.new_zeros(rows, heads, key.shape[-1], value.shape[-1])
    found = []
    for i in range(value.shape[2]):
        change = new[:, :, i] - read[:, :, i] @ state
        found.append(query[:, :, i] @ state + within[:, :, i] @ change)
        state = state * whole[:, :, i] + key[:, :, i].transpose(-1, -2) @ change
    return torch.stack(found, 2).flatten(2, 3)[:, :, :tokens].transpose(1, 2).to(kind), None


def normed(tensor: torch.Tensor) -> torch.Tensor:
    """Return vectors of length 1."""
    return tensor * (tensor.square().sum(-1, keepdim=True) + EPSILON).rsqrt()


def in_chunks(tensor: torch.Tensor) -> torch.Tensor:
    """Return [rows, heads, chunks, CHUNK, size] of [rows, tokens, heads, size], with zeros at the end."""
    missing = -tensor.shape[1] % CHUNK
    return F.pad(tensor, (0, 0, 0, 0, 0, missing)).transpose(1, 2).unflatten(2, (-1, CHUNK))
