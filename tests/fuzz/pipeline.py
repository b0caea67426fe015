"""Ingest, verify and a worker's intake in a row, fed one record at a time, each within a bound of calls and memory."""

from __future__ import annotations

import asyncio
import sys
import tracemalloc
from collections.abc import Coroutine
from types import FrameType
from typing import Any, Literal, NamedTuple, TypeVar

from llmos.infra.crypto.credentials import ReplyKey
from llmos.infra.log.memory import MemoryBroker
from llmos.infra.log.port import Out, Place, Record
from llmos.infra.log.topics import spec_for, specs
from llmos.infra.simulation.loop import VirtualLoop
from llmos.infra.stages.one_in_one_out import DeadLettered, Emitted, Settlement
from llmos.infra.stages.origins import Origins
from llmos.infra.stages.tenants import TenantTable
from llmos.schemas.admitted import ADMITTED, Admitted, Refusal
from llmos.schemas.base import JSON, MSGPACK, Codec, encode
from llmos.schemas.catalog import Model
from llmos.schemas.dead import DEAD, DeadLetter
from llmos.schemas.errors import UnknownModel
from llmos.schemas.ids import epoch_of
from llmos.schemas.job import ErrorInfo, Task
from llmos.schemas.limits import RECORD_BYTES
from llmos.schemas.partials import PARTIALS, Outcome
from llmos.schemas.sealed import SEALED, Job
from llmos.schemas.telemetry import TELEMETRY, TaskFailed
from llmos.schemas.work import Work
from llmos.services.ingest.authenticating import Tenants
from llmos.services.ingest.credits import Credits
from llmos.services.ingest.handler import IngestHandler
from llmos.services.verify.checking import Counted
from llmos.services.verify.handler import VerifyHandler
from llmos.services.worker.held import HeldTasks
from llmos.services.worker.intake import Intake
from llmos.services.worker.publisher import Publisher
from llmos.services.worker.runners.events import Assignment
from llmos.services.worker.settling import Settler
from tests.fuzz.material import MODEL, packed_request
from tests.kit.bench import KEYS, NOW, PARTITIONS, HandClock, configured, context, record, tenant

Fate = Literal["done", "refused", "failed", "dead"]
"""What became of a request: its parts reached the engine, it was refused, its parts failed, it is a dead letter."""

T = TypeVar("T")
M = TypeVar("M")

CALLS, BYTES = 10_000, 2 * 1024 * 1024
"""Calls, and memory beyond `BYTES_PER_BYTE`, that a record may cost which is refused, dead, or one task."""
CALLS_OF_PARTS, BYTES_OF_PARTS = 200_000, 16 * 1024 * 1024
"""The same of a list of at most 1,024 prompts, each of which is a task of its own that is sealed, sent and opened."""
BYTES_PER_BYTE = 24
"""Memory that each byte of a record may take: an empty text of a list is one byte on the wire, and a pointer and an object in
the input and in its part."""

CALLS_PER_HEADER = 20
_HEADER_BYTES = 16
"""What a header has beside its content."""

LANE_CREDITS = {"jobs": 10**6, "bytes": 10**12}
DEVICE = "node-0.cpu0"
INCARNATION = 0
WORK = Place(f"work.{DEVICE}", 0)
REPLY_KEY = ReplyKey.fresh()


class Directory:
    """One model that can do all, with a tokenizer that counts characters."""

    _model = Model(
        identity="ab" * 32,
        name=MODEL,
        architecture="fuzz",
        kinds=["generate", "embed"],
        parameters=1,
        weight_bytes=4,
        context_tokens=4096,
        width=64,
        dtype="float32",
        chat=True,
    )

    def resolve(self, name: str) -> Model:
        """By its name."""
        if name != MODEL:
            raise UnknownModel(model=name)
        return self._model

    def count(self, model: Model, texts: Any) -> Counted:
        """A token a character."""
        return Counted([len(str(text)) for text in texts], exact=True)


class Engine:
    """Takes what reaches it."""

    def __init__(self) -> None:
        self.took: list[Assignment] = []

    def start(self) -> None:
        """Nothing to do."""

    def run(self, assignment: Assignment) -> None:
        """A task joins."""
        self.took.append(assignment)

    def stop(self, name: object) -> None:
        """A task leaves."""

    def order(self, order: object) -> None:
        """There are no models."""

    async def close(self, timeout: float) -> None:
        """Nothing to do."""


class Exceeded(AssertionError):
    """A record cost more than its bound."""


