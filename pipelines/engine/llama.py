"""A Llama decoder that is run step by step: prompts in chunks, then one token for each of many sequences at once.

Touvron et al. 2023, arXiv:2302.13971: RMS norm before each part, rotary embeddings, SwiGLU; grouped-query attention
(Ainslie et al. 2023, arXiv:2305.13245). Query, key and value are one product, gate and up another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from llmos.pipelines.engine.configuration import ConfigReader
from llmos.pipelines.engine.kvcache import KvCache, cache_bytes
from llmos.pipelines.engine.rope import Rope, RopeTable, read_rope
from llmos.pipelines.engine.weights import WeightTaker, tensor_bytes


class LlamaConfig(NamedTuple):
    """The shape of a model, from its `config.json`."""

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int
    epsilon: float
    rope: Rope
    tied: bool

    @staticmethod
    def read(values: Mapping[str, Any], directory: object) -> LlamaConfig:
        """Raises `ModelDamaged` where a field is missing, or asks for what is not computed here."""
        config = ConfigReader(values, directory)
        hidden, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
        kv_heads = config.integer("num_key_value_heads", heads)
        head_dim = config.integer("head_dim", max(1, hidden // heads))
        if heads % kv_heads or head_dim % 2:
            raise config.damaged(f"{heads} heads on {kv_heads} key heads of {head_dim} do not fit together")
        if config.text("hidden_act", "silu") not in ("silu", "swish"):
            raise config.damaged(f"hidden_act {config.raw('hidden_act')!r} is not supported; silu is")
        return LlamaConfig(
            vocabulary=config.integer("vocab_size"),
            hidden=hidden,
            intermediate=config.integer("intermediate_size"),
            layers=config.integer("num_hidden_layers"),
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head_dim,
            context=config.integer("max_position_embeddings", 2048),
            epsilon=config.number("rms_norm_eps", 1e-6),
            rope=read_rope(config),
            tied=config.flag("tie_word_embeddings", False),
        )

    def cache_bytes(self, slots: int, context: int, itemsize: int) -> int:
        """Bytes of keys and values of `slots` sequences of `context` tokens."""
        return cache_bytes(self.layers, slots, self.kv_heads, context, self.head_dim, itemsize)

    def activation_bytes(self, tokens: int, slots: int, context: int, itemsize: int) -> int:
        """What a step over `tokens` prompt tokens and `slots` sequences needs at most, roughly, in bytes."""
        rows = max(tokens, slots)
        qkv = (self.heads + 2 * self.kv_heads) * self.head_dim
        mask = (self.heads // self.kv_heads) * tokens * context
        return itemsize * (rows * (4 * self.hidden + qkv + 3 * self.intermediate) + slots * self.vocabulary + mask)


class _Layer(NamedTuple):
    """The weights of one layer."""

    attention_norm: torch.Tensor
    qkv: torch.Tensor
    qkv_bias: torch.Tensor | None
    out: torch.Tensor
    out_bias: torch.Tensor | None
    mlp_norm: torch.Tensor
    gate_up: torch.Tensor
    gate_up_bias: torch.Tensor | None
    down: torch.Tensor
    down_bias: torch.Tensor | None


class LlamaModel:
    """The weights and the computation; what a sequence has said so far is in the `KvCache` given to each call."""

    def __init__(
        self, config: LlamaConfig, weights: dict[str, torch.Tensor], directory: object,
        device: torch.device, dtype: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        taker = WeightTaker(weights, directory, device, dtype)
        self.config = config
        self.device = device
        self.dtype = dtype
        self._embedding = taker.take("model.embed_tokens.weight", config.vocabulary, config.hidden)
        self._layers = [_take_layer(taker, config, f"model.layers.{i}.") for i in range(config.layers)]
        self._norm = taker.take("model.norm.weight", config.hidden)
        self._head = self._embedding
        if not config.tied:
            self._head = taker.take("lm_head.weight", config.vocabulary, config.hidden)
        taker.finish(lambda name: name.endswith("rotary_emb.inv_freq") or (config.tied and name == "lm_head.weight"))
        self._rope = RopeTable(config.rope, config.head_dim, config.context, device, dtype)

    @property
    def vocabulary(self) -> int:
        """How many tokens it knows."""
        return self.config.vocabulary

    @property
    def resident_bytes(self) -> int:
        """Bytes that the weights and tables hold."""
        layers = (tensor for layer in self._layers for tensor in layer)
        tables = (self._rope.cosines, self._rope.sines)
        return tensor_bytes((self._embedding, self._head, self._norm, *tables, *layers))

    def new_cache(self, slots: int, context: int) -> KvCache:
        """Empty room for `slots` sequences of `context` tokens, at most the model's own context."""
        if context > self.config.context:
            raise ValueError(f"the model holds {self.config.context} tokens, not {context}")
        shape = (self.config.layers, slots, self.config.kv_heads, context, self.config.head_dim)
        return KvCache(*shape, device=self.device, dtype=self.dtype)

    @torch.inference_mode()
    def prefill(self, tokens: Sequence[int], cache: KvCache, slot: int, start: int) -> torch.Tensor:
        """Reads `tokens` at positions `start`… of the sequence in `slot`; the last hidden state of each, (n, hidden)."""
        count, end = len(tokens), start + len(tokens)
        group = self.config.heads // self.config.kv_heads
        positions = torch.arange(start, end, device=self.device)
        later = torch.arange(end, device=self.device)[None, :] > positions[:, None]
        mask = torch.zeros(count, end, device=self.device, dtype=self.dtype).masked_fill_(later, float("-inf"))
        mask = mask.repeat(group, 1)[None, None]  # queries of a group stand one behind the other
        x, angles = self._embed(tokens), self._rope.at(positions)
        for i, layer in enumerate(self._layers):
            queries, keys, values = self._qkv(x, layer, angles)
            cache.keys[i, slot, :, start:end] = keys.transpose(0, 1)
            cache.values[i, slot, :, start:end] = values.transpose(0, 1)
            grouped = queries.view(count, self.config.kv_heads, group, -1).permute(1, 2, 0, 3)
            attended = functional.scaled_dot_product_attention(
                grouped.reshape(1, self.config.kv_heads, group * count, self.config.head_dim),
                cache.keys[i, slot : slot + 1, :, :end],
                cache.values[i, slot : slot + 1, :, :end],
                attn_mask=mask,
            )
            attended = attended[0].reshape(self.config.kv_heads, group, count, -1).permute(2, 0, 1, 3)
            x = self._rest(x, attended.reshape(count, -1), layer)
        return functional.rms_norm(x, (self.config.hidden,), self._norm, self.config.epsilon)

    @torch.inference_mode()
    def decode(
        self, tokens: Sequence[int], positions: Sequence[int], cache: KvCache, first_slot: int = 0
    ) -> torch.Tensor:
        """One token of each sequence in the slots from `first_slot` on; their last hidden states, (n, hidden).

        `positions` are the tokens' places in their sequences. Calling it again with the same arguments is harmless.
        """
        count, longest = len(tokens), max(positions) + 1
        slots = slice(first_slot, first_slot + count)
        group = self.config.heads // self.config.kv_heads
        places = torch.tensor(positions, device=self.device)
        rows = torch.arange(first_slot, first_slot + count, device=self.device)
        mask = self._decode_mask(places, longest, group)
        x, angles = self._embed(tokens), self._rope.at(places)
        for i, layer in enumerate(self._layers):
            queries, keys, values = self._qkv(x, layer, angles)
            cache.keys[i, rows, :, places] = keys
            cache.values[i, rows, :, places] = values
            # the queries of a group take the place of the query length: no copy of the cache for grouped heads
            attended = functional.scaled_dot_product_attention(
                queries.view(count, self.config.kv_heads, group, self.config.head_dim),
                cache.keys[i, slots, :, :longest],
                cache.values[i, slots, :, :longest],
                attn_mask=mask,
            )
            x = self._rest(x, attended.reshape(count, -1), layer)
        return functional.rms_norm(x, (self.config.hidden,), self._norm, self.config.epsilon)

    @torch.inference_mode()
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """From hidden states (n, hidden) to logits (n, vocabulary)."""
        return functional.linear(hidden, self._head)

    def _embed(self, tokens: Sequence[int]) -> torch.Tensor:
        return functional.embedding(torch.tensor(tokens, device=self.device), self._embedding)

    def _decode_mask(self, places: torch.Tensor, longest: int, group: int) -> torch.Tensor | None:
        """Hides what lies behind each sequence's own end; None where all are equally long."""
        beyond = torch.arange(longest, device=self.device)[None, :] > places[:, None]
        if not bool(beyond.any()):
            return None
        mask = torch.zeros(beyond.shape, device=self.device, dtype=self.dtype).masked_fill_(beyond, float("-inf"))
        return mask[:, None, None, :].expand(-1, 1, group, -1)

    def _qkv(
        self, x: torch.Tensor, layer: _Layer, angles: tuple[torch.Tensor, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries, keys and values, (n, heads, head_dim) each; the first two turned to their positions."""
        normed = functional.rms_norm(x, (self.config.hidden,), layer.attention_norm, self.config.epsilon)
        fused = functional.linear(normed, layer.qkv, layer.qkv_bias).view(len(x), -1, self.config.head_dim)
        turning = self.config.heads + self.config.kv_heads
        turned = self._rope.rotate(fused[:, :turning], angles)
        return turned[:, : self.config.heads], turned[:, self.config.heads :], fused[:, turning:]

    def _rest(self, x: torch.Tensor, attended: torch.Tensor, layer: _Layer) -> torch.Tensor:
        """A layer behind its attention."""
        x = x + functional.linear(attended, layer.out, layer.out_bias)
        normed = functional.rms_norm(x, (self.config.hidden,), layer.mlp_norm, self.config.epsilon)
        gate, up = functional.linear(normed, layer.gate_up, layer.gate_up_bias).chunk(2, dim=-1)
        return x + functional.linear(functional.silu(gate) * up, layer.down, layer.down_bias)


def _take_layer(taker: WeightTaker, config: LlamaConfig, prefix: str) -> _Layer:
    hidden, wide = config.hidden, config.intermediate
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    attention, mlp = f"{prefix}self_attn.", f"{prefix}mlp."
    qkv = _fuse(taker, attention, {"q_proj": queries, "k_proj": keys, "v_proj": keys}, hidden)
    gate_up = _fuse(taker, mlp, {"gate_proj": wide, "up_proj": wide}, hidden)
    return _Layer(
        attention_norm=taker.take(f"{prefix}input_layernorm.weight", hidden),
        qkv=qkv[0],
        qkv_bias=qkv[1],
        out=taker.take(f"{attention}o_proj.weight", hidden, queries),
        out_bias=taker.optional(f"{attention}o_proj.bias", hidden),
        mlp_norm=taker.take(f"{prefix}post_attention_layernorm.weight", hidden),
        gate_up=gate_up[0],
        gate_up_bias=gate_up[1],
        down=taker.take(f"{mlp}down_proj.weight", hidden, wide),
        down_bias=taker.optional(f"{mlp}down_proj.bias", hidden),
    )


def _fuse(
    taker: WeightTaker, prefix: str, parts: Mapping[str, int], width: int
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The products named in `parts` (name → rows) as one; either all have a bias or none has."""
    weight = torch.cat([taker.take(f"{prefix}{name}.weight", rows, width) for name, rows in parts.items()])
    if not any(taker.has(f"{prefix}{name}.bias") for name in parts):
        return weight, None
    return weight, torch.cat([taker.take(f"{prefix}{name}.bias", rows) for name, rows in parts.items()])
