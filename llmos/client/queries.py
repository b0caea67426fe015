"""Asks and tells the scheduler: a query or a command on `control`, its reply on a topic that the tenant's clients share."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from llmos.client.errors import CommandRefused, NoReply, QueryRefused
from llmos.client.results import closed
from llmos.infra.crypto.macs import mac
from llmos.infra.log.port import Log, Out, Place, TopicSpec
from llmos.schemas import topics
from llmos.schemas.base import encode
from llmos.schemas.control import CONTROL, REPLY, Drain, ModelCommand, Query, Reply, signed_control
from llmos.schemas.errors import InvalidRequest, Malformed, RecordError
from llmos.schemas.limits import RECORD_BYTES

log = structlog.get_logger()

REPLY_SECONDS = 3600.0
"""How long replies are kept; nobody deletes the topic, its records go by themselves."""


class Queries:
    """The tenant's reply topic, made at its first query; a reader task hands each reply to who asked, others' are let go."""

    def __init__(self, log: Log, tenant: str) -> None:
        self._log = log
        self._place = Place(f"reply.queries.{tenant}", 0)
        self._waiting: dict[str, asyncio.Future[Reply]] = {}
        self._task: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()

    async def ask(self, make: Callable[[str, str], Query], secret: bytes, timeout: float) -> dict[str, Any]:
        """Sends `make(id, reply topic)` and gives the reply's body.

        Raises:
            NoReply: none came within `timeout` seconds.
            QueryRefused: the reply is an error.
        """
        query = make(uuid.uuid4().hex, self._place.topic)
        if secret:
            query = msgspec.structs.replace(query, mac=mac(secret, signed_control(query)))
        reply = await self._exchange(query, query.what, timeout)
        if reply.error is not None:
            raise QueryRefused(what=query.what, error_code=reply.error.code, message=reply.error.message)
        return _body(reply)

    async def command(self, make: Callable[[str, str], ModelCommand | Drain], timeout: float) -> dict[str, Any]:
        """Sends `make(id, reply topic)` and gives the reply's body.

        Raises:
            InvalidRequest: a field is out of its bounds.
            CommandRefused: the reply is an error.
            NoReply: none came within `timeout` seconds.
        """
        command = make(uuid.uuid4().hex, self._place.topic)
        what = command.what if isinstance(command, ModelCommand) else "drain"
        try:
            CONTROL.decode(encode(command))
        except Malformed as problem:
            raise InvalidRequest(where=f"command {what!r}", problem=str(problem.values["problem"])) from None
        reply = await self._exchange(command, what, timeout)
        if reply.error is not None:
            raise CommandRefused(what=what, error_code=reply.error.code, message=reply.error.message)
        return _body(reply)

    async def _exchange(self, message: Query | ModelCommand | Drain, what: str, timeout: float) -> Reply:
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[message.id] = future
        try:
            async with asyncio.timeout(timeout):
                await self._start()
                await self._log.emit(Place(topics.CONTROL, 0), [Out(b"scheduler", encode(message))])
                return await future
        except TimeoutError:
            raise NoReply(what=what, seconds=timeout) from None
        finally:
            del self._waiting[message.id]

    async def close(self) -> None:
        """Ends reading."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=10.0)

    async def _start(self) -> None:
        async with self._starting:
            if self._task is not None:
                return
            spec = TopicSpec(self._place.topic, 1, REPLY_SECONDS, append_time=False, record_bytes=RECORD_BYTES)
            await self._log.ensure([spec])
            self._task = asyncio.create_task(self._read(), name="llmos-client-replies")
            self._task.add_done_callback(self._ended)

    async def _read(self) -> None:
        reader = self._log.reader()
        try:
            reader.assign({self._place: 0})
            while True:
                for record in (await reader.read(timeout=5.0)).get(self._place, ()):
                    self._take(record.value)
        finally:
            await reader.close()

    def _take(self, value: bytes | None) -> None:
        try:
            reply: Reply = REPLY.decode(value)
        except RecordError as problem:
            log.warning("reply_unreadable", topic=self._place.topic, error=str(problem))
            return
        future = self._waiting.get(reply.id)
        if future is not None and not future.done():
            future.set_result(reply)

    def _ended(self, task: asyncio.Task[None]) -> None:
        failure = closed() if task.cancelled() else (task.exception() or closed())
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(failure)
        self._task = None


def _body(reply: Reply) -> dict[str, Any]:
    body: dict[str, Any] = msgspec.msgpack.decode(reply.body) if len(reply.body) else {}
    return body
