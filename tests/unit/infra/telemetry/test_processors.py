"""How busy cores are, by counters that the test sets."""

from __future__ import annotations

import pytest

from llmos.infra.telemetry.processors import CoreWatch, Ticks, read_ticks, shares, slowed_by


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (Ticks(10, 0, 100), Ticks(15, 0, 110), (0.5, 0.0)),
        (Ticks(10, 0, 100), Ticks(10, 4, 110), (0.0, 0.4)),
        (Ticks(10, 0, 100), Ticks(10, 0, 100), (0.0, 0.0)),
        (Ticks(10, 1, 100), Ticks(9, 0, 110), (0.0, 0.0)),
        (Ticks(0, 0, 0), Ticks(12, 0, 10), (1.0, 0.0)),
    ],
)
def test_shares_are_of_the_time_between(before: Ticks, after: Ticks, expected: tuple[float, float]) -> None:
    """Of no time nothing; counters that run backwards or too fast, as some kernels' do, stay within 0 and 1."""
    assert shares(before, after) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("others", "stolen", "quota", "heated", "words"),
    [
        (0.0, 0.0, 0.0, False, ""),
        (0.3, 0.3, 0.1, False, ""),
        (0.31, 0.0, 0.0, False, "somebody else uses its cores"),
        (0.9, 0.31, 0.0, False, "another guest of the machine uses its cores"),
        (0.9, 0.9, 0.11, False, "its container's processor quota is used up"),
        (0.9, 0.9, 0.9, True, "its cores are too hot"),
    ],
)
def test_why_cores_are_slow(others: float, stolen: float, quota: float, heated: bool, words: str) -> None:
    """What is nearest to the cores is told first; a little of others' work is none."""
    assert slowed_by(others, stolen, quota, heated) == words


class Kernel:
    """Two cores whose counters the test moves."""

    def __init__(self) -> None:
        self.busy = self.stolen = self.at = self.own = 0.0

    def ticks(self, cores: list[int]) -> Ticks:
        return Ticks(self.busy, self.stolen, self.at * len(cores))

    def passes(self, seconds: float, *, busy: float = 0.0, own: float = 0.0, stolen: float = 0.0) -> None:
        self.at += seconds
        self.busy += busy
        self.own += own
        self.stolen += stolen

    def watch(self) -> CoreWatch:
        return CoreWatch([0, 1], self.ticks, lambda: self.at, lambda: self.own)


def test_each_look_tells_of_the_time_since_the_last() -> None:
    """Of two cores over a second: own work alone; then others beside it, who take more than they may unnoticed; then nothing."""
    kernel = Kernel()
    watch = kernel.watch()
    kernel.passes(1.0, busy=1.0, own=1.0)
    assert watch.sample()[:3] == (0.5, 0.5, "")
    kernel.passes(1.0, busy=2.0, own=1.0)
    assert watch.sample()[:3] == (1.0, 0.5, "somebody else uses its cores")
    kernel.passes(1.0)
    assert watch.sample()[:3] == (0.0, 0.0, "")


def test_looks_in_short_succession_give_the_same() -> None:
    """Within 0.2 s the kernel's ticks are too coarse: the last look is given again, and nothing is lost."""
    kernel = Kernel()
    watch = kernel.watch()
    kernel.passes(1.0, busy=2.0, own=2.0)
    first = watch.sample()
    kernel.passes(0.1)
    assert watch.sample() == first
    kernel.passes(0.9, busy=1.0, own=1.0)
    assert watch.sample()[:2] == (0.5, 0.5)


def test_what_the_hypervisor_takes_counts_as_use() -> None:
    """A core that is stolen is not idle."""
    kernel = Kernel()
    watch = kernel.watch()
    kernel.passes(1.0, busy=0.5, own=0.5, stolen=1.0)
    assert watch.sample()[:3] == (0.75, 0.25, "another guest of the machine uses its cores")


def test_the_machines_counters_are_read() -> None:
    """Of one core, of all; a core that is not there counts nothing."""
    everything, first, none = read_ticks(), read_ticks([0]), read_ticks([99_999])
    assert 0 < first.busy <= first.total
    assert everything.busy <= everything.total
    assert none == (0.0, 0.0, 0.0)
