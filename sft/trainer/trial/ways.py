"""The fast ways of a model's copy, each compared with the plain way: its loss, and the gradient of each weight.

The plain way: one row at a time, attention written out, whole logits, no kernel but PyTorch's, every activation kept.
"""

from __future__ import annotations

import functools
import math
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from sft.trainer import causes, fast_paths
from sft.trainer.batching import collate
from sft.trainer.data.rows import Row
from sft.trainer.loss import TargetLoss
from sft.trainer.model import implementation, liger, published, scans
from sft.trainer.trial import passes
from sft.trainer.trial.copies import ROUTER_LOSS, Copies, set_router_loss
from sft.trainer.trial.passes import Result

SEEDS = (0, 1)  # a way is wrong if it is with two different models: a tie of two experts may break either way
# Rows in the same places are computed in the same order: if only a neighbour changes, so may nothing else, except as
# much as two equal passes differ, some times over.
NEIGHBOUR = {torch.float32: 1e-4}
NEIGHBOUR_ROUNDED = 2e-2
REPEATS = 4.0
ROUNDING = 2.0  # times the difference of the plain way from the same in fp32
REFUSED_AT = 0.02  # a batch of several rows that differs by less from each row alone refuses no model
PLAIN = fast_paths.PLAIN
OTHER, NOT_FINITE = "of it", "is not finite"  # how words about another result end
OWN_LOSS = 1e-4  # share of a loss by which the same logits may give another one
NO_TARGET = -100  # in labels, as transformers has it
SHIFT = 0.01  # added to what is saved: values that a new model does not have, such as in the row of the padding token


