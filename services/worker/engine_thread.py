"""The one thread that runs models: takes commands, lets the crew step, hands events to the event loop."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple, TypeVar

import structlog

from llmos.schemas.control import ModelOrder
from llmos.services.worker.crew import Crew
from llmos.services.worker.runners.base import Meter
from llmos.services.worker.runners.events import Assignment, Event, Pins, TaskName

log = structlog.get_logger()
T = TypeVar("T")


class _Word(Enum):
    END = "end"
    LOOK = "look"
    """A load has ended."""


class _Join(NamedTuple):
    assignment: Assignment
    arrived: float
    """By the meter's clock."""


Command = _Join | TaskName | ModelOrder | Pins | _Word
"""A task joins, a task leaves, an operator's wish, the thread ends or looks again."""
Waker = Callable[[], None]
Teller = Callable[[Event], None]
IDLE_SECONDS = 1.0
BLOCKED_SECONDS = 0.05
"""Between two looks while all tasks wait for models: whose turn it is depends on the time, too."""


class EngineThread:
    """Owned by the event loop; everything in `_run` belongs to the thread."""

    def __init__(
        self,
        make: Callable[[Teller, Waker], Crew],
        meter: Meter,
        deliver: Callable[[list[Event]], None],
        died: Callable[[BaseException], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`make` makes the crew, in the thread; it is given where events go that no step brings, and what to call when a
        round is due; both may be called from any thread. `deliver` and `died` are called on the event loop. `clock`
        tells the time that deadlines are in (Unix seconds)."""
        self._make = make
        self._meter = meter
        self._deliver = deliver
        self._died = died
        self._clock = clock
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._guarded, name="engine", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def run(self, assignment: Assignment) -> None:
        """A task joins before the next step."""
        self._commands.put(_Join(assignment, self._meter.clock()))

    def stop(self, name: TaskName) -> None:
        """A task leaves before the next step; events of it may still be on their way."""
        self._commands.put(name)

    def order(self, order: ModelOrder | Pins) -> None:
        """What an operator wants of the models, before the next step."""
        self._commands.put(order)

    async def close(self, timeout: float) -> None:
        """Ends the thread after its present step; gives up after `timeout` seconds (it is a daemon)."""
        self._commands.put(_Word.END)
        try:
            async with asyncio.timeout(timeout):
                await self._ended.wait()
        except TimeoutError:
            log.warning("engine_step_unfinished")

    def _guarded(self) -> None:
        try:
            self._run()
        except BaseException as problem:  # noqa: BLE001  whatever ends the thread ends the process
            self._post(self._died, problem)
        self._post(lambda _: self._ended.set(), None)

    def _run(self) -> None:
        crew = self._make(self._tell, lambda: self._commands.put(_Word.LOOK))
        worked = False
        while True:
            events = self._take_commands(crew, 0.0 if worked else self._patience(crew))
            if events is None:
                return
            began = self._meter.clock()
            brought, worked = crew.round()
            events += brought
            if events:
                self._post(self._deliver, events)
            if worked:
                self._meter.wall_busy_seconds += self._meter.clock() - began

    def _patience(self, crew: Crew) -> float:
        """How long to wait for a command, in seconds."""
        most = BLOCKED_SECONDS if crew.busy else IDLE_SECONDS
        return min(most, max(crew.next_deadline - self._clock(), 0.0))

    def _take_commands(self, crew: Crew, patience: float) -> list[Event] | None:
        """Carries out what waits, or what comes within `patience` seconds; None when the thread is to end."""
        idle, began = not crew.busy, self._meter.clock()
        events: list[Event] = []
        try:
            command = self._commands.get(timeout=patience) if patience > 0 else self._commands.get_nowait()
            if idle:
                self._meter.idle_seconds += self._meter.clock() - began
            while command is not _Word.END:
                events += self._carry_out(crew, command)
                command = self._commands.get_nowait()
        except queue.Empty:
            if idle and not events:
                self._meter.idle_seconds += self._meter.clock() - began
            return events
        return None

    def _carry_out(self, crew: Crew, command: Command) -> list[Event]:
        if isinstance(command, _Join):
            return crew.start(command.assignment, command.arrived)
        if isinstance(command, ModelOrder | Pins):
            crew.order(command)
            return []
        return [] if isinstance(command, _Word) else crew.stop(command)

    def _tell(self, event: Event) -> None:
        self._post(self._deliver, [event])

    def _post(self, call: Callable[[T], None], what: T) -> None:
        try:
            self._loop.call_soon_threadsafe(call, what)
        except RuntimeError:
            # The loop has closed: the process is ending and nobody listens any more.
            return
