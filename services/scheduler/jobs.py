"""Live jobs and their tasks, and who waits in which order. No I/O; every change of a task's state is made here."""

from __future__ import annotations

import bisect
import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from llmos.pipelines.scheduling.order import Key, key_of
from llmos.pipelines.scheduling.snapshot import Group
from llmos.schemas.job import Head, Lane, Part, Usage
from llmos.schemas.partials import Spent
from llmos.schemas.states import TASK, TaskState, may_follow

TaskName = tuple[int, int, int]
"""Partition, s, part."""


class Heard(NamedTuple):
    """What an attempt had used when it was heard of last."""

    epoch: int
    device: str
    usage: Usage


@dataclass(slots=True, eq=False)
class LiveTask:
    """A part of a live job on its way."""

    job: LiveJob
    part: Part
    key: Key
    group: Group
    state: TaskState = "waiting"
    queued: bool = False
    """It is in the waiting lists (else it waits for a time, see `Jobs.later`)."""
    attempts: int = 0
    epoch: int = 0
    device: str = ""
    incarnation: int = -1
    dispatched_at: float = 0.0
    expected_seconds: float = 0.0
    done_at: float = 0.0
    """When it should be done, as predicted."""
    deaths: int = 0
    faults: int = 0
    """Attempts that the engine or the device failed."""
    avoid_until: float = 0.0
    """Until then it keeps away from the device in its group's `avoid`, if there is another."""
    heard: Heard | None = None
    """Of the latest attempt that used something, whatever became of it."""

    @property
    def name(self) -> TaskName:
        """Partition, s, part."""
        return self.key.partition, self.key.s, self.key.part

    def become(self, state: TaskState) -> None:
        """Changes the state, as the table of states allows."""
        if state != self.state:
            assert may_follow(TASK, self.state, state), f"a task may not go from {self.state} to {state}"
            self.state = state


@dataclass(slots=True, eq=False)
class LiveJob:
    """A submission without a receipt."""

    partition: int
    s: int
    head: Head
    deadline: float
    restored: bool = False
    verdict: str = ""
    """The verdict that was sent, if any: nothing more is done for it."""
    tasks: list[LiveTask] = field(default_factory=list)
    told: int = 0
    """State events sent: their sequence."""

    def spent(self) -> list[Spent]:
        """What attempts took at the parts that are not over."""
        parts = [task for task in self.tasks if task.state not in ("done", "ended")]
        return [spent for task in parts if (spent := _spent(task)) is not None]


def _spent(task: LiveTask) -> Spent | None:
    """None: no attempt was made."""
    heard = task.heard or Heard(0, "", Usage())
    epoch = max(task.epoch, heard.epoch)
    if not epoch:
        return None
    devices = sorted({device for device in (heard.device, task.device) if device})
    return Spent(part=task.part.index, epoch=epoch, devices=devices, usage=heard.usage)


class Jobs:
    """All live jobs of all partitions."""

    def __init__(self) -> None:
        self.live: dict[tuple[int, int], LiveJob] = {}
        self.waiting_by_lane: Counter[Lane] = Counter()
        self._by_id: dict[bytes, set[tuple[int, int]]] = {}
        self._tasks: dict[TaskName, LiveTask] = {}
        self._waiting: dict[Group, list[Key]] = {}
        self._deadlines: list[tuple[float, int, int]] = []
        self._later: list[tuple[float, TaskName]] = []

    def add(self, job: LiveJob, parts: list[Part]) -> None:
        """A new live job; its tasks do not wait yet."""
        head = job.head
        self.live[job.partition, job.s] = job
        self._by_id.setdefault(head.job_id, set()).add((job.partition, job.s))
        for part in parts:
            tokens = part.input_tokens, part.max_output_tokens, max(part.items, 1) if part.max_output_tokens else 1
            place = job.partition, job.s, part.index
            key = key_of(head.lane, head.priority, job.deadline, head.sealed_at, *place, *tokens)
            task = LiveTask(job, part, key, Group(head.kind, head.model, tenant=head.tenant, level=key.level))
            job.tasks.append(task)
            self._tasks[task.name] = task
        if parts:
            heapq.heappush(self._deadlines, (job.deadline, job.partition, job.s))

    def remove(self, partition: int, s: int) -> LiveJob | None:
        """The job has its receipt."""
        job = self.live.pop((partition, s), None)
        if job is None:
            return None
        same = self._by_id[job.head.job_id]
        same.discard((partition, s))
        if not same:
            del self._by_id[job.head.job_id]
        for task in job.tasks:
            self.end(task)
            del self._tasks[task.name]
        if len(self._deadlines) > 2 * len(self.live) + 1000:
            self._deadlines = [entry for entry in self._deadlines if entry[1:] in self.live]
            heapq.heapify(self._deadlines)
        return job

    @property
    def parts(self) -> int:
        """Parts of live jobs."""
        return len(self._tasks)

    def task(self, name: TaskName) -> LiveTask | None:
        """A live task by name."""
        return self._tasks.get(name)

    def with_id(self, job_id: bytes) -> list[LiveJob]:
        """The live submissions of a job id."""
        return [self.live[name] for name in sorted(self._by_id.get(job_id, ()))]

    def wait(self, task: LiveTask) -> None:
        """The task waits for a device, from now on."""
        if not task.queued:
            bisect.insort(self._waiting.setdefault(task.group, []), task.key)
            task.queued = True
            self.waiting_by_lane[task.job.head.lane] += 1

    def later(self, task: LiveTask, at: float) -> None:
        """The task waits from `at` on."""
        heapq.heappush(self._later, (at, task.name))

    def ripe(self, now: float) -> None:
        """Lets the tasks wait whose time has come."""
        while self._later and self._later[0][0] <= now:
            task = self._tasks.get(heapq.heappop(self._later)[1])
            if task is not None and task.state in ("waiting", "retrying"):
                self.wait(task)

    def leave(self, task: LiveTask) -> None:
        """The task no longer waits."""
        if task.queued:
            keys = self._waiting[task.group]
            del keys[bisect.bisect_left(keys, task.key)]
            if not keys:
                del self._waiting[task.group]
            task.queued = False
            self.waiting_by_lane[task.job.head.lane] -= 1

    def end(self, task: LiveTask) -> None:
        """Nothing more is done for the task."""
        self.leave(task)
        task.become("ended")

    def regroup(self, task: LiveTask, group: Group) -> None:
        """Puts a task into another group; one that waits keeps its place in the order."""
        assert task.state != "dispatched", "its device counts it by its group"
        queued = task.queued
        self.leave(task)
        task.group = group
        if queued:
            self.wait(task)

    @property
    def anybody_waits(self) -> bool:
        """Whether a task waits for a device."""
        return bool(self._waiting)

    def waiting(self) -> Iterator[tuple[Group, list[Key]]]:
        """The groups that wait, each in order."""
        yield from self._waiting.items()

    def expired(self, now: float) -> list[LiveJob]:
        """Takes the jobs whose deadline has passed and that have no verdict yet."""
        found = []
        while self._deadlines and self._deadlines[0][0] <= now:
            _, partition, s = heapq.heappop(self._deadlines)
            job = self.live.get((partition, s))
            if job is not None and not job.verdict:
                found.append(job)
        return found

    def next_time(self) -> float | None:
        """When a deadline passes or a task becomes ripe."""
        times = [heap[0][0] for heap in (self._deadlines, self._later) if heap]
        return min(times, default=None)
