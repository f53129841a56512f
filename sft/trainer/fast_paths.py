"""Try what is fast on this model (chunked loss, attention kernels, packed sequences), and use only what is right."""

from __future__ import annotations

import contextlib

import numpy as np
import numpy.typing as npt
import torch

from sft.errors import SettingsError, wrong
from sft.trainer.causes import is_not_the_models, reason_of
from sft.trainer.distributed import World
from sft.trainer.logits import REPEATS, TESTED, Trial, difference, long_sequence, works
from sft.trainer.loss import HeadLoss, evaluating
from sft.trainer.model import experts, implementation
from sft.trainer.ways_to_pack import can_pack

WRITTEN_OUT = 1024  # tokens of the longest sequence for attention written out, which takes memory for each pair
PLAIN = "eager"  # transformers' name for attention written out
# The head is the same product of the same hidden states.
HEAD = {torch.float32: 1e-5}
HEAD_ROUNDED = 1e-2
LARGER = 64.0


def take_fast_paths(
    module: torch.nn.Module, packing: bool, world: World, longest: int = 0, most_tokens: int = 0
) -> bool:
    """Try the chunked loss, attention kernels and packing on this model, and keep what is right (all ranks).

    Return whether to pack. A model family may do more to its logits than its head does (scale them, cap them), or mix
    sequences in other places than in the attention (convolutions, states). No list of names is complete, so the model
    itself is tried: a short sequence must have the logits that the model gives with its attention written out, also
    packed behind another sequence, and they must not change if that other sequence does. Windows and chunks of the
    attention only show in longer sequences: so one as long as the `longest` row is packed too, and `most_tokens`, as
    many as a micro-step has, if a table of the model may end before that. `module` is a TargetLoss or an engine around
    one. Raises SettingsError for a model that does not run, or that sees the tokens to predict.
    """
    trial = Trial(module, world)
    target_loss = trial.target_loss
    with evaluating(module):
        # Every forward pass here is collective under ZeRO-3, and all ranks decide together (`Trial.same`).
        tested = np.arange(3, 3 + TESTED, dtype=np.int32)
        head_loss, target_loss.head_loss = target_loss.head_loss, None
        plain = logits_of_own(trial, tested, longest)
        check_finite(trial)
        check_causal(trial, tested)
        if head_loss is not None:
            if head_is_last(trial, tested, head_loss, plain):
                target_loss.head_loss = head_loss
            else:
                trial.leave_out("changes its logits after the head: no chunked loss")
        if not packing:
            return False
        if can_pack(trial, tested, plain, longest, most_tokens):
            return True
        trial.leave_out("cannot keep packed sequences apart: training on padded ones")
        return False


def logits_of_own(trial: Trial, tested: npt.NDArray[np.int32], longest: int) -> torch.Tensor:
    """Return the model's own logits, with its fast attention if that gives what attention written out gives."""
    model, target_loss = trial.model, trial.target_loss
    implementation.use_attention(model, target_loss.own_attention)
    long = long_sequence(min(longest, WRITTEN_OUT))
    try:
        own, own_long = logits_or_in_turn(trial, tested, long)
    except OSError:  # a program or file that this machine lacks
        raise
    except Exception as error:  # of any kind: the code of a model family
        if is_not_the_models(error):
            raise
        what = f"{type(model).__name__} does not run on text alone ({reason_of(error)})"
        raise SettingsError([wrong("MODEL_NAME", model.name_or_path, what, "use another model")]) from error
    if target_loss.own_attention in (PLAIN, None):
        return own
    try:
        implementation.use_attention(model, PLAIN)
        plain, plain_long = trial.logits(tested), trial.logits(long)
    except Exception as error:  # a family without it
        if is_not_the_models(error):
            raise
        implementation.use_attention(model, target_loss.own_attention)
        return own
    agree = trial.same(plain, own, trial.share) and trial.same(plain_long, own_long, trial.share)
    if not agree:
        share = trial.allowed((tested, plain), (long, plain_long))
        agree = trial.same(plain, own, share) and trial.same(plain_long, own_long, share)
    if agree or not bool(plain.isfinite().all()):  # fp16 may overflow, written out
        implementation.use_attention(model, target_loss.own_attention)
        return own
    trial.leave_out(
        f"is wrong with {target_loss.own_attention} attention here: its own attention is written out, slower"
    )
    target_loss.own_attention = PLAIN
    return plain


def logits_or_in_turn(trial: Trial, *sequences: npt.NDArray[np.int32]) -> list[torch.Tensor]:
    """Return the logits of each sequence. Experts whose grouped products fail are computed one after another."""
    try:
        return [trial.logits(sequence) for sequence in sequences]
    except OSError:
        raise
    except Exception as error:  # of any kind: what a kernel says to sizes that it does not fit
        if is_not_the_models(error) or not experts.compute_in_turn(trial.model):
            raise
        found = [trial.logits(sequence) for sequence in sequences]
        trial.leave_out(f"cannot compute its experts in grouped products here ({reason_of(error)}): one by one, slower")
        return found


def head_is_last(trial: Trial, tested: npt.NDArray[np.int32], head_loss: HeadLoss, plain: torch.Tensor) -> bool:
    """Tell whether the model's logits are the output of its head, and nothing is done to them after it.

    A cap changes small logits by less than rounding does, but those of a trained model by much. So the head's output is
    multiplied too, by a power of two, which is exact: logits that nothing changes are then multiplied as well.
    """
    target_loss, head = trial.target_loss, trial.model.get_output_embeddings()
    target_loss.head_loss = head_loss
    try:
        if not works(trial, lambda: trial.logits(tested), plain, HEAD.get(trial.model.dtype, HEAD_ROUNDED)):
            return False
    finally:
        target_loss.head_loss = None
    allowed = max(trial.same_sums, REPEATS * difference(plain, trial.logits(tested)))
    larger = head.register_forward_hook(lambda module, inputs, output: output * LARGER)
    try:
        return works(trial, lambda: trial.logits(tested), plain * LARGER, allowed)
    finally:
        larger.remove()


def check_finite(trial: Trial) -> None:
    """Raise SettingsError if a weight is NaN or infinite: no row is to blame for what follows from that.

    Embeddings may be, of tokens that no row has.
    """
    ends = [trial.model.get_output_embeddings()]
    with contextlib.suppress(NotImplementedError):  # a family that does not say which they are
        ends.append(trial.model.get_input_embeddings())
    kept = {id(getattr(end, "weight", None)) for end in ends}
    weights = [weight for weight in trial.model.parameters() if id(weight) not in kept]
    parts = [getattr(weight, "ds_tensor", weight) for weight in weights]  # under ZeRO-3, this rank's
    if not trial.agree([bool(part.isfinite().all()) for part in parts]):
        what = f"{type(trial.model).__name__} has weights that are NaN or infinite in {str(trial.model.dtype)[6:]}"
        remedy = "fetch the model again, or try PRECISION=fp32"
        raise SettingsError([wrong("MODEL_NAME", trial.model.name_or_path, what, remedy)])


def check_causal(trial: Trial, tested: npt.NDArray[np.int32]) -> None:
    """Raise SettingsError if what follows a token changes what is predicted before it: nothing would be learnt."""
    if not trial.agree([trial.changed_by_what_follows(tested) <= trial.share / 2]):
        what = f"{type(trial.model).__name__} sees the tokens that it has to predict (an encoder, not a decoder)"
        raise SettingsError([wrong("MODEL_NAME", trial.model.name_or_path, what, "use a causal language model")])
