"""Windows: additive increase, multiplicative decrease, never idle while work waits, never far more than begins soon."""

from __future__ import annotations

import heapq

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmos.pipelines.scheduling.windows import Seen, ceiling_of, first_window, floor_of, next_window

TARGET = 0.25


@pytest.mark.parametrize(
    ("window", "seen", "slots", "interval", "following"),
    [
        pytest.param(20.0, Seen(0.1, True, 0.0), 16, 0.01, 22.0, id="full and quick: a little more"),
        pytest.param(20.0, Seen(0.1, True, 0.3), 16, 0.01, 24.0, id="it was idle, too: twice as much"),
        pytest.param(20.0, Seen(0.1, False, 0.0), 16, 0.01, 20.0, id="never full: as it is"),
        pytest.param(20.0, Seen(None, True, 0.0), 16, 0.01, 22.0, id="none began: nobody waited too long"),
        pytest.param(30.0, Seen(0.3, True, 0.0), 16, 0.01, 21.0, id="too slow: a share less"),
        pytest.param(20.0, Seen(9.0, True, 0.0), 16, 0.01, 17.0, id="the floor: all slots and one"),
        pytest.param(18.0, Seen(9.0, True, 0.0), 16, 1.0, 16.0, id="one more would wait too long: all slots"),
        pytest.param(40.9, Seen(0.0, True, 0.0), 16, 0.01, 41.0, id="the ceiling: what begins within the target"),
        pytest.param(2.0, Seen(0.0, True, 0.0), 1, 0.0, 2.0, id="unknown service: where it began"),
        pytest.param(0.0, Seen(None, False, 0.0), 0, 0.0, 0.0, id="no slots, no window"),
    ],
)
def test_next_window(window: float, seen: Seen, slots: int, interval: float, following: float) -> None:
    """The table of cases; the target is a quarter of a second."""
    assert next_window(window, seen, slots, interval, TARGET, 2.0) == pytest.approx(following)


@given(st.integers(1, 64), st.floats(0, 10), st.floats(0.01, 5))
def test_the_floor_is_below_the_ceiling(slots: int, interval: float, target: float) -> None:
    """And neither starves the slots."""
    assert slots <= floor_of(slots, interval, target) <= ceiling_of(slots, interval, target, 2.0)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 16), st.floats(0.005, 5.0), st.floats(1.0, 8.0), st.integers(0, 3))
def test_a_device_is_never_idle_while_work_waits(slots: int, service: float, start: float, spread: int) -> None:
    """Slots that each take `service` (and a little more or less), work without end: with every window that the rule gives no
    slot is empty, and a task waits on the device for the target, or for one end of a task, once the window has settled."""
    window, now = first_window(slots, start), 0.0
    busy: list[float] = []
    begun, waited, was_full = 0, 0.0, False
    waits: list[tuple[float, float]] = []
    arrived: list[float] = []
    beat_at, taken = 0.5, 0
    while now < 60 * max(service, 0.1):
        while len(busy) + len(arrived) < int(window):
            arrived.append(now)
            was_full = True
        while arrived and len(busy) < slots:
            came = arrived.pop(0)
            begun, waited = begun + 1, waited + now - came
            waits.append((now, now - came))
            taken += 1
            heapq.heappush(busy, now + service * (1 + 0.1 * (taken % (spread + 1))))
        assert len(busy) == slots, "a slot is idle while work waits"
        now = heapq.heappop(busy)
        if now >= beat_at:
            beat_at = now + 0.5
            seen = Seen(waited / begun if begun else None, was_full, 0.0)
            window = next_window(window, seen, slots, service / slots, TARGET, start)
            begun, waited, was_full = 0, 0.0, False
    settled = [wait for at, wait in waits if at > now / 2]
    assert sum(settled) / len(settled) <= max(2 * TARGET, 1.5 * service / slots + TARGET)
