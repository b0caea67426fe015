"""A BERT-like encoder: a padded batch of token ids to the last hidden state of each token.

One computation for all architectures of `bidirectional_config`: learned positions, layer norm after each part,
attention in both directions that does not see the padding.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch.nn import functional

from llmos.pipelines.engine.bidirectional_config import RELATIVE_BUCKETS, EncoderConfig
from llmos.pipelines.engine.linear import Linear
from llmos.pipelines.engine.parts import ACTIVATIONS, Norm, take_linear, take_norm
from llmos.pipelines.engine.weights import WeightTaker, tensor_bytes

_MOST_DISTANCE = 128
"""From here on MPNet tells distances apart no more."""


class _Layer(NamedTuple):
    qkv: Linear
    out: Linear
    attention_norm: Norm
    up: Linear
    down: Linear
    output_norm: Norm

    @property
    def tensors(self) -> Iterable[torch.Tensor]:
        """What it holds."""
        for part in self:
            yield from part.tensors


class EncoderModel:
    """The weights and the computation."""

    def __init__(
        self, config: EncoderConfig, weights: dict[str, torch.Tensor], directory: object,
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
        # checkpoints of a model with a head carry a prefix
        prefix = names.prefix if taker.has(f"{names.prefix}embeddings.word_embeddings.weight") else ""
        at = f"{prefix}embeddings."
        self._words = taker.take(f"{at}word_embeddings.weight", config.vocabulary, config.hidden)
        positions = taker.take(f"{at}position_embeddings.weight", config.positions, config.hidden)
        if config.types:
            # every token is of the first type: there is one text at a time
            positions = positions + taker.take(f"{at}token_type_embeddings.weight", config.types, config.hidden)[0]
        self._positions = positions
        self._norm = take_norm(taker, f"{at}LayerNorm", config.hidden, "layer", config.epsilon)
        self._layers = [_take_layer(taker, config, prefix + names.layer.format(i)) for i in range(config.layers)]
        self._relative: torch.Tensor | None = None
        if names.relative:
            self._relative = taker.take(f"{prefix}{names.relative}.weight", RELATIVE_BUCKETS, config.heads)
        taker.finish(lambda name: _is_no_part(name.removeprefix(prefix)))
        self._activation = ACTIVATIONS[config.activation]

    @property
    def vocabulary(self) -> int:
        """How many tokens it knows."""
        return self.config.vocabulary

    @property
    def resident_bytes(self) -> int:
        """Bytes that the weights hold."""
        layers = (tensor for layer in self._layers for tensor in layer.tensors)
        return tensor_bytes((self._words, self._positions, self._relative, *self._norm.tensors, *layers))

    @torch.inference_mode()
    def hidden_states(self, batch: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """The last hidden states (texts, longest, hidden), and which places are tokens (texts, longest); no text is empty."""
        lengths = torch.tensor([len(tokens) for tokens in batch], device=self.device)
        longest = max(map(len, batch))
        padded = torch.tensor([[*tokens, *[0] * (longest - len(tokens))] for tokens in batch], device=self.device)
        there = torch.arange(longest, device=self.device)[None, :] < lengths[:, None]
        mask = self._mask(there)
        x = self._norm(functional.embedding(padded, self._words) + self._positions[self._places(padded)])
        for layer in self._layers:
            x = self._layer(x, layer, mask)
        return x, there

    def _places(self, padded: torch.Tensor) -> torch.Tensor:
        """The row of the table of positions for each place, (longest,) or (texts, longest)."""
        if self.config.padding is None:
            return torch.arange(padded.shape[1], device=self.device)
        # a text may hold the padding token itself, which has no position
        counted = padded != self.config.padding
        return counted.cumsum(1) * counted + self.config.padding

    def _mask(self, there: torch.Tensor) -> torch.Tensor | None:
        """What is added to attention, (texts, heads or 1, longest, longest); None for nothing."""
        texts, longest = there.shape
        mask = None
        if not bool(there.all()):
            mask = torch.zeros(there.shape, device=self.device, dtype=self.dtype)
            mask = mask.masked_fill_(~there, float("-inf"))[:, None, None, :].expand(-1, 1, longest, -1)
        if self._relative is None:
            return mask
        buckets = _distance_buckets(longest).to(self.device)
        bias = functional.embedding(buckets, self._relative).permute(2, 0, 1)[None]
        return bias.expand(texts, -1, -1, -1) if mask is None else bias + mask

    def _layer(self, x: torch.Tensor, layer: _Layer, mask: torch.Tensor | None) -> torch.Tensor:
        batch, longest, hidden = x.shape
        fused = layer.qkv(x).view(batch, longest, 3, self.config.heads, -1)
        queries, keys, values = fused.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        attended = attended.transpose(1, 2).reshape(batch, longest, hidden)
        x = layer.attention_norm(x + layer.out(attended))
        return layer.output_norm(x + layer.down(self._activation(layer.up(x))))


def _distance_buckets(longest: int) -> torch.Tensor:
    """The bucket of the distance between each two places, (longest, longest): near ones exactly, far ones by logarithm.

    The half for each direction, as in T5 (Raffel et al. 2019, arXiv:1910.10683).
    """
    places = torch.arange(longest)
    distance = places[:, None] - places[None, :]
    half = RELATIVE_BUCKETS // 2
    exact = half // 2
    far = exact + (
        torch.log(distance.abs().clamp(min=1).float() / exact) / math.log(_MOST_DISTANCE / exact) * (half - exact)
    ).to(torch.long)
    near = torch.where(distance.abs() < exact, distance.abs(), far.clamp(max=half - 1))
    return near + (distance < 0) * half


def _take_layer(taker: WeightTaker, config: EncoderConfig, at: str) -> _Layer:
    names, hidden, wide = config.names, config.hidden, config.intermediate

    def linear(outputs: Iterable[str], rows: int, columns: int) -> Linear:
        return take_linear(taker, {f"{at}{name}": rows for name in outputs}, columns, bias=True)

    def norm(name: str) -> Norm:
        return take_norm(taker, f"{at}{name}", hidden, "layer", config.epsilon)

    return _Layer(
        qkv=linear(names.qkv, hidden, hidden),
        out=linear([names.out], hidden, hidden),
        attention_norm=norm(names.attention_norm),
        up=linear([names.up], wide, hidden),
        down=linear([names.down], hidden, wide),
        output_norm=norm(names.output_norm),
    )


def _is_no_part(name: str) -> bool:
    """The pooler, the heads of pre-training, and numbers of positions are no part of an embedding."""
    return name.startswith(("pooler.", "cls.", "lm_head.", "vocab_")) or name.endswith("position_ids")
