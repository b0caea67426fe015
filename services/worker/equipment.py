"""A device and what runs on it, as the rest of the worker sees them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple, Protocol

from llmos.schemas.control import ModelOrder
from llmos.schemas.telemetry import DeviceLoad, HostLoad, Residency
from llmos.services.worker.runners.base import Meter
from llmos.services.worker.runners.events import Assignment, Event, Pins, TaskName


class Engine(Protocol):
    """What runs tasks; `EngineThread` is the one of real devices."""

    def start(self) -> None:
        """Begins."""

    def run(self, assignment: Assignment) -> None:
        """A task joins."""

    def stop(self, name: TaskName) -> None:
        """A task leaves."""

    def order(self, order: ModelOrder | Pins) -> None:
        """What an operator wants of the models; also before `start`."""

    async def close(self, timeout: float) -> None:
        """Ends within `timeout` seconds."""


def _no_models() -> list[str]:
    return []


def _verify_nothing(order: ModelOrder) -> None:
    """There are no models."""


class Equipment(NamedTuple):
    """A device with what runs on it."""

    device: str
    """Name, as topics and heartbeats have it."""
    kinds: list[str]
    meter: Meter
    residents: Callable[[], list[Residency]]
    budget_bytes: int
    make_engine: Callable[[Callable[[list[Event]], None], Callable[[BaseException], None]], Engine]
    """Given where events go, and what to call when the engine dies; both on the event loop."""
    models: Callable[[], list[str]] = _no_models
    """Identities of the models that the node has now."""
    verify: Callable[[ModelOrder], None] = _verify_nothing
    """Carries out an order to verify models."""
    sample: Callable[[], tuple[HostLoad, DeviceLoad]] | None = None
    """How loaded machine and device are; none: nobody looks."""
    beside: tuple[Callable[[], Coroutine[Any, Any, None]], ...] = ()
    """Runs as long as the worker does."""
