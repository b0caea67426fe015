"""Which model is loaded next, what leaves for it, who waits and why: a pure function of what is resident and wanted.

The rules, so that waiting is served and no model is loaded in vain:

- Wanted models have their turns by their oldest waiting task. The first that finds no room keeps its turn: others go
  before it only where that leaves it the room it will have.
- A model in use or pinned never leaves; of the others the least recently used leave first.
- A model that was loaded stays until it was used once; while there is work for it, it stays for its turn
  (`turn_seconds`), and longer while its own tasks have waited longest.
- A model whose turn is over lets another go first that has waited longer: of its own tasks only those join that came
  before the other's (`yields`), so that it becomes idle.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import NamedTuple

from llmos.pipelines.engine.eviction import Resident, choose_evictions


class Want(NamedTuple):
    """A model that is wanted and not resident."""

    identity: str
    need_bytes: int
    since: float
    """When the oldest of the tasks that wait for it came."""


class Memory(NamedTuple):
    """The device's memory, in bytes."""

    budget_bytes: int
    """What resident models may take together."""
    free_bytes: int
    """What the device really has left."""


class Held(NamedTuple):
    """Why a wanted model is not loaded yet."""

    rule: str
    """`load`: another is being loaded; `memory`: others in use leave no room; `pinned`: pinned ones leave none;
    `device_memory`: the device has less than it should, others use it."""
    need_bytes: int
    have_bytes: int


class Placement(NamedTuple):
    """The decision."""

    load: str = ""
    """To be loaded now; empty: none."""
    evict: tuple[str, ...] = ()
    """What leaves for it."""
    held: Mapping[str, Held] = {}
    """Wanted models that wait, and why."""
    yields: Mapping[str, float] = {}
    """Resident models that take no task which came after this time."""


def place(
    wants: Sequence[Want], residents: Sequence[Resident], loading: Want | None, memory: Memory, now: float
) -> Placement:
    """Decides; one model is loaded at a time, so while `loading` is under way nothing is chosen."""
    taken = sum(resident.resident_bytes for resident in residents)
    budget = memory.budget_bytes - (loading.need_bytes if loading else 0)
    # what the device has left bounds what may come in beside the present residents, whatever the budget says
    room = min(budget, taken + memory.free_bytes)
    pinned_bytes = sum(resident.resident_bytes for resident in residents if resident.pinned)
    held: dict[str, Held] = {}
    head: Want | None = None
    chosen, leaving = "", list[str]()
    for want in sorted(wants, key=lambda want: (want.since, want.identity)):
        if loading is not None and want.identity == loading.identity:
            continue
        if want.need_bytes > memory.budget_bytes - pinned_bytes:
            held[want.identity] = Held("pinned", want.need_bytes, memory.budget_bytes - pinned_bytes)
            continue
        evictions = choose_evictions(residents, want.need_bytes, room, _Leaver(want.since, now))
        spared = head is None or (not evictions and want.need_bytes + head.need_bytes <= room - pinned_bytes)
        if evictions is not None and spared and not chosen and loading is None:
            chosen, leaving = want.identity, evictions
            continue
        held[want.identity] = _held(want, residents, budget, room, busy=bool(chosen) or loading is not None)
        if head is None and evictions is None:
            head = want
    yields = _yields(head, residents, room, now) if head is not None else {}
    return Placement(chosen, tuple(leaving), held, yields)


class _Leaver:
    """Whether a model may leave for one that has been waited for since `since`."""

    def __init__(self, since: float, now: float) -> None:
        self._since = since
        self._now = now

    def __call__(self, resident: Resident) -> bool:
        if resident.active or resident.pinned:
            return False
        turn_over = self._now - resident.loaded_at >= resident.turn_seconds
        if resident.waited_since < inf:
            return resident.served > 0 and turn_over and self._since < resident.waited_since
        return resident.served > 0 or turn_over


def _yields(head: Want, residents: Sequence[Resident], room: int, now: float) -> dict[str, float]:
    """Which models stop taking tasks so that `head` gets its room; none where that would not be enough yet."""
    idle = _Leaver(head.since, now)

    def may_yield(resident: Resident) -> bool:
        turn_over = now - resident.loaded_at >= resident.turn_seconds and resident.served > 0
        return idle(resident) or (turn_over and not resident.pinned)

    leaving = choose_evictions(residents, head.need_bytes, room, may_yield)
    busy = {resident.identity for resident in residents if not idle(resident)}
    return {identity: head.since for identity in leaving or () if identity in busy}


def _held(want: Want, residents: Sequence[Resident], budget: int, room: int, *, busy: bool) -> Held:
    fixed = sum(resident.resident_bytes for resident in residents if resident.active or resident.pinned)
    have = room - fixed
    if have >= want.need_bytes:
        return Held("load" if busy else "memory", want.need_bytes, max(have, 0))
    short = budget - fixed >= want.need_bytes
    return Held("device_memory" if short else "memory", want.need_bytes, max(have, 0))
