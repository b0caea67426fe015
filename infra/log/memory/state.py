"""What all clients of a log in memory share: topics, commits, transactors' epochs, and the seed of its faults."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from random import Random

from llmos.infra.log.memory.faults import Faults, NoFaults
from llmos.infra.log.memory.store import Partition, Stored, Transaction
from llmos.infra.log.port import Clock, Commit, Place, TopicSpec


class BrokerState:
    """The log of one simulated system; never fails by itself, its clients do."""

    def __init__(
        self,
        clock: Clock,
        seed: int = 0,
        faults: Faults | None = None,
        *,
        request_seconds: float = 30.0,
        transaction_seconds: float = 60.0,
    ) -> None:
        """`request_seconds`: an unanswered write is ambiguous then. `transaction_seconds`: an open one is aborted then."""
        self.clock = clock
        self.random = Random(seed)
        self.faults: Faults = faults or NoFaults()
        self.request_seconds = request_seconds
        self.transaction_seconds = transaction_seconds
        self.commits: dict[tuple[str, Place], Commit] = {}
        """(group, place) → what is committed."""
        self._topics: dict[str, list[Partition]] = {}
        self._creations: dict[asyncio.Future[None], None] = {}
        self._epochs: dict[str, int] = {}
        self._transactions: dict[str, Transaction] = {}
        """The last transaction of each transactor's name."""

    # Topics

    def create(self, specs: Iterable[TopicSpec]) -> None:
        """Makes the topics that do not exist yet."""
        for spec in specs:
            if spec.name not in self._topics:
                places = (Place(spec.name, p) for p in range(spec.partitions))
                self._topics[spec.name] = [Partition(place, spec) for place in places]
        for creation in list(self._creations):
            if not creation.done():
                creation.set_result(None)
        self._creations.clear()

    def creation(self) -> asyncio.Future[None]:
        """Done when topics are made next."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._creations[future] = None
        future.add_done_callback(lambda done: self._creations.pop(done, None))
        return future

    def partitions(self, topic: str) -> int | None:
        """How many partitions the topic has; None where it does not exist."""
        found = self._topics.get(topic)
        return None if found is None else len(found)

    def find(self, place: Place) -> Partition | None:
        """The partition; None where it does not exist."""
        partitions = self._topics.get(place.topic, [])
        return partitions[place.partition] if 0 <= place.partition < len(partitions) else None

    # Transactors

    def initialise(self, name: str) -> int:
        """A new epoch for a transactor: the older is fenced, its transaction ended and its markers written."""
        self._epochs[name] = self._epochs.get(name, 0) + 1
        self._end(name)
        return self._epochs[name]

    def current(self, name: str, epoch: int) -> bool:
        """Whether `epoch` is the transactor's newest."""
        return self._epochs.get(name) == epoch

    def begin(self, name: str, epoch: int, client: str) -> Transaction:
        """Opens a transaction of the current epoch; it is aborted after `transaction_seconds`, and its writer fenced."""
        self._end(name)
        transaction = self._transactions[name] = Transaction(client)
        asyncio.get_running_loop().call_later(self.transaction_seconds, self._expire, name, epoch, transaction)
        return transaction

    def decide(self, transaction: Transaction, *, commit: bool, marker_after: float) -> None:
        """Commits or aborts an open transaction; readers see it when its markers are written."""
        transaction.state = "committed" if commit else "aborted"
        self.later(marker_after, lambda: transaction.write_markers(self.clock.now()))

    def _end(self, name: str) -> None:
        last = self._transactions.pop(name, None)
        if last is not None:
            if last.state == "open":
                last.state = "aborted"
            last.write_markers(self.clock.now())

    def _expire(self, name: str, epoch: int, transaction: Transaction) -> None:
        if transaction.state == "open" and self.current(name, epoch):
            self.initialise(name)

    # Time and inspection

    def later(self, seconds: float, do: Callable[[], None]) -> None:
        """Does it now, or after `seconds`, whoever lives then."""
        if seconds <= 0:
            do()
        else:
            asyncio.get_running_loop().call_later(seconds, do)

    def dump(self, topic: str) -> dict[int, list[Stored]]:
        """Everything on the topic, markers and aborted records included, per partition."""
        return {partition.place.partition: partition.dump() for partition in self._topics[topic]}

    def topics(self) -> Sequence[str]:
        """The names of all topics."""
        return list(self._topics)

    def trim(self, place: Place, begin: int) -> None:
        """Retention: what lies below `begin` is gone. KeyError where there is no such place."""
        partition = self.find(place)
        if partition is None:
            raise KeyError(place)
        partition.begin = max(partition.begin, min(begin, partition.end))
