"""Tenants' shares: whoever waits gets its part, whoever comes back saved nothing up."""

from __future__ import annotations

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
