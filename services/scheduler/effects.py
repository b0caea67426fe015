"""What a turn sends: work, verdicts, outcomes in a worker's place, states, cancels of tasks; made in one place each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmos.infra.log.port import Out, Place
from llmos.infra.runtime.context import Context
from llmos.infra.stages.control_macs import as_scheduler
from llmos.infra.stages.noting import note
from llmos.infra.stages.offering import Offering
from llmos.infra.stages.sending import Outbox
from llmos.schemas import topics
from llmos.schemas.base import Message, encode
from llmos.schemas.control import CancelTask, Drain, Orders
from llmos.schemas.errors import LlmosError
from llmos.schemas.job import ErrorInfo, Item, Origin, Task, error_info
from llmos.schemas.partials import Outcome, Spent, Verdict, VerdictKind
from llmos.schemas.states import JobState
from llmos.schemas.stream import State
from llmos.schemas.work import Work
from llmos.services.scheduler.jobs import LiveJob, LiveTask

SOURCE = "scheduler"
NOWHERE = "none"
"""Stands for the device of an outcome that no device made."""


class Effects:
    """Collects what a turn sends."""

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._outbox = Outbox()
        self.reply_events = Offering(ctx)
        """Runs beside the loop."""

    def work(self, task: LiveTask, now: float) -> None:
        """The task goes to its device."""
        job = task.job
        message = Work(
            task=task_of(task),
            incarnation=task.incarnation,
            head=job.head,
            part=task.part,
            deadline=job.deadline,
            dispatched_at=now,
        )
        key = "{}:{}:{}".format(*task.name).encode()
        self._outbox.put(Place(topics.work_topic(task.device), 0), Out(key, encode(message)))
        note(
            SOURCE, "dispatched", job=job.head.job_id, tenant=job.head.tenant, epoch=task.epoch,
            seconds=max(now - job.head.sealed_at, 0.0),
        )  # fmt: skip

    def verdict(
        self,
        job: LiveJob,
        kind: VerdictKind,
        error: ErrorInfo | None,
        original: tuple[Origin, int] | None = None,
        spent: Sequence[Spent] = (),
    ) -> None:
        """The job ends here; `spent`: what attempts took at parts that have no outcome."""
        message = Verdict(
            s=job.s,
            head=job.head,
            verdict=kind,
            error=error,
            original=original[0] if original else None,
            original_s=original[1] if original else None,
            epoch=max((task.epoch for task in job.tasks), default=0),
            spent=[*spent],
        )
        self._outbox.put(Place(topics.PARTIALS, job.partition), Out(job.head.job_id, encode(message)))
        note(SOURCE, kind, job=job.head.job_id, tenant=job.head.tenant, seconds=0.0, code=error.code if error else "")

    def outcome_failed(self, task: LiveTask, error: LlmosError | ErrorInfo) -> None:
        """The part ends with an error for each of its items; the others of its job go on."""
        part, head = task.part, task.job.head
        info = error if isinstance(error, ErrorInfo) else error_info(error)
        items = [Item(output_index=index, error=info) for index in range(part.first_item, part.first_item + part.items)]
        message = Outcome(task=task_of(task), head=head, device=task.device or NOWHERE, items=items)
        self._outbox.put(Place(topics.PARTIALS, task.job.partition), Out(head.job_id, encode(message)))
        note(SOURCE, "given_up", job=head.job_id, tenant=head.tenant, epoch=task.epoch, seconds=0.0, code=error.code)

    def state(
        self, job: LiveJob, state: JobState, detail: str, epoch: int = 0, device: str = "", **waiting: Any
    ) -> None:
        """Tells the job's listeners. `waiting`: rule, need, have, position, predicted_start_at, of a job that waits."""
        if job.head.events == "none":
            return
        message = State(
            job_id=job.head.job_id,
            request_id=job.head.request_id,
            origin=job.head.origin,
            state=state,
            partition=job.partition,
            s=job.s,
            epoch=epoch,
            source=SOURCE,
            sequence=job.told,
            at=self._ctx.clock.now(),
            device=device,
            detail=detail[:2048],
            **waiting,
        )
        job.told += 1
        out = Out(job.head.job_id, encode(message))
        if job.head.reply_to is None:
            self._outbox.put(Place(topics.STREAM, job.partition), out)
        else:
            self.reply_events.put(job.head.reply_to, out, job.head.job_id)

    def cancel_tasks(self, partition: int, s: int) -> None:
        """Workers stop what they do for this submission."""
        self.control(f"{partition}:{s}", CancelTask(partition=partition, s=s, at=self._ctx.clock.now()))

    def control(self, key: str, message: Orders | Drain) -> None:
        """A word to workers and nodes, or to the next scheduler, signed under the key `control`."""
        self.put(Place(topics.CONTROL, 0), key, as_scheduler(self._ctx.keyring, message))

    def catalog(self, key: bytes, message: Message | None) -> Out:
        """A row of `catalog`, None to take it away; gives the record."""
        out = Out(key, None if message is None else encode(message))
        self._outbox.put(Place(topics.CATALOG, 0), out)
        return out

    def put(self, place: Place, key: str, message: Message) -> None:
        """Any other message."""
        self._outbox.put(place, Out(key.encode(), encode(message)))

    async def send(self) -> None:
        """Sends everything; returns when all is acknowledged. Raises `Ambiguous`."""
        await self._outbox.send(self._ctx.log)


def task_of(task: LiveTask) -> Task:
    """The task's present attempt, as it travels."""
    return Task(*task.name, task.epoch)
