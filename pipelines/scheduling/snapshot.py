"""What the scheduling decisions see: tasks that wait, in groups that are alike, and devices as measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from llmos.pipelines.scheduling.costs import Cost
from llmos.pipelines.scheduling.order import Key
from llmos.pipelines.scheduling.shares import Shares


class Group(NamedTuple):
    """Tasks that every device treats alike, of one tenant and one level of urgency."""

    kind: str
    model: str
    """Identity; empty where the kind needs none."""
    alone: bool = False
    """Workers have died under these tasks: each runs alone on its device, to spare its neighbours."""
    avoid: str = ""
    """A device that failed them: they are tried on another. The scheduler takes the name away again where there is none."""
    tenant: str = ""
    level: int = 0
    """`Key.level` of its tasks."""


class Waiting(NamedTuple):
    """The waiting tasks of one group."""

    group: Group
    tasks: Sequence[Key]
    """In order; at least as many as a decision looks at (`decide.sight_of`), if there are as many."""
    weight_bytes: int = 0
    """Of the group's model: what a load reads."""
    total: int = 0
    """All that wait, also those beyond `tasks`."""
    need_bytes: int = 0
    """What the model takes of a device's memory: weights, and keys and values of a sequence; 0: the weights alone."""


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
    work_seconds: Mapping[str, float]
    """Predicted device time of what is in flight, by kind."""
    costs: Mapping[tuple[str, str], Cost]
    """By (model, kind)."""
    load_bytes_per_second: float
    """Measured speed of loading."""
    loading: Mapping[str, float] = {}
    """Models on their way into its memory: seconds until they should be there."""
    resident_bytes: int = 0
    memory_pressure: float = 0.0
    """Share of the last 10 s in which its machine waited for memory, 0 … 1."""
    pinned_bytes: int = 0
    """Of the resident models, what those take that are pinned: they leave for nobody."""

    @property
    def total_in_flight(self) -> int:
        """Tasks in flight of any kind."""
        return sum(self.in_flight.values())

    @property
    def expected_seconds(self) -> float:
        """Predicted device time of what is in flight."""
        return sum(self.work_seconds.values())


class Load(Protocol):
    """What changes of a device while a decision is made: a `DeviceView`, or its working copy."""

    @property
    def device(self) -> str:
        """Its name."""

    @property
    def slots(self) -> int:
        """Tasks it can usefully run at once."""

    @property
    def window(self) -> Mapping[str, int]:
        """Tasks in flight at most, by kind."""

    @property
    def in_flight(self) -> Mapping[str, int]:
        """Tasks in flight, by kind."""

    @property
    def in_flight_alone(self) -> int:
        """Those that must be alone."""

    @property
    def total_in_flight(self) -> int:
        """Tasks in flight of any kind."""

    @property
    def expected_seconds(self) -> float:
        """Predicted device time of what is in flight."""

    @property
    def utilisation(self) -> float:
        """ρ."""


class Rules(NamedTuple):
    """The settings that steer decisions."""

    utilisation_limit: float
    policy: str = "completion"
    default_service_seconds: float = 0.5
    """Assumed where nothing was measured yet."""
    ageing_seconds: float = math.inf
    """See `ageing`."""
    sooner_margin: float = 1.1
    """A task waits for a busy device if another would take so many times as long; infinite: it never does."""
    switch_loads: float = 2.0
    """Models take turns on a device where they do not fit together after so many loads' time at the earliest."""
    memory_pressure_limit: float = 0.5
    """Above it nothing is loaded."""
    record: bool = False
    """Whether decisions tell the candidates they saw."""
    weights: Mapping[str, float] = {}
    """Of tenants; those that are missing have 1."""


class Carried(NamedTuple):
    """What goes from one decision to the next."""

    turn: int = 0
    """Where round-robin goes on."""
    drawn: int = 0
    """Random numbers used so far."""
    since_aged: int = 0
    """Choices since the last overdue one."""
    shares: Shares = Shares()


class Snapshot(NamedTuple):
    """Everything a decision sees."""

    waiting: Sequence[Waiting]
    devices: Sequence[DeviceView]
    rules: Rules
    carried: Carried = Carried()
