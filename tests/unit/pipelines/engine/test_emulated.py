"""The emulated device: how it slows, bounds memory and breaks, and that an engine on it lives through that."""

from __future__ import annotations

import gc

import pytest
import torch

from llmos.pipelines.engine.conformance import make_decoder
from llmos.pipelines.engine.decoder import Engine
from llmos.pipelines.engine.device import open_device
from llmos.pipelines.engine.emulated import EmulatedDevice, Pace, spoil
from llmos.pipelines.engine.emulation import read_emulation
from llmos.pipelines.engine.encoder import Encoder
from llmos.pipelines.engine.loading import Sizes, open_model
from llmos.pipelines.engine.specs import parse_spec
from llmos.pipelines.models.manifest import Manifest
from llmos.schemas.errors import DeviceOutOfMemory, EngineFailed, NotFinite
from tests.unit.pipelines.engine.chains import drain, outcome, request
from tests.unit.pipelines.engine.conftest import Make


class Time:
    """A clock that its sleeps move, and that a call may move."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def work(self, seconds: float) -> str:
        self.now += seconds
        return "done"


class Died(Exception):
    """The process would have ended."""


def die() -> None:
    raise Died


def opened(options: str, time: Time) -> EmulatedDevice:
    return EmulatedDevice(parse_spec(f"emulated:0/1?{options}"), time.sleep, time.clock, die)


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.mark.parametrize(("speed", "slept"), [(1.0, 0.0), (0.5, 0.3), (0.25, 0.9)])
def test_a_call_takes_as_much_longer_as_the_device_is_slower(time: Time, speed: float, slept: float) -> None:
    """0.3 s on the CPU are 0.3/speed here."""
    pace = Pace(read_emulation(parse_spec(f"emulated:0/1?speed={speed}")), time.sleep, time.clock)
    assert pace.run(lambda: time.work(0.3)) == "done"
    assert sum(time.slept) == pytest.approx(slept)


def test_short_delays_add_up(time: Time) -> None:
    """Calls too short to sleep after are made up for together; nothing is lost."""
    pace = Pace(read_emulation(parse_spec("emulated:0/1?speed=0.5")), time.sleep, time.clock)
    for _ in range(100):
        pace.run(lambda: time.work(0.0001))
    assert time.now == pytest.approx(100.0 + 0.02, abs=0.003)
    assert 0 < len(time.slept) <= 10


def test_what_sleeping_costs_is_not_counted_twice(time: Time) -> None:
    """After a sleep a call takes three times as long: what is made longer is what it takes without."""
    pace = Pace(read_emulation(parse_spec("emulated:0/1?speed=0.1")), time.sleep, time.clock)
    naps = 0

    def call() -> str:
        nonlocal naps
        cold = len(time.slept) > naps
        naps = len(time.slept)
        return time.work(0.003 if cold else 0.001)

    for _ in range(1000):
        pace.run(call)
    began = time.now
    for _ in range(1000):
        pace.run(call)
    assert (time.now - began) / 1000 == pytest.approx(0.01, rel=0.05)


def test_a_device_as_fast_as_the_cpu_adds_nothing(time: Time) -> None:
    """No sleep, and no call is made twice."""
    pace = Pace(read_emulation(parse_spec("emulated:0/1")), time.sleep, time.clock)
    for _ in range(100):
        pace.run(lambda: time.work(0.01))
    assert time.now == pytest.approx(101.0)


def test_a_slow_phase_begins_and_ends(time: Time) -> None:
    """While it lasts calls take slow_factor times as long, and the load says why."""
    device = opened("faults=slow:1&slow_factor=4&slow_seconds=5", time)
    assert device.load().throttled == ""
    device.wrap(make_decoder(None, torch.float32)).prefill([1], make_cache(device), 0, 0)
    load = device.load()
    assert load.throttled == "it is emulated to be hot"
    assert load.clock_fraction <= 0.25
    time.now += 5.1
    assert device.load().throttled != "it is emulated to be hot"


def make_cache(device: EmulatedDevice):  # type: ignore[no-untyped-def]
    return device.wrap(make_decoder(None, torch.float32)).new_cache(4, 192)


def test_models_and_caches_take_memory_and_give_it_back(time: Time) -> None:
    """What is free is the size less weights and caches of models that live."""
    device = opened("memory=10000000", time)
    model = device.wrap(make_decoder(None, torch.float32))
    weights = model.resident_bytes
    assert device.free_bytes() == 10_000_000 - weights
    cache = model.new_cache(2, 192)
    model.prefill([1, 2, 3], cache, 0, 0)
    assert cache.resident_bytes > 0
    assert device.free_bytes() == 10_000_000 - weights - cache.resident_bytes
    assert device.load().memory_used_bytes == weights + cache.resident_bytes
    cache.shrink()
    assert device.free_bytes() == 10_000_000 - weights
    del model, cache
    gc.collect()
    assert device.free_bytes() == device.memory_bytes == 10_000_000


def test_a_model_that_does_not_fit_is_out_of_memory(time: Time) -> None:
    """As a true device says it."""
    first = make_decoder(None, torch.float32)
    device = opened(f"memory={first.resident_bytes * 3 // 2}", time)
    held = device.wrap(first)
    with pytest.raises(torch.OutOfMemoryError, match=r"emulated0: .* bytes are wanted"):
        device.wrap(make_decoder(None, torch.float32))
    assert device.free_bytes() == device.memory_bytes - held.resident_bytes


def test_a_cache_that_grows_beyond_the_memory_is_out_of_memory(time: Time) -> None:
    """The call fails before it computes, the cache is as it was, and a smaller call goes on."""
    plain = make_decoder(None, torch.float32)
    need = plain.new_cache(4, 192).bytes_for(1, 128)
    device = opened(f"memory={plain.resident_bytes + need}", time)
    model = device.wrap(plain)
    cache = model.new_cache(4, 192)
    model.prefill([1, 2, 3], cache, 0, 0)
    with pytest.raises(torch.OutOfMemoryError):
        model.prefill([1, 2, 3], cache, 1, 0)
    with pytest.raises(torch.OutOfMemoryError):
        model.decode([1, 1], [3, 3], cache)
    assert cache.resident_bytes == need
    assert torch.isfinite(model.decode([4], [3], cache)).all()


@pytest.mark.parametrize(("fault", "error"), [("oom", torch.OutOfMemoryError), ("kernel", RuntimeError), ("die", Died)])
def test_faults_end_the_call(time: Time, fault: str, error: type[Exception]) -> None:
    """Out of memory, a kernel's exception, the end of the process."""
    device = opened(f"poison={fault}:9", time)
    model = device.wrap(make_decoder(None, torch.float32))
    cache = model.new_cache(4, 192)
    for slot in range(3):
        model.prefill([1, 2], cache, slot, 0)
    with pytest.raises(error):
        model.prefill([1, 9], cache, 3, 0)
    with pytest.raises(error):
        model.decode([3, 9, 4], [2, 2, 2], cache)
    assert torch.isfinite(model.decode([3, 3, 4], [2, 2, 2], cache)).all()


