"""Reads one submission's events from its partition of `stream`, and ends with the answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from typing import Any

import structlog

from llmos.client.assembling import Assembler
from llmos.client.events import Event
from llmos.client.lookup import Sight
from llmos.client.opening import Opening
from llmos.client.outputs import texts
from llmos.client.references import JobRef
from llmos.infra.log.port import Log, Place, Reader, Record
from llmos.schemas import topics
from llmos.schemas.errors import RecordError
from llmos.schemas.job import Origin
from llmos.schemas.results import Answer
from llmos.schemas.stream import STREAM, State, Tokens

log = structlog.get_logger()

READ_SECONDS = 5.0
DRAIN_SECONDS = 10.0
"""How long what lies on `stream` before the answer may take to be read; after that the final tells the rest."""


class Filter:
    """Passes the events of one submission; without an origin, of the first submission of the job that runs."""

    def __init__(self, ref: JobRef, request_id: str | None = None) -> None:
        self._job_id = ref.job_id
        self._request_id = request_id
        self.origin: Origin | None = ref.origin

    def passes(self, event: Tokens | State) -> bool:
        """Whether `event` is shown."""
        if event.job_id != self._job_id or self._request_id not in (None, event.request_id):
            return False
        if self.origin is None:
            if isinstance(event, State) and event.state in ("refused", "pointer"):
                return False
            self.origin = event.origin
        return event.origin == self.origin


class _Tail:
    """Reads one place; a read that is under way outlives a wait that ends for another reason."""

    def __init__(self, reader: Reader, place: Place) -> None:
        self._reader = reader
        self._place = place
        self._read: asyncio.Task[dict[Place, list[Record]]] | None = None

    @property
    def position(self) -> int:
        """The offset after what `records` gave."""
        return self._reader.position(self._place)

    async def records(self, timeout: float, beside: asyncio.Task[Answer] | None = None) -> list[Record]:
        """What is there next; nothing where `timeout` seconds pass or `beside` ends first."""
        if self._read is None:
            self._read = asyncio.create_task(self._reader.read(timeout=READ_SECONDS))
        waits: list[asyncio.Task[Any]] = [self._read] if beside is None else [self._read, beside]
        await asyncio.wait(waits, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if not self._read.done():
            return []
        read, self._read = self._read, None
        return read.result().get(self._place, [])

    async def close(self) -> None:
        """Ends the read under way and the reader."""
        if self._read is not None:
            self._read.cancel()
            await asyncio.wait([self._read], timeout=5.0)
        await self._reader.close()


async def follow(
    log: Log, partition: int, sight: Sight, opening: Opening, answer: asyncio.Task[Answer]
) -> AsyncGenerator[Event, None]:
    """Yields the events of a job, opened, then `Final` when `answer` is done.

    Raises what `answer` raises. The caller owns `answer`; close the iterator (`aclosing`) when leaving early.
    """
    place = Place(topics.STREAM, partition)
    begin = (await log.begins([place]))[place]
    end = (await log.ends([place]))[place]
    shower = _Shower(sight, opening)
    reader = log.reader()
    tail = _Tail(reader, place)
    try:
        reader.assign({place: min(max(begin, sight.stream_from or 0), end)})
        # Connects here, where nobody cancels it: the answer may come before the reader has its connection.
        for event in shower.events((await reader.read(timeout=0.0)).get(place, [])):
            yield event
        while not answer.done():
            for event in shower.events(await tail.records(READ_SECONDS, beside=answer)):
                yield event
        final = answer.result()
        shower.passing.origin = shower.passing.origin or final.origin
        # Tokens were written before the answer that holds them, so all of them lie before the end as of now.
        deadline = asyncio.get_running_loop().time() + DRAIN_SECONDS
        end = end if shower.assembler.complete(final) else (await log.ends([place]))[place]
        while tail.position < end and (left := deadline - asyncio.get_running_loop().time()) > 0:
            for event in shower.events(await tail.records(left)):
                yield event
        yield shower.assembler.final(final, texts(final))
    finally:
        await tail.close()


class _Shower:
    """From records to what is shown of them."""

    def __init__(self, sight: Sight, opening: Opening) -> None:
        self.passing = Filter(sight.ref, sight.request_id)
        self.assembler = Assembler()
        self._opening = opening
        self._sealed = sight.sealed

    def events(self, records: Iterable[Record]) -> list[Event]:
        """What these records change."""
        shown: list[Event] = []
        for record in records:
            event = _event(record)
            if event is None or not self.passing.passes(event):
                continue
            if isinstance(event, State):
                shown += self.assembler.state(event)
            elif (opened := self._opening.event(event, sealed=self._sealed)) is not None:
                shown += self.assembler.tokens(opened)
        return shown


def _event(record: Record) -> Tokens | State | None:
    try:
        event: Tokens | State = STREAM.decode(record.value)
    except RecordError as problem:
        log.warning("event_unreadable", partition=record.place.partition, offset=record.offset, error=str(problem))
        return None
    return event
