"""Reads work for this life of this device, decodes it and hands it to the engine thread."""

from __future__ import annotations

from collections import OrderedDict

import structlog

from llmos.infra.crypto.crc import crc32c
from llmos.infra.log.port import Out, Place, Record
from llmos.infra.runtime.context import Context
from llmos.infra.stages.dead_letters import dead_letter
from llmos.infra.stages.noting import note
from llmos.infra.stages.rereading import read_again
from llmos.pipelines.kinds import kind_named
from llmos.pipelines.kinds.parts import open_part
from llmos.schemas import topics
from llmos.schemas.base import MSGPACK, encode
from llmos.schemas.control import CancelTask
from llmos.schemas.errors import (
    Corrupt,
    EnvelopeRejected,
    Fenced,
    LlmosError,
    PayloadUnreadable,
    RecordError,
    RefusedError,
)
from llmos.schemas.ids import term_of
from llmos.schemas.telemetry import TaskFailed
from llmos.schemas.work import WORK, Claim, Work
from llmos.services.worker.equipment import Engine
from llmos.services.worker.held import HeldTask, HeldTasks, note_stopped
from llmos.services.worker.publisher import Publisher
from llmos.services.worker.runners.events import Assignment, all_failed
from llmos.services.worker.telling import told

log = structlog.get_logger()

REMEMBERED = 10_000
"""Ended submissions that are remembered at most."""


class Intake:
    """What comes from the scheduler."""

    def __init__(
        self, ctx: Context, held: HeldTasks, engine: Engine, publisher: Publisher, device: str, incarnation: int
    ) -> None:
        self._ctx = ctx
        self._held = held
        self._engine = engine
        self._publisher = publisher
        self._device = device
        self._incarnation = incarnation
        self._place = Place(topics.work_topic(device), 0)
        self._term = -1
        self._over: OrderedDict[tuple[int, int], None] = OrderedDict()
        """Submissions that the scheduler has ended: their work may arrive after the word."""

    async def run(self) -> None:
        """Reads until `ctx.stop` is set. Raises `Fenced` when a later life claims the device."""
        reader = self._ctx.log.reader()
        try:
            reader.assign({self._place: self._incarnation + 1})
            while not self._ctx.stop.is_set():
                for records in (await reader.read(timeout=0.5)).values():
                    for record in records:
                        await self._take(record)
                self._ctx.health.progress("work")
        finally:
            await reader.close()

    def cancel(self, message: CancelTask) -> None:
        """Stops what the scheduler has ended."""
        self._over[message.partition, message.s] = None
        if len(self._over) > REMEMBERED:
            self._over.popitem(last=False)
        for held in self._held:
            if held.name[:2] == (message.partition, message.s):
                self._stop(held)

    async def _take(self, record: Record) -> None:
        try:
            message = WORK.decode(record.value)
        except RecordError as problem:
            note("worker", "dead", seconds=0.0, code=problem.code)
            await self._ctx.log.emit(Place(topics.DEAD, 0), [dead_letter(self._ctx, record, problem)])
            return
        if isinstance(message, Claim):
            raise Fenced(what=f"device {self._device}")
        if self._is_ours(message):
            await self._start(message if _is_whole(message) else await self._again(record, message))

    def _is_ours(self, work: Work) -> bool:
        """Not for another life, not of an older scheduler, not what is over, not what is at work already."""
        term = term_of(work.task.epoch)
        if work.incarnation != self._incarnation or term < self._term:
            return False
        self._term = term
        task = work.task
        if (task.partition, task.s) in self._over:
            return False
        present = self._held.at((task.partition, task.s, task.part))
        return present is None or present.work.task.epoch < task.epoch

    async def _start(self, work: Work) -> None:
        held = HeldTask(work, self._ctx.clock.now())
        present = self._held.at(held.name[:3])
        if present is not None:
            self._stop(present)
        self._held.take(held)
        try:
            assignment = self._decode(held)
        except Corrupt as problem:
            await self._broke(held, problem)
        except (EnvelopeRejected, RefusedError) as problem:
            error = PayloadUnreadable() if isinstance(problem, EnvelopeRejected) else problem
            self._publisher.deliver(all_failed(held.name, work.part.items, error))
        else:
            self._engine.run(assignment)

    async def _again(self, record: Record, damaged: Work) -> Work:
        """The same work, read a second time; as it was, where that is not to be had. What is forged stays so, and is not
        looked at again."""
        log.warning("work_damaged", offset=record.offset, s=damaged.task.s, part=damaged.task.part)
        found = await read_again(self._ctx.log, record)
        try:
            work = WORK.decode(found.value) if found is not None else damaged
        except RecordError:
            return damaged
        return work if isinstance(work, Work) and work.task == damaged.task else damaged

    def _decode(self, held: HeldTask) -> Assignment:
        """Opens the envelope.

        Raises:
            Corrupt: it was damaged on its way; the scheduler sends it again.
            EnvelopeRejected: it does not open with the keys of this pool.
            RefusedError: what is inside is not the kind's input.
        """
        work, task = held.work, held.work.task
        if not _is_whole(work):
            raise Corrupt()
        body = open_part(self._ctx.keyring, work.head, work.part)
        held.digest_key = body.digest_key
        name = (task.partition, task.s, task.part, task.epoch)
        head = work.head
        return Assignment(name, head.kind, head.model, kind_named(head.kind).read(body.input, MSGPACK), work.deadline)

    def _stop(self, held: HeldTask) -> None:
        self._held.drop(held.name)
        self._engine.stop(held.name)
        note_stopped(held)

    async def _broke(self, held: HeldTask, problem: LlmosError) -> None:
        self._held.drop(held.name)
        message = TaskFailed(
            device=self._device, incarnation=self._incarnation, task=held.work.task, error=told(problem, held.work.head)
        )
        await self._ctx.log.emit(Place(topics.TELEMETRY, 0), [Out(self._device.encode(), encode(message))])


def _is_whole(work: Work) -> bool:
    """The checksum fits: the envelope is what was written."""
    return crc32c(work.part.envelope) == work.part.crc32c
