"""The scan of Mamba 2 in PyTorch, over rows of a batch or over packed sequences.

The same sums as transformers' own code, in fp32, with less memory: keys and queries are not copied for each head, and
chunks are smaller. Packed sequences need no padding, because what would cross a border is masked.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from sft.trainer.packed import Packed

CHUNK = 64  # tokens
NOTHING = float("-inf")  # the logarithm of what is masked


def state_space(given: dict[str, Any], sequences: Packed | None) -> torch.Tensor:
    """Return y of h' = exp(A dt) h + dt B x and y = C h + D x, [batch, tokens, heads, size].

    The arguments are those of transformers' function: hidden_states x [batch, tokens, heads, size], dt [batch, tokens,
    heads], A [heads], B and C [batch, tokens, groups, state], D and dt_bias [heads].
    """
    x, D, bias = given["hidden_states"].float(), given.get("D"), given.get("dt_bias")
    batch, tokens, heads, size = x.shape
    step = given["dt"] if bias is None else given["dt"] + bias.to(given["dt"].dtype)
    step = F.softplus(step) if given.get("dt_softplus") else step
    step = step.clamp(*given.get("dt_limit", (0.0, float("inf")))).float()
    groups = given["B"].shape[2]
    # b: batch, c: chunk, l and s: places in it, g: group, r: head of the group, p: element of a head, n: of a state
    values = in_chunks(x * step[..., None]).unflatten(3, (groups, -1))  # [b, c, s, g, r, p]
    keys, queries = (in_chunks(given[name].float()).transpose(2, 3) for name in "BC")  # [b, c, g, s, n]
    decay = in_chunks(given["A"].float() * step).permute(0, 3, 1, 2).cumsum(-1)  # [b, heads, c, l], from the chunk on
    owners = owners_of(tokens, sequences, x.device)  # [c, l]: the number of each token's sequence
    first, last = owners[:, :1], owners[:, -1:]

    sees = (owners[:, :, None] == owners[:, None, :]).tril()
    between = (decay[..., :, None] - decay[..., None, :]).masked_fill(~sees, NOTHING).exp()  # [b, heads, c, l, s]
    scores = (queries @ keys.transpose(-1, -2))[:, :, :, None]  # [b, c, g, 1, l, s]
    weights = between.transpose(1, 2).unflatten(2, (groups, -1)) * scores  # [b, c, g, r, l, s]
    found = weights @ values.permute(0, 1, 3, 4, 2, 5)  # [b, c, g, r, l, p]

    # What a chunk adds to the state, with which share it reaches later chunks, and what these read of it
    to_end = (decay[..., -1:] - decay).masked_fill(owners != last, NOTHING).exp()
    to_end = to_end.permute(0, 2, 3, 1).unflatten(3, (groups, -1))[..., None]  # [b, c, s, g, r, 1]
    added = keys.transpose(-1, -2) @ (values * to_end).permute(0, 1, 3, 2, 4, 5).flatten(4)  # [b, c, g, n, r p]
    added = added.unflatten(4, (-1, size)).permute(0, 2, 4, 1, 3, 5)  # [b, g, r, c, n, p]
    reach = between_chunks(decay[..., -1]).masked_fill(~(first == last.T).tril(-1), NOTHING).exp()
    reach = reach.unflatten(1, (groups, -1))  # [b, g, r, c, z]
    states = (reach @ added.flatten(4)).unflatten(4, added.shape[4:])  # [b, g, r, c, n, p]
    read = queries @ states.permute(0, 3, 1, 4, 2, 5).flatten(4)  # [b, c, g, l, r p]
    from_start = decay.masked_fill(owners != first, NOTHING).exp()  # [b, heads, c, l]
    from_start = from_start.transpose(1, 2).unflatten(2, (groups, -1))[..., None]  # [b, c, g, r, l, 1]
    found = found + read.unflatten(4, (-1, size)).transpose(3, 4) * from_start
    found = found.permute(0, 1, 4, 2, 3, 5).reshape(batch, -1, heads, size)[:, :tokens]
    found = found if D is None else found + D[..., None] * x
    return found.contiguous()  # Falcon-H1 asks for it


def between_chunks(decay: torch.Tensor) -> torch.Tensor:
    """Return the decay from after chunk z to before chunk c, [..., c, z], of that in each chunk, [..., chunks].

    Added up for each z: differences of two long sums would be rounded more than what they differ by.
    """
    chunks = decay.shape[-1]
    later = torch.ones(chunks, chunks, dtype=torch.bool, device=decay.device).tril(-1)
    sums = decay[..., :, None].expand(*decay.shape, chunks).masked_fill(~later, 0.0).cumsum(-2)
    return F.pad(sums[..., :-1, :], (0, 0, 1, 0))


def in_chunks(tensor: torch.Tensor) -> torch.Tensor:
    """Return [batch, chunks, CHUNK, ...] of [batch, tokens, ...], with zeros at the end."""
    missing = -tensor.shape[1] % CHUNK
    return F.pad(tensor, (*(0, 0) * (tensor.dim() - 2), 0, missing)).unflatten(1, (-1, CHUNK))


def owners_of(tokens: int, sequences: Packed | None, device: torch.device) -> torch.Tensor:
    """Return the number of the sequence that each token belongs to, [chunks, CHUNK]; padding is a sequence more."""
    owners = torch.zeros(tokens, dtype=torch.int64, device=device) if sequences is None else sequences.owners
    return F.pad(owners, (0, -tokens % CHUNK), value=tokens).unflatten(0, (-1, CHUNK))
