"""The scheduler's side of the derived-state stage: reads records, hands them to the desk, takes turns, sends."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog

from llmos.infra.log.port import Out, Place, Record
from llmos.infra.runtime.context import Context
from llmos.infra.stages.dead_letters import dead_letter
from llmos.infra.stages.derived import Derived
from llmos.infra.stages.follower import Table
from llmos.infra.stages.noting import note
from llmos.infra.stages.sending import send
from llmos.infra.stages.tenants import TenantTable
from llmos.schemas import topics
from llmos.schemas.base import encode
from llmos.schemas.control import CONTROL, Cancel, Drain, Fence, ModelCommand, Query, Reply
from llmos.schemas.epochs import EPOCHS, Term
from llmos.schemas.errors import Fenced, OperatorOnly, RecordError
from llmos.schemas.job import Origin, error_info
from llmos.schemas.partials import LowWatermark
from llmos.schemas.results import USAGE, Receipt
from llmos.schemas.sealed import SEALED
from llmos.schemas.telemetry import (
    TELEMETRY,
    Heartbeat,
    LiveCounts,
    TaskFailed,
    TasksDone,
    TasksStopped,
    WorkerDied,
)
from llmos.services.scheduler.authority import Authority
from llmos.services.scheduler.desk import Desk
from llmos.services.scheduler.effects import SOURCE
from llmos.services.scheduler.measuring import measure
from llmos.services.scheduler.operators import Operators
from llmos.services.scheduler.replies import Replies
from llmos.services.scheduler.turn import Turn
from llmos.services.scheduler.views import live_counts, scheduler_report

log = structlog.get_logger()


class SchedulerHandler:
    """Decisions over the derived state."""

    def __init__(
        self, ctx: Context, desk: Desk, turn: Turn, tenants: TenantTable, catalog: Table, replies: Replies
    ) -> None:
        self._ctx = ctx
        self._desk = desk
        self._turn = turn
        self._tenants = tenants
        self._catalog = catalog
        self._replies = replies
        self._operators = Operators(desk, catalog)
        self._authority = Authority(ctx, tenants)
        self._decoded: dict[tuple[int, int], object] = {}
        self._dead: list[Out] = []
        self._reported_at = 0.0

    # --- what came ---

    def origin_of(self, record: Record) -> Origin | None:
        """Decodes a record of `sealed` once; the message is kept for `submission`."""
        try:
            message = SEALED.decode(record.value)
        except RecordError as problem:
            note(SOURCE, "dead", seconds=0.0, code=problem.code)
            self._dead.append(dead_letter(self._ctx, record, problem))
            return None
        self._decoded = {(record.place.partition, record.offset): message}
        origin: Origin = message.head.origin
        return origin

    def submission(self, record: Record, *, restored: bool) -> None:
        """A new, unanswered record of `sealed`."""
        name = (record.place.partition, record.offset)
        message = self._decoded.pop(name)
        self._desk.submission(*name, message, record.timestamp, restored)  # type: ignore[arg-type]

    def receipt(self, record: Record) -> int | None:
        """A record of `usage`."""
        try:
            receipt: Receipt = USAGE.decode(record.value)
        except RecordError as problem:
            log.warning("receipt_unreadable", offset=record.offset, error=str(problem))
            return None
        self._desk.receipt(receipt, record.timestamp)
        return receipt.s

    def other(self, record: Record) -> None:
        """A record of `telemetry`, `control`, `epochs`, `catalog` or `tenants`."""
        topic = record.place.topic
        try:
            if topic == topics.TELEMETRY:
                self._telemetry(record)
            elif topic == topics.CONTROL:
                self._control(record)
            elif topic == topics.EPOCHS:
                self._epochs(record)
            elif topic == topics.CATALOG:
                self._catalog.take(record)
            else:
                self._tenants.table.take(record)
        except RecordError as problem:
            # These topics carry hints and requests to the system; none of them answers a submission.
            log.warning("record_unreadable", topic=topic, offset=record.offset, error=str(problem))

    def _telemetry(self, record: Record) -> None:
        message = TELEMETRY.decode(record.value)
        now = self._ctx.clock.now()
        if isinstance(message, Heartbeat):
            self._desk.heartbeat(message, now)
        elif isinstance(message, TasksDone):
            self._desk.done(message)
        elif isinstance(message, TaskFailed):
            self._desk.failed(message, now)
        elif isinstance(message, TasksStopped):
            self._desk.stopped(message)
        elif isinstance(message, WorkerDied):
            self._desk.worker_died(message, now)
        elif isinstance(message, LiveCounts) and message.term == self._desk.term:
            self._desk.own_word(message.at)

    def _control(self, record: Record) -> None:
        message = CONTROL.decode(record.value)
        if isinstance(message, Query):
            if self._waited_for(record):
                self._query(message, record)
        elif isinstance(message, ModelCommand | Drain) and self._waited_for(record):
            if self._authority.of_operator(message, record):
                self._operators.take(message)
            elif message.reply_to is not None and message.id:
                what = message.what if isinstance(message, ModelCommand) else "drain"
                self._not_believed(message.reply_to, message.id, f"the command {what!r}")
        else:
            self._lasting(message, record)

    def _query(self, query: Query, record: Record) -> None:
        if query.tenant is None:
            if self._authority.of_operator(query, record):
                self._replies.ask(query)
            else:
                self._not_believed(query.reply_to, query.id, f"{query.what!r} without naming a tenant")
        elif self._authority.of_tenant(query, record.timestamp) and self._authority.may_reply(query):
            self._replies.ask(query)

    def _not_believed(self, topic: str, id_: str, what: str) -> None:
        if self._authority.may_hear(topic):
            self._replies.tell(topic, Reply(id=id_, error=error_info(OperatorOnly(what=what))))

    def restored_control(self, record: Record) -> None:
        """A record of `control` of before the start: what lasts is taken in, and commands that came while no scheduler
        was there; queries are asked again by who asked them."""
        message = CONTROL.decode(record.value)
        self._lasting(message, record)
        if isinstance(message, ModelCommand) and self._authority.of_operator(message, record):
            if self._waited_for(record):
                self._operators.take(message)
            else:
                self._operators.past(message)

    def _lasting(self, message: object, record: Record) -> None:
        if isinstance(message, Cancel):
            if self._authority.of_tenant(message, record.timestamp):
                self._desk.cancel(message, record.timestamp)
        elif isinstance(message, Fence):
            if self._authority.of_scheduler(message, record):
                self._desk.fences.restore(message)
        elif (
            isinstance(message, Drain)
            and self._authority.of_operator(message, record)
            and self._operators.past(message)
        ):
            self._desk.drain(message, restored=True)

    def _waited_for(self, record: Record) -> bool:
        return self._ctx.clock.now() - record.timestamp < self._replies.STALE_SECONDS

    def _epochs(self, record: Record) -> None:
        if (
            record.value is not None
            and isinstance(EPOCHS.decode(record.value), Term)
            and record.offset > self._desk.term
        ):
            raise Fenced(what="the scheduler's term")

    # --- turns ---

    def full(self) -> bool:
        """Whether the live parts reach the bound of memory."""
        return self._desk.jobs.parts >= self._ctx.settings.scheduler.live_parts

    async def turn(self) -> float:
        """Decides and sends; gives the loop time of the next turn."""
        now = self._ctx.clock.now()
        replies = self._operators.carry_out(now)
        next_at = self._turn.take(now)
        interval = self._ctx.settings.scheduler.report_seconds
        if now - self._reported_at >= interval:
            self._reported_at = now
            self._report(now)
        if self._dead:
            dead, self._dead = self._dead, []
            await self._ctx.log.emit(Place(topics.DEAD, 0), dead)
        # Deaths are written down before their tasks go on, so that a crash in between forgets none.
        await self._desk.deaths.outbox.send(self._ctx.log)
        await self._desk.effects.send()
        for topic, reply in replies:
            self._replies.tell(topic, reply)
        wait = min(next_at, self._reported_at + interval) - self._ctx.clock.now()
        return asyncio.get_running_loop().time() + max(wait, 0.0)

    def _report(self, now: float) -> None:
        place = Place(topics.TELEMETRY, 0)
        counts, report = live_counts(self._desk, now), scheduler_report(self._desk, self._turn.held, now)
        self._desk.effects.put(place, SOURCE, counts)
        self._desk.effects.put(place, SOURCE, report)
        measure(counts, report)

    async def low(self, lows: Mapping[int, int]) -> None:
        """L of these partitions has moved: the aggregator may forget what lies below."""
        await send(
            self._ctx.log,
            {
                Place(topics.PARTIALS, partition): [Out(b"low", encode(LowWatermark(low=low)))]
                for partition, low in lows.items()
            },
        )


def sweep_deaths(desk: Desk, stage: Derived) -> None:
    """Drops the death counts of jobs that were answered while no scheduler looked."""
    desk.deaths.sweep({(p, s) for p, s in desk.deaths.names() if stage.watermark(p).answered(s)})
