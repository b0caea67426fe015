"""Models come in verified beside whatever runs, stay while there is room, and leave when others need it, never in use."""

from __future__ import annotations

import threading
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from llmos.pipelines.engine.decoder import Engine
from llmos.pipelines.engine.device import Device, open_device
from llmos.pipelines.engine.encoder import Encoder
from llmos.pipelines.engine.loaded import LoadedModel, LoadEnded
from llmos.pipelines.engine.loader import Opened
from llmos.pipelines.engine.loading import Plan, Sizes, open_model, plan_model
from llmos.pipelines.engine.residents import REST_SECONDS, SHORT_SECONDS, ResidentModels
from llmos.pipelines.models.manifest import Manifest
from llmos.pipelines.models.store import ModelStore
from llmos.schemas.errors import DeviceOutOfMemory, LlmosError, ModelDamaged, ModelUnavailable, NeverFits
from llmos.schemas.telemetry import Residency

AMPLE = 1 << 30
PATIENCE_SECONDS = 30.0


class Room:
    """Resident models whose time passes by one second a look, and a way to get one as a runner does."""

    def __init__(
        self, device: Device, models: list[Manifest], budget: int = AMPLE, slots: int = 2, opener: Any = None
    ) -> None:
        store = ModelStore([manifest.directory for manifest in models])
        assert not store.scan().damaged
        self.store = store
        self.ticks = count(1000)
        self.ended: list[LoadEnded] = []
        self.loads: list[str] = []
        self._opener = opener or _open
        self.residents = ResidentModels(
            device, store, budget, slots, clock=lambda: float(next(self.ticks)), opener=self._open
        )

    def _open(self, manifest: Manifest, device: Device, plan: Plan, progress: Any) -> Opened:
        self.loads.append(manifest.name)
        opened: Opened = self._opener(manifest, device, plan, progress)
        return opened

    def turn(self) -> None:
        """A round between two steps, at which a load that is under way has ended."""
        assert self.residents.wait(PATIENCE_SECONDS)
        self.ended += self.residents.turn()

    def get(self, manifest: Manifest, since: float = 500.0) -> LoadedModel | None:
        """The model, as a runner gets it that asks at each of so many steps as a load takes."""
        model = self.residents.want(manifest.identity, since)
        for _ in range(3):
            if model is not None:
                return model
            self.turn()
            model = self.residents.want(manifest.identity, since)
        return model

    def use(self, manifest: Manifest) -> LoadedModel:
        """One task of the model, from the wish for it to its end."""
        model = self.get(manifest)
        assert model is not None
        self.residents.reserve(manifest.identity)
        self.residents.release(manifest.identity)
        return model

    @property
    def names(self) -> list[str]:
        return [residency.name for residency in self.residents.residents()]


def _open(manifest: Manifest, device: Device, plan: Plan, progress: Any) -> Opened:
    return open_model(manifest, device, plan.sizes, progress)


@pytest.fixture
def device() -> Device:
    return open_device("cpu:0/1")


@pytest.fixture(scope="module")
def models(make_llama: Any) -> list[Manifest]:
    """Three equally large decoders."""
    return [make_llama(name, seed) for seed, name in enumerate(("one", "two", "three"))]


def size_of(device: Device, manifest: Manifest, slots: int = 2, budget: int = AMPLE) -> int:
    return plan_model(manifest, device, Sizes(slots), budget).resident_bytes


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> int:
    """Every model is planned to take 1,000 bytes, whatever the budget, and does."""
    size = 1000
    monkeypatch.setattr("llmos.pipelines.engine.residents.plan_model", lambda *_: Plan(Sizes(1), 600, 300, 100))
    monkeypatch.setattr("llmos.pipelines.engine.residents.measured_bytes", lambda *_: size)
    return size


