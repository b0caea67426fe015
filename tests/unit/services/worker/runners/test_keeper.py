"""Who waits for which model, and what is told of it: at once when it changes, and not at every step."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from llmos.infra.telemetry.metrics import LOAD_ESTIMATE_ERROR
from llmos.pipelines.engine.device import Device, open_device
from llmos.pipelines.engine.loader import Opened
from llmos.pipelines.engine.loading import Plan, open_model
from llmos.pipelines.engine.residents import ResidentModels
from llmos.pipelines.models.store import ModelStore
from llmos.schemas.control import ModelOrder
from llmos.schemas.errors import ModelDamaged, ModelUnavailable
from llmos.services.worker.runners.base import Meter
from llmos.services.worker.runners.events import Event, Loading, ModelsChanged, Pins, TaskName, Waiting
from llmos.services.worker.runners.keeper import SAY_AGAIN_SECONDS, TELL_SECONDS, ModelKeeper
from llmos.services.worker.runners.models import Models

PATIENCE_SECONDS = 30.0
SIZE = 1000


def t(s: int) -> TaskName:
    return (0, s, 0, 1)


class Bench:
    """A keeper over models of 1,000 bytes each, whose loads last as long as the test wants and whose clock it sets."""

    def __init__(self, store: ModelStore, monkeypatch: pytest.MonkeyPatch, budget: int) -> None:
        monkeypatch.setattr("llmos.pipelines.engine.residents.measured_bytes", lambda *_: SIZE)
        self.now = 1000.0
        self.go_on = threading.Semaphore(0)
        self.begun = threading.Event()
        self.damage: ModelDamaged | None = None
        self.damaged: list[tuple[str, ModelDamaged]] = []
        self.told: list[Event] = []
        self.meter = Meter(clock=lambda: self.now)
        self.residents = ResidentModels(
            open_device("cpu:0/1"), store, budget, 1, clock=lambda: self.now, opener=self._open
        )
        self.keeper = ModelKeeper(
            self.residents,
            self.meter,
            self.told.append,
            device="keeper.cpu0",
            damaged=lambda identity, problem: self.damaged.append((identity, problem)),
        )
        self.models = Models(self.keeper)

    def _open(self, manifest: Any, device: Device, plan: Plan, progress: Callable[[int, int], None]) -> Opened:
        self.begun.set()
        assert self.go_on.acquire(timeout=PATIENCE_SECONDS)
        if self.damage is not None:
            raise self.damage
        return open_model(manifest, device, plan.sizes, progress)

    def round(self, seconds: float, *wants: tuple[str, int]) -> list[Event]:
        """So much later: a turn, then the tasks ask."""
        self.now += seconds
        events = self.keeper.turn()
        for model, s in wants:
            self.models.want(model, [t(s)])
        return events

    def loaded(self, *wants: tuple[str, int]) -> list[Event]:
        """The load under way ends."""
        self.go_on.release()
        assert self.residents.wait(PATIENCE_SECONDS)
        return self.round(1.0, *wants)


@pytest.fixture
def make(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], Bench]:
    """A bench with so much memory."""
    monkeypatch.setattr(
        "llmos.pipelines.engine.residents.plan_model",
        lambda manifest, device, sizes, budget: Plan(sizes, SIZE + 100, 0, 0),
    )
    return lambda budget: Bench(store, monkeypatch, budget)


def test_those_who_wait_for_a_load_hear_of_it(make: Callable[[int], Bench], encoder: str) -> None:
    """When it begins, its bytes, also those who join; then there is the model, and the waiting is not held against the
    device."""
    bench = make(5000)
    assert bench.round(0.0, (encoder, 1)) == []
    assert bench.round(0.5, (encoder, 1), (encoder, 2)) == [
        Loading((t(1),), encoder, 0, bench.residents.progress[1]),
        ModelsChanged(),
    ]
    assert bench.round(0.5, (encoder, 1), (encoder, 2)) == [Loading((t(2),), encoder, 0, bench.residents.progress[1])]
    assert bench.round(0.5, (encoder, 1), (encoder, 2)) == []
    assert ModelsChanged() in bench.loaded((encoder, 1))
    (*_, last) = bench.told
    assert last == Loading((t(1), t(2)), encoder, bench.told[-1].of, bench.told[-1].of)  # type: ignore[union-attr]
    assert bench.models.want(encoder, [t(2)]) is not None
    assert [bench.keeper.excused_seconds(t(s)) for s in (1, 2, 3)] == [2.5, 2.0, 0.0]
    assert bench.keeper.excused_seconds(t(1)) == 0.0
    assert bench.meter.loading_seconds == 2.0
    assert LOAD_ESTIMATE_ERROR.labels("keeper.cpu0")._value.get() == pytest.approx(0.1)


def test_progress_is_told_ten_times_a_second_at_most(make: Callable[[int], Bench], encoder: str) -> None:
    """And at the end; nobody is told who does not wait."""
    bench = make(5000)
    bench.round(0.0, (encoder, 1))
    bench.round(0.0, (encoder, 1))
    bench.round(0.0, (encoder, 1))
    for done in (1, 2, 3):
        bench.now += TELL_SECONDS * 0.6
        bench.residents.report(encoder, done, 9)
    bench.residents.report(encoder, 9, 9)
    assert [event.done for event in bench.told if isinstance(event, Loading)] == [1, 3, 9]
    bench.loaded()
    heard = len(bench.told)
    bench.round(1.0)
    bench.residents.report(encoder, 9, 9)
    assert len(bench.told) == heard


def test_those_who_wait_for_room_are_told_why(make: Callable[[int], Bench], encoder: str, decoder: str) -> None:
    """When the reason changes, and to those who join."""
    bench = make(SIZE + 100)
    bench.round(0.0, (decoder, 1))
    bench.round(0.1, (decoder, 1), (encoder, 2))
    assert bench.round(0.1, (decoder, 1), (encoder, 2)) == [Waiting((t(2),), encoder, "memory", 1100, 0)]
    bench.loaded((decoder, 1))
    bench.models.reserve(decoder)
    bench.round(0.1, (encoder, 2))
    (memory,) = bench.round(2.0, (encoder, 2))
    assert memory == Waiting((t(2),), encoder, "memory", 1100, 100)
    assert bench.round(5.0, (encoder, 2), (encoder, 3)) == []
    assert bench.round(0.1, (encoder, 2), (encoder, 3)) == [memory._replace(names=(t(3),))]
    bench.now += 60.0
    bench.round(0.1, (encoder, 2), (decoder, 4))
    assert bench.models.want(decoder, [t(4)]) is None, "the other has waited longer"
    assert bench.round(0.1, (encoder, 2), (decoder, 4)) == [Waiting((t(4),), decoder, "turn", 0, 0)]


def test_numbers_are_told_once_a_second(make: Callable[[int], Bench], encoder: str, decoder: str) -> None:
    """As long as the reason stays."""
    bench = make(SIZE + 100)
    for model in (decoder,):
        bench.keeper.order(ModelOrder(what="load", identity=model, at=1.0))
        bench.round(0.0)
        bench.loaded()
    bench.models.reserve(decoder)
    haves = []
    for step in range(20):
        bench.residents.budget_bytes += 1
        events = bench.round(SAY_AGAIN_SECONDS / 5, (encoder, 1))
        haves += [(step, event.have) for event in events if isinstance(event, Waiting)]
    assert haves == [(1, 102), (6, 107), (11, 112), (16, 117)]


def test_a_damaged_model_is_told_of(make: Callable[[int], Bench], encoder: str) -> None:
    """So that it is quarantined."""
    bench = make(5000)
    bench.damage = ModelDamaged(directory="d", problem="a flipped bit")
    bench.round(0.0, (encoder, 1))
    bench.round(0.0, (encoder, 1))
    bench.loaded()
    with pytest.raises(ModelUnavailable, match="a flipped bit"):
        bench.models.want(encoder, [t(1)])
    assert bench.damaged == [(encoder, bench.damage)]


def test_orders_and_pins(make: Callable[[int], Bench], encoder: str) -> None:
    """A load without a task is told by a heartbeat alone."""
    bench = make(5000)
    bench.keeper.order(ModelOrder(what="load", identity=encoder, at=1.0))
    assert bench.round(0.0) == [ModelsChanged()]
    assert bench.loaded() == [ModelsChanged()]
    bench.keeper.order(Pins(frozenset({encoder})))
    assert bench.round(0.0) == [ModelsChanged()]
    bench.keeper.order(ModelOrder(what="unload", identity=encoder, at=1.0))
    assert [(r.state, r.pinned) for r in bench.residents.residents()] == [("resident", True)]
    bench.keeper.order(Pins(frozenset()))
    bench.keeper.order(ModelOrder(what="unload", identity=encoder, at=1.0))
    assert bench.residents.residents() == []


def test_what_a_runner_reserved_is_dropped_with_it(make: Callable[[int], Bench], encoder: str, decoder: str) -> None:
    """Another runner's models stay."""
    bench = make(5000)
    for model in (encoder, decoder):
        bench.keeper.order(ModelOrder(what="load", identity=model, at=1.0))
        bench.round(0.0)
        bench.loaded()
    other = Models(bench.keeper)
    bench.models.reserve(encoder)
    bench.models.release(encoder)
    bench.models.reserve(encoder)
    other.reserve(decoder)
    bench.models.abandon()
    assert [r.model for r in bench.residents.residents()] == [decoder]
