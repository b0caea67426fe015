"""λ and μ: what was seen a half-life ago counts half, and steady streams are measured right."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmos.pipelines.scheduling.rates import ArrivalRate, Decaying, ServiceRate, utilisation


@pytest.mark.parametrize(
    ("adds", "now", "value"),
    [
        ([], 5.0, 0.0),
        ([(8.0, 0.0)], 0.0, 8.0),
        ([(8.0, 0.0)], 10.0, 4.0),
        ([(8.0, 0.0)], 30.0, 1.0),
        ([(8.0, 0.0), (4.0, 10.0)], 10.0, 8.0),
        ([(8.0, 0.0), (4.0, 10.0)], 20.0, 4.0),
        ([(8.0, 10.0)], 5.0, 8.0),
        ([(8.0, 10.0), (1.0, 5.0)], 20.0, 4.5),
    ],
)
def test_decaying(adds: list[tuple[float, float]], now: float, value: float) -> None:
    """A half-life of 10 s; a clock that goes back fades nothing and brings nothing back."""
    total = Decaying(10.0)
    for amount, at in adds:
        total.add(amount, at)
    assert total.value(now) == pytest.approx(value)


@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 50)), max_size=20), st.floats(50, 100))
def test_decaying_is_the_sum_of_its_faded_parts(adds: list[tuple[float, float]], now: float) -> None:
    """However the parts came, the total is what each has become, added up."""
    total = Decaying(7.0)
    for amount, at in sorted(adds, key=lambda add: add[1]):
        total.add(amount, at)
    assert total.value(now) == pytest.approx(sum(amount * 0.5 ** ((now - at) / 7.0) for amount, at in adds))


@pytest.mark.parametrize("seconds", [5, 30, 300])
@pytest.mark.parametrize("per_second", [1, 20])
def test_a_steady_stream_has_its_rate(seconds: int, per_second: int) -> None:
    """λ is right while the window fills as well as long after: the correction for the short time works."""
    rate = ArrivalRate(30.0, 0.0)
    for i in range(seconds * per_second):
        rate.arrived(1, (i + 0.5) / per_second)
    assert rate.value(float(seconds)) == pytest.approx(per_second, rel=0.02)


def test_one_early_arrival_is_no_storm() -> None:
    """The window counts as a second at least, so that the first arrival after a start is not a thousand a second."""
    rate = ArrivalRate(30.0, 0.0)
    rate.arrived(1, 0.001)
    assert rate.value(0.002) == pytest.approx(1.0, rel=0.01)


def test_arrivals_fade() -> None:
    """A half-life after the last arrival λ is half, once the window was full."""
    rate = ArrivalRate(10.0, 0.0)
    for second in range(1000):
        rate.arrived(5, float(second))
    assert rate.value(1010.0) / rate.value(1000.0) == pytest.approx(0.5, rel=0.01)


def test_service_rate_is_per_busy_second() -> None:
    """μ counts device time, not time that passed: an idle device is not a slow one."""
    rate = ServiceRate(30.0, 0.0)
    assert (rate.value(0.0), rate.mean_service_seconds(0.0), rate.samples) == (0.0, None, 0)
    rate.served(4, 2.0, 10.0)
    assert (rate.value(10.0), rate.mean_service_seconds(10.0), rate.samples) == (2.0, 0.5, 4)
    assert rate.value(100.0) == pytest.approx(2.0)
    assert rate.mean_service_seconds(100.0) == pytest.approx(0.5)


def test_recent_service_counts_more() -> None:
    """A half-life after 10 fast tasks, 10 slow ones weigh twice as much in the mean."""
    rate = ServiceRate(10.0, 0.0)
    rate.served(10, 10.0, 0.0)
    rate.served(10, 40.0, 10.0)
    assert rate.mean_service_seconds(10.0) == pytest.approx((5.0 + 40.0) / (5.0 + 10.0))


def test_a_busy_device_without_a_result_has_no_mean() -> None:
    """Device time without a task done says nothing of how long a task takes."""
    rate = ServiceRate(10.0, 0.0)
    rate.served(0, 5.0, 1.0)
    assert (rate.value(1.0), rate.mean_service_seconds(1.0)) == (0.0, None)


@pytest.mark.parametrize(("arrival", "service", "rho"), [(6.0, 3.0, 2.0), (0.0, 3.0, 0.0), (6.0, 0.0, 0.0)])
def test_utilisation(arrival: float, service: float, rho: float) -> None:
    """ρ = λ/μ, and 0 while μ is unknown: nobody is refused for what was never measured."""
    assert utilisation(arrival, service) == rho
