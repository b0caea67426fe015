"""The decoder computes what `transformers` computes, of every architecture and however a text is cut into steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from llmos.pipelines.engine.causal import CausalModel
from llmos.pipelines.engine.causal_config import CAUSAL, CausalConfig, read_causal_config
from llmos.pipelines.engine.linear import Linear
from llmos.pipelines.engine.weights import load_weights, read_json
from llmos.pipelines.models.manifest import Manifest
from llmos.schemas.errors import ModelDamaged

CPU = torch.device("cpu")
Variant = tuple[str, dict[str, Any]]


def config_of(manifest: Manifest, **changes: Any) -> CausalConfig:
    values = {**read_json(manifest, "config.json"), **changes}
    return read_causal_config(manifest.architecture, values, manifest.directory)


def load(manifest: Manifest, dtype: torch.dtype = torch.float32) -> CausalModel:
    return CausalModel(config_of(manifest), load_weights(manifest), manifest.directory, CPU, dtype)


def reference(manifest: Manifest, dtype: torch.dtype = torch.float32) -> Any:
    return AutoModelForCausalLM.from_pretrained(manifest.directory, dtype=dtype).eval()


def expected(manifest: Manifest, tokens: list[int], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = reference(manifest, dtype)(torch.tensor([tokens])).logits[0]
    return logits


def tokens_of(count: int, seed: int = 1) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, 320, (count,), generator=generator).tolist()


VARIANTS: dict[str, Variant] = {
    "llama": ("Llama", {}),
    "llama-one-key-head": ("Llama", {"num_key_value_heads": 1}),
    "llama-all-key-heads": ("Llama", {"num_key_value_heads": 6}),
    "llama-tied": ("Llama", {"tie_word_embeddings": True}),
    "llama-biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-wide-heads": ("Llama", {"head_dim": 16}),
    "llama-gelu": ("Llama", {"hidden_act": "gelu"}),
    "rope-theta": ("Llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}),
    "rope-linear": ("Llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 3.0}}),
    "rope-dynamic": ("Llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 3.0}}),
    "rope-llama3": (
        "Llama",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 100.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 32,
            }
        },
    ),
    "rope-yarn": (
        "Llama",
        {
            "head_dim": 32,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 24,
            },
        },
    ),
    "rope-yarn-scaled": (
        "Llama",
        {
            "head_dim": 32,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1000.0,
                "factor": 3.0,
                "original_max_position_embeddings": 32,
                "beta_fast": 16.0,
                "beta_slow": 2.0,
                "mscale": 0.7,
                "mscale_all_dim": 0.4,
                "truncate": False,
            },
        },
    ),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen2-window": ("Qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}),
    "qwen3": ("Qwen3", {"head_dim": 16}),
    "qwen3-biases": ("Qwen3", {"head_dim": 8, "attention_bias": True}),
    "mistral": ("Mistral", {"sliding_window": None}),
    "mistral-window": ("Mistral", {"sliding_window": 11, "head_dim": 16}),
    "mistral-wide-window": ("Mistral", {"sliding_window": 4096}),
    "gpt2": ("GPT2", {}),
    "gpt2-untied": ("GPT2", {"tie_word_embeddings": False, "n_inner": 72, "activation_function": "relu"}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_prefill_and_decode_give_the_logits_of_transformers(variant: str, make_causal: Any) -> None:
    """A prompt in two chunks and then single tokens give the logits of one pass over the whole text, within 1e-4."""
    manifest = make_causal(VARIANTS[variant][0], **VARIANTS[variant][1])
    model, tokens = load(manifest), tokens_of(40)
    cache = model.new_cache(2, 64)
    parts = [model.prefill(tokens[:7], cache, 1, 0), model.prefill(tokens[7:30], cache, 1, 7)]
    parts += [model.decode([tokens[i]], [i], cache, 1) for i in range(30, 40)]
    wanted = expected(manifest, tokens)
    torch.testing.assert_close(model.logits(torch.cat(parts)), wanted, atol=1e-4, rtol=1e-5)
    whole = model.prefill(tokens, model.new_cache(1, 64), 0, 0)
    torch.testing.assert_close(model.logits(whole), wanted, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("variant", ["llama", "qwen2-window", "qwen3", "mistral-window", "gpt2"])
def test_a_batch_of_different_lengths_gives_each_its_own_logits(variant: str, make_causal: Any) -> None:
    """Sequences of 3, 30 and 11 tokens that decode together give what each gives alone in `transformers`."""
    manifest = make_causal(VARIANTS[variant][0], **VARIANTS[variant][1])
    model, texts = load(manifest), [tokens_of(length, length) for length in (3, 30, 11)]
    cache = model.new_cache(4, 32)
    for slot, text in enumerate(texts):
        model.prefill(text[:-1], cache, slot, 0)
    hidden = model.decode([text[-1] for text in texts], [len(text) - 1 for text in texts], cache)
    for row, text in zip(model.logits(hidden), texts, strict=True):
        torch.testing.assert_close(row, expected(manifest, text)[-1], atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("variant", ["llama", "qwen2", "qwen3", "mistral", "gpt2"])
def test_greedy_tokens_are_those_of_transformers(variant: str, make_causal: Any) -> None:
    """24 tokens chosen step by step are those that `generate` chooses."""
    manifest = make_causal(VARIANTS[variant][0], **VARIANTS[variant][1])
    model, prompt = load(manifest), tokens_of(12)
    cache, produced = model.new_cache(1, 64), list(prompt)
    hidden = model.prefill(prompt, cache, 0, 0)
    for _ in range(24):
        produced.append(int(model.logits(hidden[-1:]).argmax()))
        hidden = model.decode([produced[-1]], [len(produced) - 1], cache)
    generated = reference(manifest).generate(
        torch.tensor([prompt]), max_new_tokens=24, min_new_tokens=24, do_sample=False, pad_token_id=0, eos_token_id=None
    )
    assert produced == generated[0].tolist()


@pytest.mark.parametrize("variant", ["llama", "qwen2", "qwen3", "mistral-window", "gpt2"])
def test_bfloat16_is_as_near_to_the_truth_as_that_of_transformers(variant: str, make_causal: Any) -> None:
    """In bfloat16 the error against float32 is no more than 1.5 times that of `transformers` in bfloat16."""
    manifest = make_causal(VARIANTS[variant][0], dtype=torch.bfloat16, **VARIANTS[variant][1])
    model, tokens = load(manifest, torch.bfloat16), tokens_of(40)
    cache = model.new_cache(1, 64)
    parts = [model.prefill(tokens[:30], cache, 0, 0)]
    parts += [model.decode([tokens[i]], [i], cache) for i in range(30, 40)]
    ours = model.logits(torch.cat(parts))
    assert ours.dtype == torch.bfloat16
    truth = expected(manifest, tokens)
    theirs = (expected(manifest, tokens, torch.bfloat16).float() - truth).square().mean()
    assert (ours.float() - truth).square().mean() < 1.5**2 * theirs


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_weights_change_nothing_but_the_last_bits(
    dtype: torch.dtype, make_causal: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model with packed weights gives the logits of a plain one, and holds its weights once."""
    manifest = make_causal("Qwen2", hidden_size=144, intermediate_size=320)
    monkeypatch.setattr("llmos.pipelines.engine.linear.packing_pays", lambda dtype: False)
    plain = load(manifest, dtype)
    if not _packs(monkeypatch):
        pytest.skip("torch was built without oneDNN")
    packed, tokens = load(manifest, dtype), tokens_of(20)
    assert packed._head.packed
    assert not plain._head.packed
    assert packed.resident_bytes <= 1.5 * plain.resident_bytes  # small matrices are padded to whole blocks
    logits = [model.logits(model.prefill(tokens, model.new_cache(1, 32), 0, 0)) for model in (plain, packed)]
    tolerance = 1e-4 if dtype == torch.float32 else 0.15
    torch.testing.assert_close(logits[1], logits[0], atol=tolerance, rtol=tolerance)


