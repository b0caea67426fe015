"""One client's connection to the log in memory; it can be frozen and can crash, as its process would."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence

from llmos.infra.log.lanes import Lanes
from llmos.infra.log.memory.life import Crashed, Life
from llmos.infra.log.memory.reader import MemoryReader
from llmos.infra.log.memory.state import BrokerState
from llmos.infra.log.memory.store import Partition
from llmos.infra.log.memory.transactor import MemoryTransactor
from llmos.infra.log.memory.writes import Refused, Writes
from llmos.infra.log.port import Commit, Out, Place, TopicSpec
from llmos.infra.log.sizes import BATCH_BYTES, size_of
from llmos.schemas.errors import Ambiguous

_CLOSE_SECONDS = 5.0


class MemoryLog:
    """The port's `Log`; owned by one service. Made by `MemoryBroker.connect`."""

    def __init__(self, broker: BrokerState, name: str) -> None:
        self.name = name
        self._broker = broker
        self._life = Life()
        self._writes = Writes(broker, name, self._life)
        self._lanes = Lanes(self._send, broker.request_seconds)
        self._transactors: list[MemoryTransactor] = []

    # What happens to the client's process

    def crash(self) -> None:
        """The process dies: writes on their way are applied or not as their fates say, every call raises `Crashed`."""
        self._life.crash()
        self._lanes.cancel()
        for transactor in self._transactors:
            transactor.cancel()

    def freeze(self) -> None:
        """The process stops for a while; what it asked for goes on without it."""
        self._life.freeze()

    def thaw(self) -> None:
        """The process goes on as if nothing had happened: a zombie, when it was replaced meanwhile."""
        self._life.thaw()

    @property
    def crashed(self) -> bool:
        """Whether `crash` was called."""
        return self._life.crashed

    # The port

    def reader(self, group: str | None = None) -> MemoryReader:
        """A reader with nothing assigned."""
        return MemoryReader(self._broker, self._life, self._writes, group)

    async def emit(self, place: Place, records: Sequence[Out]) -> int:
        """Appends one batch, awaited; gives the first record's offset. Raises `Ambiguous`, and from then on always."""
        await self._life.gate()
        try:
            return await self._lanes.emit(place, records)
        except Ambiguous:
            if self._life.crashed:
                raise Crashed from None
            raise

    async def offer(self, place: Place, records: Sequence[Out]) -> bool:
        """Best effort: whether the records are in the log; they are refused where there is no such place."""
        await self._life.gate()
        partition = self._broker.find(place)
        if partition is None or partition.refusal(records) is not None:
            return False
        now = self._broker.clock.now()
        partition.append(list(records), self.name, now, now)
        return True

    async def _send(self, place: Place, records: Sequence[Out], start: int) -> tuple[int, int]:
        partition = await self._existing(place)
        size, end = size_of(records[start]), start + 1
        while end < len(records) and (size := size + size_of(records[end])) <= BATCH_BYTES:
            end += 1
        batch = list(records[start:end])
        created = self._broker.clock.now()

        def apply(_: object) -> int:
            if (reason := partition.refusal(batch)) is not None:
                raise Refused(reason)
            return partition.append(batch, self.name, created, self._broker.clock.now())

        return await self._writes.write("emit", place, apply), end

    async def _existing(self, place: Place) -> Partition:
        """The partition; waits until its topic is made, as Kafka's producer does."""
        while (partition := self._broker.find(place)) is None:
            if self._broker.partitions(place.topic) is not None:
                raise Refused(f"topic {place.topic} has no partition {place.partition}")
            await self._life.wait(self._broker.creation())
        return partition

    async def transactor(self, name: str) -> MemoryTransactor:
        """Initialises the producer of this name: fences the older, ends its open transaction. Raises `Ambiguous`."""
        try:
            async with asyncio.timeout(self._broker.request_seconds):
                epoch = await self._writes.write("init", None, lambda _: self._broker.initialise(name))
        except TimeoutError:
            raise Ambiguous(operation=f"initialising transactor {name}", problem="no answer") from None
        transactor = MemoryTransactor(self._broker, self._life, self._writes, self.name, name, epoch)
        self._transactors.append(transactor)
        return transactor

    async def committed(self, group: str, places: Iterable[Place]) -> dict[Place, Commit | None]:
        """What is committed; None where nothing is."""
        await self._life.sleep(0)
        return {place: self._broker.commits.get((group, place)) for place in places}

    async def begins(self, places: Iterable[Place]) -> dict[Place, int]:
        """The first offset still in the log."""
        return {place: partition.begin for place, partition in (await self._find(places)).items()}

    async def ends(self, places: Iterable[Place]) -> dict[Place, int]:
        """The offset that the next record will get."""
        return {place: partition.end for place, partition in (await self._find(places)).items()}

    async def offsets_at(self, times: Mapping[Place, float]) -> dict[Place, int]:
        """The first offset whose record is no older than the time; the end where there is none."""
        found = await self._find(times)
        return {place: partition.offset_at(times[place]) for place, partition in found.items()}

    async def _find(self, places: Iterable[Place]) -> dict[Place, Partition]:
        await self._life.sleep(0)
        found: dict[Place, Partition] = {}
        try:
            async with asyncio.timeout(self._broker.request_seconds):
                for place in places:
                    found[place] = await self._existing(place)
        except (TimeoutError, Refused) as problem:
            raise Ambiguous(operation="asking for offsets", problem=str(problem) or "there is no such topic") from None
        return found

    async def partitions(self, topic: str) -> int | None:
        """How many partitions `topic` has; None where it does not exist."""
        await self._life.sleep(0)
        return self._broker.partitions(topic)

    async def ensure(self, topics: Sequence[TopicSpec]) -> None:
        """Makes the topics that do not exist yet."""
        await self._life.sleep(0)
        self._broker.create(topics)

    async def close(self) -> None:
        """Ends all that is on its way; bounded in time. Nothing to do after a crash."""
        if self._life.crashed:
            return
        await self._lanes.close(_CLOSE_SECONDS)
        for transactor in self._transactors:
            await transactor.close()
