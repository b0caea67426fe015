"""Keys and values of many sequences: slots that grow on demand, laid out so that a step over neighbouring slots copies nothing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch

TOKEN_UNIT = 128
"""Capacity in tokens comes in multiples of this."""


class Capacity(NamedTuple):
    """Room for `slots` sequences of `tokens` positions each."""

    slots: int
    tokens: int


def whole_units(tokens: int) -> int:
    """`tokens`, rounded up to a whole number of units."""
    return -(-tokens // TOKEN_UNIT) * TOKEN_UNIT


def grown(have: Capacity, need: Capacity, most: Capacity, token_bytes: int, most_bytes: int | None = None) -> Capacity:
    """What a cache grows to, so that it holds `need`.

    Twice what it had where that is allowed by `most` and `most_bytes`, so that growing step by step copies each value a
    few times only; else exactly what is needed, in whole units of tokens (the last unit may be cut off by `most`).
    """
    if need.slots <= have.slots and need.tokens <= have.tokens:
        return have
    exact = Capacity(max(have.slots, need.slots), max(have.tokens, min(whole_units(need.tokens), most.tokens)))
    double = Capacity(
        min(2 * have.slots, most.slots) if need.slots > have.slots else have.slots,
        min(whole_units(2 * have.tokens), most.tokens) if need.tokens > have.tokens else have.tokens,
    )
    ample = Capacity(max(exact.slots, double.slots), max(exact.tokens, double.tokens))
    if most_bytes is not None and ample.slots * ample.tokens * token_bytes > most_bytes:
        return exact
    return ample


class KvCache(ABC):
    """What sequences have said so far, in `slots` slots of `tokens` positions; it begins with none and grows on demand.

    For the engine thread alone. A model grows the cache that it is given to what a call needs; who wants to bound the
    memory asks `bytes_for` first.
    """

    def __init__(self, most_slots: int, most_tokens: int, token_bytes: int) -> None:
        self.most = Capacity(most_slots, most_tokens)
        """How far it may grow."""
        self.token_bytes = token_bytes
        """Bytes of one position of one slot."""
        self.most_bytes: int | None = None
        """Where set, it grows by exactly what is needed rather than geometrically beyond this many bytes."""
        self._have = Capacity(0, 0)

    @property
    def slots(self) -> int:
        """Sequences that there is room for now."""
        return self._have.slots

    @property
    def tokens(self) -> int:
        """Positions that each slot has now."""
        return self._have.tokens

    @property
    @abstractmethod
    def resident_bytes(self) -> int:
        """Bytes that are held now."""

    def bytes_for(self, slots: int, tokens: int) -> int:
        """Bytes that it would hold after `ensure(slots, tokens)`. Raises `ValueError` beyond its limits."""
        have = self._grown(slots, tokens)
        return have.slots * have.tokens * self.token_bytes

    def ensure(self, slots: int, tokens: int) -> None:
        """Grows, so that `slots` slots of `tokens` positions are there; what is in them stays.

        Raises:
            ValueError: that is beyond its limits.
            MemoryError, RuntimeError: there is no memory for it; its capacity and what is in it are as they were.
        """
        wanted = self._grown(slots, tokens)
        if wanted != self._have:
            self._resize(wanted)
            self._have = wanted

    def shrink(self, slots: int = 0, tokens: int = 0) -> None:
        """Gives back what is beyond `slots` slots of `tokens` positions (in whole units); what is within stays, and it
        grows again on demand. Raises what `ensure` raises for memory."""
        smaller = Capacity(min(slots, self.slots), min(whole_units(tokens), self.tokens))
        if smaller != self._have:
            # first: where memory ends on the way, nothing is promised that some layers no longer have
            self._have = smaller
            self._resize(smaller)

    def move(self, source: int, target: int, length: int) -> None:
        """The first `length` positions of slot `source` are to be found in slot `target`; `source` is not used any more."""
        self.copy(source, target, length)

    def copy(self, source: int, target: int, length: int) -> None:
        """Copies the first `length` positions of slot `source`, which were written, to slot `target`; grows for it."""
        self.ensure(target + 1, length)
        self._copy(source, target, length)

    @abstractmethod
    def _copy(self, source: int, target: int, length: int) -> None:
        """Copies within the capacity."""

    @abstractmethod
    def clear(self, slot: int) -> None:
        """Forgets a slot, which may hold values that are not finite."""

    @abstractmethod
    def _resize(self, wanted: Capacity) -> None:
        """Makes room for `wanted`, from `self._have`; all or nothing."""

    def _grown(self, slots: int, tokens: int) -> Capacity:
        if slots > self.most.slots or tokens > self.most.tokens:
            raise ValueError(f"{slots} slots of {tokens} tokens are more than {self.most.slots} of {self.most.tokens}")
        return grown(self._have, Capacity(slots, tokens), self.most, self.token_bytes, self.most_bytes)


class SlotCache(KvCache):
    """Keys and values as tensors: of each layer one of each, (slots, kv_heads, tokens, head_dim).

    Every value in it is finite at all times, also where nothing was written: a masked place counts zero times its
    value, and zero times NaN would spoil the neighbours in a batch. So a slot that went wrong is to be cleared.
    """

    def __init__(
        self, layers: int, kv_heads: int, head_dim: int, most: Capacity, device: torch.device, dtype: torch.dtype
    ) -> None:
        super().__init__(most.slots, most.tokens, 2 * layers * kv_heads * head_dim * dtype.itemsize)
        empty = torch.zeros((0, kv_heads, 0, head_dim), device=device, dtype=dtype)
        self.keys = [empty] * layers
        self.values = [empty] * layers

    @property
    def resident_bytes(self) -> int:
        """Bytes of keys and values."""
        return sum(tensor.nbytes for tensor in (*self.keys, *self.values))

    def _copy(self, source: int, target: int, length: int) -> None:
        for tensor in (*self.keys, *self.values):
            tensor[target, :, :length] = tensor[source, :, :length]

    def clear(self, slot: int) -> None:
        """Forgets a slot that may hold values that are not finite."""
        if slot < self.slots:
            for tensor in (*self.keys, *self.values):
                tensor[slot] = 0

    @torch.inference_mode(mode=False)  # else only calls in inference mode could write to what is made here
    def _resize(self, wanted: Capacity) -> None:
        slots, tokens = min(wanted.slots, self.slots), min(wanted.tokens, self.tokens)
        # Layer by layer, so that the old and the new one of a single layer only are in memory together. Where memory
        # ends on the way, some layers are larger than the capacity says, and the next try goes on from there.
        for tensors in (self.keys, self.values):
            for layer, old in enumerate(tensors):
                shape = (wanted.slots, old.shape[1], wanted.tokens, old.shape[3])
                if old.shape != shape:
                    tensors[layer] = torch.zeros(shape, device=old.device, dtype=old.dtype)
                    tensors[layer][:slots, :, :tokens] = old[:slots, :, :tokens]
