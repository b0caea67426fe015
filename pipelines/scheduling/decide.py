"""The scheduling decision: first which task (order), then which device (filters, ranking). Pure.

Groups are merged in the order of their first tasks. When no device may take a group's next task, the whole group is
held for this turn: its tasks are alike, so none of them would go. The cost is O(chosen × devices + groups × devices).
"""

from __future__ import annotations

import heapq
from typing import NamedTuple

from llmos.pipelines.scheduling.decision import Chosen, Decision, Held, Why
from llmos.pipelines.scheduling.filters import FILTERS, utilisation
from llmos.pipelines.scheduling.order import Key
from llmos.pipelines.scheduling.rankings import completion_seconds, next_in_turn, service_seconds
from llmos.pipelines.scheduling.snapshot import DeviceView, Group, Rules, Snapshot, Waiting

_NEAREST = ("alive", "kind", "model", "memory", "alone", "window", "utilisation")
"""The further down, the nearer was the device to taking the task."""


class _Pick(NamedTuple):
    device: DeviceView
    seconds: float
    turn: int


def decide(snapshot: Snapshot, now: float) -> Decision:
    """Chooses tasks and devices until nothing more may go."""
    devices = {device.device: device for device in snapshot.devices}
    names = list(devices)
    turn = snapshot.turn
    chosen: list[Chosen] = []
    held: list[Held] = []
    heads: list[tuple[Key, int, int]] = []
    for place, waiting in enumerate(snapshot.waiting):
        if waiting.tasks:
            heads.append((waiting.tasks[0], place, 0))
    heapq.heapify(heads)
    while heads:
        task, place, index = heads[0]
        waiting = snapshot.waiting[place]
        pick = _pick(devices, names, waiting, snapshot.rules, turn)
        if isinstance(pick, Why):
            heapq.heappop(heads)
            held.append(Held(waiting.group, task, max(waiting.total, len(waiting.tasks)) - index, pick))
            continue
        turn = pick.turn
        service = service_seconds(pick.device, waiting.group, snapshot.rules)
        chosen.append(Chosen(task, waiting.group, pick.device.device, now + pick.seconds, service))
        devices[pick.device.device] = _with_one_more(pick.device, waiting.group, service)
        if index + 1 < len(waiting.tasks):
            heapq.heapreplace(heads, (waiting.tasks[index + 1], place, index + 1))
        else:
            heapq.heappop(heads)
    # Nothing of what is held becomes possible by time alone: heartbeats, outcomes and submissions ask again.
    return Decision(chosen, held, None, turn)


def _pick(devices: dict[str, DeviceView], names: list[str], waiting: Waiting, rules: Rules, turn: int) -> _Pick | Why:
    """The device for the next task of `waiting`, or why there is none."""
    may: list[DeviceView] = []
    nearest = Why("alive", 1, 0)
    for device in devices.values():
        why = _refusal(device, waiting, rules)
        if why is None:
            may.append(device)
        elif _NEAREST.index(why.rule) > _NEAREST.index(nearest.rule):
            nearest = why
    if not may:
        return nearest
    # ρ binds only while another device may: somebody has to do the work.
    calm = [device for device in may if utilisation(device, waiting, rules) is None] or may
    if rules.round_robin:
        device, turn = next_in_turn(calm, names, turn)
        return _Pick(device, completion_seconds(device, waiting, rules), turn)
    best = min(calm, key=lambda device: (completion_seconds(device, waiting, rules), device.total_in_flight))
    return _Pick(best, completion_seconds(best, waiting, rules), turn)


def _refusal(device: DeviceView, waiting: Waiting, rules: Rules) -> Why | None:
    for criterion in FILTERS:
        why = criterion(device, waiting, rules)
        if why is not None:
            return why
    return None


def _with_one_more(device: DeviceView, group: Group, service: float) -> DeviceView:
    """The device as it is once the task is on its way."""
    in_flight = dict(device.in_flight)
    in_flight[group.kind] = in_flight.get(group.kind, 0) + 1
    return device._replace(
        in_flight=in_flight,
        in_flight_alone=device.in_flight_alone + group.alone,
        resident=device.resident | {group.model} if group.model else device.resident,
        expected_seconds=device.expected_seconds + service,
    )
