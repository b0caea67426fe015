"""Waiting explained: place, rule with need and have, predicted start, over levels, tenants and devices."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmos.pipelines.scheduling.costs import Cost
from llmos.pipelines.scheduling.decide import decide
from llmos.pipelines.scheduling.explain import Explanation, explain
from llmos.pipelines.scheduling.order import Key, key_of
from llmos.pipelines.scheduling.snapshot import Carried, Group, Rules, Snapshot, Waiting
from tests.unit.pipelines.scheduling.making import ECHO, LLAMA, RULES, device, key, snapshot, waiting

NOW = 1000.0
FULL = {"window": {"": 1}, "in_flight": {"echo": 1}, "work_seconds": {"echo": 4.0}}


def test_who_waits_for_a_place() -> None:
    """One device, a task in it with 4 s left, 2 s each: the third in the row begins after 8 s more."""
    busy = device(costs={("", "echo"): Cost(2.0, confidence=0.9)}, **FULL)
    seen = snapshot([waiting(ECHO, 1, 2, 3)], [busy])
    told = explain(seen, decide(seen, NOW), NOW)
    assert told.of(ECHO, key(1)) == Explanation(1, "window", 2, 1, NOW + 4.0, "d", NOW + 6.0, 0.9)
    assert told.of(ECHO, key(3)) == Explanation(3, "window", 2, 1, NOW + 8.0, "d", NOW + 10.0, 0.9)
    assert told.of(LLAMA, key(1)) is None


def test_two_devices_serve_twice_as_fast() -> None:
    """The row moves on as fast as all devices that may run it serve together."""
    devices = [device(name, means={("", "echo"): 2.0}, **FULL) for name in "ab"]
    seen = snapshot([waiting(ECHO, *range(5))], devices)
    told = explain(seen, decide(seen, NOW), NOW).of(ECHO, key(4))
    assert told is not None
    assert (told.position, told.predicted_start_at) == (5, pytest.approx(NOW + 4.0 + 4 * 1.0))


def test_what_is_held_for_good_has_no_start() -> None:
    """Too large a model: place among its own, rule with bytes; nobody can tell when."""
    seen = snapshot([waiting(LLAMA, 1, 2, weight=500), waiting(ECHO, 3)], [device(**FULL)])
    told = explain(seen, decide(seen, NOW), NOW)
    assert told.of(LLAMA, key(2)) == Explanation(2, "memory", 500, 100, 0.0)
    echo = told.of(ECHO, key(3))
    assert echo is not None
    assert echo.position == 1


def test_who_was_chosen_is_not_before_anybody() -> None:
    """Two of four go now: the third is the first that waits."""
    seen = snapshot([waiting(ECHO, 1, 2, 3, 4)], [device()])
    told = explain(seen, decide(seen, NOW), NOW)
    assert [told.of(ECHO, key(s)).position for s in (3, 4)] == [1, 2]  # type: ignore[union-attr]


def test_a_batch_serves_side_by_side() -> None:
    """Sixteen slots at 0.25 s a step of sixteen for ten tokens: a task leaves every 2.5/16 s."""
    cost = Cost(1.0, 0.0, 0.1, 0.01, 1.0, 0.9)
    busy = device(
        slots=16, window={"": 16}, in_flight={"generate": 16}, work_seconds={"generate": 2.5},
        resident=frozenset({"llama"}), costs={("llama", "generate"): cost},
    )  # fmt: skip
    keys = [key(s, tokens=(0, 10)) for s in range(33)]
    seen = snapshot([Waiting(LLAMA, keys, 10, 33)], [busy])
    told = explain(seen, decide(seen, NOW), NOW).of(LLAMA, keys[32])
    assert told is not None
    assert told.predicted_start_at == pytest.approx(NOW + 2.5 / 16 + 32 * 2.5 / 16)
    assert told.predicted_done_at == pytest.approx(told.predicted_start_at + 2.5)


TASKS = st.lists(
    st.tuples(
        st.sampled_from(["interactive", "standard", "batch"]),
        st.sampled_from("abc"),
        st.sampled_from(["echo", "embed"]),
    ),
    min_size=1,
    max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(TASKS)
def test_places_are_those_in_which_tasks_are_chosen(tasks: list[tuple[str, str, str]]) -> None:
    """Served one by one with equal work, each task goes in the told order of levels; and at its told place, give or take a
    turn of the other tenants, where all are of one level (a tenant that was served more urgent work before lets the others
    go first)."""
    groups: dict[Group, list[Key]] = {}
    for s, (lane, tenant, kind) in enumerate(tasks):
        made = key_of(lane, 4, 1e9, float(s), 0, s, 0)  # type: ignore[arg-type]
        groups.setdefault(Group(kind, "", tenant=tenant, level=made.level), []).append(made)
    rules = Rules(4.0)
    means = {("", "echo"): 1.0, ("", "embed"): 1.0}
    full = device(window={"": 0}, means=means)
    seen = Snapshot([Waiting(group, list(keys), 0, len(keys)) for group, keys in groups.items()], [full], rules)
    told = explain(seen, decide(seen, NOW), NOW)
    places = {one: told.of(group, one).position for group, keys in groups.items() for one in keys}  # type: ignore[union-attr]
    carried, order = Carried(), []
    while any(groups.values()):
        waiting_ = [Waiting(group, keys, 0, len(keys)) for group, keys in groups.items() if keys]
        decision = decide(Snapshot(waiting_, [device(window={"": 1}, means=means)], rules, carried), NOW)
        carried = decision.carried
        (chosen,) = decision.chosen
        groups[chosen.group].remove(chosen.task)
        order.append(chosen.task)
    assert sorted(order, key=lambda one: one.level) == order
    assert sorted(places, key=lambda one: (one.level, places[one])) == sorted(places, key=lambda one: places[one])
    if len({one.level for one in order}) == 1:
        assert all(abs(places[one] - place) <= 2 for place, one in enumerate(order, 1))


def test_thousands_are_explained_in_no_time() -> None:
    """What is told of one task does not look at the others: work is counted in list accesses, not in seconds."""

    class Counting(list[Key]):
        reads = 0

        def __getitem__(self, index):  # type: ignore[no-untyped-def]
            Counting.reads += 1
            return super().__getitem__(index)

    tasks = Counting(key(s) for s in range(10_000))
    seen = Snapshot([Waiting(ECHO, tasks, 0, 10_000)], [device(**FULL)], RULES)
    told = explain(seen, decide(seen, NOW), NOW)
    Counting.reads = 0
    found = told.of(ECHO, key(7777))
    assert found is not None
    assert found.position == 7778
    assert Counting.reads < 40


def test_a_start_behind_what_nobody_measured_is_not_sure() -> None:
    """How sure a prediction is, is that of the work before the task, too: a job must not be refused by a guess."""
    known, guessed = Group("embed", "bert"), Group("generate", "llama")
    busy = device(
        costs={("bert", "embed"): Cost(1.0, confidence=0.9), ("llama", "generate"): Cost(9.0, confidence=0.1)}, **FULL
    )
    seen = snapshot([waiting(guessed, *range(10)), waiting(known, 10, 11, lane="batch")], [busy])
    group = known._replace(level=key(10, lane="batch").level)
    seen = seen._replace(waiting=[seen.waiting[0], seen.waiting[1]._replace(group=group)])
    told = explain(seen, decide(seen, NOW), NOW).of(group, key(11, lane="batch"))
    assert told is not None
    assert told.position == 12
    assert told.confidence == pytest.approx((90 * 0.1 + 2 * 0.9) / 92)
