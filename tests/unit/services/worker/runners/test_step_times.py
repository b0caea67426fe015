"""How long a step may take: unknown at first, then by what such steps took, never less than a slow core needs."""

from __future__ import annotations

import pytest

from llmos.services.worker.runners.base import Meter
from llmos.services.worker.runners.step_times import FACTOR, LEAST_SECONDS, SAMPLES, StepTimes

KEY = ("m", "generate")


@pytest.mark.parametrize(
    ("steps", "work", "limit"),
    [
        pytest.param([], 1, 0.0, id="nothing is known"),
        pytest.param([(1, 1.0)] * (SAMPLES - 1), 1, 0.0, id="too few"),
        pytest.param([(1, 0.01)] * 9, 1, LEAST_SECONDS, id="never short"),
        pytest.param([(1, 1.0)] * 9, 1, FACTOR, id="by the average"),
        pytest.param([(1, 1.0)] * 9, 500, 500 * FACTOR, id="a large step after small ones has time"),
        pytest.param([(500, 5.0)] * 9, 1, 5 * FACTOR, id="a small step after large ones, too"),
        pytest.param([(1, 1.0)] * 50 + [(1, 3.0)], 1, 1.2 * FACTOR, id="the newest counts a tenth"),
        pytest.param([(0, 1.0)] * 9, 0, FACTOR, id="no work is some"),
    ],
)
def test_limit(steps: list[tuple[float, float]], work: float, limit: float) -> None:
    """The cases one by one."""
    times = StepTimes()
    for one, seconds in steps:
        times.took(KEY, one, seconds)
    assert times.limit(KEY, work) == pytest.approx(limit)
    assert times.limit(("other", "generate"), work) == 0.0


def test_a_model_that_is_loaded_anew_is_unknown() -> None:
    """Its first steps are slow again; others keep their limits."""
    times = StepTimes()
    for key in (KEY, ("m", "embed"), ("other", "embed")):
        for _ in range(SAMPLES):
            times.took(key, 1, 1.0)
    times.forget("m")
    assert [times.limit(key, 1) > 0 for key in (KEY, ("m", "embed"), ("other", "embed"))] == [False, False, True]


def test_the_step_that_runs_is_seen() -> None:
    """Its beginning and its limit, while it runs; a step that raises is over, too."""
    now = [100.0]
    meter = Meter(clock=lambda: now[0])
    for _ in range(SAMPLES):
        with meter.device_step(*KEY, work=1):
            now[0] += 1.0

    def broken() -> None:
        with meter.device_step(*KEY, work=1):
            now[0] += 3.0
            assert (meter.step_seconds, meter.step_limit_seconds) == (3.0, FACTOR)
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        broken()
    assert meter.step_limit_seconds == 0.0


def test_a_first_step_is_held_to_a_setting() -> None:
    """A model of which nothing is known yet may take its time, and not for ever."""
    times = StepTimes(30.0)
    assert times.limit(("m", "generate"), 5.0) == 30.0
    for _ in range(SAMPLES):
        times.took(("m", "generate"), 1.0, 0.01)
    assert times.limit(("m", "generate"), 1.0) == LEAST_SECONDS
    times.forget("m")
    assert times.limit(("m", "generate"), 1.0) == 30.0
