"""The runners of a device and the tasks they have, stepped together: faults, deadlines and measurements in one place.

For the engine thread alone; it knows nothing of threads.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

import structlog

from llmos.infra.telemetry.faults import fault_of
from llmos.schemas.control import ModelOrder
from llmos.schemas.errors import DeviceOutOfMemory
from llmos.schemas.job import Usage
from llmos.services.worker.runners.base import Meter, Runner
from llmos.services.worker.runners.classify import classify
from llmos.services.worker.runners.events import (
    Assignment,
    Began,
    Event,
    ItemEnded,
    Pins,
    TaskBroke,
    TaskEnded,
    TaskExpired,
    TaskName,
    TaskStopped,
)
from llmos.services.worker.runners.keeper import ModelKeeper
from llmos.services.worker.runners.models import Models

log = structlog.get_logger()

FAULTS = 3
FAULT_SECONDS = 60.0
"""So many unexpected faults of runners within this time, and the process is given up: starting anew may mend it."""

Factory = Callable[[Models], Runner]


@dataclass(slots=True, eq=False)
class _Post:
    """A runner, how to make it anew, and what it has of the models."""

    factory: Factory
    models: Models
    runner: Runner


class _Task(NamedTuple):
    assignment: Assignment
    arrived: float
    """By the meter's clock."""
    post: _Post


class Crew:
    """All runners of one device."""

    def __init__(
        self, factories: Sequence[Factory], keeper: ModelKeeper, meter: Meter, clock: Callable[[], float] = time.time
    ) -> None:
        """`clock` tells the time that deadlines are in (Unix seconds)."""
        self._keeper = keeper
        self._meter = meter
        self._clock = clock
        self._posts = [self._post(factory) for factory in factories]
        self._by_kind = {kind: post for post in self._posts for kind in post.runner.kinds}
        self._tasks: dict[TaskName, _Task] = {}
        self._next_deadline = inf
        """Not later than the earliest deadline of the tasks."""
        self._faults: deque[float] = deque(maxlen=FAULTS)

    @property
    def busy(self) -> bool:
        """Whether any runner has a task."""
        return any(post.runner.busy() for post in self._posts)

    @property
    def next_deadline(self) -> float:
        """When a round is due for a deadline's sake at the latest (Unix seconds); infinity: never."""
        return self._next_deadline

    def start(self, assignment: Assignment, arrived: float) -> list[Event]:
        """A task joins; it came at `arrived` by the meter's clock."""
        post = self._by_kind[assignment.kind]
        try:
            post.runner.start(assignment)
        except Exception as problem:  # noqa: BLE001  sorted in one place
            used = self._meter.let_go(assignment.name)
            return [TaskBroke(assignment.name, classify(problem), used), *self._broke_down(post, problem)]
        self._tasks[assignment.name] = _Task(assignment, arrived, post)
        self._next_deadline = min(self._next_deadline, assignment.deadline)
        return []

    def stop(self, name: TaskName) -> list[Event]:
        """A task leaves, whatever it was doing; gives what it used, and what became of others."""
        if name not in self._tasks:
            return []
        used, events = self._leave(name)
        return [TaskStopped(name, used), *events]

    def _leave(self, name: TaskName) -> tuple[Usage, list[Event]]:
        task = self._tasks.pop(name)
        self._keeper.forget(name)
        events: list[Event] = []
        try:
            task.post.runner.stop(name)
        except Exception as problem:  # noqa: BLE001  sorted in one place
            events = self._broke_down(task.post, problem)
        return self._meter.let_go(name), events

    def order(self, order: ModelOrder | Pins) -> None:
        """What an operator wants of the models."""
        self._keeper.order(order)

    def round(self) -> tuple[list[Event], bool]:
        """Takes over loaded models, stops what expired, then steps every runner that has something to do.

        Gives the events, and whether the device did anything: else there is nothing to do until something comes in,
        a load ends or a model's turn is over.
        """
        told = self._keeper.turn()
        events = self._expire()
        for post in self._posts:
            if post.runner.busy():
                events += self._step(post)
        return [*told, *self._settle(events)], bool(events) or self._keeper.residents.in_use

    def _step(self, post: _Post) -> list[Event]:
        meter = self._meter
        meter.step_began = meter.clock()
        try:
            return post.runner.step()
        except Exception as problem:  # noqa: BLE001  sorted in one place
            return self._broke_down(post, problem)
        finally:
            meter.steps += 1
            meter.step_began = meter.step_limit_seconds = 0.0

    def _broke_down(self, post: _Post, problem: Exception) -> list[Event]:
        """A runner's own fault: its tasks break, it is made anew; raises the fault where there were too many."""
        log.error("runner_broke_down", kinds=post.runner.kinds, **fault_of(problem)._asdict())
        now = self._meter.clock()
        self._faults.append(now)
        if len(self._faults) == FAULTS and now - self._faults[0] <= FAULT_SECONDS:
            raise problem
        error = classify(problem)
        names = [name for name, task in self._tasks.items() if task.post is post]
        for name in names:
            del self._tasks[name]
            self._keeper.forget(name)
        post.models.abandon()
        fresh = self._post(post.factory)
        post.models, post.runner = fresh.models, fresh.runner
        return [TaskBroke(name, error, self._meter.let_go(name)) for name in names]

    def _expire(self) -> list[Event]:
        now = self._clock()
        if now < self._next_deadline:
            return []
        expired = [name for name, task in self._tasks.items() if task.assignment.deadline <= now]
        events: list[Event] = []
        for name in expired:
            if name not in self._tasks:
                continue  # the runner broke down when another one left
            used, others = self._leave(name)
            events += [TaskExpired(name, used), *others]
        self._next_deadline = min((task.assignment.deadline for task in self._tasks.values()), default=inf)
        return events

    def _settle(self, events: Sequence[Event]) -> list[Event]:
        """What the events mean for the tasks and for the device's memory; gives them, with what broken attempts used."""
        settled = [self._accounted(event) for event in events]
        short = False
        for event in settled:
            if isinstance(event, Began):
                self._began(event.name)
            elif isinstance(event, TaskEnded | TaskBroke):
                self._tasks.pop(event.name, None)
                self._keeper.forget(event.name)
            if isinstance(event, ItemEnded | TaskBroke) and isinstance(event.error, DeviceOutOfMemory):
                short = True
        if short:
            self._keeper.residents.relieve()
        return settled

    def _accounted(self, event: Event) -> Event:
        """The event, with what the attempt used where it broke; the counters of what is over are dropped."""
        if not isinstance(event, TaskEnded | TaskBroke) or event.name not in self._meter.used:
            return event
        used = self._meter.let_go(event.name)
        return event._replace(used=used) if isinstance(event, TaskBroke) else event

    def _began(self, name: TaskName) -> None:
        task = self._tasks.get(name)
        if task is None:
            return
        waited = self._meter.clock() - task.arrived - self._keeper.excused_seconds(name)
        self._meter.started += 1
        self._meter.waited_seconds += max(waited, 0.0)

    def _post(self, factory: Factory) -> _Post:
        models = Models(self._keeper)
        return _Post(factory, models, factory(models))
