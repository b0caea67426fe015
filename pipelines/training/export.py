"""The model directory of a finished run, in the Hugging Face layout, with its card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from llmos.pipelines.training.corpus import END_MARK, END_MARK_ID
from llmos.pipelines.training.network import INITIALIZER_RANGE, NORM_EPSILON, ROPE_THETA
from llmos.pipelines.training.recipe import Recipe


class Summary(NamedTuple):
    """What a run came to."""

    parameters: int
    steps: int
    best_step: int
    validation_loss: float
    """Nats per token."""
    bits_per_byte: float
    seconds: float
    threads: int
    """CPU threads."""


def write_model(
    directory: Path,
    recipe: Recipe,
    weights: dict[str, torch.Tensor],
    tokenizer: Tokenizer,
    summary: Summary,
    data_name: str,
    sample: str,
) -> None:
    """Writes everything but the loss curve; a file that exists is replaced."""
    directory.mkdir(parents=True, exist_ok=True)
    _write_json(directory / "config.json", config(recipe))
    _write_json(
        directory / "generation_config.json",
        {"bos_token_id": END_MARK_ID, "eos_token_id": END_MARK_ID, "pad_token_id": END_MARK_ID},
    )
    _write_json(directory / "tokenizer_config.json", tokenizer_config(recipe))
    tokenizer.save(str(directory / "tokenizer.json"))
    draft = directory / ".model.safetensors"
    save_file(weights, draft, metadata={"format": "pt"})
    draft.chmod((directory / "config.json").stat().st_mode)  # the library writes for the owner alone
    draft.replace(directory / "model.safetensors")
    (directory / "README.md").write_text(card(directory.name, recipe, summary, data_name, sample))


def config(recipe: Recipe) -> dict[str, Any]:
    """config.json of a `LlamaForCausalLM`; the rotary base is written as transformers 5 and as older versions read it."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": END_MARK_ID,
        "dtype": "float32",
        "eos_token_id": END_MARK_ID,
        "head_dim": recipe.head_size,
        "hidden_act": "silu",
        "hidden_size": recipe.hidden_size,
        "initializer_range": INITIALIZER_RANGE,
        "intermediate_size": recipe.intermediate_size,
        "max_position_embeddings": recipe.context,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": recipe.heads,
        "num_hidden_layers": recipe.layers,
        "num_key_value_heads": recipe.kv_heads,
        "pad_token_id": END_MARK_ID,
        "pretraining_tp": 1,
        "rms_norm_eps": NORM_EPSILON,
        "rope_parameters": {"rope_theta": ROPE_THETA, "rope_type": "default"},
        "rope_theta": ROPE_THETA,
        "tie_word_embeddings": True,
        "use_cache": True,
        "vocab_size": recipe.vocabulary,
    }


def tokenizer_config(recipe: Recipe) -> dict[str, Any]:
    """tokenizer_config.json: all that matters is in tokenizer.json."""
    return {
        "add_prefix_space": False,
        "bos_token": END_MARK,
        "clean_up_tokenization_spaces": False,
        "eos_token": END_MARK,
        "model_max_length": recipe.context,
        "pad_token": END_MARK,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }


def card(name: str, recipe: Recipe, summary: Summary, data_name: str, sample: str) -> str:
    """The README.md of the model."""
    flags = "\n".join(f"--{field.replace('_', '-')} {getattr(recipe, field)}" for field in Recipe.__struct_fields__)
    return f"""---
license: apache-2.0
language: en
pipeline_tag: text-generation
---

# {name}

A small Llama decoder trained from nothing on plays, so that an installation has a true language model to run before
anyone fetches a larger one. It writes lines in the manner of its text and knows nothing else.

| | |
| --- | --- |
| parameters | {summary.parameters:,} (float32, output matrix tied to the embedding) |
| context | {recipe.context} tokens |
| tokenizer | byte-level BPE, {recipe.vocabulary:,} tokens |
| steps | {summary.steps:,}; these are the weights of step {summary.best_step:,} |
| validation loss | {summary.validation_loss:.4f} nats per token, {summary.bits_per_byte:.4f} bits per byte |
| time | {summary.seconds:.0f} s, CPU threads: {summary.threads} |

**Data.** `{data_name}`: the plays collected as “tiny shakespeare” (karpathy/char-rnn). Weights and tokenizer were made
from its first nine tenths; the last tenth is the validation text.

**Recipe.** `python -m llmos.pipelines.training.decoder`: AdamW, linear warm-up, cosine decay; `loss.png` shows both
losses by step.

```
{flags}
```

**Use.** `<|endoftext|>` alone is a prompt and begins a speech. The mark stands before speeches only, never at their end,
so the model hardly ever stops by itself: bound the tokens, or stop at an empty line. The first words of the model, at
temperature 0.8:

```
{sample.strip()}
```

**Licence.** The weights are under Apache-2.0; the text is in the public domain.
"""


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
