"""Answers queries and commands from `control` beside the loop: a reply topic that hangs holds up nobody else."""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import Any

import msgspec
import structlog

from llmos.infra.log.port import Out
from llmos.infra.runtime.context import Context
from llmos.infra.stages.follower import Table
from llmos.infra.stages.offering import Offering
from llmos.infra.stages.tenants import TenantTable
from llmos.schemas.base import encode
from llmos.schemas.catalog import Tenant
from llmos.schemas.control import Query, Reply
from llmos.schemas.errors import InvalidRequest, LlmosError, NoSuchTenant, TooLarge
from llmos.schemas.job import error_info
from llmos.services.scheduler.desk import Desk
from llmos.services.scheduler.jobs import LiveJob
from llmos.services.scheduler.tenant_views import own_report, usable_rows
from llmos.services.scheduler.turn import Turn
from llmos.services.scheduler.views import SHOWN_JOBS, jobs_view, model_view, scheduler_report

log = structlog.get_logger()


class Replies:
    """Queries, and replies to commands, wait in a short queue; what does not fit is dropped, and its asker asks again.

    Replies are made one by one, and offered each topic by itself.
    """

    STALE_SECONDS = 30.0
    """Nobody waits for the reply to an older query."""
    WAITING = 200
    REPLY_BYTES = 900_000
    """What a topic with the default limits of any cluster takes."""
    OFFERED_BYTES = 16 * 1024 * 1024
    """Of replies that wait to be written."""

    def __init__(self, ctx: Context, desk: Desk, turn: Turn, catalog: Table, tenants: TenantTable) -> None:
        self._ctx = ctx
        self._desk = desk
        self._turn = turn
        self._catalog = catalog
        self._tenants = tenants
        self._queue: asyncio.Queue[tuple[str, Query | Reply]] = asyncio.Queue(self.WAITING)
        """By topic of the reply."""
        self._offering = Offering(ctx, self.OFFERED_BYTES)

    def ask(self, query: Query) -> None:
        """Takes a query; it is answered by what is known when its turn comes."""
        self._put(query.reply_to, query)

    def tell(self, topic: str, reply: Reply) -> None:
        """Takes a reply that is made already."""
        self._put(topic, reply)

    def _put(self, topic: str, message: Query | Reply) -> None:
        try:
            self._queue.put_nowait((topic, message))
        except asyncio.QueueFull:
            log.warning("reply_dropped", id=message.id)

    async def run(self) -> None:
        """Answers until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._offering.run(), name="offering replies")
            while True:
                self._answer(*await self._queue.get())
                self._queue.task_done()
                await asyncio.sleep(0)  # a reply may take milliseconds to make

    def _answer(self, topic: str, message: Query | Reply) -> None:
        if not topic.startswith(tuple(self._ctx.settings.verify.reply_prefixes)):
            log.warning("reply_forbidden", id=message.id, topic=topic)
            return
        value = encode(message) if isinstance(message, Reply) else self._reply(message)
        self._offering.put(topic, Out(message.id.encode(), value))

    async def settled(self) -> None:
        """Returns when nothing waits to be answered or written."""
        await self._queue.join()
        await self._offering.idle.wait()

    def _reply(self, query: Query) -> bytes:
        if query.what in ("job", "explain") and query.job_id is None:
            return _problem(query, InvalidRequest(where="job_id", problem="a query for a job names it"))
        tenant = self._tenants.named(query.tenant) if query.tenant is not None else None
        if query.tenant is not None and tenant is None:
            return _problem(query, NoSuchTenant(tenant=query.tenant))  # it was erased since it asked
        body = msgspec.msgpack.encode(self._body(query, tenant))
        if len(body) > self.REPLY_BYTES:
            return _problem(query, TooLarge(what="the reply", size=len(body), limit=self.REPLY_BYTES))
        return encode(Reply(id=query.id, body=msgspec.Raw(body)))

    def _body(self, query: Query, tenant: Tenant | None) -> Any:
        """What is replied: to a tenant of its own, to an operator (None) of all."""
        desk, rows = self._desk, self._catalog.rows
        if query.what == "models":
            return model_view(usable_rows(rows, tenant) if tenant else rows, desk.fleet)
        if query.what in ("job", "explain"):
            found = desk.jobs.with_id(query.job_id or b"")
            jobs = [job for job in found if _is_of(job, tenant)]
            return {"job_id": (query.job_id or b"").hex(), "submissions": jobs_view(jobs, self._turn.explain)}
        own = (job for job in desk.jobs.live.values() if _is_of(job, tenant))
        if query.what == "jobs":
            shown = list(islice(own, SHOWN_JOBS))
            return {"jobs": jobs_view(shown, self._turn.explain, with_parts=False)}
        report = scheduler_report(desk, self._turn.held, self._ctx.clock.now())
        return own_report(report, list(own), self._turn.held, rows, tenant) if tenant else report


def _is_of(job: LiveJob, tenant: Tenant | None) -> bool:
    return tenant is None or job.head.tenant == tenant.name


def _problem(query: Query, error: LlmosError) -> bytes:
    return encode(Reply(id=query.id, error=error_info(error)))
