"""Answers: one shared reader over `results` and `dead` for what this client sends, a search for what was sent elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
import structlog

from llmos.client.errors import DeadLettered
from llmos.client.matching import Board, better
from llmos.client.references import JobRef
from llmos.infra.log.port import Log, Place, Reader, Record
from llmos.schemas import topics
from llmos.schemas.base import MSGPACK
from llmos.schemas.dead import DEAD, DeadLetter, DeadReplayed
from llmos.schemas.errors import OperatorError, RecordError
from llmos.schemas.ids import job_id as job_id_of
from llmos.schemas.job import Origin
from llmos.schemas.requests import REQUESTS, Request
from llmos.schemas.results import RESULTS, Answer

log = structlog.get_logger()

READ_SECONDS = 5.0
"""Longest wait of one read; it returns as soon as there is a record, so this only bounds how long closing takes."""
CATCH_UP_SECONDS = 0.05
"""The same while there is more to read: what transactions leave at the end of the log is no record, and is passed only
when a read has waited in vain."""


class _Whose(msgspec.Struct):
    """What tells whose an answer is, read without decoding its items."""

    job_id: bytes
    origin: Origin
    request_id: str
    tenant: str


_whose = msgspec.msgpack.Decoder(_Whose)


class Results:
    """Reads `results` and `dead` from where they ended before the first submission; belongs to one client."""

    def __init__(self, log: Log, board: Board, tenant: str) -> None:
        self._log = log
        self._board = board
        self._tenant = tenant
        self._waiters: dict[Origin, list[asyncio.Future[Answer]]] = {}
        self._task: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None

    async def start(self, ends: Mapping[Place, int]) -> None:
        """Begins to read at `ends`; further calls change nothing. Belongs to one task at a time."""
        if self._task is not None:
            return
        reader = self._log.reader()
        try:
            reader.assign(ends)
            # Connects here, where nobody cancels it: a client may be closed right after its first submission.
            first = await reader.read(timeout=0.0)
        except BaseException:
            await reader.close()
            raise
        self._take_all(first)
        self._task = asyncio.create_task(self._read(reader), name="llmos-client-results")
        self._task.add_done_callback(self._ended)

    async def wait(self, origin: Origin) -> Answer:
        """The answer to a submission that the board owes or keeps; raises what ended the reading.

        Raises:
            DeadLettered: there will be none.
        """
        found = self._board.find(origin)
        if found is not None:
            return found
        if (dead := self._board.buried(origin)) is not None:
            raise dead
        if self._failure is not None:
            raise self._failure
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        waiters = self._waiters.setdefault(origin, [])
        waiters.append(future)
        try:
            return await future
        finally:
            waiters.remove(future)
            if not waiters:
                self._waiters.pop(origin, None)

    async def close(self) -> None:
        """Ends reading; who still waits hears that the client was closed."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=10.0)

    async def _read(self, reader: Reader) -> None:
        try:
            while True:
                self._take_all(await reader.read(timeout=READ_SECONDS))
        finally:
            await reader.close()

    def _take_all(self, batches: Mapping[Place, Sequence[Record]]) -> None:
        for records in batches.values():
            for record in records:
                self._take(record)

    def _take(self, record: Record) -> None:
        if record.place.topic == topics.DEAD:
            self._bury(record)
            return
        whose = whose_answer(record)
        if whose is None or whose.tenant != self._tenant:
            return
        if not self._board.wants(whose.origin, whose.request_id, whose.job_id):
            return
        answer = decode_answer(record)
        if answer is None:
            return
        self._board.note(answer, len(record.value or b""))
        for future in self._waiters.get(answer.origin, ()):
            if not future.done():
                future.set_result(answer)

    def _bury(self, record: Record) -> None:
        try:
            letter: DeadLetter | DeadReplayed = DEAD.decode(record.value)
        except RecordError as problem:
            log.warning("dead_letter_unreadable", offset=record.offset, error=str(problem))
            return
        if not isinstance(letter, DeadLetter):
            return  # an operator put one back
        # What it holds is sealed for operators, and may be large.
        why = DeadLettered(msgspec.structs.replace(letter, value=b"", headers=[]))
        self._board.bury(letter.origin, why)
        for future in self._waiters.get(letter.origin, ()):
            if not future.done():
                future.set_exception(why)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._failure = closed() if task.cancelled() else (task.exception() or closed())
        for waiters in self._waiters.values():
            for future in waiters:
                if not future.done():
                    future.set_exception(self._failure)


