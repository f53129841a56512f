"""`COMPILE=1`: the layers that torch.compile has made are compared with the same layers as they are."""

from __future__ import annotations

import math

import numpy as np
import torch
from deepspeed import DeepSpeedEngine

from sft.errors import SettingsError, wrong
from sft.settings.stages import Effective
from sft.trainer import dry_run, gradients
from sft.trainer.causes import is_not_the_models, reason_of
from sft.trainer.data.rows import Rows
from sft.trainer.distributed import World
from sft.trainer.logits import TESTED, Trial, most
from sft.trainer.loss import evaluating
from sft.trainer.model import chance, experts

UNCOMPILED = "force_eager"  # torch.compile's name for layers as they are
FEW = 4  # rows whose gradients are compared, at most


def use(engine: DeepSpeedEngine, rows: Rows, settings: Effective, packing: bool, world: World) -> None:
    """Try the compiled layers of a model, and compute them as they are if that fails or gives others (all ranks).

    Raises SettingsError if their gradients cannot be computed: DeepSpeed cannot go on after half a backward pass.
    """
    trial = Trial(engine, world, checks_indices=False)  # checked before; the compiler would follow the check
    try:
        why = other_logits(trial, packing)
    except Exception as error:  # of any kind: the code of a model family, or a machine without a C++ compiler
        if is_not_the_models(error):
            raise
        why = reason_of(error)
    try:
        why = why or other_gradients(engine, trial, rows, settings, packing)
    except Exception as error:  # of any kind: the code of a compiler
        if is_not_the_models(error):
            raise
        what = f"the gradients of {type(trial.model).__name__}'s compiled layers cannot be computed"
        raise SettingsError([wrong("COMPILE", 1, f"{what} ({reason_of(error)})", "set COMPILE=0")]) from error
    if why:
        trial.leave_out(f"is not compiled ({why}): training without COMPILE")
        torch.compiler.set_stance(UNCOMPILED)


def other_logits(trial: Trial, packing: bool) -> str:
    """Return that compiled layers compute other logits, or ""."""
    tested, before = np.arange(3, 3 + TESTED, dtype=np.int32), [np.arange(2, 9, dtype=np.int32)] if packing else []
    with evaluating(trial.module):
        with torch.compiler.set_stance(UNCOMPILED):
            expected = trial.logits(tested, *before, packed=packing)
            share = trial.allowed((tested, expected))
        found = trial.logits(tested, *before, packed=packing)
    return "" if trial.agree([most(found, expected) <= share]) else "it would compute something else"


def other_gradients(engine: DeepSpeedEngine, trial: Trial, rows: Rows, settings: Effective, packing: bool) -> str:
    """Return which weight gets another gradient from compiled layers, or "".

    Norms are compared, as in the dry run. With dropout nothing is: each way draws its own numbers.
    """
    if chance.dropout(trial.model.config):
        return ""
    share = np.argsort(rows.lengths, kind="stable")[(len(rows) - 1) // 2 :][:FEW]
    fitting = np.cumsum(rows.lengths[share]) <= settings.max_tokens_per_micro_step
    share = share[: max(1, int(fitting.sum()) if packing else settings.batch_size)]  # no more than a micro-step has
    with torch.compiler.set_stance(UNCOMPILED):
        expected = dry_run.norms(engine, rows, share, packing, trial.world)
    found = dry_run.norms(engine, rows, share, packing, trial.world)
    whole = math.hypot(*expected.values())
    if experts.are_in(trial.model):  # rounding may send a token to another one
        expected, found = {"all weights": whole}, {"all weights": math.hypot(*found.values())}
    negligible = whole * gradients.OF_ALL.get(trial.model.dtype, gradients.OF_ALL_ROUNDED)
    wrong = [name for name in expected if differs(found[name], expected[name], negligible)]
    if trial.agree([not wrong]):
        return ""
    return f"the gradient of {gradients.weights_in_words(wrong)} would be another one"


def differs(found: float, expected: float, negligible: float) -> bool:
    """Tell whether a norm is another one by more than rounding."""
    return not abs(found - expected) <= gradients.OF_ITSELF * expected + negligible
