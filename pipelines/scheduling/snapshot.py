"""What the scheduling decisions see: tasks that wait, in groups that are alike, and devices as measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from llmos.pipelines.scheduling.order import Key


class Group(NamedTuple):
    """Tasks that every device treats alike."""

    kind: str
    model: str
    """Identity; empty where the kind needs none."""
    alone: bool = False
    """Workers have died under these tasks: each runs alone on its device, to spare its neighbours."""


class Waiting(NamedTuple):
    """The waiting tasks of one group."""

    group: Group
    tasks: Sequence[Key]
    """In order; at least as many as all devices have room for."""
    weight_bytes: int = 0
    """Of the group's model."""
    total: int = 0
    """All that wait, also those beyond `tasks`."""


class DeviceView(NamedTuple):
    """A device as the scheduler knows it."""

    device: str
    alive: bool
    draining: bool
    kinds: frozenset[str]
    models: frozenset[str]
    """Identities of the models that its node has."""
    slots: int
    window: Mapping[str, int]
    """Tasks in flight at most, by kind; kinds that are missing share the entry `""`."""
    in_flight: Mapping[str, int]
    """Tasks in flight, by kind."""
    in_flight_alone: int
    resident: frozenset[str]
    """Identities that are resident or loading."""
    budget_bytes: int
    utilisation: float
    """ρ = λ/μ, measured."""
    expected_seconds: float
    """Service time of what is in flight, as far as it can be told."""
    mean_service_seconds: Mapping[tuple[str, str], float]
    """Measured, by (model, kind)."""
    load_bytes_per_second: float
    """Measured speed of loading."""

    @property
    def total_in_flight(self) -> int:
        """Tasks in flight of any kind."""
        return sum(self.in_flight.values())


class Rules(NamedTuple):
    """The settings that steer decisions."""

    utilisation_limit: float
    round_robin: bool = False
    default_service_seconds: float = 0.5
    """Assumed where nothing was measured yet."""


class Snapshot(NamedTuple):
    """Everything a decision sees."""

    waiting: Sequence[Waiting]
    devices: Sequence[DeviceView]
    rules: Rules
    turn: int = 0
    """Where round-robin goes on."""
