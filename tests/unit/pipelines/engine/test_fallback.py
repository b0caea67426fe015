"""Any causal model of `transformers` runs through its own code behind the same interface, and gives what it gives there."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from llmos.pipelines.engine.decoder import Engine
from llmos.pipelines.engine.device import open_device
from llmos.pipelines.engine.fallback import FallbackModel
from llmos.pipelines.engine.loading import Sizes, open_model, plan_model
from llmos.pipelines.engine.weights import load_weights, read_json
from llmos.pipelines.models.manifest import Manifest
from llmos.schemas.errors import ModelDamaged
from llmos.schemas.tasks import GenerateInput

CPU = torch.device("cpu")
FAMILIES: dict[str, dict[str, Any]] = {
    "GPTNeoX": {},
    "OPT": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "Gemma2": {"head_dim": 8, "sliding_window": 8, "final_logit_softcapping": 3.0},
    "Phi": {"partial_rotary_factor": 0.5},
    "Bloom": {},
    "Mixtral": {"num_local_experts": 4},
    "Mamba": {"state_size": 4},
    # one that runs natively, too
    "Llama": {"tie_word_embeddings": True},
}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError("nothing is to be fetched")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def load(manifest: Manifest, dtype: torch.dtype = torch.float32, **changes: Any) -> FallbackModel:
    values = {**read_json(manifest, "config.json"), **changes}
    return FallbackModel(
        manifest.architecture, values, load_weights(manifest), manifest.directory, CPU, dtype,
        context=96, kv_numbers_per_token=manifest.kv_bytes_per_token // 4,
    )  # fmt: skip


def reference(manifest: Manifest) -> Any:
    return AutoModelForCausalLM.from_pretrained(manifest.directory, dtype=torch.float32).eval()


def expected(manifest: Manifest, tokens: list[int]) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = reference(manifest)(torch.tensor([tokens])).logits[0]
    return logits


def tokens_of(count: int, seed: int = 1) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, 320, (count,), generator=generator).tolist()


@pytest.mark.parametrize("family", FAMILIES)
def test_chunks_and_steps_give_the_logits_of_transformers(family: str, make_causal: Any) -> None:
    """A prompt in two chunks and then tokens of two sequences at once give the logits of one pass over each text."""
    manifest = make_causal(family, **FAMILIES[family])
    model, texts = load(manifest), [tokens_of(30), tokens_of(21, 2)]
    cache = model.new_cache(2, 64)
    wanted = [expected(manifest, text) for text in texts]
    first = [model.prefill(text[:7], cache, slot, 0) for slot, text in enumerate(texts)]
    second = [model.prefill(text[7:16], cache, slot, 7) for slot, text in enumerate(texts)]
    for slot in range(2):
        assert first[slot].shape == (1, model.vocabulary)
        torch.testing.assert_close(first[slot][0], wanted[slot][6], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(second[slot][0], wanted[slot][15], atol=1e-4, rtol=1e-4)
    for place in range(16, 21):
        step = model.logits(model.decode([text[place] for text in texts], [place, place], cache))
        torch.testing.assert_close(step, torch.stack([row[place] for row in wanted]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["GPTNeoX", "Mamba", "Gemma2"])
def test_slots_move_and_sequences_are_told_again(family: str, make_causal: Any) -> None:
    """After a move, a copy, an error within the model and the same step twice, the next logits are what they should be."""
    manifest, text = make_causal(family, **FAMILIES[family]), tokens_of(14)
    model, wanted = load(manifest), expected(manifest, text)
    cache = model.new_cache(4, 64)
    model.prefill(text[:10], cache, 2, 0)
    cache.copy(2, 3, 10)
    cache.move(2, 0, 10)
    for slot in (0, 3):
        for _ in range(2):
            step = model.decode([text[10]], [10], cache, slot)
            torch.testing.assert_close(step[0], wanted[10], atol=1e-4, rtol=1e-4)
    broken = model._model.forward
    model._model.forward = _breaks
    with pytest.raises(RuntimeError, match="broken kernel"):
        model.decode([text[11]], [11], cache, 0)
    model._model.forward = broken
    for place in (11, 12):
        step = model.decode([text[place]], [place], cache, 0)
        torch.testing.assert_close(step[0], wanted[place], atol=1e-4, rtol=1e-4)
    again = model.prefill(text[5:8], cache, 0, 5)  # from an earlier position on
    torch.testing.assert_close(again[0], wanted[7], atol=1e-4, rtol=1e-4)
    cache.clear(0)
    with pytest.raises(ValueError, match="position 8 is to be read and 0 are in the cache"):
        model.decode([text[8]], [8], cache, 0)
    cache.shrink()
    assert cache.resident_bytes == 0


def _breaks(*arguments: object, **options: object) -> None:
    raise RuntimeError("broken kernel")


def test_an_engine_gives_the_tokens_of_generate(make_causal: Any) -> None:
    """Opened by its manifest, two prompts that run together give the text that `generate` gives each."""
    manifest = make_causal("GPTNeoX", hidden_size=96)
    device = open_device("cpu:0/1")
    plan = plan_model(manifest, device, Sizes(slots=3), 1 << 30)
    told: list[tuple[int, int]] = []
    engine = open_model(manifest, device, plan.sizes, lambda done, total: told.append((done, total)))
    assert isinstance(engine, Engine)
    assert engine.context == 96
    assert told[-1][0] == told[-1][1] > 0
    prompts, texts = [tokens_of(9), tokens_of(17, 3)], ["", ""]
    for key, prompt in enumerate(prompts):
        engine.add(key, prompt, GenerateInput(prompt="", max_tokens=12))
    while engine.active:
        for event in engine.step():
            texts[int(str(event.key))] += event.text
    tokenizer = engine._tokenizer
    for prompt, text in zip(prompts, texts, strict=True):
        whole = reference(manifest).generate(
            torch.tensor([prompt]), max_new_tokens=12, do_sample=False, pad_token_id=0, eos_token_id=1
        )
        assert text == tokenizer.decode([token for token in whole[0, len(prompt) :].tolist() if token != 1])
    assert engine.resident_bytes <= plan.resident_bytes


def test_bfloat16_and_bytes(make_causal: Any) -> None:
    """In bfloat16 weights take half; the cache's bytes are reckoned by the tokens read."""
    manifest = make_causal("GPTNeoX")
    whole, half = load(manifest), load(manifest, torch.bfloat16)
    assert half.resident_bytes < 0.6 * whole.resident_bytes
    cache = half.new_cache(2, 64)
    half.prefill(tokens_of(10), cache, 0, 0)
    assert cache.resident_bytes == 10 * half.kv_bytes_per_token > 0
    assert cache.bytes_for(1, 10) >= cache.resident_bytes
    with pytest.raises(ValueError, match="holds 96"):
        half.new_cache(1, 97)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "nothing_known"}, "cannot read its config"),
        ({"model_type": "phi"}, "config.json that of a PhiForCausalLM"),
        ({"num_hidden_layers": 3}, "missing keys"),
        ({"num_hidden_layers": 1}, "unexpected keys"),
        ({"intermediate_size": 96}, "cannot make it|mismatched"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes: dict[str, Any], said: str, make_causal: Any) -> None:
    """A configuration that transformers does not know, or that is not that of the weights, is an error that says so."""
    with pytest.raises(ModelDamaged, match=said):
        load(make_causal("GPTNeoX"), **changes)


def test_code_that_a_configuration_names_is_not_run(make_causal: Any) -> None:
    """Fields that ask for code are left out, so that the model is what `transformers` itself makes of it."""
    manifest, text = make_causal("GPTNeoX"), tokens_of(8)
    model = load(
        manifest,
        auto_map={"AutoModelForCausalLM": "evil.Model"},
        _attn_implementation="somebody/kernels",
        attn_implementation="somebody/kernels",
    )
    logits = model.prefill(text, model.new_cache(1, 16), 0, 0)
    torch.testing.assert_close(logits[0], expected(manifest, text)[-1], atol=1e-4, rtol=1e-4)
