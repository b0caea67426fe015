"""The tasks this worker has: queued, running, and those done lately. No I/O."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from llmos.infra.crypto.envelope import DataKey
from llmos.infra.stages.noting import note
from llmos.schemas.job import Item, Task
from llmos.schemas.work import Work
from llmos.services.worker.runners.events import TaskName

PartName = tuple[int, int, int]
"""Partition, s, part."""
LISTED_DONE = 1000
"""Done tasks that heartbeats list at most, the latest: enough for a scheduler that starts anew; the rest is computed
again, which costs time and nothing else."""


@dataclass(slots=True, eq=False)
class HeldTask:
    """One attempt at one part."""

    work: Work
    received_at: float
    running: bool = False
    started_at: float = 0.0
    first_output_at: float = 0.0
    items: list[Item] = field(default_factory=list)
    sequences: dict[int, int] = field(default_factory=dict)
    """Next sequence of token events, by output index."""
    states: int = 0
    """State events sent."""
    digest_key: bytes = b""
    """Of its outputs' digests; empty until the part is open."""
    data_key: DataKey | None = None
    """This attempt's own, for outputs and events; made with the first of them."""

    @property
    def name(self) -> TaskName:
        """Partition, s, part, epoch."""
        task = self.work.task
        return task.partition, task.s, task.part, task.epoch


class HeldTasks:
    """All tasks of this life."""

    def __init__(self, done_seconds: float) -> None:
        self._done_seconds = done_seconds
        self._held: dict[PartName, HeldTask] = {}
        self._done: deque[tuple[float, Task]] = deque(maxlen=LISTED_DONE)
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[HeldTask]:
        return iter(list(self._held.values()))

    def get(self, name: TaskName) -> HeldTask | None:
        """The held task, if this very attempt at it is held."""
        held = self._held.get(name[:3])
        return held if held is not None and held.name == name else None

    def at(self, part: PartName) -> HeldTask | None:
        """The attempt that is held at a part."""
        return self._held.get(part)

    def take(self, task: HeldTask) -> None:
        """A task came."""
        self._held[task.name[:3]] = task
        self._empty.clear()

    def drop(self, name: TaskName) -> HeldTask | None:
        """A task leaves without an outcome, or with one that is being sent."""
        task = self.get(name)
        if task is not None:
            del self._held[name[:3]]
        if not self._held:
            self._empty.set()
        return task

    async def emptied(self) -> None:
        """Returns when no task is held."""
        await self._empty.wait()

    def done(self, tasks: list[Task], now: float) -> None:
        """The outcomes of these are on `partials`."""
        self._done.extend((now, task) for task in tasks)

    def lists(self, now: float) -> tuple[list[Task], list[Task], list[Task]]:
        """Queued, running and done, for a heartbeat."""
        while self._done and now - self._done[0][0] > self._done_seconds:
            self._done.popleft()
        queued = [held.work.task for held in self._held.values() if not held.running]
        running = [held.work.task for held in self._held.values() if held.running]
        return queued, running, [task for _, task in self._done]


def note_stopped(held: HeldTask) -> None:
    """A task left before its end."""
    head = held.work.head
    note("worker", "stopped", job=head.job_id, tenant=head.tenant, epoch=held.work.task.epoch, seconds=0.0)
