"""What the worker says of itself: heartbeats."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence

from llmos.infra.log.port import Out, Place
from llmos.infra.runtime.context import Context
from llmos.schemas import topics
from llmos.schemas.base import encode
from llmos.schemas.job import Task
from llmos.schemas.telemetry import Heartbeat, Progress, Residency
from llmos.services.worker.equipment import Equipment
from llmos.services.worker.held import HeldTasks
from llmos.services.worker.runners.base import Used
from llmos.services.worker.runners.events import TaskName

LEAST_SECONDS = 0.1
"""Between two heartbeats, however much there is to tell."""
LISTED_PROGRESS = 1000
"""Attempts of which a heartbeat tells what they used, at most."""


class Heart:
    """Beats until the process ends."""

    def __init__(self, ctx: Context, equipment: Equipment, incarnation: int, held: HeldTasks) -> None:
        self._ctx = ctx
        self._equipment = equipment
        self._device = equipment.device
        self._incarnation = incarnation
        self._held = held
        self._sequence = 0
        self._now = asyncio.Event()

    def beat_now(self) -> None:
        """The next heartbeat is due at once."""
        self._now.set()

    async def run(self) -> None:
        """Beats until cancelled."""
        seconds = self._ctx.settings.worker.heartbeat_seconds
        least = min(LEAST_SECONDS, seconds)
        while True:
            await self.beat()
            await asyncio.sleep(least)
            try:
                async with asyncio.timeout(seconds - least):
                    await self._now.wait()
            except TimeoutError:
                continue
            finally:
                self._now.clear()

    async def beat(self) -> None:
        """One heartbeat."""
        residents = self._equipment.residents()
        message = self._message(residents)
        await self._ctx.log.emit(Place(topics.TELEMETRY, 0), [Out(self._device.encode(), encode(message))])
        self._ctx.health.progress("heart")

    def _message(self, residents: list[Residency]) -> Heartbeat:
        now = self._ctx.clock.now()
        queued, running, done = self._held.lists(now)
        self._sequence += 1
        meter = self._equipment.meter
        host, load = self._equipment.sample() if self._equipment.sample is not None else (None, None)
        return Heartbeat(
            device=self._device,
            node=self._ctx.settings.node.name,
            pid=os.getpid(),
            incarnation=self._incarnation,
            sequence=self._sequence,
            at=now,
            queued=queued,
            running=running,
            done=done,
            slots=self._ctx.settings.worker.slots,
            budget_bytes=self._equipment.budget_bytes,
            resident_bytes=sum(r.resident_bytes for r in residents),
            residents=residents,
            served=meter.served(),
            busy_seconds=meter.wall_busy_seconds,
            steps=meter.steps,
            draining=self._ctx.stop.is_set(),
            kinds=self._equipment.kinds,
            models=self._equipment.models(),
            step_seconds=meter.step_seconds,
            step_limit_seconds=meter.step_limit_seconds,
            started=meter.started,
            waited_seconds=meter.waited_seconds,
            idle_seconds=meter.idle_seconds,
            host=host,
            load=load,
            progress=progress([*running, *queued], meter.used),
        )


def progress(tasks: Sequence[Task], used: Mapping[TaskName, Used]) -> list[Progress]:
    """What each of `tasks` has used, the first `LISTED_PROGRESS` of those that have used something. A prefill may have
    begun of a task that is not yet known to run: its step has to end first."""
    found: list[Progress] = []
    for task in tasks:
        spent = used.get((task.partition, task.s, task.part, task.epoch))
        if spent is None or not (spent.tokens_in or spent.tokens_out or spent.device_seconds):
            continue
        if len(found) == LISTED_PROGRESS:
            break
        found.append(Progress(task, spent.tokens_in, spent.tokens_out, spent.device_seconds))
    return found
