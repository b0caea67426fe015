"""Faults, deadlines and measurements of all runners together."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from llmos.pipelines.engine.residents import ResidentModels
from llmos.schemas.errors import DeviceOutOfMemory
from llmos.schemas.job import Usage
from llmos.services.worker.crew import FAULT_SECONDS, FAULTS, Crew
from llmos.services.worker.runners.base import Meter
from llmos.services.worker.runners.events import (
    Assignment,
    Began,
    Event,
    TaskBroke,
    TaskEnded,
    TaskExpired,
    TaskName,
    TaskStopped,
)
from llmos.services.worker.runners.keeper import ModelKeeper
from llmos.services.worker.runners.models import Models
from tests.unit.services.worker.making import no_models


@dataclass
class Toy:
    """Does one task a step; an input of `raise` or `memory` breaks it."""

    models: Models
    kinds: tuple[str, ...] = ("toy",)
    tasks: dict[TaskName, Assignment] = field(default_factory=dict)
    stopped: list[TaskName] = field(default_factory=list)

    def start(self, assignment: Assignment) -> None:
        """Joins."""
        if assignment.input == "no start":
            raise KeyError("no start")
        self.tasks[assignment.name] = assignment

    def stop(self, name: TaskName) -> None:
        """Leaves."""
        self.stopped.append(name)
        del self.tasks[name]

    def busy(self) -> bool:
        """While there are tasks."""
        return bool(self.tasks)

    def step(self) -> list[Event]:
        """The oldest task."""
        name, assignment = next(iter(self.tasks.items()))
        if assignment.input == "raise":
            raise ValueError("a bug")
        del self.tasks[name]
        if assignment.input == "memory":
            return [Began(name), TaskBroke(name, DeviceOutOfMemory(device="d", problem="p"))]
        return [Began(name), TaskEnded(name, 0.0)]


class Other(Toy):
    """Another kind."""

    def __init__(self, models: Models) -> None:
        super().__init__(models, kinds=("other",))


class Bench:
    """A crew of two whose clocks the test sets."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.meter = Meter(clock=lambda: self.now)
        self.made: list[Toy] = []
        self.residents: ResidentModels = no_models()
        self.relieved = 0
        self.keeper = ModelKeeper(self.residents, self.meter, lambda event: None)
        self.crew = Crew([self._make(Toy), self._make(Other)], self.keeper, self.meter, clock=lambda: self.now)

    def _make(self, kind: type[Toy]) -> object:
        def make(models: Models) -> Toy:
            self.made.append(kind(models))
            return self.made[-1]

        return make

    def start(self, s: int, what: str = "", kind: str = "toy", deadline: float = 2000.0) -> list[Event]:
        return self.crew.start(Assignment((0, s, 0, 1), kind, "", what, deadline), self.now)

    def round(self) -> list[tuple[str, int]]:
        events, _ = self.crew.round()
        return [(type(event).__name__, event.name[1]) for event in events]  # type: ignore[union-attr]


def test_tasks_run_and_their_waits_are_measured() -> None:
    """From arrival to beginning, over all that began."""
    bench = Bench()
    bench.start(1)
    bench.start(2)
    bench.now += 1.0
    assert bench.round() == [("Began", 1), ("TaskEnded", 1)]
    bench.now += 2.0
    assert bench.round() == [("Began", 2), ("TaskEnded", 2)]
    assert (bench.meter.started, bench.meter.waited_seconds, bench.meter.steps) == (2, 4.0, 2)
    assert (bench.crew.busy, bench.crew.round()) == (False, ([], False))


def test_an_expired_task_is_stopped_between_steps() -> None:
    """It is told as expired and not run; others go on, and the next deadline counts from then on."""
    bench = Bench()
    bench.start(1, deadline=1005.0)
    bench.start(2, deadline=1010.0)
    bench.start(3)
    assert bench.crew.next_deadline == 1005.0
    bench.now = 1005.0
    events, worked = bench.crew.round()
    assert events[0] == TaskExpired((0, 1, 0, 1))
    assert worked
    assert bench.made[0].stopped == [(0, 1, 0, 1)]
    assert bench.crew.next_deadline == 1010.0


