"""A device and what runs on it, as the rest of the worker sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from llmos.schemas.telemetry import Residency
from llmos.services.worker.runners.base import Meter
from llmos.services.worker.runners.events import Assignment, Event, TaskName


class Engine(Protocol):
    """What runs tasks; `EngineThread` is the one of real devices."""

    def start(self) -> None:
        """Begins."""

    def run(self, assignment: Assignment) -> None:
        """A task joins."""

    def stop(self, name: TaskName) -> None:
        """A task leaves."""

    async def close(self, timeout: float) -> None:
        """Ends within `timeout` seconds."""


class Equipment(NamedTuple):
    """A device with what runs on it."""

    device: str
    """Name, as topics and heartbeats have it."""
    kinds: list[str]
    models: list[str]
    """Identities of the models that the node has."""
    meter: Meter
    residents: Callable[[], list[Residency]]
    budget_bytes: int
    make_engine: Callable[[Callable[[list[Event]], None], Callable[[BaseException], None]], Engine]
    """Given where events go, and what to call when the engine dies; both on the event loop."""
