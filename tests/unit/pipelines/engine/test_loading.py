"""What a model will take is told before it is loaded, and what is opened stays within it."""

from __future__ import annotations

import json
import shutil
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from llmos.pipelines.engine import loading
from llmos.pipelines.engine.decoder import Engine
from llmos.pipelines.engine.device import Device, open_device
from llmos.pipelines.engine.encoder import Encoder
from llmos.pipelines.engine.loading import (
    ARCHITECTURES,
    Sizes,
    cache_budget,
    dtype_of,
    open_model,
    plan_model,
)
from llmos.pipelines.models.architectures import NATIVE
from llmos.pipelines.models.manifest import Manifest, make_manifest
from llmos.schemas.errors import DeviceOutOfMemory, ModelDamaged

AMPLE = 1 << 32
FAMILIES = ["Llama", "Qwen2", "Qwen3", "Mistral", "GPT2", "GPTNeoX"]


@pytest.fixture(scope="module")
def device() -> Device:
    return open_device("cpu:0/1")


def test_the_two_tables_of_architectures_are_one() -> None:
    """What the catalog says runs natively is what this engine has rows for."""
    assert set(ARCHITECTURES) == set(NATIVE)


@pytest.mark.parametrize(
    ("whole", "least", "free", "share", "wanted"),
    [
        (100, 10, 1000, 500, 100),  # all that could be used
        (100, 10, 60, 500, 60),  # what is free
        (100, 10, 1000, 40, 40),  # its share
        (100, 10, 5, 40, 10),  # the least: then it does not fit
        (100, 10, -50, 40, 10),
        (8, 10, 1000, 500, 8),  # a model that never needs so much
    ],
)
def test_room_for_keys_and_values(whole: int, least: int, free: int, share: int, wanted: int) -> None:
    """As much as could be used, within what is free and the model's share, but not too little to be of use."""
    assert cache_budget(whole, least, free, share) == wanted


@pytest.mark.parametrize("family", FAMILIES)
def test_every_decoder_opens_within_its_plan(family: str, device: Device, make_causal: Any) -> None:
    """Weights, a full cache and activations take no more than was planned; weights alone not much less."""
    manifest = make_causal(family)
    plan = plan_model(manifest, device, Sizes(slots=3), AMPLE)
    engine = open_model(manifest, device, plan.sizes)
    assert isinstance(engine, Engine)
    assert (engine.slots, engine.context, engine.cache_bytes) == (3, 96, plan.cache_bytes)
    assert 0.99 * plan.weight_bytes <= engine.resident_bytes <= plan.weight_bytes + 4096
    assert engine.cache.bytes_for(3, 96) == plan.cache_bytes
    assert plan.resident_bytes == plan.weight_bytes + plan.cache_bytes + plan.activation_bytes


