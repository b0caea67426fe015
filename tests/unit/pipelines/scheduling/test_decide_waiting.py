"""Who waits although a device is free: for a busy device where it is done sooner, or while another model has its turn."""

from __future__ import annotations

import pytest

from llmos.pipelines.scheduling.costs import Cost
from llmos.pipelines.scheduling.decide import decide
from llmos.pipelines.scheduling.decision import Decision, Why
from llmos.pipelines.scheduling.snapshot import Group, Rules, Snapshot, Waiting
from tests.unit.pipelines.scheduling.making import LLAMA, RULES, START, device, key, snapshot, waiting

NOW = 1000.0
BERT = Group("embed", "bert")
MEAN = {("llama", "generate"): 1.0}
BUSY = device(
    "busy", window={"": 2}, in_flight={"generate": 2}, work_seconds={"generate": 2.0}, resident=frozenset({"llama"}),
    means=MEAN,
)  # fmt: skip
"""It has the model, and would be done with one more after 3 s."""


def places(decision: Decision) -> list[tuple[int, str]]:
    return [(entry.task.s, entry.device) for entry in decision.chosen]


@pytest.mark.parametrize(
    ("free", "count", "chosen", "rule"),
    [
        pytest.param({}, 1, [], "sooner", id="a load of 5 s elsewhere: it waits 3 s instead"),
        pytest.param({"load_bytes_per_second": 50.0}, 1, [(0, "free")], None, id="a load of 1 s: it does not wait"),
        pytest.param({"resident": frozenset({"llama"})}, 1, [(0, "free")], None, id="there already"),
        pytest.param(
            {"resident": frozenset({"llama"}), "means": {("llama", "generate"): 9.0}}, 1, [], "sooner",
            id="a slow device is left idle while a fast one is sooner done",
        ),
        pytest.param({}, 3, [], "sooner", id="three are sooner one after the other"),
        pytest.param({}, 4, [(3, "free")], "sooner", id="the fourth is not: it goes elsewhere, those before it wait"),
        pytest.param({}, 6, [(3, "free"), (5, "free")], "window", id="it is later done in second place there, so another stays"),
    ],
)  # fmt: skip
def test_waiting_for_a_busy_device(
    free: dict[str, object], count: int, chosen: list[tuple[int, str]], rule: str | None
) -> None:
    """Elsewhere must take a tenth longer than waiting; nobody waits behind more than the busy one will have done by then."""
    fields = {"means": MEAN, **free}
    decision = decide(snapshot([waiting(LLAMA, *range(count), weight=50)], [BUSY, device("free", **fields)]), NOW)
    assert places(decision) == chosen
    assert [held.why.rule for held in decision.held] == ([rule] if rule else [])


def test_who_waits_is_told_both_predictions() -> None:
    """Need is the time elsewhere, have that of waiting, and the device is named."""
    decision = decide(snapshot([waiting(LLAMA, 1, weight=50)], [BUSY, device("free", means=MEAN)]), NOW)
    (held,) = decision.held
    assert (held.why, held.device) == (Why("sooner", 6.0, 3.0), "busy")


def test_the_overdue_do_not_wait() -> None:
    """What has waited long enough takes any device that may run it."""
    rules = RULES._replace(ageing_seconds=15.0)
    devices = [BUSY, device("free", means=MEAN)]
    assert places(decide(snapshot([waiting(LLAMA, 1, weight=50)], devices, rules), NOW)) == [(1, "free")]
    assert places(decide(snapshot([waiting(LLAMA, 999, weight=50)], devices, rules), NOW)) == []


@pytest.mark.parametrize("policy", ["round-robin", "random", "shortest-queue", "two-choices", "least-work"])
def test_baselines_never_leave_a_device_idle(policy: str) -> None:
    """They predict nothing, so they wait for nothing."""
    devices = [BUSY, device("free", means=MEAN)]
    decision = decide(snapshot([waiting(LLAMA, 1, weight=50)], devices, Rules(4.0, policy=policy)), NOW)
    assert places(decision) == [(1, "free")]


def test_models_take_turns_on_a_device() -> None:
    """The other model's tasks, just come, wait for twice the load while work for the one that is there waits, too; the next
    turn is due when their patience ends."""
    one = device("d", window={"": 1}, resident=frozenset({"llama"}), resident_bytes=60, budget_bytes=100)
    groups = [Waiting(BERT, [key(995)], 50, 1), Waiting(LLAMA, [key(996)], 60, 1)]
    decision = decide(snapshot(groups, [one]), NOW)
    assert places(decision) == [(996, "d")]
    assert [(held.group, held.why) for held in decision.held] == [(BERT, Why("switch", 10.0, 5.0))]
    assert decision.next_at == 1005.0
    later = decide(snapshot(groups, [one]), 1005.0)
    assert places(later) == [(995, "d")]