def test_a_bug_in_a_runner_breaks_its_tasks_and_nobody_elses() -> None:
    """They may fare better elsewhere; the runner is made anew and takes tasks again."""
    bench = Bench()
    bench.start(1, "raise")
    bench.start(2)
    bench.start(3, kind="other")
    assert bench.round() == [("TaskBroke", 1), ("TaskBroke", 2), ("Began", 3), ("TaskEnded", 3)]
    assert len(bench.made) == 3
    bench.start(4)
    assert bench.round() == [("Began", 4), ("TaskEnded", 4)]
    assert (bench.meter.step_seconds, bench.meter.step_limit_seconds) == (0.0, 0.0)


def test_a_task_that_cannot_even_join_breaks() -> None:
    """And the runner is made anew, for nobody knows what it was left with."""
    bench = Bench()
    bench.start(1)
    assert [(type(event), event.name[1]) for event in bench.start(2, "no start")] == [(TaskBroke, 2), (TaskBroke, 1)]  # type: ignore[union-attr]
    assert not bench.crew.busy


def test_too_many_bugs_end_the_process() -> None:
    """Three within a minute; fewer, or slower, do not."""
    bench = Bench()
    for s in range(2 * FAULTS):
        bench.start(s, "raise")
        bench.now += FAULT_SECONDS + 1.0
        assert bench.round() == [("TaskBroke", s)]
    for s in range(FAULTS - 2):
        bench.start(s, "raise")
        bench.round()
    bench.start(99, "raise")
    with pytest.raises(ValueError, match="a bug"):
        bench.round()


def test_after_memory_ran_out_what_is_idle_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """The task is told of, and the device's memory is relieved once."""
    bench = Bench()
    calls: list[int] = []
    monkeypatch.setattr(bench.residents, "relieve", lambda: calls.append(1))
    bench.start(1, "memory")
    assert bench.round() == [("Began", 1), ("TaskBroke", 1)]
    assert calls == [1]


def test_stopping_what_is_not_there_is_nothing() -> None:
    """It ended, or never came."""
    bench = Bench()
    assert bench.crew.stop((0, 1, 0, 1)) == []
    bench.start(1)
    assert bench.crew.stop((0, 1, 0, 1)) == [TaskStopped((0, 1, 0, 1), Usage())]
    assert bench.crew.stop((0, 1, 0, 1)) == []
    assert not bench.crew.busy


def test_who_leaves_before_the_end_is_told_with_what_it_used() -> None:
    """Stopped, expired, broken by itself or by a bug; the counters of what is over are dropped, whatever ended it."""
    bench = Bench()
    for s, (what, deadline) in enumerate(
        [("", 2000.0), ("", 1005.0), ("memory", 2000.0), ("raise", 2000.0), ("", 2000.0)]
    ):
        bench.start(s, what, deadline=deadline)
        bench.meter.using((0, s, 0, 1)).tokens_in = 10 + s
    assert bench.crew.stop((0, 0, 0, 1)) == [TaskStopped((0, 0, 0, 1), Usage(tokens_in=10))]
    bench.now = 1005.0
    events = [event for _ in range(2) for event in bench.crew.round()[0]]
    assert [
        (type(event), event.name[1], event.used.tokens_in)
        for event in events
        if isinstance(event, TaskExpired | TaskBroke)
    ] == [(TaskExpired, 1, 11), (TaskBroke, 2, 12), (TaskBroke, 3, 13), (TaskBroke, 4, 14)]
    bench.start(5)
    bench.meter.using((0, 5, 0, 1)).tokens_in = 15
    assert bench.round() == [("Began", 5), ("TaskEnded", 5)]
    assert bench.meter.used == {}