def _packs(monkeypatch: pytest.MonkeyPatch) -> bool:
    """Has every weight packed that can be, however small."""
    module = "llmos.pipelines.engine.linear"
    monkeypatch.setattr(f"{module}.LEAST_BYTES", {torch.float32: 0, torch.bfloat16: 0})
    monkeypatch.setattr(f"{module}.packing_pays", lambda dtype: True)
    return Linear(torch.ones(4, 4)).packed


def test_a_moved_or_copied_slot_goes_on_as_before(make_causal: Any) -> None:
    """After its slot was moved or copied, a sequence's next logits are the same bits."""
    model, text = load(make_causal("Llama")), tokens_of(9)
    cache = model.new_cache(8, 32)
    model.prefill(text[:-1], cache, 2, 0)
    before = model.decode([text[-1]], [8], cache, 2)
    cache.move(2, 0, 8)
    assert torch.equal(model.decode([text[-1]], [8], cache, 0), before)
    cache.copy(0, 7, 8)
    assert torch.equal(model.decode([text[-1]], [8], cache, 7), before)


def test_a_cache_that_grows_keeps_what_it_holds(make_causal: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Growing in slots and in tokens between two steps changes no logits."""
    monkeypatch.setattr("llmos.pipelines.engine.kvcache.TOKEN_UNIT", 4)
    model, text = load(make_causal("Llama")), tokens_of(20)
    cache = model.new_cache(6, 64)
    model.prefill(text[:6], cache, 0, 0)
    small = (cache.slots, cache.tokens)
    cache.ensure(5, 30)
    hidden = model.prefill(text[6:], cache, 0, 6)
    assert small < (cache.slots, cache.tokens)
    whole = model.prefill(text, model.new_cache(1, 64), 0, 0)
    torch.testing.assert_close(hidden, whole[6:], atol=1e-5, rtol=1e-5)


def test_bfloat16_weights_are_computed_in_float32(make_causal: Any) -> None:
    """A checkpoint stored in bfloat16 gives the logits of `transformers` in float32."""
    manifest = make_causal("Llama", dtype=torch.bfloat16)
    model, text = load(manifest), tokens_of(12)
    logits = model.logits(model.prefill(text, model.new_cache(1, 16), 0, 0))
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected(manifest, text), atol=1e-4, rtol=0)


def test_a_sharded_checkpoint_gives_the_same(make_causal: Any) -> None:
    """Cut into several files, whose borders lie within layers, it is the same model, whether packed or not."""
    whole, text = make_causal("Qwen2"), tokens_of(12)
    shards = make_causal("Qwen2", shard_size="30KB")
    assert len([file for file in shards.files if file.path.endswith(".safetensors")]) > 3
    logits = [model.logits(model.prefill(text, model.new_cache(1, 16), 0, 0)) for model in (load(whole), load(shards))]
    assert torch.equal(*logits)


def test_a_checkpoint_without_its_prefix_is_read(make_causal: Any) -> None:
    """The original GPT-2 files have no `transformer.` before their names, and carry masks that hold nothing."""
    manifest, text = make_causal("GPT2"), tokens_of(12)
    weights = {name.removeprefix("transformer."): tensor for name, tensor in load_weights(manifest).items()}
    weights["h.0.attn.bias"] = torch.ones(1, 1, 96, 96)
    model = CausalModel(config_of(manifest), weights, manifest.directory, CPU)
    logits = model.logits(model.prefill(text, model.new_cache(1, 16), 0, 0))
    torch.testing.assert_close(logits, expected(manifest, text), atol=1e-4, rtol=0)


def test_a_configuration_of_transformers_4_reads_the_same(make_causal: Any) -> None:
    """`rope_theta` and `rope_scaling`, as older files have them, mean what `rope_parameters` means now."""
    values = read_json(make_causal("Llama"), "config.json")
    values.pop("rope_parameters", None)
    old = {**values, "rope_theta": 77.0, "rope_scaling": {"type": "linear", "factor": 2.0}}
    new = {**values, "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 77.0}}
    read = [read_causal_config("LlamaForCausalLM", each, Path("x")) for each in (old, new)]
    assert read[0] == read[1]
    assert read[0].rope is not None
    assert read[0].rope.theta == 77.0


@pytest.mark.parametrize(
    ("family", "change", "said"),
    [
        ("Llama", {"hidden_act": "quick"}, "quick"),
        ("Llama", {"rope_parameters": {"rope_type": "longrope", "rope_theta": 1e4, "factor": 2.0}}, "longrope"),
        ("Llama", {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial"),
        ("Llama", {"num_key_value_heads": 4}, "do not fit"),
        ("Llama", {"hidden_size": "wide"}, "hidden_size"),
        ("Llama", {"num_hidden_layers": 0}, "num_hidden_layers"),
        ("Qwen2", {"use_sliding_window": True, "layer_types": ["chunked_attention"] * 2}, "chunked_attention"),
        ("Mistral", {"sliding_window": -1}, "sliding_window"),
        ("GPT2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("GPT2", {"n_head": 5}, "do not divide"),
    ],
)
def test_what_is_not_computed_here_is_refused(family: str, change: dict[str, Any], said: str, make_causal: Any) -> None:
    """A configuration that asks for something else is an error that names it, never another computation."""
    with pytest.raises(ModelDamaged, match=said):
        config_of(make_causal(family), **change)


def test_a_tensor_too_many_or_too_few_is_refused(make_causal: Any) -> None:
    """A checkpoint with an unknown tensor, or without a known one, is not run."""
    manifest = make_causal("Llama")
    config, weights = config_of(manifest), load_weights(manifest)
    weights["model.layers.0.self_attn.q_norm.weight"] = torch.ones(8)
    with pytest.raises(ModelDamaged, match="q_norm"):
        CausalModel(config, weights, manifest.directory, CPU)
    weights = load_weights(manifest)
    del weights["model.layers.1.mlp.up_proj.weight"]
    with pytest.raises(ModelDamaged, match="up_proj"):
        CausalModel(config, weights, manifest.directory, CPU)
    with pytest.raises(ModelDamaged, match=r"q_proj\.bias is missing"):
        CausalModel(config._replace(qkv_bias=True), load_weights(manifest), manifest.directory, CPU)


def test_every_architecture_is_tried_here() -> None:
    """No architecture runs natively that these tests do not compare with `transformers`."""
    families = {family for family, _ in VARIANTS.values()}
    assert set(CAUSAL) == {
        name for family in families for name in (f"{family}ForCausalLM", f"{family}LMHeadModel")
    } & set(CAUSAL)


def test_resident_bytes_are_those_of_the_tensors(make_causal: Any) -> None:
    """What a model says that it holds is its parameters; what its cache costs is what its shape says."""
    manifest = make_causal("Llama")
    model = load(manifest)
    assert model.resident_bytes == 4 * manifest.parameters
    assert model.kv_bytes_per_token == 2 * 2 * 2 * 8 * 4
    cache = model.new_cache(3, 10)
    assert cache.resident_bytes == 0
    assert cache.bytes_for(3, 10) == 3 * 10 * model.kv_bytes_per_token
    cache.ensure(3, 10)
    assert cache.resident_bytes == cache.bytes_for(1, 1) == 3 * 10 * model.kv_bytes_per_token
    with pytest.raises(ValueError, match="holds 96 tokens"):
        model.new_cache(1, 97)
    with pytest.raises(TypeError, match="not a cache"):
        model.prefill([2], object(), 0, 0)  # type: ignore[arg-type]
