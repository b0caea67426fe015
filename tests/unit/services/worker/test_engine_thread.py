"""The engine thread: tasks join and leave between steps, events arrive on the loop, a crash is reported."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from llmos.schemas.control import ModelOrder
from llmos.services.worker.crew import Crew
from llmos.services.worker.engine_thread import EngineThread, Teller, Waker, _Word
from llmos.services.worker.runners.base import Meter
from llmos.services.worker.runners.events import (
    Assignment,
    Began,
    Event,
    Loading,
    Pins,
    TaskEnded,
    TaskExpired,
    TaskName,
)
from llmos.services.worker.runners.keeper import ModelKeeper
from tests.unit.services.worker.making import no_models

PATIENCE_SECONDS = 30.0


class Toy:
    """Does one task a step when the test lets it; `crash` breaks the thread."""

    kinds = ("toy",)

    def __init__(self, tell: Teller) -> None:
        self.tell = tell
        self.allowed = threading.Semaphore(0)
        self.stepping = threading.Event()
        self.waiting: list[TaskName] = []
        self.threads: set[str] = set()
        self.stopped: list[TaskName] = []
        self.idle = False

    def start(self, assignment: Assignment) -> None:
        """Joins."""
        self.threads.add(threading.current_thread().name)
        self.waiting.append(assignment.name)

    def stop(self, name: TaskName) -> None:
        """Leaves."""
        self.stopped.append(name)
        if name in self.waiting:
            self.waiting.remove(name)

    def busy(self) -> bool:
        """While tasks wait."""
        return bool(self.waiting)

    def step(self) -> list[Event]:
        """The oldest task, when allowed."""
        if self.idle:
            return []
        self.stepping.set()
        assert self.allowed.acquire(timeout=PATIENCE_SECONDS)
        self.threads.add(threading.current_thread().name)
        name = self.waiting.pop(0)
        if name[1] == 13:
            raise SystemExit("the device is gone")
        if name[1] == 7:
            self.tell(Loading((name,), "m", 1, 2))
        return [Began(name), TaskEnded(name, 0.0)]


class Running:
    """An engine thread with a toy, and what the loop heard of it."""

    def __init__(self) -> None:
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.deaths: asyncio.Queue[BaseException] = asyncio.Queue()
        self.toy: Toy
        self.heard_in: set[str] = set()
        self.meter = Meter()
        self.engine = EngineThread(self._make, self.meter, self._deliver, self.deaths.put_nowait)
        self._made = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def _make(self, tell: Teller, wake: Waker) -> Crew:
        self.toy = Toy(tell)
        self.wake = wake
        self.keeper = ModelKeeper(no_models(), self.meter, tell)
        self._loop.call_soon_threadsafe(self._made.set)
        return Crew([lambda _: self.toy], self.keeper, self.meter)

    def _deliver(self, events: list[Event]) -> None:
        self.heard_in.add(threading.current_thread().name)
        for event in events:
            self.events.put_nowait(event)

    async def made(self) -> Toy:
        await self._made.wait()
        return self.toy

    def run(self, *places: int) -> None:
        for s in places:
            self.engine.run(Assignment((0, s, 0, 1), "toy", "", None))

    async def ended(self, count: int) -> list[int]:
        """The next so many tasks that end, by s."""
        found: list[int] = []
        while len(found) < count:
            event = await self.events.get()
            if isinstance(event, TaskEnded):
                found.append(event.name[1])
        return found


@asynccontextmanager
async def running() -> AsyncIterator[Running]:
    """A thread that is ended in the end."""
    found = Running()
    found.engine.start()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await found.made()
        try:
            yield found
        finally:
            for _ in range(100):
                found.toy.allowed.release()
            await found.engine.close(PATIENCE_SECONDS)
            assert await asyncio.to_thread(_ends, found.engine._thread)


def _ends(thread: threading.Thread) -> bool:
    thread.join(PATIENCE_SECONDS)
    return not thread.is_alive()


async def test_tasks_run_in_the_thread_and_events_arrive_on_the_loop() -> None:
    """In order; the runner is touched by the engine's thread alone, the callbacks by the loop's alone."""
    async with running() as found:
        found.toy.allowed.release(3)
        found.run(1, 2, 3)
        assert await found.ended(3) == [1, 2, 3]
        assert found.toy.threads == {"engine"}
        assert found.heard_in == {threading.current_thread().name}
        assert found.meter.steps == 3


async def test_a_task_leaves_between_steps() -> None:
    """While one step runs, another task is stopped: it never runs, those behind it do."""
    async with running() as found:
        found.run(1, 2, 3)
        await asyncio.to_thread(found.toy.stepping.wait, PATIENCE_SECONDS)
        found.engine.stop((0, 2, 0, 1))
        found.engine.stop((0, 99, 0, 1))
        found.toy.allowed.release(3)
        assert await found.ended(2) == [1, 3]
        assert found.toy.stopped == [(0, 2, 0, 1)], "what it never had is nothing to it"


async def test_a_task_joins_a_thread_that_was_idle() -> None:
    """It is taken up at once, without waiting for a step."""
    async with running() as found:
        found.toy.allowed.release(2)
        found.run(1)
        assert await found.ended(1) == [1]
        found.run(2)
        assert await found.ended(1) == [2]


async def test_loading_is_told_before_the_step_is_over() -> None:
    """Progress goes to the loop from within a step, in front of the step's own events."""
    async with running() as found:
        found.toy.allowed.release()
        found.run(7)
        events = [await found.events.get() for _ in range(3)]
        assert [type(event) for event in events] == [Loading, Began, TaskEnded]


