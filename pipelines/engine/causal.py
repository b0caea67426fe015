"""A decoder that is run step by step: prompts in chunks, then one token for each of many sequences at once.

One computation for all architectures of `causal_config`. Query, key and value are one product, gate and up another.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch.nn import functional

from llmos.pipelines.engine.causal_config import CausalConfig
from llmos.pipelines.engine.kvcache import Capacity, KvCache, SlotCache
from llmos.pipelines.engine.linear import Linear
from llmos.pipelines.engine.parts import ACTIVATIONS, Norm, take_linear, take_norm
from llmos.pipelines.engine.rope import Angles, Rotation
from llmos.pipelines.engine.weights import WeightTaker, tensor_bytes


class _Layer(NamedTuple):
    """The weights of one layer."""

    attention_norm: Norm
    qkv: Linear
    query_norm: Norm | None
    key_norm: Norm | None
    out: Linear
    mlp_norm: Norm
    up: Linear
    down: Linear
    window: int
    """Positions that a token sees, itself included; 0: all."""

    @property
    def tensors(self) -> Iterable[torch.Tensor]:
        """What it holds."""
        for part in self:
            if isinstance(part, Norm | Linear):
                yield from part.tensors


_Masks = dict[int, torch.Tensor | None]
"""By window."""


class CausalModel:
    """The weights and the computation; what a sequence has said so far is in the cache given to each call."""

    def __init__(
        self, config: CausalConfig, weights: dict[str, torch.Tensor], directory: object,
        device: torch.device, dtype: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        """Takes the tensors out of `weights`.

        Raises:
            ModelDamaged: one is missing, of another shape, or more than this model has.
        """
        taker, names = WeightTaker(weights, directory, device, dtype), config.names
        self.config = config
        self.device = device
        self.dtype = dtype
        prefix = names.prefix if taker.has(f"{names.prefix}{names.embedding}.weight") else ""
        self._embedding = taker.take(f"{prefix}{names.embedding}.weight", config.vocabulary, config.hidden)
        self._positions: torch.Tensor | None = None
        self._rotation: Rotation | None = None
        if config.rope is None:
            self._positions = taker.take(f"{prefix}{names.positions}.weight", config.context, config.hidden)
        else:
            self._rotation = Rotation(config.rope, config.head_dim, device, dtype)
        self._layers = [_take_layer(taker, config, prefix, i) for i in range(config.layers)]
        self._norm = take_norm(taker, f"{prefix}{names.norm}", config.hidden, config.norm, config.epsilon)
        if config.tied:
            self._head = Linear(self._embedding)
        else:
            self._head = take_linear(taker, {"lm_head": config.vocabulary}, config.hidden, bias=False)
        taker.finish(lambda name: _holds_nothing(name, tied=config.tied))
        self._activation = ACTIVATIONS[config.activation]
        self._windows = {layer.window for layer in self._layers}
        self._group = config.heads // config.kv_heads

    @property
    def vocabulary(self) -> int:
        """How many tokens it knows."""
        return self.config.vocabulary

    @property
    def context(self) -> int:
        """The most tokens of a sequence, prompt included."""
        return self.config.context

    @property
    def resident_bytes(self) -> int:
        """Bytes that the weights hold."""
        layers = (tensor for layer in self._layers for tensor in layer.tensors)
        return tensor_bytes((self._embedding, self._positions, *self._norm.tensors, *self._head.tensors, *layers))

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values of a token."""
        return self.config.token_numbers * self.dtype.itemsize

    def new_cache(self, slots: int, tokens: int) -> SlotCache:
        """An empty cache that grows up to `slots` sequences of `tokens` tokens. Raises `ValueError` beyond the context."""
        if tokens > self.config.context:
            raise ValueError(f"the model holds {self.config.context} tokens, not {tokens}")
        config, most = self.config, Capacity(slots, tokens)
        return SlotCache(config.layers, config.kv_heads, config.head_dim, most, self.device, self.dtype)

    @torch.inference_mode()
    def prefill(self, tokens: Sequence[int], cache: KvCache, slot: int, start: int) -> torch.Tensor:
        """Reads `tokens` at positions `start`… of the sequence in `slot`; the last hidden state of each, (n, hidden)."""
        count, end, config = len(tokens), start + len(tokens), self.config
        slots = _slots_of(cache, slot + 1, end)
        positions = torch.arange(start, end, device=self.device)
        masks: _Masks = {window: self._prefill_mask(start, end, window) for window in self._windows}
        x, angles = self._embed(tokens, positions)
        # the key heads take the place of a batch, so that each is seen by its group of queries without a copy
        grouped = (config.kv_heads, self._group, -1, config.head_dim)
        for layer, cached_keys, cached_values in zip(self._layers, slots.keys, slots.values, strict=True):
            queries, keys, values = self._qkv(x, layer, angles)
            cached_keys[slot, :, start:end] = keys.transpose(0, 1)
            cached_values[slot, :, start:end] = values.transpose(0, 1)
            first = _first_seen(start, layer.window)
            mask = masks[layer.window]
            attended = functional.scaled_dot_product_attention(
                queries.transpose(0, 1).view(grouped),
                cached_keys[slot, :, None, first:end].expand(grouped),
                cached_values[slot, :, None, first:end].expand(grouped),
                attn_mask=mask,
                is_causal=mask is None and count > 1,
            )
            x = self._rest(x, attended.flatten(0, 1).transpose(0, 1).reshape(count, -1), layer)
        return self._norm(x)

    @torch.inference_mode()
    def decode(
        self, tokens: Sequence[int], positions: Sequence[int], cache: KvCache, first_slot: int = 0
    ) -> torch.Tensor:
        """One token of each sequence in the slots from `first_slot` on; their last hidden states, (n, hidden).

        `positions` are the tokens' places in their sequences. Calling it again with the same arguments is harmless.
        """
        count, end, config = len(tokens), max(positions) + 1, self.config
        slots = _slots_of(cache, first_slot + count, end)
        places = torch.tensor(positions, device=self.device)
        rows = torch.arange(first_slot, first_slot + count, device=self.device)
        shortest = min(positions)
        masks: _Masks = {window: self._decode_mask(places, shortest, end, window) for window in self._windows}
        x, angles = self._embed(tokens, places)
        for layer, cached_keys, cached_values in zip(self._layers, slots.keys, slots.values, strict=True):
            queries, keys, values = self._qkv(x, layer, angles)
            cached_keys[rows, :, places] = keys
            cached_values[rows, :, places] = values
            first = _first_seen(shortest, layer.window)
            # the queries of a group take the place of the query length: no copy of the cache for grouped heads
            attended = functional.scaled_dot_product_attention(
                queries.view(count, config.kv_heads, self._group, config.head_dim),
                cached_keys[first_slot : first_slot + count, :, first:end],
                cached_values[first_slot : first_slot + count, :, first:end],
                attn_mask=masks[layer.window],
            )
            x = self._rest(x, attended.reshape(count, -1), layer)
        return self._norm(x)

    @torch.inference_mode()
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """From hidden states (n, hidden) to logits (n, vocabulary)."""
        return self._head(hidden)

    def _embed(self, tokens: Sequence[int], positions: torch.Tensor) -> tuple[torch.Tensor, Angles | None]:
        x = functional.embedding(torch.tensor(tokens, device=self.device), self._embedding)
        if self._positions is not None:
            x = x + self._positions[positions]
        return x, None if self._rotation is None else self._rotation.at(positions)

    def _prefill_mask(self, start: int, end: int, window: int) -> torch.Tensor | None:
        """What each query must not see, (n, seen), minus infinity there; None where that is just all that is later."""
        first = _first_seen(start, window)
        if start == 0 and (not window or end <= window):
            return None
        queries = torch.arange(start, end, device=self.device)[:, None]
        keys = torch.arange(first, end, device=self.device)[None, :]
        hidden = keys > queries
        if window:
            hidden |= keys <= queries - window
        return self._minus_infinity(hidden)

    def _decode_mask(self, places: torch.Tensor, shortest: int, end: int, window: int) -> torch.Tensor | None:
        """Hides what lies behind each sequence's own end or before its window; None where there is no such place."""
        first = _first_seen(shortest, window)
        if shortest == end - 1 and (not window or end - first <= window):
            return None
        keys = torch.arange(first, end, device=self.device)[None, :]
        hidden = keys > places[:, None]
        if window:
            hidden |= keys <= places[:, None] - window
        return self._minus_infinity(hidden)[:, None, None, :].expand(-1, 1, self._group, -1)

    def _minus_infinity(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.zeros(hidden.shape, device=self.device, dtype=self.dtype).masked_fill_(hidden, float("-inf"))

    def _qkv(
        self, x: torch.Tensor, layer: _Layer, angles: Angles | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, keys and values, (n, heads, head_dim) each; the first two turned to their positions."""
        heads, turning = self.config.heads, self.config.heads + self.config.kv_heads
        fused = layer.qkv(layer.attention_norm(x)).view(len(x), -1, self.config.head_dim)
        values = fused[:, turning:]
        if layer.query_norm is not None and layer.key_norm is not None:
            fused = torch.cat((layer.query_norm(fused[:, :heads]), layer.key_norm(fused[:, heads:turning])), dim=1)
        if self._rotation is not None and angles is not None:
            fused = self._rotation.rotate(fused[:, :turning], angles)
        return fused[:, :heads], fused[:, heads:turning], values

    def _rest(self, x: torch.Tensor, attended: torch.Tensor, layer: _Layer) -> torch.Tensor:
        """A layer behind its attention."""
        x = x + layer.out(attended)
        wide = layer.up(layer.mlp_norm(x))
        if self.config.gated:
            gate, up = wide.chunk(2, dim=-1)
            return x + layer.down(self._activation(gate) * up)
        return x + layer.down(self._activation(wide))


def _slots_of(cache: KvCache, slots: int, tokens: int) -> SlotCache:
    """The cache, with room for what a call needs."""
    if not isinstance(cache, SlotCache):
        raise TypeError(f"a {type(cache).__name__} is not a cache that this model made")
    cache.ensure(slots, tokens)
    return cache


def _first_seen(position: int, window: int) -> int:
    """The first position that a token at `position` sees."""
    return max(0, position - window + 1) if window else 0


def _take_layer(taker: WeightTaker, config: CausalConfig, prefix: str, place: int) -> _Layer:
    names, hidden, wide = config.names, config.hidden, config.intermediate
    at = prefix + names.layer.format(place)
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    widths = (queries, keys, keys) if len(names.qkv) > 1 else (queries + 2 * keys,)

    def norm(name: str, width: int = hidden) -> Norm:
        return take_norm(taker, f"{at}{name}", width, config.norm, config.epsilon)

    def linear(outputs: dict[str, int], inputs: int, *, bias: bool) -> Linear:
        named = {f"{at}{name}": rows for name, rows in outputs.items()}
        return take_linear(taker, named, inputs, bias=bias, transposed=names.transposed)

    return _Layer(
        attention_norm=norm(names.attention_norm),
        qkv=linear(dict(zip(names.qkv, widths, strict=True)), hidden, bias=config.qkv_bias),
        query_norm=norm("self_attn.q_norm", config.head_dim) if config.head_norm else None,
        key_norm=norm("self_attn.k_norm", config.head_dim) if config.head_norm else None,
        out=linear({names.out: hidden}, queries, bias=config.out_bias),
        mlp_norm=norm(names.mlp_norm),
        up=linear(dict.fromkeys(names.up, wide), hidden, bias=config.mlp_bias),
        down=linear({names.down: hidden}, wide, bias=config.mlp_bias),
        window=config.windows[place] if config.windows[place] < config.context else 0,
    )


def _holds_nothing(name: str, *, tied: bool) -> bool:
    """Buffers that older files carry: angles, triangular masks; and a second copy of a tied head."""
    return name.endswith(("rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias")) or (
        tied and name == "lm_head.weight"
    )
