"""One consumer of a reader: places assigned by hand, all of them read to the same depth (see `in_transactions`)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

import structlog
from aiokafka import OffsetAndMetadata, TopicPartition
from aiokafka.errors import CorruptRecordException

from llmos.infra.log.kafka.clients import STOP_SECONDS, Clients, stop_consumer
from llmos.infra.log.kafka.errors import ambiguous
from llmos.infra.log.kafka.lenient import read_leniently
from llmos.infra.log.kafka.names import Names
from llmos.infra.log.port import Commit, Place

log = structlog.get_logger()

Fetched = dict[TopicPartition, list[Any]]


class Consumption:
    """A consumer, connected at its first use, and the positions of its places."""

    def __init__(self, clients: Clients, names: Names, group: str | None, *, committed: bool) -> None:
        """`committed`: it never reads past an open transaction."""
        self._clients = clients
        self._names = names
        self._group = group
        self._committed = committed
        self._consumer: Any = None
        self.positions: dict[Place, int] = {}
        self._assigned: set[Place] = set()
        """What the consumer knows of."""
        self._served: set[TopicPartition] = set()
        """Places that filled the last fetch; the others come first in the next."""

    def assign(self, starts: Mapping[Place, int]) -> None:
        """Adds places, or moves them."""
        self.positions.update(starts)
        if self._consumer is not None:
            self._tell(starts)

    def _tell(self, changed: Iterable[Place]) -> None:
        """Gives the consumer the assignment; aiokafka forgets all positions when it changes."""
        partition = self._names.partition
        if not self.positions:
            return
        if self._assigned != self.positions.keys():
            self._consumer.assign([partition(place) for place in self.positions])
            self._assigned = set(self.positions)
            changed = self.positions
        for place in changed:
            self._consumer.seek(partition(place), self.positions[place])

    async def _started(self) -> Any:
        if self._consumer is None:
            group = None if self._group is None else self._names.wire(self._group)
            consumer = self._clients.consumer(group, committed=self._committed)
            starting = asyncio.ensure_future(consumer.start())
            started = False
            try:
                async with asyncio.timeout(self._clients.settings.request_seconds):
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
            self._tell(self.positions)
        return self._consumer

    async def fetch(self, left_out: set[Place], timeout: float, room: int) -> Fetched:
        """At most `room` records of the places not left out, as soon as there is one. Raises what aiokafka raises."""
        try:
            fetched = await self._fetch(left_out, timeout, room)
        except (UnicodeDecodeError, CorruptRecordException) as error:
            if not read_leniently():
                raise ambiguous("reading", error) from error
            log.warning("record_names_unreadable", problem=str(error))
            await self._begin_anew()
            return {}
        # After `getmany` positions are past what transactions leave in the log, also where no record came.
        for place in self.positions:
            self.positions[place] = await self._consumer.position(self._names.partition(place))
        return fetched

    async def _fetch(self, left_out: set[Place], timeout: float, room: int) -> Fetched:
        consumer = await self._started()
        active = [self._names.partition(place) for place in self.positions if place not in left_out]
        # Places that we left out keep what was fetched ahead; aiokafka's own `pause` would drop it.
        chosen = active if len(active) < len(self.positions) else []
        fetched: Fetched = {}
        behind = [tp for tp in active if tp not in self._served] if self._served else []
        if behind:
            fetched = await consumer.getmany(*behind, timeout_ms=0, max_records=room)
        room -= sum(map(len, fetched.values()))
        if room:
            more = await consumer.getmany(*chosen, timeout_ms=0 if fetched else timeout * 1000, max_records=room)
            for tp, records in more.items():
                fetched.setdefault(tp, []).extend(records)
            room -= sum(map(len, more.values()))
        self._served = set() if room else set(fetched)
        return fetched

    async def _begin_anew(self) -> None:
        """A new consumer at the positions reached: the old one has lost its place in the batch it could not read."""
        consumer, self._consumer = self._consumer, None
        self._assigned = set()
        self._served = set()
        await stop_consumer(consumer)

    def news(self) -> asyncio.Future[None]:
        """Done when something was fetched, or failed; for whoever waits for more than one consumer. After a `fetch`.

        To be cancelled when it is not waited for any more.
        """
        # What `getmany` itself waits for: two of its waits side by side would be two tasks for each read.
        waiter: asyncio.Future[None] = self._consumer._fetcher._create_fetch_waiter()
        return waiter

    async def bounds(self, tp: TopicPartition) -> tuple[int, int]:
        """Where the log of a place begins and ends."""
        return (await self._consumer.beginning_offsets([tp]))[tp], (await self._consumer.end_offsets([tp]))[tp]

    async def commit(self, commits: Mapping[Place, Commit]) -> None:
        """Commits under the group. Raises what aiokafka raises."""
        offsets = {self._names.partition(place): OffsetAndMetadata(*commit) for place, commit in commits.items()}
        consumer = await self._started()
        await consumer.commit(offsets)

    async def close(self) -> None:
        """Ends fetching; bounded in time."""
        if self._consumer is not None:
            await stop_consumer(self._consumer)