def test_a_hang_lasts_as_long_as_it_says(time: Time) -> None:
    """A day, unless told otherwise; then the call goes on."""
    device = opened("poison=hang:9&hang_seconds=30", time)
    model = device.wrap(make_decoder(None, torch.float32))
    assert torch.isfinite(model.prefill([9], model.new_cache(1, 192), 0, 0)).all()
    assert 30.0 in time.slept
    assert read_emulation(parse_spec("emulated:0/1")).hang_seconds == 86_400.0


def test_nan_hits_one_row_and_leaves_the_cache_alone(time: Time) -> None:
    """The neighbours' hidden states are those of a sound device, and the next step is sound for all."""
    device = opened("poison=nan:9", time)
    model, plain = device.wrap(make_decoder(None, torch.float32)), make_decoder(None, torch.float32)
    caches = model.new_cache(4, 192), plain.new_cache(4, 192)
    for one, cache in zip((model, plain), caches, strict=True):
        for slot in range(3):
            one.prefill([1, 2], cache, slot, 0)
    found, wanted = (one.decode([3, 9, 4], [2, 2, 2], cache) for one, cache in zip((model, plain), caches, strict=True))
    assert torch.isnan(found[1]).all()
    assert torch.equal(found[[0, 2]], wanted[[0, 2]])
    assert torch.isnan(model.logits(found)[1]).all()
    found, wanted = (one.decode([5, 5, 5], [3, 3, 3], cache) for one, cache in zip((model, plain), caches, strict=True))
    assert torch.equal(found, wanted)
    assert torch.isnan(model.prefill([1, 9, 2], caches[0], 3, 0)).all()


