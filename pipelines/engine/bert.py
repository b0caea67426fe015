"""A BERT-like encoder (MiniLM and its kin): a padded batch of token ids to the last hidden state of each token.

Devlin et al. 2018, arXiv:1810.04805: learned positions, layer norm after each part, GELU; bidirectional attention that
does not see the padding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from llmos.pipelines.engine.configuration import ConfigReader
from llmos.pipelines.engine.weights import WeightTaker, tensor_bytes


def _gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    return functional.gelu(x, approximate="tanh")


_ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": functional.gelu,
    "gelu_new": _gelu_tanh,
    "gelu_pytorch_tanh": _gelu_tanh,
    "relu": functional.relu,
}


class BertConfig(NamedTuple):
    """The shape of a model, from its `config.json`."""

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    positions: int
    types: int
    epsilon: float
    activation: str

    @staticmethod
    def read(values: Mapping[str, Any], directory: object) -> BertConfig:
        """Raises `ModelDamaged` where a field is missing, or asks for what is not computed here."""
        config = ConfigReader(values, directory)
        hidden, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
        activation = config.text("hidden_act", "gelu")
        if hidden % heads:
            raise config.damaged(f"{heads} heads do not divide a width of {hidden}")
        if activation not in _ACTIVATIONS:
            raise config.damaged(f"hidden_act {activation!r} is not supported; {', '.join(_ACTIVATIONS)} are")
        if config.text("position_embedding_type", "absolute") != "absolute":
            raise config.damaged("only absolute positions are supported")
        return BertConfig(
            vocabulary=config.integer("vocab_size"),
            hidden=hidden,
            intermediate=config.integer("intermediate_size"),
            layers=config.integer("num_hidden_layers"),
            heads=heads,
            positions=config.integer("max_position_embeddings", 512),
            types=config.integer("type_vocab_size", 2),
            epsilon=config.number("layer_norm_eps", 1e-12),
            activation=activation,
        )

    def activation_bytes(self, tokens: int, itemsize: int) -> int:
        """What a batch of `tokens` places, padding included, needs at most, roughly, in bytes."""
        return itemsize * tokens * (6 * self.hidden + 2 * self.intermediate)


class _Norm(NamedTuple):
    weight: torch.Tensor
    bias: torch.Tensor


class _Linear(NamedTuple):
    weight: torch.Tensor
    bias: torch.Tensor


class _Layer(NamedTuple):
    qkv: _Linear
    out: _Linear
    attention_norm: _Norm
    up: _Linear
    down: _Linear
    output_norm: _Norm


class BertModel:
    """The weights and the computation."""

    def __init__(
        self, config: BertConfig, weights: dict[str, torch.Tensor], directory: object,
        device: torch.device, dtype: torch.dtype = torch.float32,
    ) -> None:  # fmt: skip
        taker = WeightTaker(weights, directory, device, dtype)
        self.config = config
        self.device = device
        self.dtype = dtype
        # checkpoints of a model with a head carry a prefix
        prefix = "bert." if taker.has("bert.embeddings.word_embeddings.weight") else ""
        places = f"{prefix}embeddings."
        self._words = taker.take(f"{places}word_embeddings.weight", config.vocabulary, config.hidden)
        self._positions = taker.take(f"{places}position_embeddings.weight", config.positions, config.hidden)
        types = taker.take(f"{places}token_type_embeddings.weight", config.types, config.hidden)
        self._first_type = types[0].clone()
        """Every token is of the first type: there is one text at a time."""
        self._norm = _take_norm(taker, f"{places}LayerNorm", config.hidden)
        self._layers = [_take_layer(taker, config, f"{prefix}encoder.layer.{i}.") for i in range(config.layers)]
        # the pooler and the heads of pre-training are no part of an embedding
        taker.finish(lambda name: name.startswith((f"{prefix}pooler.", "cls.")) or name.endswith("position_ids"))
        self._activation = _ACTIVATIONS[config.activation]

    @property
    def resident_bytes(self) -> int:
        """Bytes that the weights hold."""
        layers = (tensor for layer in self._layers for part in layer for tensor in part)
        return tensor_bytes((self._words, self._positions, self._first_type, *self._norm, *layers))

    @torch.inference_mode()
    def hidden_states(self, batch: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """The last hidden states (texts, longest, hidden), and which places are tokens (texts, longest); no text is empty."""
        lengths = torch.tensor([len(tokens) for tokens in batch], device=self.device)
        longest = max(map(len, batch))
        padded = torch.tensor([[*tokens, *[0] * (longest - len(tokens))] for tokens in batch], device=self.device)
        there = torch.arange(longest, device=self.device)[None, :] < lengths[:, None]
        mask = None
        if not bool(there.all()):
            mask = torch.zeros(there.shape, device=self.device, dtype=self.dtype)
            mask = mask.masked_fill_(~there, float("-inf"))[:, None, None, :].expand(-1, 1, longest, -1)
        x = functional.embedding(padded, self._words) + self._positions[:longest] + self._first_type
        x = self._normalise(x, self._norm)
        for layer in self._layers:
            x = self._layer(x, layer, mask)
        return x, there

    def _layer(self, x: torch.Tensor, layer: _Layer, mask: torch.Tensor | None) -> torch.Tensor:
        batch, longest, hidden = x.shape
        fused = functional.linear(x, *layer.qkv).view(batch, longest, 3, self.config.heads, -1)
        queries, keys, values = fused.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        attended = attended.transpose(1, 2).reshape(batch, longest, hidden)
        x = self._normalise(x + functional.linear(attended, *layer.out), layer.attention_norm)
        wide = self._activation(functional.linear(x, *layer.up))
        return self._normalise(x + functional.linear(wide, *layer.down), layer.output_norm)

    def _normalise(self, x: torch.Tensor, norm: _Norm) -> torch.Tensor:
        return functional.layer_norm(x, (self.config.hidden,), norm.weight, norm.bias, self.config.epsilon)


def _take_layer(taker: WeightTaker, config: BertConfig, prefix: str) -> _Layer:
    hidden, wide = config.hidden, config.intermediate
    parts = [
        _take_linear(taker, f"{prefix}attention.self.{name}", hidden, hidden) for name in ("query", "key", "value")
    ]
    return _Layer(
        qkv=_Linear(torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts])),
        out=_take_linear(taker, f"{prefix}attention.output.dense", hidden, hidden),
        attention_norm=_take_norm(taker, f"{prefix}attention.output.LayerNorm", hidden),
        up=_take_linear(taker, f"{prefix}intermediate.dense", wide, hidden),
        down=_take_linear(taker, f"{prefix}output.dense", hidden, wide),
        output_norm=_take_norm(taker, f"{prefix}output.LayerNorm", hidden),
    )


def _take_linear(taker: WeightTaker, name: str, rows: int, columns: int) -> _Linear:
    return _Linear(taker.take(f"{name}.weight", rows, columns), taker.take(f"{name}.bias", rows))


def _take_norm(taker: WeightTaker, name: str, width: int) -> _Norm:
    return _Norm(taker.take(f"{name}.weight", width), taker.take(f"{name}.bias", width))
