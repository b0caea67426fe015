"""The decision, case by case: who goes where, what is held and why, when to ask again."""

from __future__ import annotations

import pytest

from llmos.pipelines.scheduling.decide import decide
from llmos.pipelines.scheduling.decision import Chosen, Held, Why
from llmos.pipelines.scheduling.snapshot import DeviceView, Group, Rules, Waiting
from tests.unit.pipelines.scheduling.making import ECHO, LLAMA, device, key, snapshot, waiting

BERT = Group("embed", "bert")
ROUND_ROBIN = Rules(4.0, policy="round-robin")
NOW = 1000.0


def places(chosen: list[Chosen]) -> list[tuple[int, str]]:
    """(s, device) of each choice."""
    return [(entry.task.s, entry.device) for entry in chosen]


@pytest.mark.parametrize(
    ("groups", "devices", "chosen"),
    [
        pytest.param([], [device()], [], id="nothing waits"),
        pytest.param([waiting(ECHO)], [device()], [], id="an empty group"),
        pytest.param([waiting(ECHO, 1)], [], [], id="no device"),
        pytest.param([waiting(ECHO, 1, 2, 3)], [device("a")], [(1, "a"), (2, "a")], id="until the window is full"),
        pytest.param(
            [waiting(ECHO, 1, 2, 3)], [device("a"), device("b")], [(1, "a"), (2, "b"), (3, "a")],
            id="each goes where it is done first",
        ),
        pytest.param(
            [waiting(ECHO, 2, 4), waiting(LLAMA, 1, 3)], [device("a", window={"": 9})],
            [(1, "a"), (2, "a"), (3, "a"), (4, "a")], id="groups are merged by their keys",
        ),
        pytest.param(
            [waiting(LLAMA, 1, weight=200), waiting(ECHO, 2)], [device("a")], [(2, "a")],
            id="a group that is held holds up no other",
        ),
        pytest.param(
            [waiting(LLAMA, 1, weight=50)], [device("a"), device("b", resident=frozenset({"llama"}))], [(1, "b")],
            id="where the model is resident",
        ),
        pytest.param(
            [waiting(LLAMA, 1, weight=50)],
            [device("a"), device("b", resident=frozenset({"llama"}), work_seconds={"generate": 60.0})], [(1, "a")],
            id="loading beats a long queue",
        ),
        pytest.param(
            [waiting(LLAMA, 1, 2, weight=50)], [device("a", work_seconds={"generate": 0.1}), device("b")],
            [(1, "b"), (2, "b")], id="the second finds the model there",
        ),
        pytest.param(
            [waiting(ECHO, 1)], [device("a", in_flight={"embed": 1}), device("b")], [(1, "b")],
            id="equals: the emptier device",
        ),
        pytest.param(
            [waiting(ECHO, 1)], [device("a", utilisation=9.0), device("b", work_seconds={"echo": 5.0})], [(1, "b")],
            id="a device above the limit lets another take it",
        ),
        pytest.param(
            [waiting(ECHO, 1)], [device("a", utilisation=9.0), device("b", alive=False)], [(1, "a")],
            id="but takes it where nobody else may",
        ),
        pytest.param(
            [waiting(ECHO, 1)], [device("a", utilisation=9.0), device("b", utilisation=8.0, work_seconds={"echo": 1.0})],
            [(1, "a")], id="all above: as if there were no limit",
        ),
        pytest.param(
            [waiting(Group("echo", "", alone=True), 1), waiting(ECHO, 2)], [device("a"), device("b")],
            [(1, "a"), (2, "b")], id="nobody joins a suspect",
        ),
        pytest.param(
            [waiting(Group("echo", "", alone=True), 1, 2)], [device("a")], [(1, "a")], id="suspects one by one"
        ),
        pytest.param(
            [waiting(Group("echo", "", alone=True), 1), waiting(ECHO, 2)], [device("a")], [(1, "a")],
            id="nor within one decision",
        ),
    ],
)  # fmt: skip
def test_who_goes_where(groups: list[Waiting], devices: list[DeviceView], chosen: list[tuple[int, str]]) -> None:
    """The cases one by one, in the order in which they are chosen."""
    assert places(decide(snapshot(groups, devices), NOW).chosen) == chosen


def test_urgent_work_of_another_group_goes_first() -> None:
    """With one place left, the lane decides before the arrival does, whatever the group."""
    groups = [
        Waiting(ECHO, [key(1, lane="batch")]),
        Waiting(LLAMA, [key(2, lane="interactive"), key(3, lane="standard", priority=9)]),
    ]
    assert places(decide(snapshot(groups, [device("a")]), NOW).chosen) == [(2, "a"), (3, "a")]