def test_a_model_is_loaded_once_and_runs(device: Device, llama: Manifest, make_bert: Any) -> None:
    """A decoder comes with an engine, an encoder with an encoder; asked for again it is the same one, not read again."""
    bert = make_bert()
    room = Room(device, [llama, bert])
    first = room.get(llama)
    assert first is not None
    assert isinstance(first.engine, Engine)
    assert first.encoder is None
    assert room.get(llama) is first
    second = room.get(bert)
    assert second is not None
    assert isinstance(second.encoder, Encoder)
    assert len(second.encoder.embed(["the"])[0]) == 48
    assert (room.loads, room.names) == ([llama.name, bert.name], [llama.name, bert.name])
    assert [(ended.identity, ended.problem) for ended in room.ended] == [(llama.identity, None), (bert.identity, None)]


def test_the_estimate_is_near_what_is_measured(device: Device, make_bert: Any, make_llama: Any) -> None:
    """Within a tenth, for decoders, tied ones and those stored in 16 bits, and encoders."""
    tied = make_llama("tied", tie_word_embeddings=True)
    for manifest in (make_llama("plain"), tied, make_llama("half", dtype=torch.bfloat16), make_bert()):
        room = Room(device, [manifest])
        model = room.get(manifest)
        assert model is not None
        assert model.estimated_bytes == size_of(device, manifest)
        assert model.resident_bytes == pytest.approx(model.estimated_bytes, rel=0.1)
        (ended,) = room.ended
        assert (ended.estimated_bytes, ended.resident_bytes) == (model.estimated_bytes, model.resident_bytes)


def test_asked_for_twice_it_is_one_load(device: Device, llama: Manifest, sizes: int) -> None:
    """Whoever comes while it is being loaded gets the same."""
    begun, go_on = threading.Event(), threading.Event()

    def opener(*args: Any) -> Opened:
        begun.set()
        assert go_on.wait(PATIENCE_SECONDS)
        return _open(*args)

    room = Room(device, [llama], opener=opener)
    for since in (500.0, 400.0):
        assert room.residents.want(llama.identity, since) is None
        room.residents.turn()
        assert begun.wait(PATIENCE_SECONDS)
        assert room.residents.loading == llama.identity
    go_on.set()
    assert room.get(llama) is not None
    assert room.loads == ["llama"]


def test_the_least_recently_used_leaves(device: Device, models: list[Manifest], sizes: int) -> None:
    """With room for two, the third pushes out the one that was used longest ago, and its memory is let go."""
    one, two, three = models
    room = Room(device, models, budget=2 * sizes + 100)
    room.use(one)
    old = room.use(two)
    room.use(one)
    room.use(three)
    assert room.names == ["one", "three"]
    assert old.engine is None
    assert room.residents.resident_bytes == 2 * sizes


def test_a_model_in_use_stays(device: Device, models: list[Manifest], sizes: int) -> None:
    """Nothing in use leaves; whoever waits is told the numbers, and after a release there is room."""
    one, two, three = models
    room = Room(device, models, budget=2 * sizes)
    for manifest in (one, two):
        room.get(manifest)
        room.residents.reserve(manifest.identity)
    assert room.get(three) is None
    held = room.residents.held[three.identity]
    assert (held.rule, held.need_bytes, held.have_bytes) == ("memory", sizes, 0)
    room.residents.release(two.identity)
    assert room.get(three) is not None
    assert room.names == ["one", "three"]


def test_a_model_whose_turn_is_over_yields(device: Device, models: list[Manifest], sizes: int) -> None:
    """It takes no task that came after the one that waits for room, so that it becomes idle; older ones it takes."""
    one, two, _ = models
    room = Room(device, models, budget=sizes)
    room.get(one)
    room.residents.reserve(one.identity)
    assert room.get(two, since=600.0) is None
    assert room.residents.want(one.identity, 700.0) is None
    assert room.residents.want(one.identity, 500.0) is not None
    room.residents.release(one.identity)
    assert room.get(two, since=600.0) is not None


def test_a_pinned_model_is_loaded_unasked_and_stays(device: Device, models: list[Manifest], sizes: int) -> None:
    """What it leaves no room for is told so; unpinned it leaves as any other."""
    one, two, _ = models
    room = Room(device, models, budget=sizes)
    room.residents.pin([one.identity])
    room.turn()
    room.turn()
    assert [(residency.name, residency.pinned) for residency in room.residents.residents()] == [("one", True)]
    assert room.get(two) is None
    assert room.residents.held[two.identity].rule == "pinned"
    assert not room.residents.unload(one.identity)
    room.residents.pin([])
    assert room.get(two) is not None
    assert room.names == ["two"]


