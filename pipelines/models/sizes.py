"""The numbers in a model's configuration, under the names that the families give them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from llmos.pipelines.models.contents import Contents

CONTEXT = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")
HIDDEN = ("hidden_size", "n_embd", "d_model", "dim")
LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
KV_HEADS = ("num_key_value_heads", "num_kv_heads")
VOCABULARY = ("vocab_size",)
SHIFTED = frozenset({"RobertaModel", "XLMRobertaModel", "MPNetModel"})
"""Architectures whose positions begin behind the padding token's number, so that the first ones are never used."""
HEAD_SIZES = {"Qwen3ForCausalLM": 128}
"""Numbers of a head where the configuration does not say and it is not the hidden size by heads."""
ASSUMED_CONTEXT = 2048
"""Tokens that a model of `transformers` is held to where its configuration names no limit (such as one with ALiBi)."""


class Sizes(NamedTuple):
    """What a configuration says; 0 where it does not and nothing needs it."""

    context_tokens: int
    vocabulary: int
    hidden_size: int
    kv_numbers_per_token: int
    """Keys and values of one token in all layers."""


def read_sizes(
    contents: Contents, config: Mapping[str, Any], architecture: str, kind: str | None, native: bool
) -> Sizes:
    """The sizes in config.json.

    Raises:
        ModelDamaged: a number that the model's kind needs is missing or is none.
    """
    needed = kind is not None
    context = _number(contents, config, CONTEXT, needed and native)
    if needed and not context:
        context = ASSUMED_CONTEXT
    if architecture in SHIFTED:
        padding = config.get("pad_token_id", 1)
        context -= padding + 1 if isinstance(padding, int) else 0
        if context < 1:
            raise contents.damaged(f"config.json: no position is left behind the padding token {padding}")
    return Sizes(
        context_tokens=context,
        vocabulary=_number(contents, config, VOCABULARY, needed),
        hidden_size=_number(contents, config, HIDDEN, needed),
        kv_numbers_per_token=_kv_numbers(config, architecture) if kind == "generate" else 0,
    )


def whole_number(config: Mapping[str, Any], *fields: str) -> int:
    """The first of these fields that is a whole number of at least 1; 0 where none is."""
    for field in fields:
        value = config.get(field)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return 0


def _number(contents: Contents, config: Mapping[str, Any], fields: tuple[str, ...], needed: bool) -> int:
    value = whole_number(config, *fields)
    if needed and not value:
        field = next((name for name in fields if name in config), fields[0])
        raise contents.damaged(f"config.json: {field} is {config.get(field)!r} and not a whole number of at least 1")
    return value


def _kv_numbers(config: Mapping[str, Any], architecture: str) -> int:
    """Two per layer, head that has keys and values of its own, and number of a head. 0 where the configuration does not
    say (a model without attention)."""
    heads = whole_number(config, *HEADS)
    usual = HEAD_SIZES.get(architecture) or (whole_number(config, *HIDDEN) // heads if heads else 0)
    head_size = whole_number(config, "head_dim") or usual
    # `multi_query`: Falcon and GPTBigCode name one shared head by a flag
    kv_heads = 1 if config.get("multi_query") is True else whole_number(config, *KV_HEADS) or heads
    return 2 * whole_number(config, *LAYERS) * kv_heads * head_size