def test_nobody_waits_for_a_model_that_nobody_wants() -> None:
    """What is resident and not asked for is driven out at once."""
    one = device("d", resident=frozenset({"llama"}), resident_bytes=60, budget_bytes=100)
    assert places(decide(snapshot([Waiting(BERT, [key(995)], 50, 1)], [one]), NOW)) == [(995, "d")]


def test_a_device_that_has_the_model_is_preferred_to_a_load() -> None:
    """Though it is a little later done: a load costs the others, and tasks of a model run better together."""
    there = device("b", resident=frozenset({"llama"}), loading={"llama": 5.4}, means=MEAN)
    assert places(decide(snapshot([waiting(LLAMA, 1, weight=50)], [device("a", means=MEAN), there]), NOW)) == [(1, "b")]


def test_a_record_names_all_devices() -> None:
    """With the refusal, or with what was predicted; of tasks with a model only, and only where it is asked for."""
    rules = RULES._replace(record=True)
    devices = [device("a", alive=False), device("b", resident=frozenset({"llama"}), means=MEAN)]
    groups = [waiting(LLAMA, 1, weight=50), waiting(Group("echo", ""), 2)]
    model, echo = decide(snapshot(groups, devices, rules), NOW).chosen
    assert [(option.device, option.why) for option in model.options] == [("a", Why("alive", 1, 0)), ("b", None)]
    assert model.options[1].prediction is not None
    assert (model.options[1].prediction.seconds, echo.options) == (1.0, ())
    assert decide(snapshot(groups, devices), NOW).chosen[0].options == ()


def test_tenants_take_turns_by_work() -> None:
    """A tenant whose tasks are three times as long gets a third as many."""
    cost = {("", "echo"): Cost(1.0, prefill_seconds=1.0)}
    groups = [
        Waiting(Group("echo", "", tenant=name), [key(base + i, tokens=(tokens, 0)) for i in range(12)], 0, 12)
        for name, base, tokens in (("long", 0, 3), ("short", 100, 1))
    ]
    decision = decide(Snapshot(groups, [device(window={"": 8}, costs=cost)], RULES), NOW)
    chosen = [entry.group.tenant for entry in decision.chosen]
    assert (chosen.count("long"), chosen.count("short")) == (2, 6)


SUSPECT = Group("generate", "llama", alone=True)
RUNS = {"window": {"": 2}, "in_flight": {"generate": 1}, "resident": frozenset({"llama"})}


def test_a_device_becomes_empty_for_who_must_be_alone() -> None:
    """While a suspect waits, the device that is empty soonest gets nothing more of what comes after it; the others do."""
    slow = device("a", work_seconds={"generate": 9.0}, **RUNS)
    soon = device("b", work_seconds={"generate": 1.0}, **RUNS)
    decision = decide(snapshot([waiting(SUSPECT, 1), waiting(LLAMA, 2, 3)], [slow, soon]), NOW)
    assert places(decision) == [(2, "a")]
    assert [held.why.rule for held in decision.held] == ["alone", "window"]


def test_what_is_more_urgent_does_not_wait_for_a_suspect() -> None:
    """Only what comes later in the order makes room, or all that is not overdue once the suspect itself is."""
    urgent = waiting(LLAMA, 2, lane="interactive")
    busy = [device("a", **RUNS)]
    assert places(decide(snapshot([waiting(SUSPECT, 1), urgent], busy), NOW)) == [(2, "a")]
    overdue = snapshot(
        [waiting(SUSPECT, 1), urgent], busy, RULES._replace(ageing_seconds=1.0), START._replace(since_aged=3)
    )
    assert places(decide(overdue, NOW)) == []


def test_suspects_follow_each_other_on_one_device() -> None:
    """Where one runs alone the next one waits, so that the other devices go on."""
    one = device("a", in_flight_alone=1, work_seconds={"generate": 9.0}, **RUNS)
    other = device("b", work_seconds={"generate": 1.0}, **RUNS)
    decision = decide(snapshot([waiting(SUSPECT, 1), waiting(LLAMA, 2)], [one, other]), NOW)
    assert places(decision) == [(2, "b")]
