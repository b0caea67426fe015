"""Answers queries from `control` beside the loop: a reply topic that hangs holds up nobody else."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import structlog

from llmos.infra.log.port import Out, Place
from llmos.infra.runtime.context import Context
from llmos.infra.stages.follower import Table
from llmos.schemas.base import encode
from llmos.schemas.control import Query, Reply
from llmos.schemas.errors import InvalidRequest, LlmosError, TooLarge
from llmos.schemas.job import error_info
from llmos.services.scheduler.desk import Desk
from llmos.services.scheduler.turn import Turn
from llmos.services.scheduler.views import jobs_view, model_view, scheduler_report

log = structlog.get_logger()


class Replies:
    """Queries wait in a short queue; what does not fit is dropped, and its asker asks again."""

    STALE_SECONDS = 30.0
    """Nobody waits for the reply to an older query."""
    WAITING = 200
    REPLY_BYTES = 900_000
    """What a topic with the default limits of any cluster takes."""

    def __init__(self, ctx: Context, desk: Desk, turn: Turn, catalog: Table) -> None:
        self._ctx = ctx
        self._desk = desk
        self._turn = turn
        self._catalog = catalog
        self._queue: asyncio.Queue[Query] = asyncio.Queue(self.WAITING)

    def ask(self, query: Query) -> None:
        """Takes a query."""
        try:
            self._queue.put_nowait(query)
        except asyncio.QueueFull:
            log.warning("query_dropped", id=query.id)

    async def run(self) -> None:
        """Answers until cancelled."""
        while True:
            query = await self._queue.get()
            prefixes = tuple(self._ctx.settings.verify.reply_prefixes)
            if not query.reply_to.startswith(prefixes):
                log.warning("query_reply_forbidden", id=query.id, topic=query.reply_to)
                continue
            if await self._ctx.log.partitions(query.reply_to) is None:
                log.warning("query_reply_topic_missing", id=query.id, topic=query.reply_to)
                continue
            await self._ctx.log.offer(Place(query.reply_to, 0), [Out(query.id.encode(), self._reply(query))])

    def _reply(self, query: Query) -> bytes:
        if query.what == "job" and query.job_id is None:
            return _problem(query, InvalidRequest(where="job_id", problem="a query for a job names it"))
        body = msgspec.msgpack.encode(self._body(query))
        if len(body) > self.REPLY_BYTES:
            return _problem(query, TooLarge(what="the reply", size=len(body), limit=self.REPLY_BYTES))
        return encode(Reply(id=query.id, body=msgspec.Raw(body)))

    def _body(self, query: Query) -> Any:
        desk, held = self._desk, self._turn.held
        if query.what == "models":
            return model_view(self._catalog.rows)
        if query.what == "job":
            jobs = desk.jobs.with_id(query.job_id or b"")
            return {"job_id": (query.job_id or b"").hex(), "submissions": jobs_view(jobs, held)}
        if query.what == "jobs":
            return {"jobs": jobs_view(list(desk.jobs.live.values()), held, with_parts=False)}
        return scheduler_report(desk, held, self._ctx.clock.now())


def _problem(query: Query, error: LlmosError) -> bytes:
    return encode(Reply(id=query.id, error=error_info(error)))