class Pipeline:
    """The three stages, alive as long as the test."""

    def __init__(self) -> None:
        settings = configured(ingest=dict.fromkeys(("interactive", "standard", "batch", "overflow"), LANE_CREDITS))
        self.loop = VirtualLoop(None)
        self.clock = HandClock()
        self._settings = settings
        self._count = 0
        self._run(self._build())

    async def _build(self) -> None:
        tenants = TenantTable(KEYS)
        for row in (
            tenant(),
            tenant("strict", plaintext="forbid", mac="required", reply_key=REPLY_KEY.public),
        ):
            tenants.table.take(record(encode(row), "tenants", key=row.name.encode()))
        ctx = context(self.clock, self._settings, service="ingest")
        self._ingest = IngestHandler(ctx, Tenants(tenants.named, tenants.secrets), Credits(ctx), PARTITIONS)
        self._ledger = ctx.ledger
        self._verify = VerifyHandler(context(self.clock, self._settings, service="verify"), tenants, Directory())

    def close(self) -> None:
        """Ends the loop."""
        self.loop.close()

    def request(
        self, value: bytes | None, content_type: str = MSGPACK, headers: tuple[tuple[str, bytes], ...] = ()
    ) -> Fate:
        """Sends a record to `requests` and on, as far as it gets; then a good one, which must be served.

        Raises:
            Exceeded: it cost too much.
            AssertionError: it became neither an answer nor a dead letter, or the good one was not served.
        """
        found = self._record(value, content_type, headers)
        size = len(value or b"") + sum(_HEADER_BYTES + len(content) for _, content in found.headers)
        fate = self._bounded(self._through(found), size, len(found.headers))
        assert self._run(self._through(self._record(packed_request(), MSGPACK, ()))) == "done"
        return fate

    def _record(self, value: bytes | None, content_type: str, headers: tuple[tuple[str, bytes], ...]) -> Record:
        self._count += 1
        own = () if content_type == MSGPACK else (("content-type", JSON.encode()),)
        return record(value, "requests", 0, self._count, headers=(*own, *headers), at=self.clock.at)

    def admitted(self, value: bytes) -> Job | Refusal | None:
        """Sends a record to `admitted` and a good one behind it. What verify makes of the first; None: a dead letter.

        Raises `Exceeded`.
        """
        self._count += 1
        found = record(value, "admitted", 0, self._count)
        (settlement,) = self._bounded(self._verify.settle(found.place, [found], Origins()), len(value))
        assert isinstance(self._run(self._good_job()), Job)
        if isinstance(settlement, DeadLettered):
            assert isinstance(DEAD.decode(settlement.out.value), DeadLetter)
            return None
        return _sealed(settlement)

    def work(self, value: bytes) -> Seen:
        """Sends a record to a worker's topic and a good task behind it, which must reach the engine.

        What became of the record. Raises `Exceeded`.
        """
        seen = self._bounded(self._take([value, self._run(self._good_work())]), len(value))
        assert seen.took, "the good task behind it did not reach the engine"
        assert seen.took[-1].name[1] == 2**40
        return seen._replace(took=seen.took[:-1])

    def _run(self, main: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(main)

    def _bounded(self, main: Coroutine[Any, Any, T], size: int, headers: int = 0) -> T:
        calls = _Calls()
        tracemalloc.start()
        sys.setprofile(calls)
        try:
            found = self._run(main)
        finally:
            sys.setprofile(None)
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        parts = found == "done"
        if peak > (BYTES_OF_PARTS if parts else BYTES) + BYTES_PER_BYTE * size:
            raise Exceeded(f"{peak} bytes of memory for a record of {size}")
        if calls.count > (CALLS_OF_PARTS if parts else CALLS) + CALLS_PER_HEADER * headers:
            raise Exceeded(f"{calls.count} calls for a record of {size}")
        return found

    # --- the way of a record ---

    async def _through(self, found: Record) -> Fate:
        (settlement,) = await self._ingest.settle(found.place, [found], Origins())
        message = _checked(settlement, found)
        if message is None:
            return "dead"
        if isinstance(message, Refusal):
            return "refused"
        await self._ledger.release([message.head.hold])
        assert isinstance(settlement, Emitted)
        admitted = record(settlement.out.value, "admitted", 0, found.offset)
        (settlement,) = await self._verify.settle(admitted.place, [admitted], Origins())
        job = _sealed(settlement)
        if isinstance(job, Refusal):
            return "refused"
        works = [work_of(job, index) for index in range(len(job.parts))]
        seen = await self._take([encode(work) for work in works])
        assert len(seen.took) + len(seen.outcomes) == len(works)
        assert not seen.broke
        assert not seen.dead
        return "failed" if seen.outcomes else "done"

    async def _good_work(self) -> bytes:
        return encode(work_of(await self._good_job(), 0, s=2**40))

    async def _good_job(self) -> Job:
        found = self._record(packed_request(), MSGPACK, ())
        (settlement,) = await self._ingest.settle(found.place, [found], Origins())
        admitted = _checked(settlement, found)
        assert isinstance(admitted, Admitted)
        await self._ledger.release([admitted.head.hold])
        again = record(encode(admitted), "admitted", 0, found.offset)
        (settlement,) = await self._verify.settle(again.place, [again], Origins())
        job = _sealed(settlement)
        assert isinstance(job, Job)
        return job

    async def _take(self, values: list[bytes]) -> Seen:
        """What a worker, in its first life, makes of these records of its topic."""
        broker = MemoryBroker(self.clock)
        broker.create([*specs(self._settings), spec_for(self._settings, WORK.topic)])
        ctx = context(self.clock, self._settings, broker, service="worker")
        engine, held = Engine(), HeldTasks(60.0)
        publisher = Publisher(ctx, held, Settler(held, DEVICE, INCARNATION), DEVICE, INCARNATION)
        intake = Intake(ctx, held, engine, publisher, DEVICE, INCARNATION)
        await ctx.log.emit(WORK, [Out(b"task", value) for value in (b"", *values)])
        tasks = [asyncio.ensure_future(intake.run()), asyncio.ensure_future(publisher.run())]
        await asyncio.wait(tasks, timeout=1.0)  # of virtual time
        ended = [task for task in tasks if task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for task in ended:
            task.result()
        return Seen(
            engine.took,
            [m for p in range(PARTITIONS) for m in _messages(broker, Place("partials", p), PARTIALS, Outcome)],
            _messages(broker, Place("telemetry", 0), TELEMETRY, TaskFailed),
            _messages(broker, Place("dead", 0), DEAD, DeadLetter),
        )


class Seen(NamedTuple):
    """What a worker did."""

    took: list[Assignment]
    """They reached the engine."""
    outcomes: list[Outcome]
    """They failed for good."""
    broke: list[TaskFailed]
    """They are to be sent again."""
    dead: list[DeadLetter]


class _Calls:
    """Counts calls, as a profile function; those of C functions, too."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, frame: FrameType, event: str, arg: object) -> None:
        if event in ("call", "c_call"):
            self.count += 1


def work_of(job: Job, index: int, s: int = 0) -> Work:
    """A part as the scheduler sends it to `DEVICE`."""
    task = Task(0, s, index, epoch_of(1, 1))
    return Work(
        task=task, incarnation=INCARNATION, head=job.head, part=job.parts[index], deadline=NOW + 100, dispatched_at=NOW
    )


def _checked(settlement: Settlement, found: Record) -> Admitted | Refusal | None:
    """What ingest made of a record: whole, bounded, in the right place; None: a dead letter."""
    if isinstance(settlement, DeadLettered):
        letter = DEAD.decode(settlement.out.value)
        assert isinstance(letter, DeadLetter)
        assert (letter.origin.topic, letter.origin.offset, letter.stage) == ("requests", found.offset, "ingest")
        assert "llmos itself failed" not in letter.error.message, letter.error.message
        return None
    assert isinstance(settlement, Emitted)
    assert len(settlement.out.value or b"") <= RECORD_BYTES
    message = ADMITTED.decode(settlement.out.value)
    assert isinstance(message, Admitted | Refusal)
    assert message.head.origin.offset == found.offset
    if isinstance(message, Refusal):
        _right(message.error)
    return message


def _sealed(settlement: Settlement) -> Job | Refusal:
    """What verify made of a submission."""
    assert isinstance(settlement, Emitted)
    assert len(settlement.out.value or b"") <= RECORD_BYTES
    message = SEALED.decode(settlement.out.value)
    assert isinstance(message, Job | Refusal)
    if isinstance(message, Refusal):
        _right(message.error)
    return message


def _right(error: ErrorInfo) -> None:
    """A refusal is the client's fault, not ours."""
    assert error.code not in ("unexpected", "internal"), error.message
    assert 0 < len(error.message) <= 2048


def _messages(broker: MemoryBroker, place: Place, codec: Codec, kind: type[M]) -> list[M]:
    stored = broker.dump(place.topic)[place.partition]
    return [m for s in stored if isinstance(m := codec.decode(s.record.value), kind)]
