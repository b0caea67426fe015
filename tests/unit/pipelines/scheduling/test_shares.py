"""Tenants' shares: whoever waits gets its part, whoever comes back saved nothing up."""

from __future__ import annotations

import math
from itertools import combinations, count
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmos.pipelines.scheduling.costs import Cost
from llmos.pipelines.scheduling.decide import decide
from llmos.pipelines.scheduling.order import key_of
from llmos.pipelines.scheduling.shares import DEBT_SECONDS, Shares, charged, settled
from llmos.pipelines.scheduling.snapshot import Carried, Group, Rules, Snapshot, Waiting
from tests.unit.pipelines.scheduling.making import device


@pytest.mark.parametrize(
    ("before", "counters", "waiting", "after"),
    [
        pytest.param(Shares(), {}, [], Shares(), id="nothing"),
        pytest.param(Shares(3.0, {"a": 5.0}), {"a": 6.0}, [], Shares(3.0), id="nobody waits: all are equal again"),
        pytest.param(Shares(), {"a": 2.0, "b": 1.0}, ["a", "b"], Shares(1.0, {"a": 2.0}), id="the least is the time"),
        pytest.param(Shares(), {"a": 2.0, "b": 1.0}, ["a"], Shares(2.0), id="who does not wait holds nothing up"),
        pytest.param(Shares(5.0), {"a": 5.0}, ["a"], Shares(5.0), id="time does not go back"),
        pytest.param(
            Shares(0.0, {"c": 9.0}), {"a": 1.0}, ["a"], Shares(1.0, {"c": 9.0}), id="who was given much is remembered"
        ),
        pytest.param(
            Shares(), {"a": 1.0, "b": 9e9}, ["a", "b"], Shares(1.0, {"b": 1.0 + DEBT_SECONDS}), id="debts have a bound"
        ),
    ],
)
def test_settled(before: Shares, counters: dict[str, float], waiting: list[str], after: Shares) -> None:
    """The table of cases."""
    assert settled(before, counters, waiting) == after


@pytest.mark.parametrize(
    ("largest", "before", "after"),
    [
        pytest.param({"b": 500.0}, Shares(), 500.0, id="one task is no debt, however large"),
        pytest.param({"b": 5.0}, Shares(), DEBT_SECONDS + 6.0, id="many are"),
        pytest.param({"b": 5.0}, Shares(0.0, {"b": 400.0}), 400.0, id="who is far ahead owes no more"),
        pytest.param({}, Shares(0.0, {"b": 500.0}), 500.0, id="nor less, until the time has come there"),
    ],
)
def test_debts(largest: dict[str, float], before: Shares, after: float) -> None:
    """What is above the bound was given at a more urgent level, and is forgiven."""
    assert settled(before, {"a": 1.0, "b": 500.0}, ["a", "b"], largest) == Shares(1.0, {"b": after})


def test_a_counter_is_over_the_weight() -> None:
    """Twice the weight, half the charge; an unknown tenant stands at the virtual time."""
    assert charged(1.0, 3.0, 2.0) == 2.5
    assert (Shares(4.0, {"a": 5.0}).of("a"), Shares(4.0).of("b"), Shares(4.0, {"c": 1.0}).of("c")) == (5.0, 4.0, 4.0)


@settings(max_examples=50)
@given(
    st.lists(st.integers(1, 40), min_size=20, max_size=60),
    st.lists(st.integers(1, 40), min_size=20, max_size=60),
    st.sampled_from([1.0, 2.0, 0.5]),
)
def test_two_that_wait_never_part_by_more_than_a_task_each(ones: list[int], others: list[int], weight: float) -> None:
    """As long as both have work waiting, what they were given over their weights differs by the largest tasks at most."""
    rules = Rules(4.0, weights={"b": weight})
    cost = Cost(1.0, prefill_seconds=0.1)
    queues = {
        name: [
            key_of("standard", 4, 1e9, float(i), 0, i + 1000 * (name == "b"), 0, tokens)
            for i, tokens in enumerate(list_)
        ]
        for name, list_ in (("a", ones), ("b", others))
    }
    weights = {"a": 1.0, "b": weight}
    given_ = {"a": 0.0, "b": 0.0}
    carried = Carried()
    bound = max(ones) * 0.1 + max(others) * 0.1 / weight
    one = device("d", window={"": 1}, costs={("", "echo"): cost})
    while all(queues.values()):
        waiting = [Waiting(Group("echo", "", tenant=name), tasks, 0, len(tasks)) for name, tasks in queues.items()]
        decision = decide(Snapshot(waiting, [one], rules, carried), 1.0)
        carried = decision.carried
        (chosen,) = decision.chosen
        name = chosen.group.tenant
        queues[name].remove(chosen.task)
        given_[name] += chosen.service_seconds / weights[name]
        assert abs(given_["a"] - given_["b"]) <= bound + 1e-9


def test_who_comes_back_saved_nothing_up() -> None:
    """A tenant that asked for nothing while another was given a hundred tasks takes turns with it from now on."""
    rules, one = Rules(4.0), device("d", window={"": 1}, means={("", "echo"): 1.0})
    carried = Carried()

    def choose(*names: str) -> str:
        nonlocal carried
        waiting = [
            Waiting(Group("echo", "", tenant=name), [key_of("standard", 4, 1e9, 0.0, 0, i, 0), key_of("standard", 4, 1e9, 0.0, 1, i, 0)], 0, 2)
            for i, name in enumerate(names)
        ]  # fmt: skip
        decision = decide(Snapshot(waiting, [one], rules, carried), 1.0)
        carried = decision.carried
        return decision.chosen[0].group.tenant

    assert {choose("a") for _ in range(100)} == {"a"}
    assert sorted(choose("a", "b") for _ in range(10)) == ["a"] * 5 + ["b"] * 5


