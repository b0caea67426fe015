"""Which texts go together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.services.worker.runners.batching import LENGTH_RATIO, SHORT_CHARACTERS, choose_batch


@pytest.mark.parametrize(
    ("waiting", "room", "chosen"),
    [
        pytest.param([(1, 10)], 4, [0], id="alone"),
        pytest.param([(9, 10)], 4, [0], id="larger than the room goes alone"),
        pytest.param([(1, 10), (1, 60), (1, 5)], 4, [0, 1, 2], id="short ones are all alike"),
        pytest.param([(1, 1000), (1, 100), (1, 1900)], 4, [0, 2], id="one that is much shorter waits"),
        pytest.param([(1, 100), (1, 1000), (1, 150)], 4, [0, 2], id="one that is much longer waits"),
        pytest.param([(2, 1000), (1, 1900), (1, 1100), (1, 1000)], 4, [0, 2, 3], id="the likest first"),
        pytest.param([(2, 10), (3, 10), (1, 10)], 4, [0, 2], id="those that fit"),
    ],
)
def test_table(waiting: list[tuple[int, int]], room: int, chosen: list[int]) -> None:
    """The cases one by one."""
    assert choose_batch(waiting, room) == chosen


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 10_000)), min_size=1, max_size=40), st.integers(1, 20))
def test_a_batch_fits_is_alike_and_has_the_oldest(waiting: list[tuple[int, int]], room: int) -> None:
    """So everybody is the oldest some time, and padding is bounded."""
    chosen = choose_batch(waiting, room)
    assert chosen[0] == 0
    assert len(chosen) == 1 or sum(waiting[i][0] for i in chosen) <= room
    lengths = [max(waiting[i][1], SHORT_CHARACTERS) for i in chosen]
    assert all(1 / LENGTH_RATIO <= length / lengths[0] <= LENGTH_RATIO for length in lengths)
