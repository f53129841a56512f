"""The logits of a model that is tried, and by how much two results of it differ."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from sft.trainer import distributed
from sft.trainer.batching import collate
from sft.trainer.causes import is_not_the_models
from sft.trainer.data.rows import Row
from sft.trainer.distributed import World
from sft.trainer.indices import CheckedIndices
from sft.trainer.loss import TargetLoss
from sft.trainer.rounding import RoundedOtherwise

TESTED = 10  # tokens at the end of a sequence whose logits are compared
# Logits may differ by this share of their spread. Another order of the same sums changes them by less, whatever the
# depth; a sequence that sees another one changes them by more.
SHARE = {torch.float32: 2e-4}
SHARE_ROUNDED = 0.06  # bf16 and fp16
# They may differ by more if rounding alone changes them by as much: this many times as much, and no more than that.
ROUNDING = 2.0
MOST_ROUNDING = 0.5
# Where the same sums are computed in the same order, nothing may change but as much as two equal passes differ, some
# times over (weights that are quantised anew in each pass, atomic additions).
SAME_SUMS = {torch.float32: 1e-5}
SAME_SUMS_ROUNDED = 4e-3
REPEATS = 4.0
MOST = 0.7  # of the tokens
BEHIND = (5, 50)  # two tokens, behind those whose logits are compared


class Trial:
    """A model under trial: the logits at the end of a sequence, alone or packed behind others (all ranks)."""

    def __init__(self, module: torch.nn.Module, world: World, checks_indices: bool = True) -> None:
        target_loss = getattr(module, "module", module)
        assert isinstance(target_loss, TargetLoss)
        self.module, self.world, self.target_loss, self.model = module, world, target_loss, target_loss.model
        self.checks_indices = checks_indices
        rounded = self.model.dtype != torch.float32
        self.share = SHARE_ROUNDED if rounded else SHARE[torch.float32]
        self.same_sums = SAME_SUMS_ROUNDED if rounded else SAME_SUMS[torch.float32]

    def logits(
        self, of: npt.NDArray[np.int32], *before: npt.NDArray[np.int32], packed: bool = False, after: int | None = None
    ) -> torch.Tensor:
        """Return the logits of the last TESTED tokens of a sequence; `after`: one more token behind them."""
        sequences: list[Row] = [(ids, np.zeros(len(ids), dtype=np.bool_)) for ids in before]  # without targets
        is_target = np.arange(len(of)) >= len(of) - TESTED
        if after is not None:
            of, is_target = np.append(of, np.int32(after)), np.append(is_target, False)
        sequences.append((of, is_target))
        self.target_loss.gives_logits = True
        try:
            with CheckedIndices() if self.checks_indices else contextlib.nullcontext():
                return self.module(*collate(sequences, packed, self.world.device))
        finally:
            self.target_loss.gives_logits = False

    def changed_by_what_follows(
        self, of: npt.NDArray[np.int32], *before: npt.NDArray[np.int32], tokens: tuple[int, int] = BEHIND
    ) -> float:
        """Return by what share of their spread logits change with the token behind; packed, if they follow others."""
        left, right = (self.logits(of, *before, packed=bool(before), after=token) for token in tokens)
        return difference(left, right)

    def same(self, left: torch.Tensor, right: torch.Tensor, share: float) -> bool:
        """Tell whether two results are the same up to a share of their spread on every rank (all ranks)."""
        return self.agree([difference(left, right) <= share])

    def allowed(self, *logits_of: tuple[npt.NDArray[np.int32], torch.Tensor]) -> float:
        """Return the share of their spread by which other ways may change the logits of these sequences (all ranks).

        It is measured, by rounding all products otherwise.
        """
        if self.model.dtype == torch.float32:
            return self.share
        with RoundedOtherwise():
            noise = max(difference(logits, self.logits(of)) for of, logits in logits_of)
        return max(self.share, min(ROUNDING * noise, MOST_ROUNDING))

    def agree(self, is_right: list[bool]) -> bool:
        """Tell whether everything is right on every rank (all ranks)."""
        return distributed.total([not all(is_right)], self.world) == [0.0]

    def leave_out(self, what: str) -> None:
        """Note which fast way this model cannot go; rank 0 prints it."""
        self.target_loss.left_out.append(what)
        if self.world.is_main:
            print(f"{type(self.model).__name__} {what}", flush=True)


def differences(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return the difference of two results in each position, as a share of the spread of its logits."""
    spread = (left - left.mean(dim=1, keepdim=True)).norm(dim=1)
    return (left - right).norm(dim=1) / spread.clamp_min(torch.finfo(torch.float32).tiny)


def difference(left: torch.Tensor, right: torch.Tensor) -> float:
    """Return the largest difference of two results in any position, as a share of the spread of its logits."""
    return float(differences(left, right).max())


def most(left: torch.Tensor, right: torch.Tensor) -> float:
    """Return the difference of two results that most tokens do not exceed."""
    return float(differences(left, right).quantile(MOST))


def works(
    trial: Trial, compute: Callable[[], torch.Tensor], expected: torch.Tensor, share: float | None = None
) -> bool:
    """Tell whether a fast way gives what is expected. Every rank has the same model: all of them fail or none does."""
    try:
        found = compute()
    except Exception as error:  # of any kind: what a kernel says to a family that it does not fit
        if is_not_the_models(error):
            raise
        return False
    return trial.same(expected, found, trial.share if share is None else share)


def long_sequence(longest: int) -> npt.NDArray[np.int32]:
    """Return a sequence of any tokens, as long as the longest row."""
    return 3 + np.arange(max(longest, TESTED), dtype=np.int32) % 50
