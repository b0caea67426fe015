"""Sends what was settled: events and outcomes side by side, then word to the scheduler; batches form by themselves."""

from __future__ import annotations

import asyncio

import structlog

from llmos.infra.log.port import Out, Place
from llmos.infra.runtime.context import Context
from llmos.infra.stages.noting import note
from llmos.infra.stages.offering import Offering
from llmos.infra.stages.sending import Outbox
from llmos.infra.telemetry.metrics import TOKENS, counter
from llmos.schemas import topics
from llmos.schemas.base import encode
from llmos.schemas.telemetry import TaskFailed, TasksDone, TasksStopped
from llmos.services.worker.held import HeldTasks, note_stopped
from llmos.services.worker.runners.events import Event
from llmos.services.worker.settling import Settled, Settler

log = structlog.get_logger()
WORD_SECONDS = 0.02
"""How long word of what is done may wait for more of it."""
_TELEMETRY = Place(topics.TELEMETRY, 0)


class Publisher:
    """Takes events from the engine thread (through the loop) and sends what they become."""

    def __init__(self, ctx: Context, held: HeldTasks, settler: Settler, device: str, incarnation: int) -> None:
        self._ctx = ctx
        self._held = held
        self._settler = settler
        self._device = device
        self._incarnation = incarnation
        self._events: list[Event] = []
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.reply_events = Offering(ctx)
        """Runs beside."""

    def deliver(self, events: list[Event]) -> None:
        """Events came; on the event loop."""
        self._events += events
        self._idle.clear()
        self._wake.set()

    async def idle(self) -> None:
        """Returns when everything that came was sent."""
        await self._idle.wait()

    async def run(self) -> None:
        """Sends until cancelled."""
        word: list[TasksDone | TaskFailed] = []
        while True:
            if not self._events:
                await self._news(bool(word))
            events, self._events = self._events, []
            settled = self._settler.settle(events, self._ctx.clock.now())
            outbox = self._outbox(settled)
            for message in (*word, *settled.failed, *self._stopped(settled)):
                outbox.put(_TELEMETRY, Out(self._device.encode(), encode(message)))
            await outbox.send(self._ctx.log)
            # Only now are the outcomes on `partials`: the scheduler hears of them with the next batch.
            word = self._word(settled)

    async def _news(self, has_word: bool) -> None:
        """Waits for events; word to the scheduler waits a moment for company: each record that goes alone wakes the
        broker and the scheduler, and windows are twice what a device can run."""
        self._wake.clear()
        if not has_word:
            self._idle.set()
            await self._wake.wait()
            return
        try:
            async with asyncio.timeout(WORD_SECONDS):
                await self._wake.wait()
        except TimeoutError:
            return

    def _outbox(self, settled: Settled) -> Outbox:
        outbox = Outbox()
        for head, partition, message in settled.stream:
            out = Out(head.job_id, encode(message))
            if head.reply_to is None:
                outbox.put(Place(topics.STREAM, partition), out)
            else:
                self.reply_events.put(head.reply_to, out, head.job_id)
        for outcome in settled.outcomes:
            place = Place(topics.PARTIALS, outcome.task.partition)
            outbox.put(place, Out(outcome.head.job_id, encode(outcome)))
        return outbox

    def _stopped(self, settled: Settled) -> list[TasksStopped]:
        if not settled.stopped:
            return []
        return [TasksStopped(device=self._device, incarnation=self._incarnation, used=settled.stopped)]

    def _word(self, settled: Settled) -> list[TasksDone | TaskFailed]:
        for outcome in settled.outcomes:
            counter(TOKENS, self._device, "in").inc(outcome.usage.tokens_in)
            counter(TOKENS, self._device, "out").inc(outcome.usage.tokens_out)
            note(
                "worker",
                "done",
                job=outcome.head.job_id,
                tenant=outcome.head.tenant,
                epoch=outcome.task.epoch,
                seconds=outcome.times.finished_at - outcome.times.received_at,
            )
        for failed in settled.failed:
            note("worker", "failed", epoch=failed.task.epoch, seconds=0.0, code=failed.error.code)
        for held in settled.expired:
            note_stopped(held)
        if not settled.outcomes:
            return []
        self._held.done([outcome.task for outcome in settled.outcomes], self._ctx.clock.now())
        # Of a job of one part the receipt says the same a moment later; word of it would double what wakes the scheduler.
        parts = [
            (outcome.task, seconds)
            for outcome, seconds in zip(settled.outcomes, settled.service_seconds, strict=True)
            if outcome.head.parts > 1
        ]
        if not parts:
            return []
        return [
            TasksDone(
                device=self._device,
                incarnation=self._incarnation,
                tasks=[task for task, _ in parts],
                service_seconds=[seconds for _, seconds in parts],
            )
        ]