def test_a_pinned_model_that_cannot_be_had_is_tried_now_and_then(device: Device, models: list[Manifest]) -> None:
    """And told each time, not at every turn."""
    room = Room(device, models)
    room.residents.pin(["0" * 64])
    for _ in range(3):
        room.turn()
    (ended,) = room.ended
    assert isinstance(ended.problem, ModelUnavailable)
    for _ in range(int(REST_SECONDS)):
        room.turn()
    assert len(room.ended) == 2


def test_loads_and_unloads_by_order(device: Device, models: list[Manifest], sizes: int) -> None:
    """A load needs no task; an unload waits until the model is idle, and no task joins until then."""
    one = models[0]
    room = Room(device, models)
    room.residents.load(one.identity)
    room.turn()
    room.turn()
    assert room.names == ["one"]
    room.residents.reserve(one.identity)
    assert room.residents.unload(one.identity)
    assert room.residents.want(one.identity, 500.0) is None
    room.residents.release(one.identity)
    room.residents.turn()
    assert one.name in room.names, "a task waits for it, so it comes again"
    room.turn()
    room.turn()
    room.residents.load(one.identity)
    assert room.residents.unload(one.identity)
    assert not room.residents.unload(one.identity)
    assert room.residents.residents() == []


def test_a_load_that_nobody_wants_any_more_is_cancelled(device: Device, models: list[Manifest], sizes: int) -> None:
    """Those who waited have left, so the next one in line comes sooner."""
    begun, go_on = threading.Event(), threading.Event()

    def opener(*args: Any) -> Opened:
        begun.set()
        assert go_on.wait(PATIENCE_SECONDS)
        return _open(*args)

    room = Room(device, models, opener=opener)
    room.residents.want(models[0].identity, 500.0)
    room.residents.turn()
    assert begun.wait(PATIENCE_SECONDS)
    room.residents.turn()
    go_on.set()
    room.turn()
    assert (room.names, room.ended) == ([], [])


def test_marks_of_use_must_balance(device: Device, llama: Manifest) -> None:
    """Reserving what is not resident and releasing too often are programming errors."""
    room = Room(device, [llama])
    with pytest.raises(KeyError):
        room.residents.reserve(llama.identity)
    room.use(llama)
    with pytest.raises(ValueError, match="more often"):
        room.residents.release(llama.identity)


def test_what_never_fits_is_refused_at_once(device: Device, llama: Manifest) -> None:
    """With the numbers, and without a load."""
    least = size_of(device, llama, budget=1)
    room = Room(device, [llama], budget=least - 1)
    with pytest.raises(NeverFits, match=f"'llama' needs {least} bytes and the largest device budget is {least - 1}"):
        room.get(llama)
    assert room.loads == []


def test_a_damaged_model_is_not_loaded(device: Device, make_llama: Any) -> None:
    """A model that changed since it was scanned is unavailable to all who wait, says why, and leaves nothing behind."""
    manifest = make_llama("damaged", 3)
    room = Room(device, [manifest])
    path: Path = manifest.directory / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelUnavailable, match=r"'damaged'.*'cpu0'.*SHA-256"):
        room.get(manifest)
    with pytest.raises(ModelUnavailable):
        room.residents.want(manifest.identity, 600.0)
    assert room.residents.residents() == []
    (ended,) = room.ended
    assert isinstance(ended.damage, ModelDamaged)
    assert ended.damage is ended.problem.__cause__  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("problem", "code"),
    [
        (OSError("gone"), "model_unavailable"),
        (RuntimeError("no"), "model_unavailable"),
        (DeviceOutOfMemory(device="d", problem="p"), "device_out_of_memory"),
    ],
)
def test_a_load_that_fails_fails_for_all_who_wait_then(
    device: Device, llama: Manifest, problem: Exception, code: str
) -> None:
    """And is tried again for those who come later."""
    problems: list[Exception] = [problem]

    def opener(*args: Any) -> Opened:
        if problems:
            raise problems.pop()
        return _open(*args)

    room = Room(device, [llama], opener=opener)
    with pytest.raises(LlmosError) as raised:
        room.get(llama)
    assert raised.value.code == code
    room.turn()
    assert room.get(llama) is not None


