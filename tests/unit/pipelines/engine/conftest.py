"""Small random models, saved as `transformers` saves them, and one torch thread for every test here."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import transformers
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

from llmos.pipelines.models.manifest import Manifest, make_manifest

VOCABULARY = 320
CONTEXT = 96

LLAMA = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 0,
    "eos_token_id": 1,
    # so large that the tokens of a random model do not all look alike
    "initializer_range": 0.2,
}
BERT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 40,
    "initializer_range": 0.2,
}

GPT2 = {
    "vocab_size": VOCABULARY,
    "n_embd": 48,
    "n_layer": 2,
    "n_head": 6,
    "n_positions": CONTEXT,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "initializer_range": 0.2,
}

Make = Callable[..., Manifest]


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session", autouse=True)
def _quiet() -> None:
    logging.disable_progress_bar()
    logging.set_verbosity_error()


@pytest.fixture(scope="session")
def tokenizer_json() -> str:
    """A byte-level tokenizer of 320 tokens, `<s>` = 0 and `</s>` = 1."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(
        [f"the {word} of the {other} and to be in it" for word in "abcdefgh" for other in "qrstuvwxyz"], trainer
    )
    text: str = tokenizer.to_str()
    return text


@pytest.fixture(scope="session")
def make_llama(tmp_path_factory: pytest.TempPathFactory, tokenizer_json: str) -> Make:
    """Saves a random Llama; keyword arguments change its configuration."""

    def make(name: str = "llama", seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> Manifest:
        directory = tmp_path_factory.mktemp("models") / name
        torch.manual_seed(seed)
        model = LlamaForCausalLM(LlamaConfig(**{**LLAMA, **changes})).to(dtype)
        with torch.no_grad():
            for parameter_name, parameter in model.named_parameters():
                if parameter_name.endswith("bias"):
                    parameter.normal_(std=0.2)
        model.save_pretrained(directory)
        (directory / "tokenizer.json").write_text(tokenizer_json)
        return make_manifest(directory, name)

    return make


@pytest.fixture(scope="session")
def make_causal(tmp_path_factory: pytest.TempPathFactory, tokenizer_json: str) -> Make:
    """Saves a random decoder of a family of `transformers` (`Qwen2`), once; keyword arguments change its configuration."""

    @functools.cache
    def make(family: str, dtype: torch.dtype = torch.float32, shard_size: str = "1GB", changes: str = "{}") -> Manifest:
        directory = tmp_path_factory.mktemp("models") / family.lower()
        torch.manual_seed(0)
        values = {**(GPT2 if family == "GPT2" else LLAMA), **json.loads(changes)}
        head = "LMHeadModel" if family == "GPT2" else "ForCausalLM"
        model = getattr(transformers, family + head)(getattr(transformers, f"{family}Config")(**values)).to(dtype)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("bias"):
                    parameter.normal_(std=0.2)
                elif "norm" in name:
                    parameter.normal_(mean=1.0, std=0.1)
        model.save_pretrained(directory, max_shard_size=shard_size)
        (directory / "tokenizer.json").write_text(tokenizer_json)
        return make_manifest(directory, family.lower())

    def make_changed(
        family: str, dtype: torch.dtype = torch.float32, shard_size: str = "1GB", **changes: Any
    ) -> Manifest:
        return make(family, dtype, shard_size, json.dumps(changes, sort_keys=True))

    return make_changed


@pytest.fixture(scope="session")
def llama(make_llama: Make) -> Manifest:
    """A random Llama with grouped heads."""
    return make_llama()


@pytest.fixture(scope="session")
def make_bert(tmp_path_factory: pytest.TempPathFactory, tokenizer_json: str) -> Make:
    """Saves a random BERT; `files` are JSON files beside it, keyword arguments change its configuration."""

    def make(name: str = "bert", seed: int = 0, files: dict[str, Any] | None = None, **changes: Any) -> Manifest:
        directory: Path = tmp_path_factory.mktemp("models") / name
        torch.manual_seed(seed)
        BertModel(BertConfig(**{**BERT, **changes})).save_pretrained(directory)
        (directory / "tokenizer.json").write_text(tokenizer_json)
        for path, value in (files or {}).items():
            (directory / path).parent.mkdir(exist_ok=True)
            (directory / path).write_text(json.dumps(value))
        return make_manifest(directory, name)

    return make


@pytest.fixture(scope="session")
def make_encoder(tmp_path_factory: pytest.TempPathFactory, tokenizer_json: str) -> Make:
    """Saves a random encoder of a family of `transformers` (`Roberta`), alone or as part of a model with a head."""

    def make(family: str, with_head: bool = False, **changes: Any) -> Manifest:
        directory: Path = tmp_path_factory.mktemp("models") / family.lower()
        torch.manual_seed(0)
        config = getattr(transformers, f"{family}Config")(**{**BERT, **changes})
        model = getattr(transformers, family + ("ForMaskedLM" if with_head else "Model"))(config)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("bias"):
                    parameter.normal_(std=0.2)
        model.save_pretrained(directory)
        (directory / "tokenizer.json").write_text(tokenizer_json)
        return make_manifest(directory, family.lower())

    return make
