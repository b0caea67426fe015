"""A reader over Kafka: one consumer, places assigned by hand, committed records only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import structlog
from aiokafka import OffsetAndMetadata, TopicPartition
from aiokafka.errors import CorruptRecordException, OffsetOutOfRangeError

from llmos.infra.log.kafka.clients import STOP_SECONDS, Clients, stop_consumer
from llmos.infra.log.kafka.errors import RAISED, ambiguous
from llmos.infra.log.kafka.lenient import read_leniently
from llmos.infra.log.kafka.names import Names
from llmos.infra.log.port import Commit, Place, Record
from llmos.schemas.errors import PositionLost

log = structlog.get_logger()


class KafkaReader:
    """Reads a changing set of places; belongs to one task."""

    def __init__(
        self, clients: Clients, names: Names, group: str | None, closed: Callable[[KafkaReader], None]
    ) -> None:
        """`closed` is told when the reader is closed."""
        self._clients = clients
        self._names = names
        self._group = group
        self._closed = closed
        self._seconds = clients.settings.request_seconds
        self._consumer: Any = None
        self._positions: dict[Place, int] = {}
        self._assigned: set[Place] = set()
        """What the consumer knows of."""
        self._paused: set[Place] = set()
        self._served: set[TopicPartition] = set()
        """Places that filled the last read; the others come first in the next."""

    def assign(self, starts: Mapping[Place, int]) -> None:
        """Adds places, to be read from the given offsets."""
        self._positions.update(starts)
        self._paused.difference_update(starts)
        if self._consumer is not None:
            self._tell(starts)

    def _tell(self, changed: Iterable[Place]) -> None:
        """Gives the consumer the assignment; aiokafka forgets all positions when it changes."""
        partition = self._names.partition
        if not self._positions:
            return
        if self._assigned != self._positions.keys():
            self._consumer.assign([partition(place) for place in self._positions])
            self._assigned = set(self._positions)
            changed = self._positions
        for place in changed:
            self._consumer.seek(partition(place), self._positions[place])

    async def _started(self) -> Any:
        """The consumer, made and connected at the first use."""
        if self._consumer is None:
            consumer = self._clients.consumer(None if self._group is None else self._names.wire(self._group))
            starting = asyncio.ensure_future(consumer.start())
            started = False
            try:
                async with asyncio.timeout(self._seconds):
                    await asyncio.shield(starting)
                started = True
            finally:
                if not started:
                    # Cancelled in the middle, aiokafka forgets connections that are half made: it ends first.
                    await asyncio.wait([starting], timeout=STOP_SECONDS)
                    if not starting.cancel() and not starting.cancelled():
                        starting.exception()  # told already where it was the reason
                    await stop_consumer(consumer)
            self._consumer = consumer
            self._tell(self._positions)
        return self._consumer

    async def read(self, timeout: float, max_records: int = 2000) -> dict[Place, list[Record]]:
        """What is there of the places not paused; waits at most `timeout` seconds for the first record.

        Raises:
            PositionLost: a position lies outside of the log.
            Ambiguous: the consumer failed, or this reader is closed.
        """
        try:
            fetched = await self._fetch(timeout, max_records)
        except OffsetOutOfRangeError as error:
            raise await self._out_of_range(error) from None
        except (UnicodeDecodeError, CorruptRecordException) as error:
            if not read_leniently():
                raise ambiguous("reading", error) from error
            log.warning("record_names_unreadable", problem=str(error))
            await self._begin_anew()
            return {}
        except RAISED as error:
            raise ambiguous("reading", error) from error
        # After `getmany` positions are past what transactions leave in the log, also where no record came.
        for place in self._positions:
            self._positions[place] = await self._consumer.position(self._names.partition(place))
        return {self._names.place(tp): self._records(tp, found) for tp, found in fetched.items()}

    async def _begin_anew(self) -> None:
        """A new consumer at the positions reached: the old one has lost its place in the batch it could not read."""
        consumer, self._consumer = self._consumer, None
        self._assigned = set()
        self._served = set()
        await stop_consumer(consumer)

    async def _fetch(self, timeout: float, max_records: int) -> dict[TopicPartition, list[Any]]:
        consumer = await self._started()
        active = [self._names.partition(place) for place in self._positions if place not in self._paused]
        if not active:
            await asyncio.sleep(timeout)
            return {}
        if timeout <= 0:
            await asyncio.sleep(0)  # lets the fetcher have its turn, where the caller never waits
        # Places that we left out keep what was fetched ahead; aiokafka's own `pause` would drop it.
        chosen = active if self._paused else []
        fetched: dict[TopicPartition, list[Any]] = {}
        behind = [tp for tp in active if tp not in self._served] if self._served else []
        if behind:
            fetched = await consumer.getmany(*behind, timeout_ms=0, max_records=max_records)
        room = max_records - sum(map(len, fetched.values()))
        if room:
            more = await consumer.getmany(*chosen, timeout_ms=0 if fetched else timeout * 1000, max_records=room)
            for tp, records in more.items():
                fetched.setdefault(tp, []).extend(records)
            room -= sum(map(len, more.values()))
        self._served = set() if room else set(fetched)
        return fetched

    def _records(self, tp: TopicPartition, found: list[Any]) -> list[Record]:
        place = self._names.place(tp)
        return [
            Record(place, r.offset, r.timestamp / 1000, r.key, r.value, _headers(r.headers) if r.headers else ())
            for r in found
        ]

    async def _out_of_range(self, error: OffsetOutOfRangeError) -> PositionLost:
        ((tp, offset),) = error.args[0].items()
        place = self._names.place(tp)
        try:
            async with asyncio.timeout(self._seconds):
                begin = (await self._consumer.beginning_offsets([tp]))[tp]
                end = (await self._consumer.end_offsets([tp]))[tp]
        except RAISED as failure:
            raise ambiguous(f"asking where {place.topic}[{place.partition}] begins and ends", failure) from failure
        return PositionLost(offset=offset, place=f"{place.topic}[{place.partition}]", begin=begin, end=end)

    def position(self, place: Place) -> int:
        """The offset from which the next `read` goes on."""
        return self._positions[place]

    def seek(self, place: Place, offset: int) -> None:
        """The next `read` of `place` begins at `offset`; what was fetched ahead is forgotten."""
        self._positions[place]  # KeyError where it is not assigned
        self._positions[place] = offset
        if self._consumer is not None:
            self._tell([place])

    def pause(self, places: Iterable[Place]) -> None:
        """`read` leaves these out; what was fetched ahead is kept."""
        self._paused.update(places)

    def resume(self, places: Iterable[Place]) -> None:
        """Undoes `pause`."""
        self._paused.difference_update(places)

    async def commit(self, commits: Mapping[Place, Commit]) -> None:
        """Commits under the reader's group.

        Raises:
            Ambiguous: it failed, or took longer than a request may.
            ValueError: the reader has no group.
        """
        if self._group is None:
            raise ValueError("a reader without a group cannot commit")
        offsets = {self._names.partition(place): OffsetAndMetadata(*commit) for place, commit in commits.items()}
        try:
            consumer = await self._started()
            async with asyncio.timeout(self._seconds):
                await consumer.commit(offsets)
        except RAISED as error:
            raise ambiguous(f"committing offsets of {self._group}", error) from error

    async def close(self) -> None:
        """Ends fetching; bounded in time."""
        self._closed(self)
        if self._consumer is not None:
            await stop_consumer(self._consumer)


def _headers(headers: Iterable[tuple[str, bytes | None]]) -> tuple[tuple[str, bytes], ...]:
    return tuple((name, value or b"") for name, value in headers)
