"""The one thread that runs models: takes commands, steps the runners, hands events to the event loop."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from typing import TypeVar

import structlog

from llmos.services.worker.runners.base import Meter, Runner
from llmos.services.worker.runners.events import Assignment, Event, Loading, TaskName

log = structlog.get_logger()
T = TypeVar("T")

Command = Assignment | TaskName | None
"""A task joins, a task leaves, or the thread ends."""
IDLE_SECONDS = 1.0


class EngineThread:
    """Owned by the event loop; everything in `_run` belongs to the thread."""

    def __init__(
        self,
        make: Callable[[Callable[[Loading], None]], list[Runner]],
        meter: Meter,
        deliver: Callable[[list[Event]], None],
        died: Callable[[BaseException], None],
    ) -> None:
        """`make` makes the runners, in the thread. `deliver` and `died` are called on the event loop."""
        self._make = make
        self._meter = meter
        self._deliver = deliver
        self._died = died
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._guarded, name="engine", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def run(self, assignment: Assignment) -> None:
        """A task joins before the next step."""
        self._commands.put(assignment)

    def stop(self, name: TaskName) -> None:
        """A task leaves before the next step; events of it may still be on their way."""
        self._commands.put(name)

    async def close(self, timeout: float) -> None:
        """Ends the thread after its present step; gives up after `timeout` seconds (it is a daemon)."""
        self._commands.put(None)
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
        runners = self._make(self._tell)
        by_kind = {kind: runner for runner in runners for kind in runner.kinds}
        while True:
            busy = [runner for runner in runners if runner.busy()]
            if not self._take_commands(runners, by_kind, wait=not busy):
                return
            began, loading = time.perf_counter(), self._meter.loading_seconds
            events: list[Event] = []
            for runner in runners:
                if runner.busy():
                    events += runner.step()
                    self._meter.steps += 1
            if events:
                self._post(self._deliver, events)
            if busy or events:
                loaded = self._meter.loading_seconds - loading
                self._meter.wall_busy_seconds += time.perf_counter() - began - loaded

    def _take_commands(self, runners: list[Runner], by_kind: dict[str, Runner], *, wait: bool) -> bool:
        """Carries out what waits; False when the thread is to end."""
        try:
            command = self._commands.get(timeout=IDLE_SECONDS) if wait else self._commands.get_nowait()
            while True:
                if command is None:
                    return False
                if isinstance(command, Assignment):
                    by_kind[command.kind].start(command)
                else:
                    for runner in runners:
                        runner.stop(command)
                command = self._commands.get_nowait()
        except queue.Empty:
            return True

    def _tell(self, loading: Loading) -> None:
        events: list[Event] = [loading]
        self._post(self._deliver, events)

    def _post(self, call: Callable[[T], None], what: T) -> None:
        try:
            self._loop.call_soon_threadsafe(call, what)
        except RuntimeError:
            # The loop has closed: the process is ending and nobody listens any more.
            return