def test_a_model_that_is_not_here_is_unavailable(device: Device, llama: Manifest) -> None:
    """And so it is told at once."""
    with pytest.raises(ModelUnavailable):
        Room(device, [llama]).residents.want("0" * 64, 500.0)


def test_loading_is_seen_while_it_lasts(device: Device, llama: Manifest) -> None:
    """While a model is read it is listed as loading, with the bytes; afterwards as resident, with its size and its use."""
    room = Room(device, [llama])
    seen: list[Residency] = []
    told: list[tuple[str, int, int]] = []

    def report(identity: str, done: int, of: int) -> None:
        told.append((identity, done, of))
        seen.extend(room.residents.residents())

    room.residents.report = report
    model = room.get(llama)
    assert model is not None
    size = (llama.directory / "model.safetensors").stat().st_size
    assert told[-1] == (llama.identity, size, size)
    (loading,) = seen[-1:]
    assert (loading.state, loading.tier, loading.loaded_bytes, loading.weight_bytes) == ("loading", "disk", size, size)
    assert loading.estimated_bytes == model.estimated_bytes
    [residency] = room.residents.residents()
    assert (residency.state, residency.tier, residency.resident_bytes) == ("resident", "device", model.resident_bytes)
    assert residency.estimated_bytes == model.estimated_bytes
    assert residency.load_seconds == model.load_seconds > 0


def test_a_wrong_estimate_is_learnt_from(
    device: Device, models: list[Manifest], sizes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that turns out larger than estimated is not loaded a second time in vain."""
    one, two, three = models
    measured = {"one": 1000, "two": 1500, "three": 3000}
    opened: list[str] = []

    def opener(manifest: Manifest, *rest: Any) -> Opened:
        opened.append(manifest.name)
        return _open(manifest, *rest)

    monkeypatch.setattr("llmos.pipelines.engine.residents.measured_bytes", lambda *_: measured[opened[-1]])
    room = Room(device, models, budget=2000, opener=opener)
    room.get(one)
    room.residents.reserve(one.identity)
    for _ in range(3):
        assert room.get(two) is None
    assert room.loads == ["one", "two"]
    assert room.residents.held[two.identity].need_bytes == 1500
    room.residents.release(one.identity)
    assert room.get(two) is not None
    assert room.loads == ["one", "two", "two"]
    for _ in range(3):
        with pytest.raises(NeverFits, match="needs 3000 bytes"):
            room.get(three)
    assert room.loads == ["one", "two", "two", "three"]


def test_memory_that_the_device_does_not_have_is_waited_for_a_while(
    device: Device, llama: Manifest, sizes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The budget promises it and somebody else has it: then another device may do better."""
    monkeypatch.setattr(device, "free_bytes", lambda: sizes - 1)
    room = Room(device, [llama])
    assert room.get(llama) is None
    assert room.residents.held[llama.identity].rule == "device_memory"
    room.ticks = count(1000 + int(SHORT_SECONDS))
    with pytest.raises(DeviceOutOfMemory, match=f"needs {sizes} bytes and {sizes - 1} are free"):
        room.get(llama)
    assert room.loads == []


def test_when_memory_runs_out_what_is_idle_leaves(device: Device, models: list[Manifest], sizes: int) -> None:
    """What is in use or pinned stays."""
    room = Room(device, models)
    for manifest in models:
        room.get(manifest)
    room.residents.reserve(models[0].identity)
    room.residents.pin([models[1].identity])
    room.residents.relieve()
    assert room.names == ["one", "two"]


def test_what_a_broken_runner_had_is_dropped(device: Device, models: list[Manifest], sizes: int) -> None:
    """Even in use: nobody knows what it was left with."""
    room = Room(device, models)
    room.get(models[0])
    room.residents.reserve(models[0].identity)
    room.residents.abandon([models[0].identity, models[1].identity])
    assert room.names == []
    assert not room.residents.in_use
