"""What an encoder's blocks compute, read from its `config.json`: one description for BERT and its kin."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from llmos.pipelines.engine.configuration import ConfigReader
from llmos.pipelines.engine.parts import ACTIVATIONS

RELATIVE_BUCKETS = 32
"""Distances that MPNet tells apart; `transformers` computes no other number of them."""


class EncoderNames(NamedTuple):
    """What a checkpoint calls its tensors. Those of a layer follow `layer`, which holds its place as `{}`."""

    prefix: str
    """In front of all, in files that also hold a head."""
    layer: str
    qkv: tuple[str, str, str]
    out: str
    attention_norm: str
    up: str
    down: str
    output_norm: str
    relative: str = ""
    """What is added to attention by distance; empty: nothing."""


class EncoderConfig(NamedTuple):
    """The shape of a model. Its blocks are attention, norm, MLP, norm, with a residual before each norm."""

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    positions: int
    """Rows of the table of positions."""
    padding: int | None
    """Where positions begin behind the padding token's number: that number; None: they begin at 0."""
    types: int
    """Kinds of token; 0: it knows none."""
    epsilon: float
    activation: str
    names: EncoderNames

    @property
    def context(self) -> int:
        """The most tokens of a text."""
        return self.positions - (0 if self.padding is None else self.padding + 1)

    def activation_bytes(self, tokens: int, itemsize: int) -> int:
        """What a batch of `tokens` places, padding included, needs at most, roughly, in bytes."""
        mask = (self.heads if self.names.relative else 1) * min(tokens, self.context)
        return itemsize * tokens * (6 * self.hidden + 2 * self.intermediate + mask)


_BERT_NAMES = EncoderNames(
    prefix="bert.",
    layer="encoder.layer.{}.",
    qkv=("attention.self.query", "attention.self.key", "attention.self.value"),
    out="attention.output.dense",
    attention_norm="attention.output.LayerNorm",
    up="intermediate.dense",
    down="output.dense",
    output_norm="output.LayerNorm",
)
_DISTILBERT_NAMES = EncoderNames(
    prefix="distilbert.",
    layer="transformer.layer.{}.",
    qkv=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
    out="attention.out_lin",
    attention_norm="sa_layer_norm",
    up="ffn.lin1",
    down="ffn.lin2",
    output_norm="output_layer_norm",
)
_MPNET_NAMES = EncoderNames(
    prefix="mpnet.",
    layer="encoder.layer.{}.",
    qkv=("attention.attn.q", "attention.attn.k", "attention.attn.v"),
    out="attention.attn.o",
    attention_norm="attention.LayerNorm",
    up="intermediate.dense",
    down="output.dense",
    output_norm="output.LayerNorm",
    relative="encoder.relative_attention_bias",
)


def read_encoder_config(architecture: str, values: Mapping[str, Any], directory: object) -> EncoderConfig:
    """The description of a model of one of `ENCODERS`.

    Raises:
        ModelDamaged: a field is missing, or asks for what is not computed here.
    """
    return ENCODERS[architecture](ConfigReader(values, directory))


def _bert(config: ConfigReader) -> EncoderConfig:
    """Devlin et al. 2018, arXiv:1810.04805."""
    if config.text("position_embedding_type", "absolute") != "absolute":
        raise config.damaged("only absolute positions are supported")
    if config.flag("is_decoder", False) or config.flag("add_cross_attention", False):
        raise config.damaged("an encoder that is used as a decoder is not supported")
    return EncoderConfig(
        vocabulary=config.integer("vocab_size"),
        hidden=config.integer("hidden_size"),
        intermediate=config.integer("intermediate_size"),
        layers=config.integer("num_hidden_layers"),
        heads=_heads(config, "num_attention_heads", "hidden_size"),
        positions=config.integer("max_position_embeddings", 512),
        padding=None,
        types=config.integer("type_vocab_size", 2),
        epsilon=config.number("layer_norm_eps", 1e-12),
        activation=_activation(config, "hidden_act"),
        names=_BERT_NAMES,
    )


def _roberta(config: ConfigReader) -> EncoderConfig:
    """Liu et al. 2019, arXiv:1907.11692; XLM-R (Conneau et al. 2019, arXiv:1911.02116) is the same."""
    padding = config.integer("pad_token_id", 1, least=0)
    return _behind_padding(
        config, _bert(config)._replace(padding=padding, names=_BERT_NAMES._replace(prefix="roberta."))
    )


def _mpnet(config: ConfigReader) -> EncoderConfig:
    """Song et al. 2020, arXiv:2004.09297: attention depends on the distance, too."""
    if config.integer("relative_attention_num_buckets", RELATIVE_BUCKETS) != RELATIVE_BUCKETS:
        raise config.damaged(f"only {RELATIVE_BUCKETS} buckets of relative positions are supported")
    return _behind_padding(config, _bert(config)._replace(padding=1, types=0, names=_MPNET_NAMES))


def _distilbert(config: ConfigReader) -> EncoderConfig:
    """Sanh et al. 2019, arXiv:1910.01108."""
    return EncoderConfig(
        vocabulary=config.integer("vocab_size"),
        hidden=config.integer("dim"),
        intermediate=config.integer("hidden_dim"),
        layers=config.integer("n_layers"),
        heads=_heads(config, "n_heads", "dim"),
        positions=config.integer("max_position_embeddings", 512),
        padding=None,
        types=0,
        epsilon=1e-12,
        activation=_activation(config, "activation"),
        names=_DISTILBERT_NAMES,
    )


def _behind_padding(config: ConfigReader, read: EncoderConfig) -> EncoderConfig:
    if read.context < 1:
        raise config.damaged(f"no position is left behind the padding token {read.padding}")
    return read


def _heads(config: ConfigReader, heads_field: str, width_field: str) -> int:
    heads, width = config.integer(heads_field), config.integer(width_field)
    if width % heads:
        raise config.damaged(f"{heads} heads do not divide a width of {width}")
    return heads


def _activation(config: ConfigReader, field: str) -> str:
    name = config.text(field, "gelu")
    if name not in ACTIVATIONS:
        raise config.damaged(f"{field} {name!r} is not supported; {', '.join(ACTIVATIONS)} are")
    return name


ENCODERS: dict[str, Callable[[ConfigReader], EncoderConfig]] = {
    "BertModel": _bert,
    "DistilBertModel": _distilbert,
    "MPNetModel": _mpnet,
    "RobertaModel": _roberta,
    "XLMRobertaModel": _roberta,
}
"""Encoders that run natively; a new one is a row."""
