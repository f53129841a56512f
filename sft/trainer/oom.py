"""A rank runs out of memory: continue with smaller micro-steps, or end with a line that says what to do.

The rank cannot repeat its step by itself: the others wait in collectives, and DeepSpeed is in the middle of a pass. So
it lowers the run's budget of a micro-step (sft/run/budget.py) and fails; the ranks are started again from the last
checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from sft.errors import RunFailed
from sft.run import budget
from sft.run.budget import ROWS, TOKENS
from sft.run.directory import Run
from sft.run.records import Cut
from sft.settings.stages import Decided, Effective
from sft.steps import Steps
from sft.trainer import batching, nonfinite
from sft.trainer.batching import MicroSteps
from sft.trainer.causes import is_of_gpu, is_of_host
from sft.trainer.checkpoint.save import Saver
from sft.trainer.data.rows import Rows
from sft.trainer.distributed import World

OPTIMIZER = "optimizer"  # the part of a step that changes the weights


class OutOfMemory(Exception):
    """The GPU ran out of memory. `phase` is the part of the step: forward, backward or optimizer."""

    def __init__(self, phase: str) -> None:
        super().__init__(phase)
        self.phase = phase


def remedies(settings: Decided) -> str:
    """Return settings that need less GPU memory than these, as an error names them; the least drastic come first."""
    ways = [] if settings.gradient_checkpointing else ["GRADIENT_CHECKPOINTING=1"]
    if settings.ds_config != "zero3_offload":
        in_32_bits = " OPTIMIZER_BITS=32" if settings.optimizer_bits != 32 else ""
        ways.append(f"DS_CONFIG=zero3_offload{in_32_bits}")
    if settings.precision == "bf16" and settings.optimizer_bits == 32 and not settings.lora_rank:
        ways.append("OPTIMIZER_BITS=16" + (" DS_CONFIG=zero3" if "offload" in settings.ds_config else ""))
    ways += [] if settings.lora_rank else ["LORA_RANK=16"]
    return ", ".join([*ways, "more GPUs or a smaller model"])


def reason(error: BaseException, run: Run) -> str:
    """Return the message for memory that ran out outside the steps, with what to do; "" if the error is another one."""
    if is_of_gpu(error):
        remedy = f"use {remedies(run.settings())}"
        if run.state().status == "evaluating":
            remedy = "use EVAL_BATCH_SIZE=1, a smaller MAX_NEW_TOKENS, or EVALUATE=0 and EVAL_STEPS=0"
        return f"out of memory of a GPU; {remedy}; `make plan` takes it into account"
    if is_of_host(error):
        remedy = "end other programs, use DS_CONFIG=zero3 instead of offload, or fewer GPUS_PER_NODE"
        return f"out of memory of the machine; {remedy}"
    return ""


@contextmanager
def part(phase: str) -> Iterator[None]:
    """Raise OutOfMemory if the GPU runs out of memory in this part of a step."""
    try:
        yield
    except Exception as error:
        if is_of_gpu(error):
            raise OutOfMemory(phase) from error
        raise


class Guard:
    """Lowers the run's budget if a micro-step of this rank does not fit into memory."""

    def __init__(
        self, run: Run, settings: Effective, rows: Rows, steps: Steps, packing: bool, saver: Saver, world: World
    ) -> None:
        self.run, self.settings, self.rows, self.packing, self.world = run, settings, rows, packing, world
        self.saver, self.cuts = saver, budget.cuts(run)
        trained = np.arange(len(rows))
        if steps.total < steps.per_epoch:
            trained = batching.order(len(rows), settings.seed, 0)[: steps.total * steps.global_batch_size]
        self.longest = int(trained[np.argmax(rows.lengths[trained])])  # a row: it must fit by itself

    @contextmanager
    def guard(self, step: str, micro_steps: MicroSteps) -> Iterator[None]:
        """Lower the run's budget if these micro-steps do not fit. Raises RunFailed: the ranks must start again."""
        try:
            yield
        except Exception as error:
            if not is_of_gpu(error):
                raise
            phase = error.phase if isinstance(error, OutOfMemory) else "between passes"
            self.saver.finish()  # the ranks resume from this checkpoint, which may still be on its way to the disk
            raise RunFailed(self.lower_budget(step, phase, micro_steps), "out_of_memory") from error

    def lower_budget(self, step: str, phase: str, micro_steps: MicroSteps) -> str:
        """Lower the run's budget below these micro-steps, if possible. Return what happened, as the run's error."""
        setting = TOKENS if self.packing else ROWS
        shares = [share for per_rank in micro_steps for share in per_rank]
        size = max(int(self.rows.lengths[share].sum()) if self.packing else len(share) for share in shares)
        longest = int(self.rows.lengths[self.longest])
        limit = budget.smaller(setting, size, longest)
        what = budget.what(setting, size, step, phase, self.world.rank)
        if phase == OPTIMIZER and [(cut.step, cut.phase) for cut in self.cuts[-1:]] == [(step, phase)]:
            # Smaller micro-steps do not make the optimizer's memory smaller, they only fragment the rest less. That is
            # worth one try.
            return f"{what}, and smaller ones have not helped; use {remedies(self.settings)}"
        if limit is None:
            (row,) = nonfinite.places(self.settings, self.rows.row_of[[self.longest]])
            remedy = f"use a smaller MAX_LENGTH, {remedies(self.settings)}"
            return f"{what}, and the longest row, {row} with {longest:,} tokens, has to fit alone; {remedy}"
        if self.run.failure() is None:  # otherwise another rank has lowered it already, in the same way
            frozen = self.run.settings()
            configured = frozen.max_tokens_per_micro_step if self.packing else frozen.batch_size
            cut = Cut(
                setting=setting,
                configured=configured,
                failed_size=size,
                limit=limit,
                step=step,
                phase=phase,
                rank=self.world.rank,
            )
            budget.write(self.run, [*self.cuts, cut])
        return f"{what}; the next attempt uses {limit:,}"
