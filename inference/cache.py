"""A key-value cache that is allocated once and written in place.

transformers' own growing cache copies every key and value at every token; at small model sizes that copy, not the
arithmetic, is what decoding waits for. Rows can be repeated (several samples of one prompt) and dropped (finished).
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer


class InPlaceLayer(DynamicLayer):
    """One layer's keys and values, (rows, heads, capacity, width); the first `length` columns are in use."""

    def __init__(self, capacity: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.capacity = capacity
        self.length = 0

    def update(self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
        """Appends (rows, heads, new, width) states; returns views of all states so far."""
        rows, heads, new, width = key_states.shape
        if self.length == 0:
            shape = (rows, heads, self.capacity, width)
            self.key_buffer = torch.empty(shape, dtype=key_states.dtype, device=key_states.device)
            self.value_buffer = torch.empty(shape, dtype=value_states.dtype, device=value_states.device)
            self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
        end = self.length + new
        if end > self.capacity:
            raise ValueError(f"cache of {self.capacity} columns cannot hold {end}")
        self.key_buffer[:, :, self.length : end] = key_states
        self.value_buffer[:, :, self.length : end] = value_states
        self.length = end
        self.keys, self.values = self.key_buffer[:, :, :end], self.value_buffer[:, :, :end]
        return self.keys, self.values

    def get_seq_length(self, *args: Any, **kwargs: Any) -> int:
        """Columns in use."""
        return self.length

    def select(self, rows: torch.Tensor) -> None:
        """Keeps (or repeats) the given rows, in that order."""
        shape = (len(rows), *self.key_buffer.shape[1:])
        for name in ("key_buffer", "value_buffer"):
            old = getattr(self, name)
            new = old.new_empty(shape)
            new[:, :, : self.length] = old[rows, :, : self.length]
            setattr(self, name, new)
        self.keys, self.values = self.key_buffer[:, :, : self.length], self.value_buffer[:, :, : self.length]


class InPlaceCache(Cache):
    """`layers` in-place layers for one decoding of at most `capacity` columns, the prompt included."""

    def __init__(self, layers: int, capacity: int) -> None:
        super().__init__(layers=[InPlaceLayer(capacity) for _ in range(layers)])

    def select(self, rows: torch.Tensor) -> None:
        """Keeps (or repeats) the given rows in every layer."""
        for layer in self.layers:
            assert isinstance(layer, InPlaceLayer)
            layer.select(rows)
