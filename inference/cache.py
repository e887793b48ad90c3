"""A key-value cache that is allocated once and written in place.

The growing cache of transformers copies every key and value at every token. In a small model that copy, not the
arithmetic, limits decoding. Rows can be repeated (several samples of one prompt) and dropped (finished answers).
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

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Append states (rows, heads, new, width); return views of all states so far.

        Raises:
            ValueError: if the capacity is exceeded.
        """
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
        """Return the columns in use."""
        return self.length

    def select(self, rows: torch.Tensor) -> None:
        """Keep or repeat the given rows (kept,), in that order."""
        self.key_buffer = self._selected(self.key_buffer, rows)
        self.value_buffer = self._selected(self.value_buffer, rows)
        self.keys, self.values = self.key_buffer[:, :, : self.length], self.value_buffer[:, :, : self.length]

    def _selected(self, buffer: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        selected = buffer.new_empty((len(rows), *buffer.shape[1:]))
        selected[:, :, : self.length] = buffer[rows, :, : self.length]
        return selected


class InPlaceCache(Cache):
    """A cache of `layers` in-place layers for one decoding of at most `capacity` columns, the prompt included."""

    def __init__(self, layers: int, capacity: int) -> None:
        self._in_place = [InPlaceLayer(capacity) for _ in range(layers)]
        super().__init__(layers=[*self._in_place])

    def select(self, rows: torch.Tensor) -> None:
        """Keep or repeat the given rows (kept,) in every layer."""
        for layer in self._in_place:
            layer.select(rows)
