"""What a step of a runner brought, for the event loop; and what the loop hands to the runners."""

from __future__ import annotations

from math import inf
from typing import Any, NamedTuple

from llmos.schemas.errors import LlmosError
from llmos.schemas.job import Usage

TaskName = tuple[int, int, int, int]
"""Partition, s, part, epoch: one attempt, so that what an older one still says is not taken for the new one's word."""


class Assignment(NamedTuple):
    """A task to be run."""

    name: TaskName
    kind: str
    model: str
    """Identity; empty where the kind needs none."""
    input: Any
    """The kind's input struct."""
    deadline: float = inf
    """When it expires (Unix seconds); the engine thread stops it then, between steps."""


class Pins(NamedTuple):
    """Exactly these models are pinned on this device from now on."""

    identities: frozenset[str]


class Began(NamedTuple):
    """The device works on this task now."""

    name: TaskName


class Waiting(NamedTuple):
    """These tasks wait for a model that is not being loaded yet."""

    names: tuple[TaskName, ...]
    model: str
    rule: str
    """`load`, `memory`, `pinned`, `device_memory` (see `placing.Held`), or `turn`: another model's tasks go first."""
    need: float
    """Of memory: bytes needed; else 0."""
    have: float
    """Of memory: bytes that there would be if all idle models left; else 0."""


class ModelsChanged(NamedTuple):
    """What is resident or being loaded is not what it was."""


class Loading(NamedTuple):
    """A model that these tasks need is being loaded: `done` of `of` bytes are read."""

    names: tuple[TaskName, ...]
    model: str
    done: int
    of: int


class Produced(NamedTuple):
    """Text of one item."""

    name: TaskName
    item: int
    """Place within the part."""
    text: str
    tokens: int
    first_token: int
    finish: str


class ItemEnded(NamedTuple):
    """An item has its output (MessagePack of the kind's output), or its error."""

    name: TaskName
    item: int
    output: bytes
    error: LlmosError | None
    tokens_in: int
    tokens_out: int


class TaskEnded(NamedTuple):
    """All items of the task have ended; `device_seconds`: its share of the device's time."""

    name: TaskName
    device_seconds: float
    precision: str = ""
    """Number format in which its model ran; empty where there was none."""


class TaskBroke(NamedTuple):
    """The attempt failed as a whole; `used`: what it had used, filled in by the crew."""

    name: TaskName
    error: LlmosError
    used: Usage = Usage()


class TaskExpired(NamedTuple):
    """Its deadline passed: it was stopped, and the scheduler answers it."""

    name: TaskName
    used: Usage = Usage()


class TaskStopped(NamedTuple):
    """It was stopped because the loop said so: what it had used."""

    name: TaskName
    used: Usage


Event = (
    Began | Waiting | Loading | ModelsChanged | TaskExpired | TaskStopped | Produced | ItemEnded | TaskEnded | TaskBroke
)


def all_failed(name: TaskName, items: int, error: LlmosError) -> list[Event]:
    """Every item of the task ends with `error`."""
    return [*(ItemEnded(name, item, b"", error, 0, 0) for item in range(items)), TaskEnded(name, 0.0)]
