"""Devices, groups and tasks with sensible fields, for tables of literals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llmos.pipelines.scheduling.costs import Cost
from llmos.pipelines.scheduling.order import Key, key_of
from llmos.pipelines.scheduling.snapshot import Carried, DeviceView, Group, Rules, Snapshot, Waiting

ECHO = Group("echo", "")
LLAMA = Group("generate", "llama")
RULES = Rules(utilisation_limit=4.0)
START = Carried()


def device(name: str = "d", **fields: Any) -> DeviceView:
    """An idle device that runs everything; `means`: by (model, kind), the device time of a task."""
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
        "work_seconds": {},
        "costs": {},
        "load_bytes_per_second": 10.0,
    }
    means = fields.pop("means", {})
    costs = {work: Cost(seconds) for work, seconds in means.items()}
    return DeviceView(device=name, **(values | {"costs": costs} | fields))


def key(
    s: int,
    part: int = 0,
    lane: str = "standard",
    priority: int = 4,
    deadline: float = 100.0,
    tokens: tuple[int, int] = (0, 0),
) -> Key:
    """The key of a task that arrived as its s says; `tokens`: in, and out at most."""
    return key_of(lane, priority, deadline, float(s), 0, s, part, *tokens)  # type: ignore[arg-type]


def waiting(group: Group, *places: int, weight: int = 0, **fields: Any) -> Waiting:
    """Tasks of a group, by s."""
    return Waiting(group, [key(s, **fields) for s in places], weight, len(places))


def snapshot(
    groups: Sequence[Waiting], devices: Sequence[DeviceView], rules: Rules = RULES, carried: Carried = START
) -> Snapshot:
    """What a decision sees."""
    return Snapshot(groups, devices, rules, carried)