def closed() -> OperatorError:
    """What those hear who still wait for something when the client is closed."""
    return OperatorError(problem="the client was closed")


def whose_answer(record: Record) -> _Whose | None:
    """Whose answer a record is; None (and a line in the log) where it cannot be read."""
    try:
        return _whose.decode(record.value or b"")
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        _unreadable(record, problem)
        return None


def decode_answer(record: Record) -> Answer | None:
    """The answer in a record; None (and a line in the log) where this version cannot read it."""
    try:
        answer: Answer = RESULTS.decode(record.value)
    except RecordError as problem:
        _unreadable(record, problem)
        return None
    return answer


def _unreadable(record: Record, problem: Exception) -> None:
    log.warning("answer_unreadable", partition=record.place.partition, offset=record.offset, error=str(problem))


class Sought(NamedTuple):
    """What a search looks for: the answers to a tenant's job, or to one submission of it."""

    tenant: str
    ref: JobRef
    request_id: str | None = None
    """Where it is known, the answer must name it."""

    def is_it(self, whose: _Whose) -> bool:
        """Whether an answer is one that is looked for. To another tenant's job there is none, whoever guesses its id."""
        return (
            whose.job_id == self.ref.job_id
            and whose.tenant == self.tenant
            and self.ref.origin in (None, whose.origin)
            and self.request_id in (None, whose.request_id)
        )


async def search(log: Log, partition: int, sought: Sought, start: int | None, *, wait: bool = True) -> Answer | None:
    """Reads the job's partition of `results` from `start` (None: from its beginning) until the answer is found.

    With an origin, that submission's answer. Without, the best of all answers to the job id that are there, else the
    first one that comes. Without `wait`, None where nothing is there yet; with it, the caller bounds the time.
    """
    place = Place(topics.RESULTS, partition)
    begin = (await log.begins([place]))[place]
    end = (await log.ends([place]))[place]
    reader = log.reader()
    try:
        reader.assign({place: min(max(begin, start or 0), end)})
        found: Answer | None = None
        while True:
            if reader.position(place) >= end and (found is not None or not wait):
                return found
            behind = reader.position(place) < end
            for record in (await reader.read(CATCH_UP_SECONDS if behind else READ_SECONDS)).get(place, ()):
                whose = whose_answer(record)
                if whose is None or not sought.is_it(whose):
                    continue
                answer = decode_answer(record)
                if answer is not None and sought.ref.origin is not None:
                    return answer
                found = better(found, answer) if answer is not None else found
    finally:
        await reader.close()


async def requested(log: Log, tenant: str, job_id: bytes, origin: Origin) -> bool:
    """Whether the request at `origin` is still in the log and asks for this job of this tenant's."""
    place = Place(origin.topic, origin.partition)
    if origin.topic not in topics.REQUESTS.values() or origin.partition >= (await log.partitions(origin.topic) or 0):
        return False
    begin, end = (await log.begins([place]))[place], (await log.ends([place]))[place]
    if not begin <= origin.offset < end:
        return False
    reader = log.reader()
    try:
        reader.assign({place: origin.offset})
        while reader.position(place) <= origin.offset:
            for record in (await reader.read(READ_SECONDS, max_records=1)).get(place, ()):
                if record.offset == origin.offset:
                    return _asks_for(record, tenant, job_id)
    finally:
        await reader.close()
    return False


def _asks_for(record: Record, tenant: str, job_id: bytes) -> bool:
    content_type = dict(record.headers).get("content-type", MSGPACK.encode()).decode(errors="replace")
    try:
        request: Request = REQUESTS.decode(record.value, content_type)
    except RecordError:
        return False  # nothing readable was asked there
    named = request.idempotency_key or request.request_id
    return request.tenant == tenant and job_id_of(tenant, named) == job_id