class Ways:
    """The plain way of a copy, and others compared with it. Each of them returns "", or what is wrong with it."""

    def __init__(self, copies: Copies) -> None:
        self.copies, self.device, self.dtype = copies, copies.world.device, copies.dtype
        self.attention: str | None = None  # the implementation to use; None: the model's own
        self.used_scans: list[str] = []  # faster versions of functions that mix tokens, for packed rows

    @functools.cached_property
    def has_plain_attention(self) -> bool:
        """Whether this family has its attention written out."""
        try:
            self.copies.alone(self.copies.loss(0, PLAIN))
        except Exception as error:  # of any kind: the code of a model family
            if causes.is_not_the_models(error):
                raise
            return False
        return True

    @functools.cache  # noqa: B019  # lives as long as the trial
    def plain(self, seed: int) -> tuple[Result, dict[str, float]]:
        """Return the plain result, and by what shares another one may differ from it."""
        scans.use(self.copies.first(seed)[0], [])
        loss = self.copies.loss(seed, PLAIN if self.has_plain_attention else None)
        result = self.copies.alone(loss, seed)
        try:
            with passes.Reordered():
                reordered = self.copies.alone(loss, seed)
        except Exception as error:  # a product of a shape that was not foreseen
            if causes.is_not_the_models(error):
                raise
            reordered = self.copies.alone(loss, seed)
        shares = passes.allowed(result, reordered, self.dtype)
        if self.dtype != torch.float32:  # a way may round less than the plain one: some families take a softmax in bf16
            exact = TargetLoss(self.copies.model(seed).float())
            exact.head_loss = None
            implementation.use_attention(exact.model, PLAIN if self.has_plain_attention else exact.own_attention)
            rounded = passes.differences(self.copies.alone(exact, seed), result, self.dtype)
            shares = {
                name: max(share, ROUNDING * rounded[name] if math.isfinite(rounded[name]) else 0.0)
                for name, share in shares.items()
            }
        return result, shares

    def compared(self, way: Callable[[int], Result], at_least: float = 0.0) -> str:
        """Return what is wrong with a way, or "" if it is right: it differs by more than rounding and `at_least`."""
        said = ""
        for seed in SEEDS:
            plain, shares = self.plain(seed)  # first: a way may leave something in the model
            try:
                found = way(seed)
            except Exception as error:  # of any kind: what a kernel says to a family that it does not fit
                if causes.is_not_the_models(error):
                    raise
                return causes.reason_of(error)
            wrong = {
                name: share
                for name, share in passes.differences(plain, found, self.dtype).items()
                if share > max(shares[name], at_least)
            }
            if not wrong:
                return ""
            where = max(wrong, key=lambda name: wrong[name])
            differs = wrong[where]
            said = f"{where} {NOT_FINITE}" if differs == float("inf") else f"{where} differs by {differs:.2g} {OTHER}"
        return said

    def own_attention(self) -> str:
        """Compare the attention that transformers chooses."""
        return self.compared(lambda seed: self.copies.alone(self.copies.loss(seed), seed))

    def own_loss(self) -> str:
        """Compare the loss that the family's own forward computes from labels: it may add terms that nothing here does.

        A few families (the decoder of BART) take labels that are shifted already. In fp32: some round a loss to bf16.
        """
        model = replace(self.copies, dtype=torch.float32).loss(0, self.attention).model
        row = passes.rows_of(self.copies.vocabulary, 0)[0]
        set_router_loss(model, bool(getattr(self.copies.config.get_text_config(), ROUTER_LOSS, False)))
        batch = collate([row], False, self.device)
        labels = torch.full_like(batch.input_ids, NO_TARGET)
        labels[0, batch.predicting + 1] = batch.targets
        try:
            loss = TargetLoss(model)
            loss.head_loss = None
            with torch.no_grad():
                ours = float(loss(*batch)) / len(batch.targets)
                given = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "use_cache": False}
                own = [float(model(**given, labels=one).loss) for one in (labels, labels.roll(-1, 1))]
        except Exception as error:  # of any kind: a family that computes no loss, or none of these labels
            if causes.is_not_the_models(error):
                raise
            return ""
        if any(abs(one - ours) <= OWN_LOSS * abs(ours) for one in own):
            return ""
        return f"{own[0]:.6g} in place of {ours:.6g}"

    def chunked_loss(self) -> str:
        """Compare the loss that never has the logits of all tokens."""

        def way(seed: int) -> Result:
            return self.copies.alone(self.with_head_loss(self.copies.loss(seed, self.attention)), seed)

        return self.compared(way) if self.with_head_loss(self.copies.loss()).head_loss else ""

    @staticmethod
    def with_head_loss(loss: TargetLoss) -> TargetLoss:
        """Return the same model with the chunked loss, if it has a head that is apart."""
        return TargetLoss(loss.model)

    def padded(self) -> str:
        """Compare rows in one batch, padded."""

        def way(seed: int) -> Result:
            loss, rows = self.copies.loss(seed, self.attention), passes.rows_of(self.copies.vocabulary, seed)
            return passes.run(loss, rows, False, self.device)

        return self.compared(way, REFUSED_AT)

    def recomputed(self) -> str:
        """Compare activations that are computed again in the backward pass."""

        def way(seed: int) -> Result:
            loss = self.copies.loss(seed, self.attention)
            loss.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            try:
                return self.copies.alone(loss, seed)
            finally:
                loss.model.gradient_checkpointing_disable()

        return self.compared(way) if self.copies.loss().model.supports_gradient_checkpointing else ""

    def kernel(self, name: str) -> str | None:
        """Compare one of Liger's kernels; None: this family has none, or Liger does not load."""

        try:
            if not liger.apply(self.copies.model(), name):
                return None
        except (ImportError, OSError):
            return None
        finally:
            liger.undo()

        def way(seed: int) -> Result:
            loss = TargetLoss(self.copies.model(seed))
            loss.head_loss = None
            implementation.use_attention(loss.model, self.attention or loss.own_attention)
            try:
                liger.apply(loss.model, name)
                return self.copies.alone(loss, seed)
            finally:
                liger.undo()  # what is tried next is not to have it

        return self.compared(way)

    def scans(self) -> list[str]:
        """Return the faster versions of functions that mix tokens in this family."""
        return scans.names(self.copies.loss().model)

    def scan(self, name: str) -> str:
        """Compare one of these faster versions."""

        def way(seed: int) -> Result:
            loss = self.copies.loss(seed, self.attention)
            scans.use(loss.model, [name])
            try:
                return self.copies.alone(loss, seed)
            finally:
                scans.use(loss.model, [])

        return self.compared(way)

    def packed(self) -> str | None:
        """Compare packed rows; None: their logits alone show already that they cannot be packed."""
        if self.packing(0) is None:
            return None

        def way(seed: int) -> Result:
            loss = self.packing(seed)
            assert loss is not None  # packing of one copy works with any weights
            return passes.run(loss, passes.rows_of(self.copies.vocabulary, seed), True, self.device)

        return self.compared(way) or self.neighbours()

    def packing(self, seed: int) -> TargetLoss | None:
        """Return a copy that packs, or None if it does not keep rows apart."""
        loss = TargetLoss(self.copies.model(seed))  # a new one: packing may change more in it than its attention
        scans.use(loss.model, self.used_scans)
        if self.attention:
            loss.own_attention = self.attention
        with passes.quietly():
            packs = fast_paths.take_fast_paths(loss, True, self.copies.world, max(passes.LENGTHS))
        loss.head_loss = None
        return loss if packs else None

    def neighbours(self) -> str:
        """Change the rows around a packed one: the gradients of its targets must stay the same."""
        rows, others = (passes.rows_of(self.copies.vocabulary, seed) for seed in (2, 3))
        loss = self.packing(0)
        assert loss is not None

        def among(neighbours: list[Row]) -> Result:
            first, _, last = map(passes.without_targets, neighbours)
            return passes.run(loss, [first, rows[1], last], True, self.device)

        first, again, changed = among(rows), among(rows), among(others)
        repeated = passes.differences(first, again, self.dtype)
        least = NEIGHBOUR.get(self.dtype, NEIGHBOUR_ROUNDED)
        for where, differs in passes.differences(first, changed, self.dtype).items():
            if differs > max(least, REPEATS * repeated[where]):
                return f"{where} depends on the rows beside it"
        return ""

    def saved(self) -> str:
        """Save the copy and load it again: the export would. Return what is wrong, or ""."""
        model: Any = self.copies.model()
        if type(model).__module__.startswith("transformers_modules."):
            return ""  # its code would have to be beside it
        head = model.get_output_embeddings()
        with torch.no_grad():
            # An adapter leaves a weight that transformers makes anew on loading as it was.
            for weight in model.parameters() if not self.copies.settings.lora_rank else []:
                weight.add_(SHIFT)
            for module in model.modules():
                untrained = getattr(module, "padding_idx", None) if isinstance(module, torch.nn.Embedding) else None
                if untrained is not None and module.weight is not getattr(head, "weight", None):
                    module.weight[untrained] = 0  # as every model has it that was trained
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            try:
                loaded = published.from_pretrained(Path(folder), dtype=self.dtype).state_dict()
            except Exception as error:  # of any kind: the code of a model family
                if self.copies.is_whole:
                    return f"loading fails ({causes.reason_of(error)})"
                return ""  # sizes of the copy that its class has in other ways
        weights = {name: value.cpu() for name, value in model.state_dict().items()}
        different = [name for name in weights if name not in loaded or not torch.equal(weights[name], loaded[name])]
        return f"transformers changes {', '.join(different[:3])}" if different else ""
