"""How busy cores were between two looks, and what held them back: read from the kernel's counters, never waited for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import psutil

OTHERS_LIMIT = 0.3
"""Others who take more than this share of a device's cores slow it down noticeably: a watch says so."""
_QUOTA_LIMIT = 0.1
"""Of the time between two looks: what a container's quota may take before it is told."""
_INTERVAL_SECONDS = 0.2
"""Kernel counters tick every 10 ms: over less than this a share is noise, and the last one is given again."""
_PROCESSORS = Path("/sys/devices/system/cpu")
_QUOTAS = (
    (Path("/sys/fs/cgroup/cpu.stat"), "throttled_usec", 1e6),
    (Path("/sys/fs/cgroup/cpu/cpu.stat"), "throttled_time", 1e9),
)
"""cgroup 2, cgroup 1: file, field, and how many of its units make a second."""


class Ticks(NamedTuple):
    """Counters of some cores, in seconds since boot, summed over them."""

    busy: float
    """Running anybody, the hypervisor's other guests not counted."""
    stolen: float
    """Ready to run, while the hypervisor ran another guest."""
    total: float


class CoreLoad(NamedTuple):
    """Cores between two looks; shares are 0 … 1."""

    utilisation: float = 0.0
    """By anybody; what the hypervisor took counts."""
    own_utilisation: float = 0.0
    """By this process."""
    throttled: str = ""
    clock_fraction: float = 1.0


def read_ticks(cores: Iterable[int] | None = None) -> Ticks:
    """The counters of `cores`, of all of them where none are named; cores that are not there are left out."""
    if cores is None:
        chosen = [psutil.cpu_times()]
    else:
        rows = psutil.cpu_times(percpu=True)
        chosen = [rows[core] for core in cores if core < len(rows)]
    busy = stolen = total = 0.0
    for row in chosen:
        running = row.user + row.nice + row.system + getattr(row, "irq", 0.0) + getattr(row, "softirq", 0.0)
        taken = getattr(row, "steal", 0.0)
        busy += running
        stolen += taken
        total += running + taken + row.idle + getattr(row, "iowait", 0.0)
    return Ticks(busy, stolen, total)


def shares(before: Ticks, after: Ticks) -> tuple[float, float]:
    """Of the time between two looks: the share that was busy, and the share that was stolen; 0 … 1 each."""
    total = after.total - before.total
    if total <= 0.0:
        return 0.0, 0.0
    return clamp((after.busy - before.busy) / total), clamp((after.stolen - before.stolen) / total)


def clamp(share: float) -> float:
    """`share`, put between 0 and 1."""
    return min(1.0, max(0.0, share))


def slowed_by(others: float, stolen: float, quota: float, heated: bool) -> str:
    """Why cores run slower than they could; empty: they do not. Shares of the time between two looks."""
    if heated:
        return "its cores are too hot"
    if quota > _QUOTA_LIMIT:
        return "its container's processor quota is used up"
    if stolen > OTHERS_LIMIT:
        return "another guest of the machine uses its cores"
    if others > OTHERS_LIMIT:
        return "somebody else uses its cores"
    return ""


class CoreWatch:
    """Looks at some cores again and again; each look tells of the time since the one before. Never waits."""

    def __init__(
        self,
        cores: Iterable[int],
        ticks: Callable[[list[int]], Ticks] = read_ticks,
        clock: Callable[[], float] = time.monotonic,
        own: Callable[[], float] = time.process_time,
    ) -> None:
        self._cores = list(cores)
        self._ticks = ticks
        self._clock = clock
        self._own = own
        self._quota = next(((file, field, unit) for file, field, unit in _QUOTAS if file.is_file()), None)
        heat = _PROCESSORS / f"cpu{self._cores[0]}" / "thermal_throttle" / "core_throttle_count"
        self._heat = heat if heat.is_file() else None
        self._clocks = _clock_files(self._cores[0])
        self._load = CoreLoad(clock_fraction=self._clock_fraction())
        self._before = self._look()

    def sample(self) -> CoreLoad:
        """What the cores did since the last look; the same again within 0.2 s."""
        before = self._before
        if self._clock() - before.at < _INTERVAL_SECONDS:
            return self._load
        after = self._before = self._look()
        seconds = after.at - before.at
        busy, stolen = shares(before.ticks, after.ticks)
        own = clamp((after.own - before.own) / (seconds * len(self._cores)))
        others = clamp(busy - own)
        quota = clamp((after.quota - before.quota) / seconds)
        self._load = CoreLoad(
            utilisation=clamp(busy + stolen),
            own_utilisation=own,
            throttled=slowed_by(others, stolen, quota, after.heat > before.heat),
            clock_fraction=self._clock_fraction(),
        )
        return self._load

    def _look(self) -> _Look:
        quota = 0.0
        if self._quota is not None:
            file, field, unit = self._quota
            quota = _field(file.read_text(), field) / unit
        heat = int(self._heat.read_text()) if self._heat else 0
        return _Look(self._clock(), self._ticks(self._cores), self._own(), quota, heat)

    def _clock_fraction(self) -> float:
        """Of the first core, whose clock stands for all; 1 where the kernel does not tell."""
        if self._clocks is None:
            return 1.0
        present, highest = (float(file.read_text()) for file in self._clocks)
        return clamp(present / highest) if highest > 0 else 1.0


class _Look(NamedTuple):
    """Counters at a time."""

    at: float
    ticks: Ticks
    own: float
    quota: float
    heat: int


def _clock_files(core: int) -> tuple[Path, Path] | None:
    folder = _PROCESSORS / f"cpu{core}" / "cpufreq"
    files = folder / "scaling_cur_freq", folder / "cpuinfo_max_freq"
    return files if all(file.is_file() for file in files) else None


def _field(text: str, name: str) -> float:
    """The number behind `name` in lines of `name number`; 0 where it is not there."""
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return float(value)
    return 0.0
