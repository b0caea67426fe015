"""What has to leave for a model to fit: a pure function of what is resident."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Resident(NamedTuple):
    """A resident model as the decision sees it."""

    identity: str
    resident_bytes: int
    last_used_at: float
    active: int
    """Tasks that use it now; one in use never leaves."""


def choose_evictions(residents: Sequence[Resident], need_bytes: int, budget_bytes: int) -> list[str] | None:
    """The identities that must leave so that `need_bytes` more fit into the budget; None: not now.

    The least recently used leave first, and of those that were picked, any that turns out not to be needed stays. When
    everything idle together would not make the room, nothing leaves: otherwise a model that waits for room would push
    out others at every try and gain nothing.
    """
    free = budget_bytes - sum(resident.resident_bytes for resident in residents)
    picked: list[Resident] = []
    for resident in sorted(residents, key=lambda resident: (resident.last_used_at, resident.identity)):
        if free >= need_bytes:
            break
        if resident.active == 0 and resident.resident_bytes > 0:
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
