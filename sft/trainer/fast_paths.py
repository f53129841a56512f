"""Try what is fast on this model (chunked loss, attention kernels, packed sequences), and use only what is right."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from sft.errors import SettingsError, wrong
from sft.trainer import attention, distributed, unpacked_layers
from sft.trainer.batching import collate
from sft.trainer.causes import is_not_the_models
from sft.trainer.data.rows import Row
from sft.trainer.distributed import World
from sft.trainer.loss import HeadLoss, TargetLoss, evaluating
from sft.trainer.model import experts, implementation
from sft.trainer.rounding import RoundedOtherwise

TESTED = 10  # tokens at the end of a sequence whose logits are compared
WRITTEN_OUT = 1024  # tokens of the longest sequence for attention written out, which takes memory for each pair
PLAIN = "eager"  # transformers' name for attention written out
# Logits may differ by this share of their spread. Another order of the same sums changes them by less, whatever the
# depth; a sequence that sees another one changes them by more.
SHARE = {torch.float32: 2e-4}
SHARE_ROUNDED = 0.06  # bf16 and fp16
# They may differ by more if rounding alone changes them by as much: this many times as much, and no more than that.
ROUNDING = 2.0
MOST_ROUNDING = 0.5
SHARE_EXPERTS = 0.3  # the same of most tokens, if one may go to another expert in some layer
# If only the sequence before it changes, the same sums are computed in the same order: nothing may change but as much
# as two equal passes differ, some times over (weights that are quantised anew in each pass, atomic additions).
NEIGHBOUR = {torch.float32: 1e-5}
NEIGHBOUR_ROUNDED = 4e-3
CAUSAL = 2e-6  # with nothing changed but a token behind
EXPERTS_CAUSAL = 5e-4  # the token behind may share a product with others, in a shape that is computed in another order
BEHIND = (5, 50)  # the two tokens that are tried there
OTHERS_BEHIND = ((6, 41), (9, 33), (12, 28))
REPEATS = 4.0
MOST = 0.7  # of the tokens
# The head is the same product of the same hidden states.
HEAD = {torch.float32: 1e-5}
HEAD_ROUNDED = 1e-2
LARGER = 64.0


class Way(NamedTuple):
    """A way to pack sequences."""

    attention: str  # its name for transformers
    unpacks: bool  # layers that mix tokens
    gives_positions: bool  # to the model, which counts them itself otherwise


WAYS = (  # the fastest first
    Way(attention.IMPLEMENTATION, unpacks=False, gives_positions=True),
    Way(attention.IMPLEMENTATION, unpacks=True, gives_positions=True),
    Way(unpacked_layers.MASKED_IMPLEMENTATION, unpacks=True, gives_positions=True),
    Way(unpacked_layers.MASKED_IMPLEMENTATION, unpacks=True, gives_positions=False),
)


class Trial:
    """A model under trial: the logits at the end of a sequence, alone or packed behind others (all ranks)."""

    def __init__(self, module: torch.nn.Module, world: World) -> None:
        target_loss = getattr(module, "module", module)
        assert isinstance(target_loss, TargetLoss)
        self.module, self.world, self.target_loss, self.model = module, world, target_loss, target_loss.model
        rounded = self.model.dtype != torch.float32
        self.share = SHARE_ROUNDED if rounded else SHARE[torch.float32]
        self.neighbour = NEIGHBOUR_ROUNDED if rounded else NEIGHBOUR[torch.float32]

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
            return self.module(*collate(sequences, packed, self.world.device))
        finally:
            self.target_loss.gives_logits = False

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


def take_fast_paths(module: torch.nn.Module, packing: bool, world: World, longest: int = 0) -> bool:
    """Try the chunked loss, attention kernels and packing on this model, and keep what is right (all ranks).

    Return whether to pack. A model family may do more to its logits than its head does (scale them, cap them), or mix
    sequences in other places than in the attention (convolutions, states). No list of names is complete, so the model
    itself is tried: a short sequence must have the logits that the model gives with its attention written out, also
    packed behind another sequence, and they must not change if that other sequence does. Windows and chunks of the
    attention only show in longer sequences: so one as long as the `longest` row is packed too. `module` is a TargetLoss
    or an engine around one. Raises SettingsError for a model that does not run, or that sees the tokens to predict.
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
        if can_pack(trial, tested, plain, longest):
            return True
        trial.leave_out("cannot keep packed sequences apart: training on padded ones")
        return False


def long_sequence(longest: int) -> npt.NDArray[np.int32]:
    """Return a sequence of any tokens, as long as the longest row."""
    return 3 + np.arange(max(longest, TESTED), dtype=np.int32) % 50


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
    allowed = max(trial.neighbour, REPEATS * difference(plain, trial.logits(tested)))
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
    left, right = (trial.logits(tested, after=token) for token in BEHIND)
    if not trial.same(left, right, trial.share / 2):
        what = f"{type(trial.model).__name__} sees the tokens that it has to predict (an encoder, not a decoder)"
        raise SettingsError([wrong("MODEL_NAME", trial.model.name_or_path, what, "use a causal language model")])


