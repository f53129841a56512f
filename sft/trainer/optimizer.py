"""AdamW, with fp32 states or with weights and moments in bf16.

bf16 has 8 bits of mantissa. An update of AdamW at a learning rate of 1e-6 is far smaller than half a unit in the last
place of most weights, and one step changes a second moment by 0.1 %: rounded to the nearest value, neither would ever
move. Rounded stochastically, up or down with probabilities that make the mean exact, both move as they should.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from deepspeed import DeepSpeedEngine
from deepspeed.runtime.zero.utils import ZERO_SUPPORTED_OPTIMIZERS
from torch.optim.adamw import adamw

from sft.settings.deepspeed import DsConfig
from sft.settings.stages import Decided
from sft.sizes import OPTIMIZER_PIECE
from sft.trainer.distributed import World

LOST_BITS = 16  # of an fp32's mantissa, which bf16 does not have


def optimizer_for(
    groups: list[dict[str, object]], settings: Decided, config: DsConfig, world: World
) -> torch.optim.Optimizer:
    """Return the optimizer for groups of parameters."""
    if settings.optimizer_bits == 16:
        if Bf16AdamW not in ZERO_SUPPORTED_OPTIMIZERS:  # DeepSpeed refuses others, or warns of them
            ZERO_SUPPORTED_OPTIMIZERS.append(Bf16AdamW)
        return Bf16AdamW(groups, settings.learning_rate, settings.seed, world.rank)
    fused = world.device.type == "cuda" or "offload_optimizer" in config.zero
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=fused)


class Bf16AdamW(torch.optim.Optimizer):
    """AdamW whose weights and moments are bf16 between steps. It computes in fp32, and rounds stochastically.

    The random bits follow from the seed, the step, the rank and the place of a tensor among the optimizer's. So a
    resumed run gets those of a run that was never stopped.
    """

    def __init__(self, groups: list[dict[str, object]], lr: float, seed: int, rank: int) -> None:
        super().__init__(groups, {"lr": lr, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.0})
        self.seed, self.rank = seed, rank
        self.places: dict[torch.Tensor, int] = {}  # in the order of the first step

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for weights in group["params"]:
                if weights.grad is not None:
                    self.update(weights, weights.grad.view(-1), group)

    def update(self, weights: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]) -> None:
        """Update one tensor, a piece at a time: only a piece's states are in memory as fp32."""
        state = self.state[weights]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weights), torch.zeros_like(weights)
        done = int(state["step"])
        place = self.places.setdefault(weights, len(self.places))
        generator = torch.Generator(weights.device)
        generator.manual_seed(seed_of(self.seed, done, self.rank, place))
        kept = [tensor.detach().view(-1) for tensor in (weights, state["exp_avg"], state["exp_avg_sq"])]
        for start in range(0, gradient.numel(), OPTIMIZER_PIECE):
            piece = slice(start, start + OPTIMIZER_PIECE)
            exact = [tensor[piece].float() for tensor in kept]
            adamw_of_piece(exact, gradient[piece].float(), done, group)
            for values, tensor in zip(exact, kept, strict=True):
                round_stochastically(values, tensor[piece], generator)
        state["step"] += 1


def adamw_of_piece(states: list[torch.Tensor], gradient: torch.Tensor, done: int, group: dict[str, Any]) -> None:
    """Update weights and both moments in place, all fp32, after `done` steps: torch's own AdamW in one kernel."""
    weights, average, square = states
    beta1, beta2 = group["betas"]
    adamw(
        [weights],
        [gradient],
        [average],
        [square],
        [],
        [torch.full((), float(done), device=weights.device)],
        fused=True,
        amsgrad=False,
        beta1=beta1,
        beta2=beta2,
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=False,
    )


def round_stochastically(values: torch.Tensor, out: torch.Tensor, generator: torch.Generator) -> None:
    """Round fp32 values into a bf16 tensor: up or down, so that the mean of many roundings is the value itself.

    bf16 is the upper half of an fp32. A random number below one unit of that half carries into it with a probability
    that is the share of the lower half.
    """
    noise = torch.randint(1 << LOST_BITS, values.shape, dtype=torch.int32, device=values.device, generator=generator)
    rounded = noise.add_(values.view(torch.int32)).bitwise_and_(-1 << LOST_BITS).view(torch.float32)
    # The sum would turn the NaN whose bits are all set, which is CUDA's, into a zero.
    out.copy_(rounded.masked_fill_(values.isnan(), torch.nan))


def seed_of(*parts: int) -> int:
    """Return one seed for several numbers, such that any other numbers have an unrelated one."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> np.uint64(1))


def keep_one_copy(engine: DeepSpeedEngine) -> None:
    """Let DeepSpeed's bf16 master weights share the memory of the weights themselves.

    It makes a copy, which it needs only if the two differ in type. What it does after a step, copying one to the other,
    is then a copy to the same place.
    """
    zero = engine.optimizer
    if engine.zero_optimization_stage() == 3:
        pairs = zip(zero.fp32_partitioned_groups_flat, zero.fp16_partitioned_groups_flat, strict=True)
    else:
        shards = [parts[engine.global_rank] for parts in zero.parallel_partitioned_bit16_groups]
        pairs = zip(zero.single_partition_of_fp32_groups, shards, strict=True)
    for master, weights in pairs:
        master.data = weights.data
    if engine.zero_optimization_stage() < 3:
        zero._link_all_hp_params()  # views of the copies that are gone
