"""Devices, groups and tasks with sensible fields, for tables of literals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmos.pipelines.scheduling.order import Key, key_of
from llmos.pipelines.scheduling.snapshot import DeviceView, Group, Rules, Snapshot, Waiting

ECHO = Group("echo", "")
LLAMA = Group("generate", "llama")
RULES = Rules(utilisation_limit=4.0)


def device(name: str = "d", **fields: Any) -> DeviceView:
    """An idle device that runs everything."""
    values: dict[str, Any] = {
        "alive": True,
        "draining": False,
        "kinds": frozenset({"echo", "embed", "generate"}),
        "models": frozenset({"llama", "bert", "m", "a", "b"}),
        "slots": 1,
        "window": {"": 2},
        "in_flight": {},
        "in_flight_alone": 0,
        "resident": frozenset(),
        "budget_bytes": 100,
        "utilisation": 0.0,
        "expected_seconds": 0.0,
        "mean_service_seconds": {},
        "load_bytes_per_second": 10.0,
    }
    return DeviceView(device=name, **(values | fields))


def key(s: int, part: int = 0, lane: str = "standard", priority: int = 4, deadline: float = 100.0) -> Key:
    """The key of a task that arrived as its s says."""
    return key_of(lane, priority, deadline, float(s), 0, s, part)  # type: ignore[arg-type]


def waiting(group: Group, *places: int, weight: int = 0) -> Waiting:
    """Tasks of a group, by s."""
    return Waiting(group, [key(s) for s in places], weight, len(places))


def snapshot(groups: Sequence[Waiting], devices: Sequence[DeviceView], rules: Rules = RULES, turn: int = 0) -> Snapshot:
    """What a decision sees."""
    return Snapshot(groups, devices, rules, turn)
