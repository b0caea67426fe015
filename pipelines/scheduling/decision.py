"""What a decision is: which task goes where, what is held back by which rule, and when to ask again."""

from __future__ import annotations

from typing import NamedTuple

from llmos.pipelines.scheduling.order import Key
from llmos.pipelines.scheduling.snapshot import Group


class Chosen(NamedTuple):
    """This task goes to this device now."""

    task: Key
    group: Group
    device: str
    done_at: float
    """When it should be done."""
    service_seconds: float
    """What it should take of the device."""


class Why(NamedTuple):
    """Why a device may not take a task: the rule, what it needs and what there is."""

    rule: str
    need: float
    have: float


class Held(NamedTuple):
    """These tasks wait."""

    group: Group
    first: Key
    tasks: int
    why: Why
    """Of the device that was nearest to taking it."""


class Decision(NamedTuple):
    """The outcome of `decide`."""

    chosen: list[Chosen]
    held: list[Held]
    next_at: float | None
    """When to ask again if nothing happens before; None: when something happens."""
    turn: int
    """Where round-robin goes on."""
