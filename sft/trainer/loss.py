"""The loss of a causal language model, without holding the logits of all tokens at once.

The vocabulary of a current model has 128k entries or more: the logits of 16k tokens alone would take 8 GB in fp32.
Only the positions that predict a target go through the head, in chunks, and each chunk's gradient is computed while
its logits are there (the idea of Apple's cut cross-entropy and Liger Kernel's fused linear cross entropy).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
import transformers

from sft.run.records import Tried
from sft.sizes import CHUNK_BYTES
from sft.trainer.model import implementation, scans
from sft.trainer.packed import Packed, note
from sft.trainer.router_loss import RouterLoss


class TargetLoss(torch.nn.Module):
    """A causal language model that returns the sum of its loss over the target tokens of a micro-batch.

    A sum, not a mean: the mean is over the targets of the whole global batch, whose number a micro-batch does not know.
    In training it includes the router's auxiliary loss, if the model's config.json asks for one. That loss is not a sum
    over tokens: it depends on which of them share a micro-batch.
    """

    def __init__(self, model: transformers.PreTrainedModel) -> None:
        super().__init__()
        self.model = model
        scans.replace(model)
        self.own_attention = model.config._attn_implementation
        self.gives_positions = True  # to the model, for packed sequences; otherwise it counts them itself
        self.gives_logits = False  # instead of the loss, to try what is fast (logits.py)
        self.kernels: list[str] = []  # of Liger, in the model
        self.scans: list[str] = []  # the faster versions of functions that mix tokens, in use
        self.unused: list[str] = []  # names of the weights that text does not pass, frozen
        self.left_out: list[str] = []  # the fast ways that this model cannot go, in words
        head = model.get_output_embeddings()
        # Without a part that ends before the head (Llama 4's class for text), the model computes its own logits.
        self.router_loss = RouterLoss(model)
        is_apart = isinstance(head, torch.nn.Linear) and model.base_model is not model
        is_apart = is_apart and not self.router_loss.needs_whole_model
        self.head_loss = HeadLoss(head) if is_apart else None
        self.train(model.training)  # a new module is in training: it would take a model that is evaluated along

    def leave_out(self, tried: Tried) -> None:
        """Leave out what was found wrong on a copy of the model."""
        self.left_out += tried.left_out
        if tried.attention:
            self.own_attention = tried.attention
            implementation.use_attention(self.model, tried.attention)
        if not tried.chunked_loss:
            self.head_loss = None

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None,
        position_ids: torch.Tensor | None,
        packed: Packed | None,
        predicting: torch.Tensor,
        targets: torch.Tensor,
    ) -> torch.Tensor:
        """Return the summed cross entropy in fp32, a scalar. The arguments are the fields of a MicroBatch.

        With `gives_logits` return the logits of the positions in `predicting` instead, [targets, vocabulary] in fp32.
        """
        inputs: dict[str, object] = {"input_ids": input_ids, "attention_mask": attention_mask, "use_cache": False}
        note(packed)
        if packed is not None:
            inputs |= {"packed": packed} | ({"position_ids": position_ids} if self.gives_positions else {})
        balances = self.training and self.router_loss.coefficient > 0
        if balances:
            inputs["output_router_logits"] = True
        if self.head_loss is None:
            outputs = self.model(**inputs)
            logits = outputs.logits.flatten(0, 1)[predicting].float()
            loss = logits if self.gives_logits else F.cross_entropy(logits, targets, reduction="sum")
        else:
            outputs = self.model.base_model(**inputs)
            hidden = outputs.last_hidden_state.flatten(0, 1)[predicting]
            loss = self.head_loss(hidden, None if self.gives_logits else targets)
        if balances:  # weighted by targets, so that the step's loss has the mean over its micro-batches
            loss = loss + len(targets) * self.router_loss.of(outputs, attention_mask)
        return loss


class HeadLoss(torch.nn.Module):
    """The output head with its loss. It has the head's own parameters, so ZeRO-3 gathers them around its forward."""

    def __init__(self, head: torch.nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = head.weight, head.bias
        self.chunk_bytes = CHUNK_BYTES  # of logits

    def forward(self, hidden: torch.Tensor, targets: torch.Tensor | None) -> torch.Tensor:
        """Return the summed cross entropy in fp32, a scalar, of `hidden` [targets, size] and `targets` [targets].

        Without targets return the logits.
        """
        if targets is None:
            return F.linear(hidden.to(self.weight.dtype), self.weight, self.bias).float()
        train_weight = self.weight.requires_grad and torch.is_grad_enabled()
        # Some families keep their hidden states in fp32 and cast them before the head.
        hidden = hidden.to(self.weight.dtype)
        return LinearCrossEntropy.apply(hidden, self.weight, self.bias, targets, train_weight, self.chunk_bytes)


class LinearCrossEntropy(torch.autograd.Function):
    """sum(cross_entropy(hidden @ weight.T + bias, targets)), chunk by chunk, with the gradients of the same pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        train_weight: bool,
        chunk_bytes: int,
    ) -> torch.Tensor:
        """Compute the loss and, for a factor of 1, its gradients. `backward` multiplies them by the real factor.

        Shapes: hidden [targets, size], weight [vocabulary, size], bias [vocabulary], targets [targets].
        """
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        grad_hidden = torch.zeros_like(hidden) if hidden.requires_grad else None
        grad_weight = torch.zeros_like(weight) if train_weight else None
        grad_bias = torch.zeros_like(bias) if train_weight and bias is not None else None
        rows = max(1, chunk_bytes // (4 * weight.shape[0]))  # in a chunk: its fp32 logits take chunk_bytes
        for start in range(0, len(hidden), rows):
            chunk, labels = hidden[start : start + rows], targets[start : start + rows, None]
            logits = F.linear(chunk, weight, bias).float()
            normaliser = torch.logsumexp(logits, dim=1, keepdim=True)  # log of the softmax's denominator
            loss += (normaliser - logits.gather(1, labels)).sum()
            if grad_hidden is None:
                continue
            # d loss / d logits = softmax(logits) - one_hot(target), in place: the logits are the largest tensor here
            grad_logits = logits.sub_(normaliser).exp_()
            grad_logits.scatter_add_(1, labels, torch.full_like(labels, -1, dtype=torch.float32))
            grad_logits = grad_logits.to(hidden.dtype)
            torch.mm(grad_logits, weight, out=grad_hidden[start : start + rows])
            if grad_weight is not None:
                grad_weight.addmm_(grad_logits.T, chunk)
            if grad_bias is not None:
                grad_bias += grad_logits.sum(0)
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients that forward has computed, times the gradient of the loss itself, a scalar."""
        (factor,) = grads
        scaled = [None if grad is None else grad.mul_(factor) for grad in ctx.saved_tensors]
        return (*scaled, None, None, None)


@contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Switch dropout and gradients off inside."""
    was_training = module.training
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        module.train(was_training)
