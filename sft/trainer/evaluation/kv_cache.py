"""A key-value cache that allocates its memory once.

transformers' own copies all keys and values with every token, which for a thousand answers at once takes longer than
reading them does; its static one attends to the whole of its room from the first token on.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer


def reserved(model: Any, tokens: int) -> DynamicCache | None:
    """Return a cache for `model.generate`, with room for `tokens` tokens a sequence; None for a family with its own.

    Layers with another kind of memory (a sliding window, a state) keep the one that transformers gives them.
    """
    takes = inspect.signature(model.forward).parameters
    if "past_key_values" not in takes or not model._supports_default_dynamic_cache():
        return None
    cache = DynamicCache(config=model.config)
    cache.layers = [ReservedLayer(tokens) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


class ReservedLayer(DynamicLayer):
    """One layer's keys and values: views of the filled part of [sequences, heads, `most` tokens, size]."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.room: list[torch.Tensor] = []

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add keys and values [sequences, heads, tokens, size] and return all there are."""
        states = (key_states, value_states)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.room = [new.new_empty(*new.shape[:2], self.most, new.shape[3]) for new in states]
        before = self.get_seq_length()
        after = before + key_states.shape[2]
        for room, new in zip(self.room, states, strict=True):
            room[:, :, before:after] = new
        self.keys, self.values = (room[:, :, :after] for room in self.room)
        return self.keys, self.values
