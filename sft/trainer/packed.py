"""Packed sequences: several in one tensor [1, tokens], one behind the other; and the same as padded batches, and back.

The micro-batch that is being computed is also noted here, for code that its model does not pass it to.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

SLACK = 1.25  # positions of a padded group over its tokens, at most


@dataclass(frozen=True, eq=False)
class Packed:
    """The borders of packed sequences."""

    starts: torch.Tensor  # int32 [sequences + 1] on the device: token offsets; the last is the number of tokens
    lengths: list[int]  # of each sequence, in tokens

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(self.lengths)

    @property
    def tokens(self) -> int:
        """Tokens of all sequences."""
        return sum(self.lengths)

    @functools.cached_property
    def owners(self) -> torch.Tensor:
        """The number of the sequence that each token belongs to, int64 [tokens]."""
        lengths = torch.tensor(self.lengths)
        return torch.arange(len(lengths)).repeat_interleave(lengths).to(self.starts.device)

    def places_with_gaps(self, gap: int) -> torch.Tensor:
        """Return the place of each token, int64 [tokens], if there are `gap` more places between sequences."""
        return torch.arange(self.tokens, device=self.starts.device) + gap * self.owners

    @functools.cached_property
    def by_length(self) -> Groups:
        """Groups of sequences of similar lengths: little padding."""
        return Groups.of(self, SLACK)

    @functools.cached_property
    def together(self) -> Groups:
        """All sequences in one group."""
        return Groups.of(self, float("inf"))


@dataclass(frozen=True, eq=False)
class Groups:
    """Packed sequences as padded batches: for each group the tokens that its positions hold, and the way back.

    Padding is on the right and repeats the last token of a sequence, so nothing odd (zeros, NaN) is computed there.
    """

    places: list[torch.Tensor]  # of each group: int64 [sequences, longest of the group], indices of tokens
    back: torch.Tensor  # int64 [tokens]: the place of each token in all groups, flattened one behind the other

    @classmethod
    def of(cls, packed: Packed, slack: float) -> Groups:
        """Return groups whose positions are at most `slack` times their tokens, longest sequences first."""
        lengths = np.asarray(packed.lengths)
        starts = np.cumsum(lengths) - lengths
        back, places, used = np.empty(lengths.sum(), dtype=np.int64), [], 0
        for group in groups_of(packed.lengths, slack):
            columns = np.arange(lengths[group].max())
            last = lengths[group, None] - 1
            places.append(starts[group, None] + np.minimum(columns, last))
            back[places[-1][columns <= last]] = used + np.flatnonzero(columns <= last)
            used += places[-1].size
        device = packed.starts.device
        return cls(
            [torch.from_numpy(part.astype(np.int64)).to(device) for part in places], torch.from_numpy(back).to(device)
        )

    def unpack(self, tensor: torch.Tensor, group: int) -> torch.Tensor:
        """Return the padded batch [sequences, longest, ...] of a group from a tensor [tokens, ...]."""
        places = self.places[group]
        return tensor.index_select(0, places.flatten()).unflatten(0, places.shape)

    def pack(self, batches: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return [tokens, ...] from what `unpack` gave for all groups, [sequences, longest, ...] each."""
        return torch.cat([batch.flatten(0, 1) for batch in batches]).index_select(0, self.back)


def groups_of(lengths: Sequence[int], slack: float) -> list[list[int]]:
    """Return the indices of sequences in groups that padding makes at most `slack` times as large, longest first."""
    groups: list[list[int]] = []
    positions = tokens = 0
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        longest = lengths[groups[-1][0]] if groups else 0
        if not groups or positions + longest > slack * (tokens + lengths[index]):
            groups.append([])
            longest, positions, tokens = lengths[index], 0, 0
        groups[-1].append(index)
        positions, tokens = positions + longest, tokens + lengths[index]
    return groups


# Recomputed activations need it in backward too, which runs in threads of its own: so it is neither a context variable
# nor reset after a forward pass.
_noted: list[Packed | None] = [None]


def note(packed: Packed | None) -> None:
    """Note the micro-batch of the next forward pass and its backward pass; None if it is padded."""
    _noted[0] = packed


def noted() -> Packed | None:
    """Return the packed micro-batch that is being computed, or None if it is padded."""
    return _noted[0]