class _Texts:
    """The least that reads texts."""

    vocabulary = 10
    resident_bytes = 400

    def hidden_states(self, batch: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.ones(len(batch), 3, 2), torch.ones(len(batch), 3, dtype=torch.bool)


def test_models_of_texts_have_faults_and_take_memory_too(time: Time) -> None:
    """One text of a batch is NaN; a batch fails as a whole where a kernel does."""
    device = opened("memory=1000&poison=nan:9,kernel:8", time)
    model = device.wrap_encoder(_Texts())
    assert device.free_bytes() == 600
    hidden, there = model.hidden_states([[1], [9, 2], [3]])
    assert torch.isnan(hidden[1]).all()
    assert torch.equal(hidden[[0, 2]], torch.ones(2, 3, 2))
    assert there.all()
    with pytest.raises(RuntimeError, match="kernel"):
        model.hidden_states([[1], [8]])
    assert (model.vocabulary, model.resident_bytes) == (10, 400)


def test_untouched_values_are_not_copied() -> None:
    """A call without a fault costs nothing."""
    values = torch.ones(3, 2)
    assert spoil(values, ()) is values


def test_an_engine_on_it_loses_only_those_that_are_hit(llama: Manifest, time: Time) -> None:
    """A kernel's exception, NaN and a lack of memory end the sequence that meets them; its neighbours' text is that of a
    sound device, and the next request is served."""
    options = "speed=0.5&poison=kernel:301,nan:302,oom:303"
    engine = open_model(llama, opened(options, time), Sizes(slots=5))
    sound = open_model(llama, open_device("cpu:0/1"), Sizes(slots=5))
    assert isinstance(engine, Engine)
    assert isinstance(sound, Engine)
    for one in (engine, sound):
        for key in ("first", "second"):
            one.add(key, [5, len(key)], request(12))
    for key, token in (("kernel", 301), ("nan", 302), ("oom", 303)):
        engine.add(key, [5, token], request(12))
    events, wanted = drain(engine), drain(sound)
    errors = {event.key: type(event.error) for event in events if event.error is not None}
    assert errors == {"kernel": EngineFailed, "nan": NotFinite, "oom": DeviceOutOfMemory}
    engine.add("later", [5, len("first")], request(12))
    later = drain(engine)
    for key in ("first", "second"):
        assert outcome(events, key) == outcome(wanted, key)
    assert outcome(later, "later") == outcome(wanted, "first")


def test_an_engine_lives_through_random_faults(llama: Manifest, time: Time) -> None:
    """A fault in every fifth call: each sequence ends, with its text or with an error of its own."""
    device = opened("faults=nan:0.1,kernel:0.05,oom:0.05&seed=3", time)
    engine = open_model(llama, device, Sizes(slots=4))
    assert isinstance(engine, Engine)
    ended: dict[object, bool] = {}
    for key in range(24):
        engine.add(key, [5, 6 + key], request(6))
        if not engine.free_slots:
            ended |= {event.key: event.error is None for event in drain(engine) if event.finish or event.error}
    assert len(ended) == 24
    assert set(ended.values()) == {True, False}


def test_an_encoder_runs_on_it(make_bert: Make, time: Time) -> None:
    """Vectors are those of a sound device."""
    manifest = make_bert()
    encoders = [
        open_model(manifest, device, Sizes(slots=1)) for device in (opened("speed=0.5", time), open_device("cpu:0/1"))
    ]
    texts = ["the a of the q", "be"]
    found, wanted = (encoder.embed(texts) for encoder in encoders if isinstance(encoder, Encoder))
    assert found == wanted
