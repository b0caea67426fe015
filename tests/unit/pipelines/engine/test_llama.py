"""The decoder computes what `transformers` computes, however a text is cut into steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from llmos.pipelines.engine.kvcache import KvCache
from llmos.pipelines.engine.llama import LlamaConfig, LlamaModel
from llmos.pipelines.engine.weights import load_weights, read_json
from llmos.pipelines.models.manifest import Manifest
from llmos.schemas.errors import ModelDamaged

CPU = torch.device("cpu")


def load(manifest: Manifest) -> LlamaModel:
    config = LlamaConfig.read(read_json(manifest, "config.json"), manifest.directory)
    return LlamaModel(config, load_weights(manifest), manifest.directory, CPU)


def expected(manifest: Manifest, tokens: list[int]) -> torch.Tensor:
    model = LlamaForCausalLM.from_pretrained(manifest.directory, dtype=torch.float32)
    with torch.no_grad():
        logits: torch.Tensor = model(torch.tensor([tokens])).logits[0]
    return logits


def tokens_of(count: int, seed: int = 1) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, 320, (count,), generator=generator).tolist()


VARIANTS: dict[str, dict[str, Any]] = {
    "grouped": {},
    "one-key-head": {"num_key_value_heads": 1},
    "all-key-heads": {"num_key_value_heads": 6},
    "tied": {"tie_word_embeddings": True},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "wide-heads": {"head_dim": 16},
    "theta": {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
    "linear": {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 3.0}},
    "llama3": {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 100.0,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        }
    },
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_prefill_and_decode_give_the_logits_of_transformers(variant: str, make_llama: Any) -> None:
    """A prompt in two chunks and then single tokens give the logits of one pass over the whole text, within 1e-4."""
    manifest = make_llama(**VARIANTS[variant])
    model, tokens = load(manifest), tokens_of(40)
    cache = model.new_cache(2, 64)
    parts = [model.prefill(tokens[:7], cache, 1, 0), model.prefill(tokens[7:30], cache, 1, 7)]
    parts += [model.decode([tokens[i]], [i], cache, 1) for i in range(30, 40)]
    torch.testing.assert_close(model.logits(torch.cat(parts)), expected(manifest, tokens), atol=1e-4, rtol=0)


def test_a_batch_of_different_lengths_gives_each_its_own_logits(llama: Manifest) -> None:
    """Sequences of 3, 20 and 11 tokens that decode together give what each gives alone in `transformers`."""
    model, texts = load(llama), [tokens_of(length, length) for length in (3, 20, 11)]
    cache = model.new_cache(4, 32)
    for slot, text in enumerate(texts):
        model.prefill(text[:-1], cache, slot, 0)
    hidden = model.decode([text[-1] for text in texts], [len(text) - 1 for text in texts], cache)
    for row, text in zip(model.logits(hidden), texts, strict=True):
        torch.testing.assert_close(row, expected(llama, text)[-1], atol=1e-4, rtol=0)


def test_a_moved_slot_goes_on_as_before(llama: Manifest) -> None:
    """After its slot was moved, a sequence's next logits are the same bits."""
    model, text = load(llama), tokens_of(9)
    cache = model.new_cache(3, 32)
    model.prefill(text[:-1], cache, 2, 0)
    before = model.decode([text[-1]], [8], cache, 2)
    cache.move(2, 0, 8)
    assert torch.equal(model.decode([text[-1]], [8], cache, 0), before)


def test_bfloat16_weights_are_computed_in_float32(make_llama: Any) -> None:
    """A checkpoint stored in bfloat16 gives the logits of `transformers` in float32."""
    manifest = make_llama(dtype=torch.bfloat16)
    model, text = load(manifest), tokens_of(12)
    logits = model.logits(model.prefill(text, model.new_cache(1, 16), 0, 0))
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected(manifest, text), atol=1e-4, rtol=0)


def test_a_configuration_of_transformers_4_reads_the_same(llama: Manifest) -> None:
    """`rope_theta` and `rope_scaling`, as older files have them, mean what `rope_parameters` means now."""
    values = read_json(llama, "config.json")
    values.pop("rope_parameters", None)
    old = {**values, "rope_theta": 77.0, "rope_scaling": {"type": "linear", "factor": 2.0}}
    new = {**values, "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 77.0}}
    assert LlamaConfig.read(old, "x") == LlamaConfig.read(new, "x")
    assert LlamaConfig.read(old, "x").rope.theta == 77.0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"hidden_act": "relu"}, "relu"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0}}, "yarn"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial"),
        ({"num_key_value_heads": 4}, "do not fit"),
        ({"hidden_size": "wide"}, "hidden_size"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
    ],
)
def test_what_is_not_computed_here_is_refused(change: dict[str, Any], said: str, llama: Manifest) -> None:
    """A configuration that asks for something else is an error that names it, never another computation."""
    with pytest.raises(ModelDamaged, match=said):
        LlamaConfig.read({**read_json(llama, "config.json"), **change}, llama.directory)


def test_a_tensor_too_many_or_too_few_is_refused(llama: Manifest) -> None:
    """A checkpoint with an unknown tensor, or without a known one, is not run."""
    config = LlamaConfig.read(read_json(llama, "config.json"), llama.directory)
    weights = load_weights(llama)
    weights["model.layers.0.self_attn.q_norm.weight"] = torch.ones(8)
    with pytest.raises(ModelDamaged, match="q_norm"):
        LlamaModel(config, weights, llama.directory, CPU)
    weights = load_weights(llama)
    del weights["model.layers.1.mlp.up_proj.weight"]
    with pytest.raises(ModelDamaged, match="up_proj"):
        LlamaModel(config, weights, llama.directory, CPU)


def test_resident_bytes_are_those_of_the_tensors(llama: Manifest) -> None:
    """What a model says that it holds is its parameters and its tables of angles, in float32; a cache is what its shape says."""
    model = load(llama)
    assert model.resident_bytes == 4 * llama.parameters + 2 * 96 * 8 * 4
    cache: KvCache = model.new_cache(3, 10)
    assert cache.resident_bytes == model.config.cache_bytes(3, 10, 4) == 2 * 2 * 3 * 2 * 10 * 8 * 4
