"""Answers queries and commands from `control` beside the loop: a reply topic that hangs holds up nobody else."""

from __future__ import annotations

import asyncio
from itertools import islice
from typing import Any

import msgspec
import structlog

from llmos.infra.log.port import Out, Place
from llmos.infra.runtime.context import Context
from llmos.infra.stages.follower import Table
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
    """Queries, and replies to commands, wait in a short queue; what does not fit is dropped, and its asker asks again."""

    STALE_SECONDS = 30.0
    """Nobody waits for the reply to an older query."""
    WAITING = 200
    REPLY_BYTES = 900_000
    """What a topic with the default limits of any cluster takes."""

    def __init__(self, ctx: Context, desk: Desk, turn: Turn, catalog: Table, tenants: TenantTable) -> None:
        self._ctx = ctx
        self._desk = desk
        self._turn = turn
        self._catalog = catalog
        self._tenants = tenants
        self._queue: asyncio.Queue[tuple[str, Query | Reply]] = asyncio.Queue(self.WAITING)
        """By topic of the reply."""

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
        while True:
            await self.answer_one()

    async def answer_one(self) -> None:
        """Answers the first in the queue, or waits for one."""
        topic, message = await self._queue.get()
        prefixes = tuple(self._ctx.settings.verify.reply_prefixes)
        if not topic.startswith(prefixes):
            log.warning("reply_forbidden", id=message.id, topic=topic)
        elif await self._ctx.log.partitions(topic) is None:
            log.warning("reply_topic_missing", id=message.id, topic=topic)
        else:
            value = encode(message) if isinstance(message, Reply) else self._reply(message)
            await self._ctx.log.offer(Place(topic, 0), [Out(message.id.encode(), value)])

    @property
    def waiting(self) -> int:
        """How many wait for their answers."""
        return self._queue.qsize()

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
