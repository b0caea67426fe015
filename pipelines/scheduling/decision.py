"""What a decision is: which task goes where, what is held back by which rule, and when to ask again."""

from __future__ import annotations

from typing import NamedTuple

from llmos.pipelines.scheduling.order import Key
from llmos.pipelines.scheduling.snapshot import Carried, Group


class Why(NamedTuple):
    """Why a device may not take a task: the rule, what it needs and what there is."""

    rule: str
    need: float
    have: float


class Prediction(NamedTuple):
    """What a device would make of a task, in seconds."""

    wait: float
    """Until a place is free among what it has."""
    load: float
    """Until the model is there."""
    service: float
    work: float
    """Of the device's own time."""

    @property
    def seconds(self) -> float:
        """From now until it is done."""
        return self.wait + self.load + self.service


class Option(NamedTuple):
    """A device as a decision saw it: why it was refused, or what was predicted of it."""

    device: str
    why: Why | None
    prediction: Prediction | None


class Chosen(NamedTuple):
    """This task goes to this device now."""

    task: Key
    group: Group
    device: str
    done_at: float
    """When it should be done."""
    service_seconds: float
    """What it should take of the device's time."""
    start_at: float = 0.0
    """When the device should begin with it."""
    load_seconds: float = 0.0
    """Until the model should be there."""
    options: tuple[Option, ...] = ()
    """All devices, where the rules ask for a record."""


class Held(NamedTuple):
    """These tasks wait."""

    group: Group
    first: Key
    tasks: int
    why: Why
    """Of the device that was nearest to taking it."""
    options: tuple[Option, ...] = ()
    device: str = ""
    """The one it waits for, where that is known."""


class Decision(NamedTuple):
    """The outcome of `decide`."""

    chosen: list[Chosen]
    held: list[Held]
    next_at: float | None
    """When to ask again if nothing happens before; None: when something happens."""
    carried: Carried
    """For the next decision."""