KINDS = {
    ("a", "generate"): Cost(1.0, prefill_seconds=0.01, step_seconds=0.02, sequence_seconds=0.002),
    ("b", "generate"): Cost(2.0, prefill_seconds=0.05, step_seconds=0.1, sequence_seconds=0.01),
    ("b", "embed"): Cost(0.3, prefill_seconds=0.002),
    ("", "echo"): Cost(0.001),
    ("m", "embed"): Cost(400.0),
}
"""By model and kind: from a millisecond to minutes a task, more than a debt may be."""


class Backlog:
    """Tenants with random work for a few devices, all of which run everything; each has something waiting in every line."""

    def __init__(self, seed: int, weights: dict[str, float]) -> None:
        self.random = Random(seed)
        self.weights = weights
        self.rules = Rules(1e9, weights=weights, sooner_margin=math.inf)
        self.tenants: set[str] = set()
        self.queues: dict[Group, list[Any]] = {}
        self.served: dict[str, float] = {}
        self.largest: dict[str, float] = {}
        self.since: dict[tuple[str, str], dict[str, float]] = {}
        """For two tenants that wait: what each was given before both did."""
        self._carried = Carried()
        self._s = count()
        self._windows = [self.random.randint(1, 6) for _ in range(self.random.randint(1, 3))]
        self._in_flight = [0 for _ in self._windows]

    def join(self, tenant: str) -> None:
        """The tenant begins to wait."""
        self.tenants.add(tenant)
        self.served.setdefault(tenant, 0.0)
        for model, kind in self.random.sample(sorted(KINDS), self.random.randint(1, 3)):
            self.queues[Group(kind, model, tenant=tenant)] = []
        for pair in combinations(sorted(self.tenants), 2):
            if tenant in pair:
                self.since[pair] = {name: self.served[name] for name in pair}

    def leave(self, tenant: str) -> None:
        """The tenant wants nothing more."""
        self.tenants.discard(tenant)
        self.queues = {group: tasks for group, tasks in self.queues.items() if group.tenant != tenant}
        self.since = {pair: known for pair, known in self.since.items() if tenant not in pair}

    def turn(self) -> None:
        """Some tasks end, and the room is filled; after each choice the bound is looked at."""
        self._in_flight = [self.random.randint(0, busy) for busy in self._in_flight]
        room = sum(self._windows) - sum(self._in_flight)
        waiting = []
        for group, tasks in self.queues.items():
            while len(tasks) <= room:
                tokens = self.random.randint(1, 200), self.random.randint(1, 200)
                tasks.append(key_of("standard", 4, 1e9, float(next(self._s)), 0, next(self._s), 0, *tokens))
            waiting.append(Waiting(group, list(tasks), 0, len(tasks)))
        devices = [
            device(
                f"d{i}", window={"": window}, slots=window, in_flight={"generate": busy}, budget_bytes=10**9,
                resident=frozenset({"a", "b", "m"}), costs=KINDS,
            )
            for i, (window, busy) in enumerate(zip(self._windows, self._in_flight, strict=True))
        ]  # fmt: skip
        decision = decide(Snapshot(waiting, devices, self.rules, self._carried), 1.0)
        self._carried = decision.carried
        for chosen in decision.chosen:
            self._gave(chosen.group, chosen.task, chosen.service_seconds)
            self._in_flight[int(chosen.device[1:])] += 1
        assert self._in_flight == self._windows, "no room is left while somebody waits"

    def _gave(self, group: Group, task: Any, seconds: float) -> None:
        self.queues[group].remove(task)
        self.served[group.tenant] += seconds
        self.largest[group.tenant] = max(self.largest.get(group.tenant, 0.0), seconds)
        for (one, other), before in self.since.items():
            gained = {name: (self.served[name] - before[name]) / self.weights[name] for name in (one, other)}
            bound = sum(self.largest.get(name, 0.0) / self.weights[name] for name in (one, other))
            assert abs(gained[one] - gained[other]) <= bound * (1 + 1e-9)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.sampled_from([0.001, 0.1, 0.5, 1.0, 3.0, 100.0]), min_size=2, max_size=5))
def test_across_kinds_and_models_no_two_part_by_more_than_a_task_each(seed: int, weights: list[float]) -> None:
    """At every choice: of two that wait, what each was given since both do, over its weight, differs by the largest task
    of each over its weight at most; whatever the weights, sizes, windows, and who comes and goes."""
    names = {f"t{i}": weight for i, weight in enumerate(weights)}
    backlog = Backlog(seed, names)
    for name in names:
        backlog.join(name)
    for _ in range(40):
        if backlog.random.random() < 0.1:
            name = backlog.random.choice(sorted(names))
            if name not in backlog.tenants:
                backlog.join(name)
            elif len(backlog.tenants) > 2:
                backlog.leave(name)
        backlog.turn()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.sampled_from([0.5, 1.0, 3.0]), min_size=2, max_size=5))
def test_nobody_starves(seed: int, weights: list[float]) -> None:
    """Whoever waits all the time gets its part of all that is given, less a task of each tenant."""
    names = {f"t{i}": weight for i, weight in enumerate(weights)}
    backlog = Backlog(seed, names)
    for name in names:
        backlog.join(name)
    for _ in range(60):
        backlog.turn()
    whole = sum(backlog.served.values())
    behind = sum(backlog.largest.get(name, 0.0) for name in names)
    for name, weight in names.items():
        bound = behind * weight / sum(weights) + backlog.largest.get(name, 0.0)
        assert backlog.served[name] >= whole * weight / sum(weights) - bound
