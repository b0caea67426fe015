"""The models that are measured, and prompts of an exact number of tokens."""

from __future__ import annotations

import gzip
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers

ROOT = Path(__file__).parent.parent.parent
CORPUS = ROOT / "examples" / "data" / "tinyshakespeare.txt.gz"
SMALL = "shakespeare-decoder"
SHIPPED = ROOT / "models" / SMALL
BIG = "random-386m"
SHAPE: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "hidden_size": 896,
    "initializer_range": 0.02,
    "intermediate_size": 4864,
    "max_position_embeddings": 1024,
    "max_window_layers": 24,
    "model_type": "qwen2",
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1_000_000.0,
    "tie_word_embeddings": True,
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 32_000,
}
"""No token ends a text, so that every run has the same length."""


class Measured(NamedTuple):
    """A model with the work that it is measured by."""

    name: str
    directory: Path
    dtype: str
    prompt_tokens: int
    new_tokens: int


def small_model() -> Measured:
    """The decoder that ships."""
    return Measured(SMALL, SHIPPED, "float32", prompt_tokens=64, new_tokens=96)


def big_model(parent: Path, instructions: Collection[str]) -> Measured:
    """The big model below `parent`; in bfloat16 where the processor multiplies it, else in float32, which is faster there."""
    dtype = "bfloat16" if {"avx512_bf16", "amx_bf16"} & set(instructions) else "float32"
    return Measured(BIG, parent / BIG, dtype, prompt_tokens=64, new_tokens=32)


def prompts(count: int, tokens: int) -> list[str]:
    """`count` different texts of exactly `tokens` tokens each, from the corpus; both models have the same tokenizer.

    Raises:
        RuntimeError: the corpus has not so many.
    """
    tokenizer = tokenizers.Tokenizer.from_file(str(SHIPPED / "tokenizer.json"))
    with gzip.open(CORPUS, "rt", encoding="utf-8") as file:
        text = file.read()
    found: list[str] = []
    for line in _chunks(text, 8 * tokens):
        ids = tokenizer.encode(line).ids
        cut = tokenizer.decode(ids[:tokens])
        if len(ids) > tokens and len(tokenizer.encode(cut).ids) == tokens:
            found.append(cut)
        if len(found) == count:
            return found
    raise RuntimeError(f"the corpus has only {len(found)} prompts of {tokens} tokens")


def _chunks(text: str, size: int) -> Iterator[str]:
    for start in range(0, len(text) - size, size):
        yield text[start : start + size]
