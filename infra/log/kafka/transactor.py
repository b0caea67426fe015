"""A transactional producer: begin, send, await every delivery, commit; all or nothing.

The caller's cancellation never cancels a transaction on its way, least of all its commit: it runs in a task of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aiokafka.errors import UnknownTopicOrPartitionError

from llmos.infra.log.kafka.clients import STOP_SECONDS, Clients, cut_producer, stop_producer
from llmos.infra.log.kafka.deliveries import deliver
from llmos.infra.log.kafka.errors import FENCED, RAISED, ambiguous, describe
from llmos.infra.log.kafka.names import Names
from llmos.infra.log.kafka.queries import Queries
from llmos.infra.log.port import COPY_SECONDS, Out, Place, Refusal, Unwritable
from llmos.infra.log.sizes import excess
from llmos.schemas.errors import Ambiguous, Fenced
from llmos.schemas.topics import of_others


class KafkaTransactor:
    """Writes transactions under one name; belongs to one task."""

    def __init__(
        self, clients: Clients, names: Names, queries: Queries, name: str, closed: Callable[[KafkaTransactor], None]
    ) -> None:
        """`closed` is told when the transactor is closed."""
        self._clients = clients
        self._names = names
        self._queries = queries
        self._name = name
        self._closed = closed
        self._seconds = clients.settings.request_seconds
        self._producer: Any = None
        self._known: set[Place] = set()
        """Places whose partitions the producer has heard of."""
        self._over: str | None = None
        """Why nothing more can be written."""
        self._running: asyncio.Task[dict[Place, int]] | None = None

    async def start(self) -> None:
        """Initialises the producer: fences the older, ends its open transaction. Raises `Ambiguous`."""
        try:
            await self._start()
        except RAISED as error:
            raise ambiguous(f"initialising transactor {self._name}", error) from error

    async def _start(self) -> None:
        producer = self._clients.transactional(self._names.wire(self._name))
        self._known.clear()
        started = False
        try:
            async with asyncio.timeout(self._seconds):
                await producer.start()
            started = True
        finally:
            if not started:
                await stop_producer(producer)
        self._producer = producer

    async def transact(self, batches: Mapping[Place, Sequence[Out]]) -> dict[Place, int]:
        """Writes all or nothing; gives the offset of the first record per place.

        Raises:
            Fenced: a newer transactor of this name exists; nothing was written.
            Unwritable: places refuse their records, or have not taken them in time; nothing was written, go on without.
            Ambiguous: nobody knows; from then on always.
        """
        if self._running is not None:
            await asyncio.wait([self._running])  # a caller before us was cancelled; it is bounded by itself
        if self._over is not None:
            raise Ambiguous(operation=f"transaction of {self._name}", problem=self._over)
        work = {place: outs for place, outs in batches.items() if outs}
        if not work:
            return {}
        task = asyncio.create_task(self._transact(work), name=f"transact {self._name}")
        self._running = task
        task.add_done_callback(self._ran)
        return await asyncio.shield(task)

    async def settle(self, places: Sequence[Place]) -> None:
        """Ends what an earlier life was committing when the broker died, by an empty transaction over these places.

        A broker that starts after a crash finishes a commit that it had decided; while its own registration is renewed
        its partitions have no leader, it takes them for deleted, and forgets their markers. Then their readers wait for
        ever. The markers of a later transaction of the same producer end the earlier one, too. What was begun and not
        decided is aborted by the initialisation before this, as ever. Raises `Fenced`, `Ambiguous`.
        """
        try:
            async with asyncio.timeout(self._seconds):
                await self._producer.begin_transaction()
                for place in places:
                    await self._producer.partitions_for(self._names.wire(place.topic))
                    # What `send` does before it sends; there is nothing to send.
                    self._producer._txn_manager.maybe_add_partition_to_txn(self._names.partition(place))
                await self._producer.commit_transaction()
        except RAISED as error:
            if type(error) in FENCED:
                raise Fenced(what=f"Transactor {self._name}") from error
            raise ambiguous(f"settling of {self._name}", error) from error

    def _ran(self, task: asyncio.Task[dict[Place, int]]) -> None:
        self._running = None
        error = None if task.cancelled() else task.exception()
        if task.cancelled():
            self._over = "it was cancelled"
        elif error is not None and not isinstance(error, Unwritable):
            self._over = describe(error)

    async def _transact(self, batches: Mapping[Place, Sequence[Out]]) -> dict[Place, int]:
        operation = f"transaction of {self._name}"
        try:
            async with asyncio.timeout(self._seconds):
                await self._check(batches)
                await self._producer.begin_transaction()
                firsts = await self._deliver(batches)
        except RAISED as error:
            if type(error) in FENCED:
                raise Fenced(what=f"Transactor {self._name}") from error
            raise ambiguous(operation, error) from error
        try:
            async with asyncio.timeout(self._seconds):
                await self._producer.commit_transaction()
        except RAISED as error:
            # Also when fenced: a commit that was asked twice may have been carried out at the first time.
            raise ambiguous(f"commit of a {operation}", error) from error
        return firsts

    async def _check(self, batches: Mapping[Place, Sequence[Out]]) -> None:
        """Refuses what can be refused before anything is begun. Raises `Unwritable`."""
        refusals: dict[Place, Refusal] = {}
        for place, outs in batches.items():
            if (problem := excess(outs)) is not None:
                refusals[place] = Refusal(problem, whole=False)
            elif place not in self._known:
                if (problem := await self._unknown(place)) is not None:
                    refusals[place] = Refusal(problem, whole=True)
                else:
                    self._known.add(place)
        if refusals:
            raise Unwritable(refusals)

    async def _unknown(self, place: Place) -> str | None:
        """Lets the producer hear of a place; why it cannot."""
        partitions = await self._queries.partitions(place.topic)
        if partitions is None:
            return "there is no such topic"
        if place.partition >= partitions:
            return f"the topic has {partitions} partitions"
        try:
            async with asyncio.timeout(COPY_SECONDS if of_others(place.topic) else None):
                await self._producer.partitions_for(self._names.wire(place.topic))
        except (TimeoutError, UnknownTopicOrPartitionError) as error:
            if not of_others(place.topic):
                raise
            return describe(error)  # it was deleted since the question before
        return None

    async def _deliver(self, batches: Mapping[Place, Sequence[Out]]) -> dict[Place, int]:
        """Raises `Unwritable`: the transaction is aborted and the producer replaced."""
        firsts, refusals = await deliver(self._producer, self._names.wire, self._queries, batches, self._seconds)
        if refusals:
            await self._replace()
            raise Unwritable(refusals)
        return firsts

    async def _replace(self) -> None:
        """Aborts, and initialises the same name anew: this producer's sequence numbers have a gap where a batch failed,
        or it hangs in one that nobody takes.

        Raises:
            Fenced: another was initialised between the two; what this one knows of the log is out of date.
        """
        old = self._producer
        before = old._txn_manager._pid_and_epoch
        await cut_producer(old)
        current = await self._queries.abort(self._name, before.pid, before.epoch)
        await stop_producer(old)
        if not current:
            raise Fenced(what=f"Transactor {self._name}")
        await self._start()
        after = self._producer._txn_manager._pid_and_epoch
        if (after.pid, after.epoch) != (before.pid, before.epoch + 1):
            raise Fenced(what=f"Transactor {self._name}")

    async def close(self) -> None:
        """Ends the producer; bounded in time."""
        self._closed(self)
        self._over = self._over or "it is closed"
        if self._running is not None:
            _, late = await asyncio.wait([self._running], timeout=STOP_SECONDS)
            for task in late:
                task.cancel()
        if self._producer is not None:
            await stop_producer(self._producer)
