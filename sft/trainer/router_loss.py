"""The auxiliary loss of a mixture of experts: it keeps the router from sending all tokens to a few experts.

transformers adds it to a model's own loss if config.json says `output_router_logits`. TargetLoss does not use that
loss, so it adds the same here, from the function that the model's family computes it with.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

import torch

NAME = "load_balancing_loss_func"  # of the function, in transformers' modelling code
COEFFICIENTS = ("router_aux_loss_coef", "aux_loss_coef")
ARGUMENTS = ["gate_logits", "num_experts", "top_k", "attention_mask"]


class RouterLoss:
    """The auxiliary loss that a model's configuration asks for. `coefficient` 0: none."""

    def __init__(self, model: Any) -> None:
        config = model.config.get_text_config()
        function: Callable[..., torch.Tensor] | None = getattr(sys.modules[type(model).__module__], NAME, None)
        asked = bool(getattr(config, "output_router_logits", False)) and function is not None
        # The model's own factor first: DBRX has it in another part of its configuration, under another name.
        sources = [(one, name) for one in (model, config) for name in COEFFICIENTS if hasattr(one, name)]
        coefficient = getattr(*sources[0]) if sources else 0.0
        self.coefficient = float(coefficient or 0.0) if asked else 0.0
        self.function = function
        self.experts = getattr(model, "num_experts", getattr(config, "num_experts", None))
        self.per_token = getattr(model, "num_experts_per_tok", getattr(config, "num_experts_per_tok", None))

    @property
    def needs_whole_model(self) -> bool:
        """Whether only the model's own forward can compute it, because its family's function takes something else."""
        if not self.coefficient:
            return False
        usual = list(inspect.signature(self.function).parameters) == ARGUMENTS if self.function else False
        return not (usual and isinstance(self.experts, int) and isinstance(self.per_token, int))

    def of(self, outputs: Any, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Return the loss of one micro-batch, times its coefficient, a scalar: from the model's outputs."""
        found: torch.Tensor | None = getattr(outputs, "aux_loss", None)
        if found is None:
            assert self.function is not None
            found = self.function(outputs.router_logits, self.experts, self.per_token, attention_mask)
        return found * self.coefficient
