"""Runs `echo`: costs no device time, and takes the same way as everything else."""

from __future__ import annotations

import msgspec

from llmos.pipelines.kinds.base import items_of
from llmos.schemas.tasks import EchoOutput
from llmos.services.worker.runners.base import Meter
from llmos.services.worker.runners.events import Assignment, Began, Event, ItemEnded, TaskEnded, TaskName

_encode = msgspec.msgpack.Encoder().encode


class EchoRunner:
    """All echo tasks at hand are one step."""

    kinds: tuple[str, ...] = ("echo",)

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._waiting: dict[TaskName, Assignment] = {}

    def start(self, assignment: Assignment) -> None:
        """A task joins."""
        self._waiting[assignment.name] = assignment

    def stop(self, name: TaskName) -> None:
        """A task leaves."""
        self._waiting.pop(name, None)

    def busy(self) -> bool:
        """Whether tasks wait."""
        return bool(self._waiting)

    def step(self) -> list[Event]:
        """Sends every text back."""
        waiting, self._waiting = self._waiting, {}
        events: list[Event] = []
        for name, assignment in waiting.items():
            events.append(Began(name))
            for item, text in enumerate(items_of(assignment.input.text)):
                events.append(ItemEnded(name, item, _encode(EchoOutput(text=text)), None, 0, 0))
            events.append(TaskEnded(name, 0.0))
        self._meter.tasks["", "echo"] += len(waiting)
        return events
