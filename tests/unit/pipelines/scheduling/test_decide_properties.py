"""What holds for every decision, whatever waits and whatever the devices: checked against a model of its own."""

from __future__ import annotations

import copy
import itertools
import math
from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from llmos.pipelines.scheduling.costs import Cost
from llmos.pipelines.scheduling.decide import decide
from llmos.pipelines.scheduling.decision import Chosen
from llmos.pipelines.scheduling.order import Key, key_of
from llmos.pipelines.scheduling.snapshot import Carried, DeviceView, Group, Rules, Snapshot, Waiting
from llmos.schemas.job import LANES

NOW = 1000.0
LIMIT = 2.0
KINDS = ("echo", "embed", "generate")
WEIGHTS = {"": 0, "m": 30, "n": 70}
RULES = ("alive", "kind", "model", "memory", "alone", "window")

POLICIES = ("completion", "round-robin", "random", "shortest-queue", "two-choices", "least-work")
PLAIN = [Rules(LIMIT, policy=policy, sooner_margin=math.inf, switch_loads=0.0) for policy in POLICIES]
"""Rules under which a task waits only where every device refuses, and order is by keys alone."""
FULL = [Rules(LIMIT, ageing_seconds=seconds, record=True) for seconds in (1.0, 50.0, 1e6)]
PLAIN_SETS, RULE_SETS = st.sampled_from(PLAIN), st.sampled_from(PLAIN + FULL)

GROUPS = st.sampled_from([Group(kind, model, alone) for kind in KINDS for model in WEIGHTS for alone in (False, True)])
TASKS = st.lists(st.tuples(st.sampled_from(LANES), st.integers(0, 9), st.integers(0, 3), st.integers(0, 3)), max_size=5)


@st.composite
def devices(draw: st.DrawFn, name: str) -> DeviceView:
    """Any device, above its window too: settings may have shrunk it."""
    in_flight = draw(st.dictionaries(st.sampled_from(KINDS), st.integers(0, 3), max_size=3))
    return DeviceView(
        device=name,
        alive=draw(st.booleans()) or draw(st.booleans()),
        draining=draw(st.booleans()) and draw(st.booleans()),
        kinds=frozenset(draw(st.sets(st.sampled_from(KINDS), min_size=1))),
        models=frozenset(draw(st.sets(st.sampled_from("mn")))) | frozenset(draw(st.sets(st.sampled_from("mn")))),
        slots=draw(st.integers(0, 4)),
        window=draw(st.dictionaries(st.sampled_from(["", "echo"]), st.integers(0, 5))),
        in_flight=in_flight,
        in_flight_alone=draw(st.integers(0, 1)) if sum(in_flight.values()) == 1 else 0,
        resident=frozenset(draw(st.sets(st.sampled_from("mn")))),
        budget_bytes=draw(st.sampled_from([0, 50, 100])),
        utilisation=draw(st.sampled_from([0.0, 1.0, LIMIT, 3.0])),
        work_seconds=draw(st.dictionaries(st.sampled_from(KINDS), st.floats(0, 10))),
        costs={
            work: Cost(seconds)
            for work, seconds in draw(
                st.dictionaries(st.tuples(st.sampled_from(list(WEIGHTS)), st.sampled_from(KINDS)), st.floats(0.01, 5))
            ).items()
        },
        load_bytes_per_second=draw(st.floats(1, 100)),
    )


@st.composite
def snapshots(draw: st.DrawFn, groups: int = 4, rules: st.SearchStrategy[Rules] = RULE_SETS) -> Snapshot:
    """Any snapshot."""
    places = itertools.count()
    waiting = []
    for group in draw(st.lists(GROUPS, max_size=groups, unique=True)):
        keys = [key_of(lane, priority, d, a, 0, next(places), 0) for lane, priority, d, a in draw(TASKS)]
        waiting.append(Waiting(group, sorted(keys), WEIGHTS[group.model], len(keys)))
    names = "abc"[: draw(st.integers(0, 3))]
    fleet = [draw(devices(name)) for name in names]
    return Snapshot(waiting, fleet, draw(rules), Carried(draw(st.integers(0, 5)), draw(st.integers(0, 5))))


