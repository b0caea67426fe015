"""Keys and values of many sequences: slots × context, laid out so that a step over neighbouring slots copies nothing."""

from __future__ import annotations

import torch


def cache_bytes(layers: int, slots: int, heads: int, context: int, head_dim: int, itemsize: int) -> int:
    """Bytes of keys and values."""
    return 2 * layers * slots * heads * context * head_dim * itemsize


class KvCache:
    """Keys and values, each (layers, slots, kv_heads, context, head_dim).

    Every value in it is finite at all times, also where nothing was written: a masked place counts zero times its
    value, and zero times NaN would spoil the neighbours in a batch. So a slot that went wrong is to be cleared.
    """

    def __init__(
        self,
        layers: int,
        slots: int,
        heads: int,
        context: int,
        head_dim: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        shape = (layers, slots, heads, context, head_dim)
        self.slots = slots
        self.context = context
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)

    @property
    def resident_bytes(self) -> int:
        """Bytes of keys and values."""
        return self.keys.nbytes + self.values.nbytes

    def move(self, source: int, target: int, length: int) -> None:
        """Copies the first `length` positions of slot `source` to slot `target`."""
        self.keys[:, target, :, :length] = self.keys[:, source, :, :length]
        self.values[:, target, :, :length] = self.values[:, source, :, :length]

    def clear(self, slot: int) -> None:
        """Forgets a slot that may hold values that are not finite."""
        self.keys[:, slot] = 0
        self.values[:, slot] = 0
