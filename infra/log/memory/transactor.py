"""A transactor of the log in memory: fenced by a newer one of its name, all or nothing, markers take an offset."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial

from llmos.infra.log.memory.faults import Fate
from llmos.infra.log.memory.life import Crashed, Life
from llmos.infra.log.memory.state import BrokerState
from llmos.infra.log.memory.store import Partition, Transaction
from llmos.infra.log.memory.writes import Refused, Writes
from llmos.infra.log.port import COPY_SECONDS, Out, Place, Refusal, Unwritable
from llmos.infra.log.sizes import excess
from llmos.schemas.errors import Ambiguous, Fenced
from llmos.schemas.topics import of_others


class MemoryTransactor:
    """Writes transactions under one name; belongs to one task."""

    def __init__(self, broker: BrokerState, life: Life, writes: Writes, client: str, name: str, epoch: int) -> None:
        self._broker = broker
        self._life = life
        self._writes = writes
        self._client = client
        self._name = name
        self._epoch = epoch
        self._over: str | None = None
        self._running: asyncio.Task[dict[Place, int]] | None = None

    async def transact(self, batches: Mapping[Place, Sequence[Out]]) -> dict[Place, int]:
        """Writes all or nothing; gives the offset of the first record per place.

        Raises:
            Fenced: a newer transactor of this name exists; nothing was written.
            Unwritable: places refuse their records, or have not taken them in time; nothing was written, go on without.
            Ambiguous: nobody knows; from then on always.
        """
        await self._life.gate()
        if self._running is not None:
            await asyncio.wait([self._running])
        if self._over is not None:
            raise Ambiguous(operation=f"transaction of {self._name}", problem=self._over)
        work = {place: list(outs) for place, outs in batches.items() if outs}
        if not work:
            return {}
        # As over Kafka: a caller's cancellation does not end the transaction, only the process's death does.
        task = asyncio.create_task(self._transact(work), name=f"transact {self._name}")
        self._running = task
        task.add_done_callback(self._ran)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if self._life.crashed:
                raise Crashed from None
            raise

    async def settle(self, places: Sequence[Place]) -> None:
        """Nothing to do: here a decided commit is always carried out."""
        await self._life.gate()

    def _ran(self, task: asyncio.Task[dict[Place, int]]) -> None:
        self._running = None
        error = None if task.cancelled() else task.exception()
        if task.cancelled():
            self._over = "it was cancelled"
        elif error is not None and not isinstance(error, Unwritable):
            self._over = str(error) or type(error).__name__

    async def _transact(self, batches: dict[Place, list[Out]]) -> dict[Place, int]:
        operation = f"transaction of {self._name}"
        try:
            async with asyncio.timeout(self._broker.request_seconds):
                partitions = self._check(batches)
                transaction = self._begin()
                firsts = await self._deliver(transaction, partitions, batches)
        except Refused:
            raise Fenced(what=f"Transactor {self._name}") from None
        except TimeoutError:
            raise Ambiguous(operation=operation, problem="no answer") from None
        try:
            async with asyncio.timeout(self._broker.request_seconds):
                await self._writes.write("end", None, lambda fate: self._commit(transaction, fate))
        except (Refused, TimeoutError) as problem:
            raise Ambiguous(operation=f"commit of a {operation}", problem=str(problem) or "no answer") from None
        return firsts

    def _check(self, batches: dict[Place, list[Out]]) -> dict[Place, Partition]:
        found: dict[Place, Partition] = {}
        refusals: dict[Place, Refusal] = {}
        for place, outs in batches.items():
            partition = self._broker.find(place)
            if (problem := excess(outs)) is not None:
                refusals[place] = Refusal(problem, whole=False)
            elif partition is None:
                count = self._broker.partitions(place.topic)
                problem = "there is no such topic" if count is None else f"the topic has {count} partitions"
                refusals[place] = Refusal(problem, whole=True)
            else:
                found[place] = partition
        if refusals:
            raise Unwritable(refusals)
        return found

    def _begin(self) -> Transaction:
        if not self._broker.current(self._name, self._epoch):
            raise Refused("fenced", fenced=True)
        return self._broker.begin(self._name, self._epoch, self._client)

    async def _deliver(
        self, transaction: Transaction, partitions: dict[Place, Partition], batches: dict[Place, list[Out]]
    ) -> dict[Place, int]:
        """All places side by side; a refusal of one aborts. Raises `Unwritable`."""
        created = self._broker.clock.now()

        def append(place: Place, _: Fate) -> int:
            if transaction.state != "open" or not self._broker.current(self._name, self._epoch):
                raise Refused("fenced", fenced=True)
            if (reason := partitions[place].refusal(batches[place])) is not None:
                raise Refused(reason)
            return partitions[place].append(
                batches[place], self._client, created, self._broker.clock.now(), transaction
            )

        writes = {
            asyncio.create_task(self._writes.write("deliver", place, partial(append, place))): place
            for place in batches
        }
        try:
            hung = await _hung(writes)
        finally:
            for write in writes:
                write.cancel()
            await asyncio.gather(*writes, return_exceptions=True)
        firsts: dict[Place, int] = {}
        refusals: dict[Place, Refusal] = {}
        for write, place in writes.items():
            error = None if write.cancelled() else write.exception()
            if place in hung:
                refusals[place] = hung[place]
            elif isinstance(error, Refused) and not error.fenced:
                refusals[place] = Refusal(str(error), whole=False)
            elif error is not None:
                raise error
            else:
                firsts[place] = write.result()
        if refusals:
            await self._writes.write("end", None, lambda fate: self._abort(transaction, fate))
            raise Unwritable(refusals)
        return firsts

    def _commit(self, transaction: Transaction, fate: Fate) -> None:
        if transaction.state != "open" or not self._broker.current(self._name, self._epoch):
            raise Refused("fenced", fenced=True)
        self._broker.decide(transaction, commit=True, marker_after=fate.marker_after)

    def _abort(self, transaction: Transaction, fate: Fate) -> None:
        if transaction.state != "open":
            raise Refused("fenced", fenced=True)
        self._broker.decide(transaction, commit=False, marker_after=fate.marker_after)

    def cancel(self) -> None:
        """The process is gone."""
        if self._running is not None:
            self._running.cancel()

    async def close(self) -> None:
        """Lets what runs come to its end, which is bounded by the log's time-outs."""
        self._over = self._over or "it is closed"
        if self._running is not None:
            await asyncio.wait([self._running])


async def _hung(writes: Mapping[asyncio.Task[int], Place]) -> dict[Place, Refusal]:
    """Waits until everything is delivered; copies that come too late after what is ours are told as refused."""
    own = [write for write, place in writes.items() if not of_others(place.topic)]
    copies = [write for write, place in writes.items() if of_others(place.topic)]
    if own:
        await asyncio.wait(own)
    if not copies:
        return {}
    _, late = await asyncio.wait(copies, timeout=COPY_SECONDS)
    return {writes[write]: Refusal(f"it took nothing for {COPY_SECONDS:g} s", whole=True) for write in late}
