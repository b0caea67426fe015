"""Models come in verified, stay while there is room, leave when others need it, and never while in use."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from llmos.pipelines.engine.decoder import Engine
from llmos.pipelines.engine.device import Device, open_device
from llmos.pipelines.engine.encoder import Encoder
from llmos.pipelines.engine.loading import ARCHITECTURES, Architecture, Plan, Sizes, plan_model
from llmos.pipelines.engine.residents import NoRoomNow, ResidentModels
from llmos.pipelines.models.manifest import Manifest
from llmos.pipelines.models.store import ModelStore
from llmos.schemas.errors import ModelDamaged, ModelUnavailable, NeverFits
from llmos.schemas.tasks import GenerateInput
from llmos.schemas.telemetry import Residency

AMPLE = 1 << 30


@pytest.fixture
def device() -> Device:
    return open_device("cpu:0/1")


@pytest.fixture
def models(make_llama: Any) -> list[Manifest]:
    """Three equally large decoders."""
    return [make_llama(name, seed) for seed, name in enumerate(("one", "two", "three"))]


def residents_of(device: Device, models: list[Manifest], budget: int = AMPLE, slots: int = 2) -> ResidentModels:
    store = ModelStore([manifest.directory for manifest in models])
    assert not store.scan().damaged
    ticks = count(1)
    return ResidentModels(device, store, budget, slots, clock=lambda: float(next(ticks)))


def size_of(device: Device, manifest: Manifest, slots: int = 2) -> int:
    return plan_model(manifest, device, Sizes(slots), AMPLE).resident_bytes


def test_a_model_is_loaded_once_and_runs(device: Device, llama: Manifest, make_bert: Any) -> None:
    """A decoder comes with an engine, an encoder with an encoder; asked for again it is the same one, not read again."""
    bert = make_bert()
    residents = residents_of(device, [llama, bert])
    told: list[tuple[int, int]] = []
    first = residents.get(llama.identity, lambda done, total: told.append((done, total)))
    assert isinstance(first.engine, Engine)
    assert first.encoder is None
    size = (llama.directory / "model.safetensors").stat().st_size
    assert told == [(size, size)]
    first.engine.add("x", "the", GenerateInput(prompt="", max_tokens=2))
    assert [event.finish for event in first.engine.step() + first.engine.step()][-1] == "length"
    assert residents.get(llama.identity, lambda done, total: told.append((done, total))) is first
    assert len(told) == 1
    second = residents.get(bert.identity)
    assert isinstance(second.encoder, Encoder)
    assert len(second.encoder.embed(["the"])[0]) == 48
    assert {residency.name for residency in residents.residents()} == {llama.name, bert.name}


def test_the_estimate_is_what_is_measured(device: Device, llama: Manifest, make_bert: Any, make_llama: Any) -> None:
    """For decoders, tied ones and those stored in 16 bits too, the estimate is exact; for encoders it is no less and within a tenth."""
    for manifest in (llama, make_llama("tied", tie_word_embeddings=True), make_llama("half", dtype=torch.bfloat16)):
        assert residents_of(device, [manifest]).get(manifest.identity).resident_bytes == size_of(device, manifest)
    bert = make_bert()
    measured = residents_of(device, [bert]).get(bert.identity).resident_bytes
    assert measured <= size_of(device, bert) <= 1.1 * measured


def test_the_least_recently_used_leaves(device: Device, models: list[Manifest]) -> None:
    """With room for two, the third pushes out the one that was used longest ago, and its memory is let go."""
    one, two, three = (manifest.identity for manifest in models)
    residents = residents_of(device, models, budget=2 * size_of(device, models[0]) + 100)
    residents.get(one)
    old = residents.get(two)
    residents.get(one)
    residents.get(three)
    assert [residency.model for residency in residents.residents()] == [one, three]
    assert old.engine is None
    assert residents.resident_bytes == 2 * size_of(device, models[0])


def test_a_model_in_use_stays(device: Device, models: list[Manifest]) -> None:
    """Nothing in use leaves: then it is not now, nobody else leaves either, and after a release there is room."""
    one, two, three = (manifest.identity for manifest in models)
    residents = residents_of(device, models, budget=2 * size_of(device, models[0]))
    for identity in (one, two):
        residents.get(identity)
        residents.reserve(identity)
    residents.reserve(two)
    residents.release(two)
    with pytest.raises(NoRoomNow, match="three"):
        residents.get(three)
    assert {residency.model: residency.active for residency in residents.residents()} == {one: 1, two: 1}
    residents.release(two)
    residents.get(three)
    assert [residency.model for residency in residents.residents()] == [one, three]


def test_marks_of_use_must_balance(device: Device, llama: Manifest) -> None:
    """Reserving what is not resident, releasing too often and unloading what is in use are programming errors."""
    residents = residents_of(device, [llama])
    with pytest.raises(KeyError):
        residents.reserve(llama.identity)
    residents.get(llama.identity)
    residents.reserve(llama.identity)
    with pytest.raises(ValueError, match="in use"):
        residents.unload(llama.identity)
    residents.release(llama.identity)
    with pytest.raises(ValueError, match="more often"):
        residents.release(llama.identity)
    assert residents.unload(llama.identity)
    assert not residents.unload(llama.identity)
    assert residents.residents() == []


def test_fewer_slots_rather_than_no_model(device: Device, llama: Manifest) -> None:
    """Where the budget does not hold every slot, the model comes with as many as fit; below one slot it never fits."""
    for wanted in (7, 1):
        budget = size_of(device, llama, wanted)
        engine = residents_of(device, [llama], budget, slots=16).get(llama.identity).engine
        assert engine is not None
        assert engine.slots == wanted
    with pytest.raises(NeverFits, match="'llama' needs"):
        residents_of(device, [llama], size_of(device, llama, 1) - 1, slots=16).get(llama.identity)


def test_a_damaged_model_is_not_loaded(device: Device, make_llama: Any) -> None:
    """A model that changed since it was scanned is unavailable, says why, and leaves nothing behind."""
    manifest = make_llama("damaged", 3)
    residents = residents_of(device, [manifest])
    path: Path = manifest.directory / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelUnavailable, match=r"'damaged'.*'cpu0'.*SHA-256") as raised:
        residents.get(manifest.identity)
    assert isinstance(raised.value.__cause__, ModelDamaged)
    assert residents.residents() == []


def test_a_model_that_is_not_here_is_unavailable(device: Device, llama: Manifest, make_llama: Any) -> None:
    """An unknown identity, and an architecture that no engine runs, are unavailable."""
    with pytest.raises(ModelUnavailable):
        residents_of(device, [llama]).get("0" * 64)
    other = make_llama("other", 4)
    config = other.directory / "config.json"
    config.write_text(config.read_text().replace("LlamaForCausalLM", "OtherForCausalLM"))
    residents = residents_of(device, [other])
    [identity] = residents._store.scan().models
    with pytest.raises(ModelUnavailable, match="no engine here runs a OtherForCausalLM"):
        residents.get(identity)


def test_loading_is_seen_while_it_lasts(device: Device, llama: Manifest) -> None:
    """While a model is read it is listed as loading; afterwards as resident, with its size and when it was used."""
    residents = residents_of(device, [llama])
    seen: list[list[Residency]] = []
    model = residents.get(llama.identity, lambda done, total: seen.append(residents.residents()))
    assert seen == [[Residency(model=llama.identity, name="llama", state="loading")]]
    [residency] = residents.residents()
    assert (residency.state, residency.resident_bytes, residency.last_used_at) == (
        "resident",
        model.resident_bytes,
        2.0,
    )
    assert residency.load_seconds == model.load_seconds > 0


def test_a_wrong_estimate_is_learnt_from(
    device: Device, models: list[Manifest], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that turns out larger than estimated is not loaded a second time in vain."""
    real, loads = ARCHITECTURES["LlamaForCausalLM"], []

    def plan(manifest: Manifest, device: Device, sizes: Sizes) -> Plan:
        planned = real.plan(manifest, device, sizes)
        return planned if manifest.name == "one" else planned._replace(weight_bytes=0, cache_bytes=0)

    def open_(manifest: Manifest, *rest: Any) -> Engine | Encoder:
        loads.append(manifest.name)
        return real.open(manifest, *rest)

    monkeypatch.setitem(ARCHITECTURES, "LlamaForCausalLM", Architecture(plan, open_))
    size = real.plan(models[0], device, Sizes(2)).resident_bytes
    residents = residents_of(device, models, budget=2 * size - 1)
    residents.get(models[0].identity)
    residents.reserve(models[0].identity)
    for _ in range(3):
        with pytest.raises(NoRoomNow):
            residents.get(models[1].identity)
    assert loads == ["one", "two"]
    residents.release(models[0].identity)
    residents.get(models[1].identity)
    assert loads == ["one", "two", "two"]
    small = residents_of(device, models, budget=size - 1)
    for _ in range(3):
        with pytest.raises(NeverFits):
            small.get(models[2].identity)
    assert loads == ["one", "two", "two", "three"]