def test_a_small_budget_leaves_less_room_for_sequences(device: Device, make_causal: Any) -> None:
    """Keys and values take what is left beside the weights, and no more than their share; one sequence is the least."""
    manifest = make_causal("Llama")
    ample = plan_model(manifest, device, Sizes(slots=16, cache_share=1.0), AMPLE)
    rest = ample.weight_bytes + ample.activation_bytes
    tight = plan_model(manifest, device, Sizes(slots=16, cache_share=1.0), rest + ample.cache_bytes // 2)
    assert tight.cache_bytes == ample.cache_bytes // 2
    assert tight.sizes.slots == 16
    shared = plan_model(manifest, device, Sizes(slots=16, cache_share=0.01), 10_000_000)
    assert shared.cache_bytes == 100_000
    never = plan_model(manifest, device, Sizes(slots=16), 1000)
    assert never.cache_bytes == ample.cache_bytes // 16
    assert never.resident_bytes > 1000


def test_a_shorter_context_may_be_asked_for(device: Device, make_causal: Any) -> None:
    """Sequences are held to the tokens that the settings allow, and cost no more than that."""
    manifest = make_causal("Llama")
    plan = plan_model(manifest, device, Sizes(slots=2, context_tokens=32), AMPLE)
    engine = open_model(manifest, device, plan.sizes)
    assert isinstance(engine, Engine)
    assert engine.context == 32
    assert plan.cache_bytes == 2 * 32 * manifest.kv_bytes_per_token


def test_a_tied_head_that_is_packed_is_planned(
    device: Device, make_causal: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head that shares the embedding and is laid out for products is there twice, as planned."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("torch was built without oneDNN")
    monkeypatch.setattr("llmos.pipelines.engine.linear.LEAST_BYTES", {torch.float32: 40_000})
    monkeypatch.setattr("llmos.pipelines.engine.linear.packing_pays", lambda dtype: True)
    manifest = make_causal("Qwen2", tie_word_embeddings=True)
    plan = plan_model(manifest, device, Sizes(slots=1), AMPLE)
    assert plan.weight_bytes == 4 * (manifest.parameters + 320 * 48)
    engine = open_model(manifest, device, plan.sizes)
    assert 0.99 * plan.weight_bytes <= engine.resident_bytes <= plan.weight_bytes + 4096


def test_small_models_are_computed_in_float32(device: Device, make_causal: Any) -> None:
    """A file in bfloat16 is computed in it where the CPU can and the model is large; a small one in float32."""
    small = make_causal("Qwen2", dtype=torch.bfloat16)
    large = msgspec.structs.replace(small, parameters=400_000_000)
    assert dtype_of(small, device) == torch.float32
    assert dtype_of(large, device) == (torch.bfloat16 if torch.bfloat16 in device.dtypes else torch.float32)


def test_a_model_opens_in_any_thread(device: Device, make_causal: Any, make_encoder: Any) -> None:
    """Opened in another thread, with one torch thread there, a model runs in this one, and progress was told there."""
    opened: list[Engine | Encoder] = []
    told: set[str] = set()

    def run() -> None:
        torch.set_num_threads(1)
        for manifest in (make_causal("Qwen3"), make_encoder("Bert")):
            sizes = plan_model(manifest, device, Sizes(slots=2), AMPLE).sizes
            progress = lambda done, total: told.add(threading.current_thread().name)  # noqa: E731
            opened.append(open_model(manifest, device, sizes, progress))

    thread = threading.Thread(target=run, name="beside")
    thread.start()
    thread.join()
    engine, encoder = opened
    assert told == {"beside"}
    assert isinstance(engine, Engine)
    assert isinstance(encoder, Encoder)
    assert len(encoder.embed(["the"])[0]) == 48


def test_memory_that_does_not_suffice_is_told(
    device: Device, make_causal: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory that ends while a model is read or made is an error that says so; any other error stays what it is."""
    manifest = make_causal("Llama")
    for problem in (MemoryError(), torch.OutOfMemoryError("HIP out of memory"), RuntimeError("can't allocate memory")):
        monkeypatch.setattr(loading, "load_weights", _raises(problem))
        with pytest.raises(DeviceOutOfMemory, match=r"cpu0.*loading llama"):
            open_model(manifest, device, Sizes(slots=1))
    monkeypatch.setattr(loading, "load_weights", _raises(RuntimeError("a bug")))
    with pytest.raises(RuntimeError, match="a bug"):
        open_model(manifest, device, Sizes(slots=1))


def _raises(problem: Exception) -> Any:
    def load(*arguments: object) -> None:
        raise problem

    return load


def test_what_cannot_run_says_why(device: Device, make_causal: Any, make_encoder: Any) -> None:
    """No engine, and weights that are quantised, are told as they are."""
    manifest: Manifest = make_encoder("Bert")
    for architecture, said in (("BertForMaskedLM", "no engine here runs a BertForMaskedLM"), ("", "without an arch")):
        with pytest.raises(ModelDamaged, match=said):
            plan_model(msgspec.structs.replace(manifest, architecture=architecture), device, Sizes(slots=1), AMPLE)


def test_quantised_weights_are_refused(device: Device, tmp_path: Path, make_causal: Any) -> None:
    """Weights that mean something else than their numbers are refused, natively and by the fallback, not computed as they are."""
    for family in ("Llama", "GPTNeoX"):
        directory = tmp_path / family
        shutil.copytree(make_causal(family).directory, directory)
        values = json.loads((directory / "config.json").read_text())
        (directory / "config.json").write_text(json.dumps({**values, "quantization_config": {"quant_method": "awq"}}))
        with pytest.raises(ModelDamaged, match="quantised weights are not supported"):
            plan_model(make_manifest(directory, family), device, Sizes(slots=1), AMPLE)


def test_no_second_copy_of_the_files_is_in_memory(device: Device, make_causal: Any) -> None:
    """Reading makes no Python copy of a file: beside tensors, a tenth of its size at most."""
    manifest = make_causal("Llama", hidden_size=192, vocab_size=9000)
    size = sum(file.size for file in manifest.files if file.path.endswith(".safetensors"))
    tracemalloc.start()
    try:
        open_model(manifest, device, plan_model(manifest, device, Sizes(slots=1), AMPLE).sizes)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size > 10_000_000
    assert peak < size / 10
