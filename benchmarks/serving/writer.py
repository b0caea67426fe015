"""Writes the big model: `python -m benchmarks.serving.writer DIRECTORY DTYPE`, a process of its own, so that nothing stays in memory."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from benchmarks.serving.models import SHAPE, SHIPPED


def write(directory: Path, dtype_name: str) -> None:
    """Writes config, random weights (normal, as they are before a training) and the small model's tokenizer."""
    dtype = {"bfloat16": torch.bfloat16, "float32": torch.float32}[dtype_name]
    generator = torch.Generator().manual_seed(0)
    hidden, inner, layers = SHAPE["hidden_size"], SHAPE["intermediate_size"], SHAPE["num_hidden_layers"]
    kv = hidden // SHAPE["num_attention_heads"] * SHAPE["num_key_value_heads"]

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).mul_(float(SHAPE["initializer_range"])).to(dtype)

    tensors = {"model.embed_tokens.weight": normal(SHAPE["vocab_size"], hidden)}
    tensors["model.norm.weight"] = torch.ones(hidden, dtype=dtype)
    for layer in range(layers):
        at = f"model.layers.{layer}"
        for name, rows in (("q_proj", hidden), ("k_proj", kv), ("v_proj", kv)):
            tensors[f"{at}.self_attn.{name}.weight"] = normal(rows, hidden)
            tensors[f"{at}.self_attn.{name}.bias"] = normal(rows)
        tensors[f"{at}.self_attn.o_proj.weight"] = normal(hidden, hidden)
        tensors[f"{at}.mlp.gate_proj.weight"] = normal(inner, hidden)
        tensors[f"{at}.mlp.up_proj.weight"] = normal(inner, hidden)
        tensors[f"{at}.mlp.down_proj.weight"] = normal(hidden, inner)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{at}.{norm}.weight"] = torch.ones(hidden, dtype=dtype)
    directory.mkdir(parents=True)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps(SHAPE | {"dtype": dtype_name}, indent=2))
    shutil.copy(SHIPPED / "tokenizer.json", directory / "tokenizer.json")
    (directory / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))


if __name__ == "__main__":
    write(Path(sys.argv[1]), sys.argv[2])
