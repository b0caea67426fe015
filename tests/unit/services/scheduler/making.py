"""A desk in the middle of a system that is made of plain calls: submissions, heartbeats, turns."""

from __future__ import annotations

from typing import Any

import msgspec

from llmos.infra.log.memory import MemoryBroker
from llmos.infra.log.port import Place
from llmos.infra.log.topics import spec_for
from llmos.infra.runtime.context import Context
from llmos.infra.settings import Settings
from llmos.infra.stages.control_macs import by_scheduler
from llmos.schemas import topics
from llmos.schemas.admitted import Refusal
from llmos.schemas.catalog import Model
from llmos.schemas.control import CONTROL, CancelTask, Drain
from llmos.schemas.epochs import EPOCHS
from llmos.schemas.errors import ModelUnavailable
from llmos.schemas.ids import epoch_of
from llmos.schemas.job import ErrorInfo, Head, Part, Task
from llmos.schemas.partials import PARTIALS
from llmos.schemas.results import Receipt
from llmos.schemas.sealed import Job
from llmos.schemas.stream import STREAM
from llmos.schemas.telemetry import Heartbeat, TaskFailed, TasksDone, WorkerDied
from llmos.schemas.work import WORK
from llmos.services.scheduler.desk import Desk
from llmos.services.scheduler.effects import Effects
from llmos.services.scheduler.jobs import LiveTask
from llmos.services.scheduler.turn import Turn
from tests.kit.bench import HandClock, configured, context, head

TERM = 7
_CODECS = {"control": CONTROL, "partials": PARTIALS, "stream": STREAM, "epochs": EPOCHS}
MODEL = Model(
    identity="m", name="model", architecture="llama", kinds=["generate"], parameters=1, weight_bytes=50,
    context_tokens=9, dtype="float32",
)  # fmt: skip


def job_of(head_: Head, parts: int = 1, items: int = 1) -> Job:
    """A job whose parts are of no matter to the scheduler."""
    found = [Part(index=i, first_item=i * items, items=items, envelope=b"e", crc32c=0) for i in range(parts)]
    return Job(head=msgspec.structs.replace(head_, parts=parts, items=parts * items), parts=found)


class Office:
    """A desk, its turns and its clock; what it sends is read back by `sent`."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.clock = HandClock()
        settings = settings or configured()
        broker = MemoryBroker(self.clock)
        broker.create([spec_for(settings, topics.work_topic(device)) for device in ("d", "e")])
        self.ctx: Context = context(self.clock, settings, broker, "scheduler")
        self.desk = Desk(self.ctx.settings.scheduler, TERM, Effects(self.ctx), self.clock.at)
        self.turn = Turn(self.desk, {"m": MODEL})
        self._beats = 0
        self._seen: dict[Place, int] = {}

    # what comes

    def submit(self, s: int = 0, *, parts: int = 1, items: int = 1, restored: bool = False, **fields: Any) -> Head:
        """A job comes at `s` of partition 0; each has a key of its own unless `key` says so."""
        found = head(fields.pop("key", f"k{s}"), s, **fields)
        job = job_of(found, parts, items)
        self.desk.submission(0, s, job, self.clock.at, restored)
        return job.head

    def refuse(self, s: int = 0) -> None:
        """A refusal of an earlier stage comes."""
        error = ErrorInfo(code="invalid_request", message="no")
        self.desk.submission(0, s, Refusal(head=head(f"k{s}", s), error=error, stage="verify"), self.clock.at, False)

    def receive(self, head_: Head, s: int = 0, status: Any = "completed") -> None:
        """A receipt comes."""
        receipt = Receipt(
            job_id=head_.job_id, tenant=head_.tenant, partition=0, s=s, status=status, origin=head_.origin,
            content_digest=head_.content_digest, binds=status not in ("refused", "pointer"),
        )  # fmt: skip
        self.desk.receipt(receipt, self.clock.at)

    def beat(self, device: str = "d", incarnation: int = 3, **fields: Any) -> None:
        """A heartbeat comes; by default of a worker that lists what it was given."""
        known = self.desk.fleet.get(device)
        held = [self.named(task) for task in known.in_flight.values()] if known else []
        self._beats += 1
        values: dict[str, Any] = {
            "queued": held, "kinds": ["echo", "generate"], "slots": 1, "budget_bytes": 100, "pid": 11, "models": [MODEL.identity],
        }  # fmt: skip
        message = Heartbeat(
            device=device,
            node="n",
            incarnation=incarnation,
            sequence=self._beats,
            at=self.clock.at,
            **(values | fields),
        )
        self.desk.heartbeat(message, self.clock.at)

    def fail(self, task: LiveTask, message: str = "broken", code: str = ModelUnavailable.code) -> None:
        """A worker says that the present attempt failed."""
        error = ErrorInfo(code=code, message=message, retryable=True)
        self.desk.failed(
            TaskFailed(device=task.device, incarnation=task.incarnation, task=self.named(task), error=error),
            self.clock.at,
        )

    def finish(self, task: LiveTask) -> None:
        """A worker says that the outcome is on `partials`."""
        self.desk.done(TasksDone(device=task.device, incarnation=task.incarnation, tasks=[self.named(task)]))

    def die(self, device: str = "d", pid: int = 11, signal: int = 9) -> None:
        """A node says that the worker died."""
        self.desk.worker_died(
            WorkerDied(device=device, node="n", pid=pid, at=self.clock.at, reason="killed", signal=signal),
            self.clock.at,
        )

    def drain(self, device: str = "d", *, undo: bool = False) -> int:
        """An operator drains a device, or undoes it."""
        return self.desk.drain(Drain(device=device, at=self.clock.at, undo=undo))

    # what follows

    def take_turn(self, seconds: float = 0.0) -> float:
        """A turn, so many seconds later, until when the log works; gives how long until the next."""
        self.clock.at += seconds
        self.desk.own_word(self.clock.at)
        return self.turn.take(self.clock.at) - self.clock.at

    def task(self, s: int = 0, part: int = 0) -> LiveTask:
        """A live task."""
        found = self.desk.jobs.task((0, s, part))
        assert found is not None
        return found

    def named(self, task: LiveTask) -> Task:
        """Its present attempt."""
        return Task(*task.name, task.epoch)

    def states(self, s: int = 0) -> str:
        """The states of a job's tasks."""
        return " ".join(task.state for task in self.desk.jobs.live[0, s].tasks)

    async def sent(self, topic: str, partition: int = 0) -> list[Any]:
        """What was sent to a topic since the last look."""
        await self.desk.deaths.outbox.send(self.ctx.log)
        await self.desk.effects.send()
        place = Place(topic, partition)
        reader = self.ctx.log.reader()
        ends = await self.ctx.log.ends([place])
        seen = self._seen.get(place, 0)
        self._seen[place] = ends[place]
        if ends[place] == seen:
            return []
        reader.assign({place: seen})
        codec = WORK if topics.device_of(topic) else _CODECS[topic]
        (records,) = (await reader.read(1.0)).values()
        found = [None if record.value is None else codec.decode(record.value) for record in records]
        if topic != topics.CONTROL:
            return found
        assert all(by_scheduler(self.ctx.keyring, message) for message in found)
        bare = [msgspec.structs.replace(message, mac=b"") for message in found]
        return [msgspec.structs.replace(m, at=0.0) if isinstance(m, CancelTask) else m for m in bare]


def attempt(number: int, term: int = TERM) -> int:
    """The epoch of an attempt."""
    return epoch_of(term, number)
