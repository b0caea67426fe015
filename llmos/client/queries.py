"""Asks and tells the scheduler: a query or a command on `control`, its reply on a topic that the clients of a tenant (or all
operators) share."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable
from typing import Any, Literal

import msgspec
import structlog

from llmos.client.errors import CommandRefused, NoReply, QueryRefused
from llmos.client.results import closed
from llmos.infra.log.port import Log, Out, Place, TopicSpec
from llmos.schemas import topics
from llmos.schemas.base import encode
from llmos.schemas.control import CONTROL, REPLY, ModelCommand, Operators, Query, Reply
from llmos.schemas.errors import InvalidRequest, Malformed, RecordError
from llmos.schemas.limits import RECORD_BYTES

log = structlog.get_logger()

What = Literal["status", "job", "jobs", "explain", "devices", "models"]
OPERATORS_SEE_MORE: frozenset[What] = frozenset({"status", "devices", "models"})
"""Of these a tenant sees what concerns it."""
Command = Literal["alias", "unalias", "pin", "unpin", "load", "unload", "verify"]
OPERATOR = "operator"
"""Whose topic the replies to operators go to."""
REPLY_SECONDS = 3600.0
"""How long replies are kept; nobody deletes the topic, its records go by themselves."""


class Queries:
    """One topic of replies, made at the first question; a reader task hands each reply to who asked, others' are let go."""

    def __init__(self, log: Log, whose: str, sign: Callable[[Query | Operators], bytes]) -> None:
        """`whose`: the tenant's name, or `OPERATOR`. `sign`: gives a message's authentication code."""
        self._log = log
        self._place = Place(f"reply.{whose}.queries", 0)
        self._sign = sign
        self._waiting: dict[str, asyncio.Future[Reply]] = {}
        self._task: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()

    async def ask(self, what: What, tenant: str | None, job_id: bytes | None, timeout: float) -> dict[str, Any]:
        """Asks for `tenant` (None: as an operator) and gives the reply's body.

        Raises:
            NoReply: none came within `timeout` seconds.
            QueryRefused: the reply is an error.
        """
        query = Query(id=uuid.uuid4().hex, what=what, reply_to=self._place.topic, tenant=tenant, job_id=job_id)
        reply = await self._exchange(query, what, timeout)
        if reply.error is not None:
            raise QueryRefused(what=what, error_code=reply.error.code, message=reply.error.message)
        return _body(reply)

    async def command(self, make: Callable[[str, str], Operators], timeout: float) -> dict[str, Any]:
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

    async def _exchange(self, message: Query | Operators, what: str, timeout: float) -> Reply:
        message = msgspec.structs.replace(message, mac=self._sign(message))
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
