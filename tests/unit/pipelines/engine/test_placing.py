"""Which model is loaded next: whoever waits is served, nothing in use leaves, nothing is loaded in vain."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmos.pipelines.engine.eviction import Resident
from llmos.pipelines.engine.placing import Held, Memory, Placement, Want, place

AMPLE = Memory(10, 100)
NOW = 100.0


def r(
    identity: str, size: int, used: float = 1.0, *, active: int = 0, pinned: bool = False, served: int = 1,
    waited: float = inf, loaded: float = 0.0, turn: float = 5.0,
) -> Resident:  # fmt: skip
    return Resident(identity, size, used, active, pinned, loaded, served, waited, turn)


def w(identity: str, need: int, since: float = 50.0) -> Want:
    return Want(identity, need, since)


FRESH = NOW - 1.0
CASES = [
    pytest.param([], [], None, AMPLE, Placement(), id="nothing is wanted"),
    pytest.param([w("a", 5)], [], None, AMPLE, Placement("a"), id="room"),
    pytest.param([w("a", 5, 9), w("b", 5, 8)], [], None, AMPLE, Placement("b", (), {"a": Held("load", 5, 10)}), id="the oldest waiter first, one at a time"),
    pytest.param([w("a", 5)], [], w("b", 4), AMPLE, Placement("", (), {"a": Held("load", 5, 6)}), id="after the one that is loading"),
    pytest.param([w("b", 5)], [], w("b", 5), AMPLE, Placement(), id="the one that is loading is joined"),
    pytest.param([w("a", 5)], [r("x", 4, 1), r("y", 4, 2)], None, AMPLE, Placement("a", ("x",)), id="the least recently used leaves"),
    pytest.param([w("a", 5)], [r("x", 4, 1, pinned=True), r("y", 4, 2)], None, AMPLE, Placement("a", ("y",)), id="a pinned one stays"),
    pytest.param([w("a", 7), w("b", 2, 60)], [r("x", 4, pinned=True)], None, AMPLE, Placement("b", (), {"a": Held("pinned", 7, 6)}), id="what pinned ones leave no room for holds up nobody"),
    pytest.param([w("a", 5)], [r("x", 8, active=1, loaded=FRESH)], None, AMPLE, Placement("", (), {"a": Held("memory", 5, 2)}), id="one in use whose turn is not over"),
    pytest.param([w("a", 5)], [r("x", 8, active=1)], None, AMPLE, Placement("", (), {"a": Held("memory", 5, 2)}, {"x": 50.0}), id="one in use whose turn is over yields"),
    pytest.param([w("a", 5)], [r("x", 8, active=1, pinned=True)], None, AMPLE, Placement("", (), {"a": Held("pinned", 5, 2)}), id="a pinned one never yields"),
    pytest.param([w("a", 5)], [r("x", 4, active=1), r("y", 4, active=1, used=2)], None, AMPLE, Placement("", (), {"a": Held("memory", 5, 2)}, {"x": 50.0}), id="no more yield than must"),
    pytest.param([w("a", 9)], [r("x", 4, active=1), r("y", 4, active=1, loaded=FRESH)], None, AMPLE, Placement("", (), {"a": Held("memory", 9, 2)}), id="none yields while that would not be enough"),
    pytest.param([w("a", 5)], [r("x", 8, served=0, waited=70.0)], None, AMPLE, Placement("", (), {"a": Held("memory", 5, 10)}), id="one that was not used yet stays for those that wait for it"),
    pytest.param([w("a", 5)], [r("x", 8, served=0, loaded=FRESH)], None, AMPLE, Placement("", (), {"a": Held("memory", 5, 10)}), id="one that was just loaded stays"),
    pytest.param([w("a", 5)], [r("x", 8, served=0)], None, AMPLE, Placement("a", ("x",)), id="one that nobody used during its turn leaves"),
    pytest.param([w("a", 5)], [r("x", 8, loaded=FRESH)], None, AMPLE, Placement("a", ("x",)), id="one that was used and that nobody wants leaves"),
    pytest.param([w("a", 5)], [r("x", 8, waited=40.0)], None, AMPLE, Placement("", (), {"a": Held("memory", 5, 10)}, {"x": 50.0}), id="whose own tasks have waited longer stays for those"),
    pytest.param([w("a", 5)], [r("x", 8, waited=60.0)], None, AMPLE, Placement("a", ("x",)), id="whose own tasks have waited less leaves after its turn"),
    pytest.param([w("a", 8), w("b", 2, 60)], [r("x", 5, active=1, loaded=FRESH)], None, AMPLE, Placement("b", (), {"a": Held("memory", 8, 5)}), id="a small one goes before where the first keeps its room"),
    pytest.param([w("a", 8), w("b", 3, 60)], [r("x", 5, active=1, loaded=FRESH)], None, AMPLE, Placement("", (), {"a": Held("memory", 8, 5), "b": Held("memory", 3, 5)}), id="and waits where it would take it"),
    pytest.param([w("a", 8), w("b", 2, 60)], [r("x", 5, active=1, loaded=FRESH), r("y", 5)], None, AMPLE, Placement("", (), {"a": Held("memory", 8, 5), "b": Held("memory", 2, 5)}), id="nothing leaves for one that goes before"),
    pytest.param([w("a", 5)], [], None, Memory(10, 3), Placement("", (), {"a": Held("device_memory", 5, 3)}), id="the device has less than the budget says"),
    pytest.param([w("a", 5)], [r("x", 4)], None, Memory(10, 3), Placement("a", ("x",)), id="then more leaves"),
]  # fmt: skip


@pytest.mark.parametrize(("wants", "residents", "loading", "memory", "decision"), CASES)
def test_table(
    wants: list[Want], residents: list[Resident], loading: Want | None, memory: Memory, decision: Placement
) -> None:
    """The cases one by one."""
    assert place(wants, residents, loading, memory, NOW) == decision


LOAD_SECONDS = 1.0
TURN_SECONDS = 3.0
STEP_SECONDS = 0.25


@dataclass
class Model:
    """A model on a simulated device."""

    size: int
    loaded_at: float = -1.0
    used_at: float = 0.0
    served: int = 0
    running: list[float] = field(default_factory=list)
    """When each of its running tasks ends."""
    waiting: list[tuple[float, float]] = field(default_factory=list)
    """When each came, and how long it runs."""
    loads: int = 0
    done: int = 0
    longest_wait: float = 0.0

    @property
    def resident(self) -> bool:
        return self.loaded_at >= 0.0


class Device:
    """Tasks come, models are placed by `place`, up to two tasks of a model run at once; each promise is checked."""

    def __init__(self, sizes: list[int], budget: int, pinned: str) -> None:
        self.models = {chr(97 + i): Model(size) for i, size in enumerate(sizes)}
        self.budget = budget
        self.pinned = pinned
        self.now = 0.0
        self.loading: tuple[str, float] | None = None
        self.yields: dict[str, float] = {}

    def step(self) -> None:
        """One round."""
        self.now += STEP_SECONDS
        if self.loading is not None and self.loading[1] <= self.now:
            model = self.models[self.loading[0]]
            model.loaded_at, model.served, model.used_at = self.now, 0, self.now
            self.loading = None
        for name, model in self.models.items():
            model.done += sum(end <= self.now for end in model.running)
            model.running = [end for end in model.running if end > self.now]
            while model.resident and model.waiting and len(model.running) < 2:
                came, seconds = model.waiting[0]
                if came > self.yields.get(name, inf):
                    break
                model.waiting.pop(0)
                model.running.append(self.now + seconds)
                model.served += 1
                model.used_at = self.now
                model.longest_wait = max(model.longest_wait, self.now - came)
        self._place()

    def _place(self) -> None:
        wants = [
            w(name, model.size, model.waiting[0][0] if model.waiting else -1.0)
            for name, model in self.models.items()
            if not model.resident and (model.waiting or name == self.pinned)
        ]
        residents = [
            r(
                name, model.size, model.used_at, active=len(model.running), pinned=name == self.pinned, served=model.served,
                waited=model.waiting[0][0] if model.waiting else inf, loaded=model.loaded_at, turn=TURN_SECONDS,
            )
            for name, model in self.models.items()
            if model.resident
        ]  # fmt: skip
        loading = w(self.loading[0], self.models[self.loading[0]].size) if self.loading else None
        decision = place(wants, residents, loading, Memory(self.budget, 1000), self.now)
        for name in decision.evict:
            model = self.models[name]
            assert not model.running, "one in use was evicted"
            assert name != self.pinned, "a pinned one was evicted"
            assert model.served > 0, "one was evicted that nobody had used"
            if model.waiting:
                assert self.now - model.loaded_at >= TURN_SECONDS, "its turn was not over"
            model.loaded_at = -1.0
        if decision.load:
            assert self.loading is None
            self.loading = (decision.load, self.now + LOAD_SECONDS)
            self.models[decision.load].loads += 1
        self.yields = dict(decision.yields)
        there = [m.size for m in self.models.values() if m.resident]
        there += [self.models[self.loading[0]].size] if self.loading else []
        assert sum(there) <= self.budget


ARRIVALS = st.lists(
    st.tuples(st.integers(0, 120), st.integers(0, 3), st.sampled_from([0.25, 0.5, 1.0, 4.0])), max_size=120
)


@settings(deadline=None, max_examples=150)
@given(st.lists(st.integers(1, 8), min_size=2, max_size=4), st.integers(8, 16), st.booleans(), ARRIVALS)
def test_everything_waiting_is_served_and_no_load_is_in_vain(
    sizes: list[int], budget: int, pin: bool, arrivals: list[tuple[int, int, float]]
) -> None:
    """Whatever comes when: all of it is done, each load serves a task at least, and no promise of the device is broken."""
    pinned = "a" if pin and all(size <= budget - sizes[0] for size in sizes[1:]) else ""
    device = Device(sizes, budget, pinned)
    by_step: dict[int, list[tuple[str, float]]] = {}
    for step, which, seconds in arrivals:
        by_step.setdefault(step, []).append((chr(97 + which % len(sizes)), seconds))
    total = len(arrivals)
    for step in range(4000):
        for name, seconds in by_step.get(step, []):
            device.models[name].waiting.append((device.now, seconds))
        device.step()
        if step > 120 and sum(model.done for model in device.models.values()) == total:
            break
    assert sum(model.done for model in device.models.values()) == total
    for name, model in device.models.items():
        assert model.loads <= model.done + (name == pinned)


def test_two_models_that_do_not_fit_together_take_turns() -> None:
    """Under a stream of work for both, each stays for its turn, and none waits longer than the other's turn, its longest
    task and a load, as often as it takes to come to the front."""
    device = Device([6, 6], 10, "")
    seconds = 120.0
    for step in range(int(seconds / STEP_SECONDS)):
        if step % 2 == 0:
            for model in device.models.values():
                model.waiting.append((device.now, 0.5))
        device.step()
    loads = [model.loads for model in device.models.values()]
    assert max(loads) <= seconds / (2 * TURN_SECONDS + 2 * LOAD_SECONDS) + 1
    assert min(loads) >= 5


def test_a_stream_for_one_model_does_not_starve_another() -> None:
    """One that is in use without a pause yields to the one that waits, within its turn, its longest task and a load."""
    device = Device([6, 6], 10, "")
    busy, other = device.models["a"], device.models["b"]
    for step in range(80):
        busy.waiting += [(device.now, 1.0)] if step % 2 == 0 else []
        other.waiting += [(device.now, 1.0)] if step == 20 else []
        device.step()
    assert other.served == 1
    assert other.longest_wait <= TURN_SECONDS + 1.0 + LOAD_SECONDS + 4 * STEP_SECONDS


def test_models_that_fit_together_are_loaded_once() -> None:
    """However they are asked for."""
    device = Device([4, 3, 3], 10, "")
    for step in range(300):
        if step % 3 == 0:
            device.models["abc"[step % 7 % 3]].waiting.append((device.now, 0.5))
        device.step()
    assert [model.loads for model in device.models.values()] == [1, 1, 1]


@given(st.permutations([w("a", 3, 1.0), w("b", 3, 2.0), w("c", 9, 1.5)]))
def test_the_order_of_what_is_wanted_does_not_matter(wants: list[Want]) -> None:
    """Age decides."""
    decision = place(wants, [], None, AMPLE, NOW)
    assert decision.load == "a"
    assert set(decision.held) == {"b", "c"}
