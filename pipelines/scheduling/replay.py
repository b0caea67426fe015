"""A recorded stretch of what the policy saw, decided again: equal bit by bit, or the policy is not the one that was recorded.

A recorder writes a snapshot whole, then what changed from turn to turn: devices, groups of waiting tasks, rules. Of each group
it writes the tasks that a decision can reach (`decide.sight_of`). MessagePack keeps floats exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from llmos.pipelines.scheduling.decide import decide, sight_of
from llmos.pipelines.scheduling.decision import Decision
from llmos.pipelines.scheduling.snapshot import Carried, DeviceView, Group, Rules, Snapshot, Waiting
from llmos.schemas.telemetry import PolicyInput

WHOLE_EVERY = 500
"""Turns after which a snapshot is written whole again: a reader may begin there."""


class Change(NamedTuple):
    """What changed since the snapshot before; of the first, everything."""

    devices: list[DeviceView]
    waiting: list[Waiting]
    carried: Carried
    device_order: list[str] | None = None
    """None: as before."""
    waiting_order: list[Group] | None = None
    rules: Rules | None = None


_encoder = msgspec.msgpack.Encoder()
_changes = msgspec.msgpack.Decoder(Change)
_decisions = msgspec.msgpack.Decoder(Decision)


class Recorder:
    """Writes what the policy saw, and what it decided."""

    def __init__(self, term: int) -> None:
        self._term = term
        self._turns = 0
        self._devices: dict[str, DeviceView] = {}
        self._device_order: list[str] = []
        self._waiting: dict[Group, Waiting] = {}
        self._waiting_order: list[Group] = []
        self._rules: Rules | None = None

    def record(self, snapshot: Snapshot, decision: Decision, turn: int, now: float) -> PolicyInput:
        """One turn; `snapshot` as it was when it was decided."""
        whole = self._turns % WHOLE_EVERY == 0
        self._turns += 1
        if whole:
            self._devices, self._device_order = {}, []
            self._waiting, self._waiting_order, self._rules = {}, [], None
        body = _encoder.encode(self._change(snapshot))
        return PolicyInput(
            at=now, term=self._term, turn=turn, whole=whole, body=body, decision=_encoder.encode(decision)
        )

    def _change(self, snapshot: Snapshot) -> Change:
        sight = sight_of(snapshot)
        devices = [view for view in snapshot.devices if self._devices.get(view.device) != view]
        seen = [_in_sight(waiting, sight) for waiting in snapshot.waiting]
        waiting = [entry for entry in seen if self._waiting.get(entry.group) != entry]
        device_order = [view.device for view in snapshot.devices]
        waiting_order = [entry.group for entry in seen]
        change = Change(
            devices,
            waiting,
            snapshot.carried,
            device_order if device_order != self._device_order else None,
            waiting_order if waiting_order != self._waiting_order else None,
            snapshot.rules if snapshot.rules != self._rules else None,
        )
        self._devices = {view.device: view for view in snapshot.devices}
        self._waiting = {entry.group: entry for entry in seen}
        self._device_order, self._waiting_order, self._rules = device_order, waiting_order, snapshot.rules
        return change


def _in_sight(waiting: Waiting, sight: int) -> Waiting:
    total = max(waiting.total, len(waiting.tasks))
    return waiting._replace(tasks=list(waiting.tasks[:sight]), total=total)


def snapshots(records: Iterable[PolicyInput]) -> Iterator[tuple[PolicyInput, Snapshot]]:
    """The snapshots of a recorded stretch, from the first whole one on. Raises `msgspec.DecodeError`."""
    devices: dict[str, DeviceView] = {}
    waiting: dict[Group, Waiting] = {}
    device_order: Sequence[str] = ()
    waiting_order: Sequence[Group] = ()
    rules: Rules | None = None
    for record in records:
        if record.whole:
            devices, waiting = {}, {}
        elif rules is None:
            continue
        change = _changes.decode(record.body)
        devices.update((view.device, view) for view in change.devices)
        waiting.update((entry.group, entry) for entry in change.waiting)
        device_order = device_order if change.device_order is None else change.device_order
        waiting_order = waiting_order if change.waiting_order is None else change.waiting_order
        rules = change.rules or rules
        assert rules is not None, "a whole record has its rules"
        seen = [waiting[group] for group in waiting_order]
        waiting = {entry.group: entry for entry in seen}
        yield record, Snapshot(seen, [devices[name] for name in device_order], rules, change.carried)


def replay(records: Iterable[PolicyInput]) -> Iterator[tuple[Decision, Decision]]:
    """For each recorded turn, what was decided and what is decided now."""
    for record, snapshot in snapshots(records):
        yield _decisions.decode(record.decision), decide(snapshot, record.at)
