"""What a decoder's blocks compute, read from its `config.json`: one description for all architectures that run natively."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from llmos.pipelines.engine.configuration import ConfigReader
from llmos.pipelines.engine.parts import ACTIVATIONS, NormKind
from llmos.pipelines.engine.rope import Rope, read_rope


class Names(NamedTuple):
    """What a checkpoint calls its tensors. Those of a layer follow `layer`, which holds its place as `{}`."""

    prefix: str
    """In front of all but the head; some files leave it out."""
    embedding: str
    positions: str
    layer: str
    attention_norm: str
    qkv: tuple[str, ...]
    """Queries, keys and values: three products, or one."""
    out: str
    mlp_norm: str
    up: tuple[str, ...]
    """Gate and up, or the one product of a plain MLP."""
    down: str
    norm: str
    transposed: bool = False
    """Linear weights are (inputs, outputs)."""


class CausalConfig(NamedTuple):
    """The shape of a model, and what its blocks do: norm, attention, residual, norm, MLP, residual."""

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    context: int
    norm: NormKind
    epsilon: float
    rope: Rope | None
    """None: learned positions."""
    activation: str
    gated: bool
    """The activated half of a wide product multiplies the other."""
    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    head_norm: bool
    """Queries and keys are normalised, each head alone."""
    tied: bool
    """The embedding is the head."""
    windows: tuple[int, ...]
    """Of each layer: how many positions a token sees, itself included; 0: all."""
    names: Names

    @property
    def token_numbers(self) -> int:
        """Numbers in keys and values of one token."""
        return 2 * self.layers * self.kv_heads * self.head_dim

    def activation_bytes(self, tokens: int, slots: int, context: int, itemsize: int) -> int:
        """What a step over `tokens` prompt tokens and `slots` sequences needs at most, roughly, in bytes."""
        rows = max(tokens, slots)
        qkv = (self.heads + 2 * self.kv_heads) * self.head_dim
        mask = rows * context
        return itemsize * (rows * (4 * self.hidden + qkv + 3 * self.intermediate) + slots * self.vocabulary + mask)


_LLAMA_NAMES = Names(
    prefix="model.",
    embedding="embed_tokens",
    positions="",
    layer="layers.{}.",
    attention_norm="input_layernorm",
    qkv=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    out="self_attn.o_proj",
    mlp_norm="post_attention_layernorm",
    up=("mlp.gate_proj", "mlp.up_proj"),
    down="mlp.down_proj",
    norm="norm",
)
_GPT2_NAMES = Names(
    prefix="transformer.",
    embedding="wte",
    positions="wpe",
    layer="h.{}.",
    attention_norm="ln_1",
    qkv=("attn.c_attn",),
    out="attn.c_proj",
    mlp_norm="ln_2",
    up=("mlp.c_fc",),
    down="mlp.c_proj",
    norm="ln_f",
    transposed=True,
)


def read_causal_config(architecture: str, values: Mapping[str, Any], directory: object) -> CausalConfig:
    """The description of a model of one of `CAUSAL`.

    Raises:
        ModelDamaged: a field is missing, or asks for what is not computed here.
    """
    return CAUSAL[architecture](ConfigReader(values, directory))


def _llama_like(config: ConfigReader, usual_head_dim: int | None = None) -> CausalConfig:
    """What Llama, Qwen and Mistral have in common: RMS norm, rotary embeddings, a gated MLP, grouped heads.

    Touvron et al. 2023, arXiv:2302.13971; Ainslie et al. 2023, arXiv:2305.13245.
    """
    hidden, heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    kv_heads = config.integer("num_key_value_heads", heads)
    head_dim = config.integer("head_dim", usual_head_dim or max(1, hidden // heads))
    if heads % kv_heads or head_dim % 2:
        raise config.damaged(f"{heads} heads on {kv_heads} key heads of {head_dim} do not fit together")
    layers = config.integer("num_hidden_layers")
    return CausalConfig(
        vocabulary=config.integer("vocab_size"),
        hidden=hidden,
        intermediate=config.integer("intermediate_size"),
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        context=config.integer("max_position_embeddings", 2048),
        norm="rms",
        epsilon=config.number("rms_norm_eps", 1e-6),
        rope=read_rope(config),
        activation=_activation(config, "hidden_act", "silu"),
        gated=True,
        qkv_bias=False,
        out_bias=False,
        mlp_bias=False,
        head_norm=False,
        tied=config.flag("tie_word_embeddings", False),
        windows=(0,) * layers,
        names=_LLAMA_NAMES,
    )


def _llama(config: ConfigReader) -> CausalConfig:
    biased = config.flag("attention_bias", False)
    return _llama_like(config)._replace(qkv_bias=biased, out_bias=biased, mlp_bias=config.flag("mlp_bias", False))


def _qwen2(config: ConfigReader) -> CausalConfig:
    """Yang et al. 2024, arXiv:2407.10671: queries, keys and values have biases."""
    common = _llama_like(config)
    return common._replace(qkv_bias=True, windows=_qwen_windows(config, common.layers))


def _qwen3(config: ConfigReader) -> CausalConfig:
    """Yang et al. 2025, arXiv:2505.09388: queries and keys are normalised."""
    common, biased = _llama_like(config, 128), config.flag("attention_bias", False)
    return common._replace(
        qkv_bias=biased,
        out_bias=biased,
        head_norm=True,
        windows=_qwen_windows(config, common.layers),
    )


def _mistral(config: ConfigReader) -> CausalConfig:
    """Jiang et al. 2023, arXiv:2310.06825: every layer may look back over a window only."""
    common = _llama_like(config)
    return common._replace(windows=(_window(config),) * common.layers)


def _gpt2(config: ConfigReader) -> CausalConfig:
    """Radford et al. 2019: layer norm, learned positions, a plain MLP."""
    hidden, heads, layers = config.integer("n_embd"), config.integer("n_head"), config.integer("n_layer")
    if hidden % heads:
        raise config.damaged(f"{heads} heads do not divide a width of {hidden}")
    for name, usual in (("scale_attn_weights", True), ("scale_attn_by_inverse_layer_idx", False), ("add_cross_attention", False)):  # fmt: skip
        if config.flag(name, usual) is not usual:
            raise config.damaged(f"{name} = {not usual} is not supported")
    return CausalConfig(
        vocabulary=config.integer("vocab_size"),
        hidden=hidden,
        intermediate=config.integer("n_inner", 4 * hidden),
        layers=layers,
        heads=heads,
        kv_heads=heads,
        head_dim=hidden // heads,
        context=config.integer("n_positions", 1024),
        norm="layer",
        epsilon=config.number("layer_norm_epsilon", 1e-5),
        rope=None,
        activation=_activation(config, "activation_function", "gelu_new"),
        gated=False,
        qkv_bias=True,
        out_bias=True,
        mlp_bias=True,
        head_norm=False,
        tied=config.flag("tie_word_embeddings", True),
        windows=(0,) * layers,
        names=_GPT2_NAMES,
    )


def _activation(config: ConfigReader, field: str, usual: str) -> str:
    name = config.text(field, usual)
    if name not in ACTIVATIONS:
        raise config.damaged(f"{field} {name!r} is not supported; {', '.join(ACTIVATIONS)} are")
    return name


def _window(config: ConfigReader) -> int:
    """0 where it says null; a field that is missing has the default of `transformers`."""
    return config.integer("sliding_window", 4096) if config.raw("sliding_window", 4096) is not None else 0


def _qwen_windows(config: ConfigReader, layers: int) -> tuple[int, ...]:
    if not config.flag("use_sliding_window", False):
        return (0,) * layers
    window, first = _window(config), config.integer("max_window_layers", 28, least=0)
    kinds = config.raw("layer_types") or ["full_attention" if i < first else "sliding_attention" for i in range(layers)]
    if len(kinds) != layers or not set(kinds) <= {"full_attention", "sliding_attention"}:
        raise config.damaged(f"layer_types {kinds!r} are not supported")
    return tuple(window if kind == "sliding_attention" else 0 for kind in kinds)


CAUSAL: dict[str, Callable[[ConfigReader], CausalConfig]] = {
    "LlamaForCausalLM": _llama,
    "MistralForCausalLM": _mistral,
    "Qwen2ForCausalLM": _qwen2,
    "Qwen3ForCausalLM": _qwen3,
    "GPT2LMHeadModel": _gpt2,
}
"""Decoders that run natively; a new one is a row."""
