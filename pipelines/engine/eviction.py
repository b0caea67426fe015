"""What has to leave for a model to fit: a pure function of what is resident."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import NamedTuple


class Resident(NamedTuple):
    """A resident model as the decision sees it."""

    identity: str
    resident_bytes: int
    last_used_at: float
    active: int
    """Tasks that use it now; one in use never leaves."""
    pinned: bool = False
    """It never leaves."""
    loaded_at: float = 0.0
    served: int = 1
    """Times it was used since it was loaded."""
    waited_since: float = inf
    """When the oldest of the tasks that wait for it came; none: infinity."""
    turn_seconds: float = 0.0
    """How long it stays at least while there is work for it, once loaded."""


def idle(resident: Resident) -> bool:
    """Whether nobody uses the model, and nobody wants it to stay."""
    return resident.active == 0 and not resident.pinned


def choose_evictions(
    residents: Sequence[Resident],
    need_bytes: int,
    budget_bytes: int,
    may_leave: Callable[[Resident], bool] = idle,
) -> list[str] | None:
    """The identities that must leave so that `need_bytes` more fit into the budget; None: not now.

    The least recently used leave first, and of those that were picked, any that turns out not to be needed stays. When
    everything that may leave together would not make the room, nothing leaves: otherwise a model that waits for room
    would push out others at every try and gain nothing.
    """
    free = budget_bytes - sum(resident.resident_bytes for resident in residents)
    picked: list[Resident] = []
    for resident in sorted(residents, key=lambda resident: (resident.last_used_at, resident.identity)):
        if free >= need_bytes:
            break
        if resident.resident_bytes > 0 and may_leave(resident):
            picked.append(resident)
            free += resident.resident_bytes
    if free < need_bytes:
        return None
    return [resident.identity for resident in _without_spare(picked, free - need_bytes)]


def _without_spare(picked: list[Resident], spare_bytes: int) -> list[Resident]:
    """Gives back what was picked in vain, the most recently used first."""
    kept: list[Resident] = []
    for resident in reversed(picked):
        if resident.resident_bytes <= spare_bytes:
            spare_bytes -= resident.resident_bytes
        else:
            kept.append(resident)
    return kept[::-1]