@pytest.mark.parametrize(
    ("devices", "why"),
    [
        ([], Why("alive", 1, 0)),
        ([device(alive=False)], Why("alive", 1, 0)),
        ([device("a", alive=False), device("b", kinds=frozenset({"echo"}))], Why("kind", 1, 0)),
        ([device("a", kinds=frozenset()), device("b", models=frozenset())], Why("model", 1, 0)),
        ([device("a", models=frozenset()), device("b", budget_bytes=10)], Why("memory", 50, 10)),
        ([device("a", budget_bytes=10), device("b", in_flight_alone=1, in_flight={"echo": 1})], Why("alone", 0, 1)),
        ([device("a", in_flight={"embed": 2}), device("b", budget_bytes=10)], Why("window", 3, 2)),
        ([device("a", draining=True), device("b", window={"": 7}, in_flight={"generate": 7})], Why("window", 8, 7)),
    ],
)
def test_the_reason_is_that_of_the_nearest_device(devices: list[DeviceView], why: Why) -> None:
    """Of all refusals the one is told that came last in the row of filters: that device was nearest to taking it."""
    decision = decide(snapshot([waiting(LLAMA, 1, 2, weight=50)], devices), NOW)
    assert decision.held == [Held(LLAMA, key(1), 2, why)]
    assert decision.next_at is None


def test_held_counts_all_that_wait() -> None:
    """A snapshot holds only as many tasks as there is room for; the group's total says how many wait."""
    group = Waiting(ECHO, [key(1), key(2), key(3)], 0, 50)
    (held,) = decide(snapshot([group], [device("a")]), NOW).held
    assert (held.first.s, held.tasks, held.why) == (3, 48, Why("window", 3, 2))


def test_a_choice_tells_when_it_should_be_done() -> None:
    """Each choice sees those before it on its device: predictions grow, the service of each stays its own."""
    measured = device("a", window={"": 3}, means={("", "echo"): 2.0}, work_seconds={"echo": 1.0})
    chosen = decide(snapshot([waiting(ECHO, 1, 2, 3)], [measured]), NOW).chosen
    assert [entry.done_at - NOW for entry in chosen] == pytest.approx([3.0, 5.0, 7.0])
    assert [entry.service_seconds for entry in chosen] == [2.0, 2.0, 2.0]


def test_round_robin_takes_turns_over_calls() -> None:
    """Whatever is known of the devices, the next in turn takes the task, and the turn outlives the call."""
    devices = [
        device(name, window={"": 9}, work_seconds={"echo": seconds}) for name, seconds in (("a", 9), ("b", 0), ("c", 5))
    ]
    first = decide(snapshot([waiting(ECHO, 1, 2)], devices, ROUND_ROBIN), NOW)
    assert (places(first.chosen), first.carried.turn) == ([(1, "a"), (2, "b")], 2)
    second = decide(snapshot([waiting(ECHO, 3, 4)], devices, ROUND_ROBIN, first.carried), NOW)
    assert (places(second.chosen), second.carried.turn) == ([(3, "c"), (4, "a")], 1)


def test_round_robin_leaves_out_who_may_not() -> None:
    """A full device and one above the limit lose their turn, not their place."""
    devices = [device("a", in_flight={"echo": 2}), device("b", utilisation=9.0), device("c")]
    assert places(decide(snapshot([waiting(ECHO, 1)], devices, ROUND_ROBIN), NOW).chosen) == [(1, "c")]


def test_the_limit_of_utilisation_holds_nothing() -> None:
    """A full device above the limit is full, nothing else: nothing asks to be woken by time alone."""
    decision = decide(snapshot([waiting(ECHO, 1)], [device("a", utilisation=9.0, in_flight={"echo": 2})]), NOW)
    assert (decision.held[0].why.rule, decision.next_at) == ("window", None)


def test_two_groups_of_one_model_share_its_load() -> None:
    """Once a task of a model is on its way to a device, others of the model find it resident there."""
    embed = Group("embed", "llama")
    devices = [device("a", window={"": 9}), device("b", window={"": 9}, work_seconds={"generate": 0.2})]
    decision = decide(snapshot([waiting(LLAMA, 1, weight=50), waiting(embed, 2, weight=50)], devices), NOW)
    assert places(decision.chosen) == [(1, "a"), (2, "a")]


def test_models_do_not_stand_in_for_each_other() -> None:
    """Another model's being resident saves no load."""
    devices = [device("a", resident=frozenset({"bert"}), work_seconds={"embed": 1.0, "generate": 1.0}), device("b")]
    assert places(decide(snapshot([waiting(LLAMA, 1, weight=50)], devices), NOW).chosen) == [(1, "b")]
    assert places(decide(snapshot([waiting(BERT, 1, weight=50)], devices), NOW).chosen) == [(1, "a")]
