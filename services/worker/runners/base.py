"""The interface of a runner, and the measurements all of them keep. Thread-confined: the engine thread alone calls it."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Protocol

from llmos.services.worker.runners.events import Assignment, Event, TaskName


class Runner(Protocol):
    """Runs tasks of some kinds, step by step; tasks join and leave between steps."""

    kinds: tuple[str, ...]

    def start(self, assignment: Assignment) -> None:
        """A task joins; it may wait inside until there is room."""

    def stop(self, name: TaskName) -> None:
        """A task leaves without an event; unknown names are nothing to it."""

    def busy(self) -> bool:
        """Whether a step would do anything."""

    def step(self) -> list[Event]:
        """Does a bounded piece of work. Never raises for one task's sake: that is an event."""


@dataclass(slots=True)
class Meter:
    """What the device served since the process started, by (model, kind). Read by the event loop, written here."""

    tasks: Counter[tuple[str, str]] = field(default_factory=Counter)
    busy_seconds: defaultdict[tuple[str, str], float] = field(default_factory=lambda: defaultdict(float))
    tokens_in: Counter[tuple[str, str]] = field(default_factory=Counter)
    tokens_out: Counter[tuple[str, str]] = field(default_factory=Counter)
    wall_busy_seconds: float = 0.0
    """With work in hand; loading is not service, and not counted."""
    loading_seconds: float = 0.0
    steps: int = 0
