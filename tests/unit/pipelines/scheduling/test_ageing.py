"""No starvation: the bound holds behind a stream of urgent work that never ends, and the urgent keep their part."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from llmos.pipelines.scheduling.ageing import AGED_EVERY, overdue_at, overdue_is_next
from llmos.pipelines.scheduling.decide import decide
from llmos.pipelines.scheduling.order import Key, key_of
from llmos.pipelines.scheduling.snapshot import Carried, Group, Rules, Snapshot, Waiting
from llmos.schemas.job import LANES
from tests.unit.pipelines.scheduling.making import device, key

AGEING = 10.0
RULES = Rules(4.0, ageing_seconds=AGEING)
SERVICE = 1.0


def test_the_less_urgent_are_overdue_later() -> None:
    """A level takes `ageing_seconds`; the least urgent are overdue after thirty of them."""
    assert overdue_at(key(5, lane="interactive", priority=9), AGEING) == 5 + 10.0
    assert overdue_at(key(5, lane="standard", priority=9), AGEING) == 5 + 110.0
    assert overdue_at(key(5, lane="batch", priority=0), AGEING) == 5 + 300.0
    assert [overdue_is_next(since) for since in range(5)] == [False, False, False, True, True]


class Stream:
    """One place, one second a task; urgent work waits at any time, the patient are there from the start."""

    def __init__(self, patient: dict[Group, list[Key]]) -> None:
        self.patient = patient
        self.carried = Carried()
        self.at = 0.0
        self.urgent = 0

    def serve(self) -> tuple[Group, Key]:
        """The next task served."""
        self.at += SERVICE
        fresh = [key_of("interactive", 9, 1e9, self.at, 9, 10_000 + self.urgent + i, 0) for i in range(3)]
        waiting = [Waiting(Group("echo", "", tenant="urgent", level=fresh[0].level), fresh, 0, 3)]
        waiting += [Waiting(group, keys, 0, len(keys)) for group, keys in self.patient.items() if keys]
        decision = decide(Snapshot(waiting, [device(window={"": 1})], RULES, self.carried), self.at)
        self.carried = decision.carried
        (chosen,) = decision.chosen
        if chosen.group in self.patient:
            self.patient[chosen.group].remove(chosen.task)
        else:
            self.urgent += 1
        return chosen.group, chosen.task


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(LANES[1:]), st.integers(0, 9), st.sampled_from(["a", "b", "c"]), st.floats(0, 0.9)),
        min_size=1,
        max_size=8,
    )
)
def test_everybody_is_served_within_the_bound(tasks: list[tuple[str, int, str, float]]) -> None:
    """At the latest as choice number AGED_EVERY · tenants · (own tasks before it + 1) after it became overdue; and at least
    three of four choices remain the urgent's."""
    patient: dict[Group, list[Key]] = {}
    for s, (lane, priority, tenant, arrival) in enumerate(tasks):
        made = key_of(lane, priority, 1e9, arrival, 0, s, 0)  # type: ignore[arg-type]
        patient.setdefault(Group("echo", "", tenant=tenant, level=made.level), []).append(made)
    tenants = len({group.tenant for group in patient})
    due = {}
    for group, keys in patient.items():
        keys.sort()
        for one in keys:
            mine = [other for g, ks in patient.items() if g.tenant == group.tenant for other in ks]
            due[one] = max(overdue_at(other, AGEING) for other in mine), len(mine)
    stream, served, total = Stream(patient), 0, 0
    while any(patient.values()):
        _, one = stream.serve()
        total += 1
        if one in due:
            served += 1
            overdue, mine = due[one]
            assert stream.at <= overdue + SERVICE * (AGED_EVERY * tenants * (mine + 1) + 1)
    assert total - served >= served * (AGED_EVERY - 1)


def test_order_is_untouched_while_nobody_is_overdue() -> None:
    """The urgent alone are served, though others came first."""
    stream = Stream({Group("echo", "", tenant="a", level=15): [key(0), key(1)]})
    assert {stream.serve()[0].tenant for _ in range(100)} == {"urgent"}