def can_pack(trial: Trial, tested: npt.NDArray[np.int32], plain: torch.Tensor, longest: int) -> bool:
    """Tell whether there is a way to pack this model's sequences, and leave the model in it; otherwise as it was."""
    for way in WAYS:
        unpacked_layers.set_attention(trial.model, way.attention)
        trial.target_loss.gives_positions = way.gives_positions
        unpacks = way.unpacks and bool(layers_that_mix(trial, longest))
        if way.unpacks == unpacks and keeps_apart(trial, tested, plain, longest, way):
            if padded := unpacked_layers.of(trial.model):
                names = ", ".join(sorted({type(layer.module).__name__ for layer in padded}))
                trial.leave_out(f"mixes packed rows in {len(padded)} layers ({names}): these alone get padded rows")
            return True
        end_packing(trial.target_loss)
    return False


def end_packing(target_loss: TargetLoss) -> None:
    """Make the model again what it was before packing: it takes padded sequences, and generates."""
    target_loss.gives_positions = True
    unpacked_layers.undo(target_loss.model, target_loss.own_attention)


def layers_that_mix(trial: Trial, longest: int) -> list[unpacked_layers.Layer]:
    """Return the layers that mix the tokens of packed sequences, which are computed on padded batches from now on."""
    short = [np.arange(first, first + tokens, dtype=np.int32) for first, tokens in ((2, 5), (9, 7), (20, 4), (30, 9))]
    try:
        return unpacked_layers.find(trial.model, lambda: trial.logits(long_sequence(longest), *short, packed=True))
    except Exception as error:  # of any kind: the code of a model family
        if is_not_the_models(error):
            raise
        return []


def keeps_apart(trial: Trial, tested: npt.NDArray[np.int32], plain: torch.Tensor, longest: int, way: Way) -> bool:
    """Tell whether packed sequences do not see each other, and give what they give alone."""
    one, other = (np.arange(*span, dtype=np.int32) for span in ((2, 9), (11, 18)))
    long = long_sequence(longest)
    many = [long, one, long[: len(long) // 2 + 1], other, long[: len(long) // 3 + 1], one]

    def behind(of: npt.NDArray[np.int32], *before: npt.NDArray[np.int32]) -> torch.Tensor:
        return trial.logits(of, *before, packed=True)

    try:
        first, again, changed = behind(tested, one), behind(tested, one), behind(tested, other)
        long_one, last_of_many = behind(long, one), behind(tested, *many)
        behind_it = changed_by_what_follows(trial, tested, one)
    except Exception as error:  # of any kind: what a kernel says to a family that it does not fit
        if is_not_the_models(error):
            raise
        return False
    neighbour = max(trial.neighbour, REPEATS * difference(first, again))
    unpacked_layers.set_attention(trial.model, trial.target_loss.own_attention)
    alone, reordered = trial.logits(long), own_in_a_batch(trial, tested, long)
    own_behind_it = changed_by_what_follows(trial, tested)  # not 0 with experts
    unpacked_layers.set_attention(trial.model, way.attention)
    pairs = [(first, plain), (last_of_many, plain), (long_one, alone)]
    # Attention that a family writes out sees every token if it gets no mask. In a model that has learnt little this
    # changes the logits by less than rounding does, so the same sums are compared here.
    has_experts = experts.are_in(trial.model)
    repeated = max(difference(first, again), own_behind_it, EXPERTS_CAUSAL if has_experts else CAUSAL)
    if not trial.agree([behind_it <= REPEATS * repeated]):
        # A leak shows with every token behind. Experts may be rounded otherwise with one, but hardly with each.
        others = OTHERS_BEHIND if has_experts else ()
        if not any(
            trial.agree([changed_by_what_follows(trial, tested, one, tokens=two) <= REPEATS * repeated])
            for two in others
        ):
            return False
    by_neighbour = difference(changed, first)
    if trial.agree([by_neighbour <= neighbour, *(difference(*pair) <= trial.share for pair in pairs)]):
        return True
    unpacked_layers.set_attention(trial.model, trial.target_loss.own_attention)
    share = trial.allowed((tested, plain), (long, alone))
    unpacked_layers.set_attention(trial.model, way.attention)
    if trial.agree([by_neighbour <= neighbour, *(difference(*pair) <= share for pair in pairs)]):
        return True
    if reordered is None or not has_experts:
        return False
    if not way.unpacks and layers_that_mix(trial, longest):
        return False
    # Each layer is right by itself, and most tokens are; others may have gone to another expert, chosen by a hair.
    noise = max(SHARE_EXPERTS, 2 * most(reordered, plain))
    return trial.agree([most(left, right) <= noise for left, right in [*pairs, (changed, first)]])


def changed_by_what_follows(
    trial: Trial, of: npt.NDArray[np.int32], *before: npt.NDArray[np.int32], tokens: tuple[int, int] = BEHIND
) -> float:
    """Return by what share of their spread logits change with the token behind; packed, if they follow others."""
    left, right = (trial.logits(of, *before, packed=bool(before), after=token) for token in tokens)
    return difference(left, right)


def own_in_a_batch(trial: Trial, tested: npt.NDArray[np.int32], other: npt.NDArray[np.int32]) -> torch.Tensor | None:
    """Return the logits of the model's own attention in a padded batch: the same sums in another order.

    None: the model cannot be padded, or computes in fp32, where the order changes little.
    """
    if trial.model.dtype == torch.float32:
        return None
    try:
        return trial.logits(tested, other)
    except Exception as error:  # of any kind: the code of a model family
        if is_not_the_models(error):
            raise
        return None


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


def reason_of(error: Exception) -> str:
    """Return an error as a few words in one line."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or ['no message'])[0]}"