async def test_waiting_is_told_apart_from_working() -> None:
    """Time without a task is idle time, time of steps is busy time; a task that had to wait for another's step is
    counted with its wait."""
    async with running() as found:
        found.run(1, 2)
        await asyncio.to_thread(found.toy.stepping.wait, PATIENCE_SECONDS)
        assert found.meter.step_seconds > 0
        assert found.meter.step_limit_seconds == 0
        found.toy.allowed.release(2)
        await found.ended(2)
        await found.engine.close(PATIENCE_SECONDS)
        meter = found.meter
        assert (meter.started, meter.step_seconds) == (2, 0.0)
        assert min(meter.waited_seconds, meter.wall_busy_seconds, meter.idle_seconds) > 0


async def test_orders_reach_the_models() -> None:
    """Pins, loads and unloads are carried out in the thread; what changed is told."""
    async with running() as found:
        found.engine.order(Pins(frozenset({"m"})))
        found.engine.order(ModelOrder(what="load", identity="m", at=1.0))
        found.engine.order(ModelOrder(what="unload", identity="m", at=1.0))
        found.toy.allowed.release()
        found.run(1)
        await found.ended(1)
        assert set(found.keeper.residents._pinned) == {"m"}


async def test_a_deadline_ends_a_task_without_a_step() -> None:
    """Also while the thread has nothing else to do."""
    async with running() as found:
        found.toy.idle = True
        found.engine.run(Assignment((0, 1, 0, 1), "toy", "", None, 1.0))
        assert await found.events.get() == TaskExpired((0, 1, 0, 1))
        assert found.toy.stopped == [(0, 1, 0, 1)]
        found.toy.idle = False


async def test_a_crash_in_the_thread_is_reported() -> None:
    """What ended it reaches the loop as it was raised, and closing does not wait for anything."""
    async with running() as found:
        found.toy.allowed.release()
        found.run(13)
        problem = await found.deaths.get()
        assert isinstance(problem, SystemExit)
        assert str(problem) == "the device is gone"
        await found.engine.close(PATIENCE_SECONDS)


async def test_a_device_that_cannot_be_opened_is_reported() -> None:
    """Runners are made in the thread: what that raises is reported in the same way."""

    def make(tell: Teller, wake: Waker) -> Crew:
        raise OSError("no such device")

    deaths: asyncio.Queue[BaseException] = asyncio.Queue()
    engine = EngineThread(make, Meter(), lambda events: None, deaths.put_nowait)
    engine.start()
    async with asyncio.timeout(PATIENCE_SECONDS):
        assert str(await deaths.get()) == "no such device"
        await engine.close(PATIENCE_SECONDS)


async def test_closing_gives_up_on_a_step_that_hangs() -> None:
    """The thread is a daemon: the process can end without it."""
    async with running() as found:
        found.run(1)
        await asyncio.to_thread(found.toy.stepping.wait, PATIENCE_SECONDS)
        await found.engine.close(0.01)
        assert found.engine._thread.is_alive()
        assert found.engine._thread.daemon


async def test_a_loop_that_is_closed_is_no_crash() -> None:
    """The process is ending and nobody listens any more; the thread ends in silence."""

    def other_loop() -> Running:
        async def start() -> Running:
            found = Running()
            found.engine.start()
            await found.made()
            return found

        return asyncio.run(start())

    found = await asyncio.to_thread(other_loop)
    found.toy.allowed.release()
    found.run(1)
    found.engine._commands.put(_Word.END)
    assert await asyncio.to_thread(_ends, found.engine._thread)


@pytest.fixture(autouse=True)
def _no_thread_dies_unheard(monkeypatch: pytest.MonkeyPatch) -> Any:
    """An exception that leaves the thread fails the test."""
    lost: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", lost.append)
    yield
    assert lost == []
