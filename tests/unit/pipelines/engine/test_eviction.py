"""What leaves for a model: the least recently used, no more than needed, nothing in use, and nothing in vain."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.pipelines.engine.eviction import Resident, choose_evictions


def r(identity: str, size: int, used: float, active: int = 0) -> Resident:
    return Resident(identity, size, used, active)


@pytest.mark.parametrize(
    ("residents", "need", "budget", "leaving"),
    [
        pytest.param([], 5, 10, [], id="empty"),
        pytest.param([], 11, 10, None, id="too large for the budget"),
        pytest.param([r("a", 4, 1)], 6, 10, [], id="fits exactly beside another"),
        pytest.param([r("a", 4, 1), r("b", 4, 2)], 6, 10, ["a"], id="the older leaves"),
        pytest.param([r("b", 4, 2), r("a", 4, 1)], 6, 10, ["a"], id="whatever the order"),
        pytest.param([r("a", 4, 1), r("b", 4, 2)], 7, 10, ["a", "b"], id="both leave"),
        pytest.param([r("a", 4, 1, 1), r("b", 4, 2)], 6, 10, ["b"], id="one in use stays, though older"),
        pytest.param([r("a", 4, 1, 1), r("b", 4, 2, 2)], 6, 10, None, id="all in use: not now"),
        pytest.param([r("a", 7, 1, 1), r("b", 3, 2)], 6, 10, None, id="would not be enough: nobody leaves"),
        pytest.param([r("a", 1, 1), r("b", 8, 2)], 8, 10, ["b"], id="a small older one is not evicted in vain"),
        pytest.param([r("a", 3, 1), r("b", 3, 1)], 5, 10, ["a"], id="ties by name"),
        pytest.param([r("a", 8, 1), r("b", 8, 2)], 0, 10, ["a"], id="over budget already"),
    ],
)
def test_table(residents: list[Resident], need: int, budget: int, leaving: list[str] | None) -> None:
    """The cases one by one."""
    assert choose_evictions(residents, need, budget) == leaving


RESIDENTS = st.lists(
    st.builds(r, st.uuids().map(str), st.integers(1, 9), st.floats(0, 9), st.integers(0, 1)),
    max_size=6,
    unique_by=lambda resident: resident.identity,
)


@given(RESIDENTS, st.integers(0, 20), st.integers(1, 40))
def test_an_eviction_is_enough_and_not_too_much(residents: list[Resident], need: int, budget: int) -> None:
    """What leaves makes the room, is idle, and would not make it with any one of them left out."""
    leaving = choose_evictions(residents, need, budget)
    sizes = {resident.identity: resident.resident_bytes for resident in residents}
    in_use = sum(resident.resident_bytes for resident in residents if resident.active)
    if leaving is None:
        assert in_use + need > budget
        return
    free = budget - sum(sizes.values()) + sum(sizes[identity] for identity in leaving)
    assert free >= need
    assert all(free - sizes[identity] < need for identity in leaving)
    assert not any(resident.active for resident in residents if resident.identity in leaving)


def test_models_that_fit_together_never_push_each_other_out() -> None:
    """However three models that fit into the budget are asked for, each is loaded once."""
    budget, sizes = 10, {"a": 5, "b": 3, "c": 2}
    loads = _play([name for i in range(60) for name in ("abc", "cab", "bbc")[i % 3]], sizes, budget, in_use=set())
    assert loads == {"a": 1, "b": 1, "c": 1}


def test_a_model_that_waits_for_room_pushes_nobody_out() -> None:
    """While a large model cannot come in beside one in use, asking for it again and again evicts and reloads nothing."""
    budget, sizes = 10, {"busy": 4, "idle": 3, "large": 8}
    loads = _play(["busy", "idle", *["large", "idle"] * 30], sizes, budget, in_use={"busy"})
    assert loads == {"busy": 1, "idle": 1}


def _play(asked: list[str], sizes: dict[str, int], budget: int, in_use: set[str]) -> dict[str, int]:
    """Loads per model when they are asked for in this order."""
    used: dict[str, float] = {}
    loads: dict[str, int] = {}
    for now, name in enumerate(asked):
        if name not in used:
            residents = [r(other, sizes[other], at, int(other in in_use)) for other, at in used.items()]
            leaving = choose_evictions(residents, sizes[name], budget)
            if leaving is None:
                continue
            for other in leaving:
                del used[other]
            loads[name] = loads.get(name, 0) + 1
        used[name] = now
    return loads
