"""A key-value cache that allocates its memory once.

transformers' dynamic cache copies all keys and values for every token, which takes longer than reading them if a
thousand answers are generated at once. Its static cache attends to the whole allocated length from the first token on.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer


def preallocated(model: Any, tokens: int) -> DynamicCache | None:
    """Return a cache for `model.generate`, for `tokens` tokens per sequence; None for model families with their own.

    Layers that remember in another way (a sliding window, a state) keep what transformers gives them.
    """
    parameters = inspect.signature(model.forward).parameters
    if "past_key_values" not in parameters or not model._supports_default_dynamic_cache():
        return None
    cache = DynamicCache(config=model.config)
    cache.layers = [PreallocatedLayer(tokens) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


class PreallocatedLayer(DynamicLayer):
    """One layer's keys and values: views of the filled part of buffers [sequences, heads, `most` tokens, size]."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.buffers: list[torch.Tensor] = []

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add keys and values, [sequences, heads, tokens, size] each. Return all of them so far."""
        states = (key_states, value_states)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.buffers = [new.new_empty(*new.shape[:2], self.most, new.shape[3]) for new in states]
        before = self.get_seq_length()
        after = before + key_states.shape[2]
        for buffer, new in zip(self.buffers, states, strict=True):
            buffer[:, :, before:after] = new
        self.keys, self.values = (buffer[:, :, :after] for buffer in self.buffers)
        return self.keys, self.values