class Model:
    """The devices as the choices fill them, kept by the test's own arithmetic."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.devices = {device.device: device for device in snapshot.devices}
        self.used = {name: Counter(device.in_flight) for name, device in self.devices.items()}
        self.suspects = {name: device.in_flight_alone for name, device in self.devices.items()}
        self.resident = {name: set(device.resident) for name, device in self.devices.items()}

    def refusal(self, name: str, group: Group) -> str | None:
        """The first rule by which the device may not take a task of the group."""
        device, used = self.devices[name], self.used[name]
        own = group.kind in device.window
        taken = used[group.kind] if own else sum(n for kind, n in used.items() if kind not in device.window)
        room = device.window.get(group.kind if own else "", 0) - taken
        fits = group.model in self.resident[name] or WEIGHTS[group.model] <= device.budget_bytes
        busy = used.total() if group.alone else 0
        broken = {
            "alive": not device.alive or device.draining,
            "kind": group.kind not in device.kinds,
            "model": bool(group.model) and group.model not in device.models,
            "memory": not fits,
            "alone": busy > 0 or self.suspects[name] > 0,
            "window": room <= 0,
        }
        return next((rule for rule in RULES if broken[rule]), None)

    def take(self, entry: Chosen) -> None:
        """The choice is on its way."""
        self.used[entry.device][entry.group.kind] += 1
        self.suspects[entry.device] += entry.group.alone
        self.resident[entry.device].add(entry.group.model)


@settings(max_examples=60)
@given(snapshots())
def test_no_rule_is_ever_broken(snapshot: Snapshot) -> None:
    """Each choice, at its turn, obeys every filter: no window overflows, no suspect has company, nothing goes to the dead."""
    model = Model(snapshot)
    for entry in decide(snapshot, NOW).chosen:
        assert model.refusal(entry.device, entry.group) is None
        model.take(entry)


@settings(max_examples=60)
@given(snapshots(rules=PLAIN_SETS))
def test_a_chosen_task_was_waiting_and_is_chosen_once(snapshot: Snapshot) -> None:
    """What is chosen comes out of its own group, in the group's order, without gaps; what is not chosen is held."""
    decision = decide(snapshot, NOW)
    for waiting in snapshot.waiting:
        chosen = [entry.task for entry in decision.chosen if entry.group == waiting.group]
        assert chosen == list(waiting.tasks[: len(chosen)])
        held = [entry for entry in decision.held if entry.group == waiting.group]
        rest = list(waiting.tasks[len(chosen) :])
        assert [(entry.first, entry.tasks) for entry in held] == ([(rest[0], len(rest))] if rest else [])
    assert len(decision.chosen) <= sum(len(waiting.tasks) for waiting in snapshot.waiting)


@settings(max_examples=100)
@given(snapshots())
def test_nobody_is_lost_or_doubled(snapshot: Snapshot) -> None:
    """Whatever the rules: each task is chosen once or held once, and held is told with the first of those that stay."""
    decision = decide(snapshot, NOW)
    for waiting in snapshot.waiting:
        chosen = [entry.task for entry in decision.chosen if entry.group == waiting.group]
        held = [entry for entry in decision.held if entry.group == waiting.group]
        rest = [task for task in waiting.tasks if task not in chosen]
        assert len(set(chosen)) == len(chosen)
        assert [(entry.first, entry.tasks) for entry in held] == ([(rest[0], len(rest))] if rest else [])


@settings(max_examples=60)
@given(snapshots(rules=PLAIN_SETS))
def test_choices_are_made_in_order(snapshot: Snapshot) -> None:
    """Over all groups the choices are made in the order of their keys."""
    decision = decide(snapshot, NOW)
    tasks: list[Key] = [entry.task for entry in decision.chosen]
    assert tasks == sorted(tasks)


@settings(max_examples=60)
@given(snapshots(groups=1, rules=PLAIN_SETS))
def test_a_group_is_held_by_the_refusal_of_the_nearest_device(snapshot: Snapshot) -> None:
    """When the group stops, every device refuses, and the reason told is the furthest any device got."""
    decision = decide(snapshot, NOW)
    model = Model(snapshot)
    for entry in decision.chosen:
        model.take(entry)
    for held in decision.held:
        refusals = [model.refusal(name, held.group) for name in model.devices]
        assert None not in refusals
        assert held.why.rule == max((rule for rule in refusals if rule), key=RULES.index, default="alive")
        assert held.why.need > held.why.have or held.why.rule == "alone"


@settings(max_examples=60)
@given(snapshots())
def test_utilisation_binds_only_while_another_device_may(snapshot: Snapshot) -> None:
    """A device above the limit is chosen only when every device that may is above it; and it holds up nobody."""
    decision = decide(snapshot, NOW)
    model = Model(snapshot)
    for entry in decision.chosen:
        may = [device for name, device in model.devices.items() if model.refusal(name, entry.group) is None]
        if model.devices[entry.device].utilisation > LIMIT:
            assert all(device.utilisation > LIMIT for device in may)
        model.take(entry)
    assert all(held.why.rule != "utilisation" for held in decision.held)


@settings(max_examples=60)
@given(snapshots())
def test_a_decision_is_pure(snapshot: Snapshot) -> None:
    """The same snapshot gives the same decision again, and comes out as it went in."""
    before = copy.deepcopy(snapshot)
    first: Any = decide(snapshot, NOW)
    assert decide(snapshot, NOW) == first
    assert snapshot == before
