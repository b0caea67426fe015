"""The machine, watched: processor, memory and what the kernel says of pressure (PSI), where it does."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import psutil

from llmos.infra.telemetry.processors import Ticks, clamp, read_ticks, shares
from llmos.schemas.telemetry import HostLoad

PRESSURE = Path("/proc/pressure")
_INTERVAL_SECONDS = 0.2
_CGROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"), Path("/sys/fs/cgroup/memory/memory.usage_in_bytes")),
)
"""A container's limit and use: cgroup 2, cgroup 1."""


class Memory(NamedTuple):
    """What this process and its neighbours may use, in bytes: the machine's, or the container's where that is less."""

    total: int
    available: int


def memory() -> Memory:
    """The memory as of now."""
    machine = psutil.virtual_memory()
    total, available = int(machine.total), int(machine.available)
    for limit_file, used_file in _CGROUPS:
        limit = _bytes_in(limit_file)
        if limit is not None and limit < total:
            total = limit
            available = min(available, max(0, limit - (_bytes_in(used_file) or 0)))
    return Memory(total, available)


def pressure(resource: str, folder: Path = PRESSURE) -> float:
    """Share of the last 10 s in which some task waited for `resource` (cpu, memory, io), 0 … 1.

    0 where the kernel does not tell: it is too old, was built or booted without (psi=0), or hides the file.
    https://docs.kernel.org/accounting/psi.html
    """
    try:
        text = (folder / resource).read_text()
    except OSError:
        return 0.0
    for line in text.splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "some":
            fields = dict(part.partition("=")[::2] for part in rest.split())
            return clamp(float(fields.get("avg10", 0.0)) / 100.0)
    return 0.0


class HostSampler:
    """Looks at the machine again and again; the processor's share is that of the time since the last look. Never waits."""

    def __init__(
        self,
        ticks: Callable[[], Ticks] = read_ticks,
        clock: Callable[[], float] = time.monotonic,
        pressures: Path = PRESSURE,
    ) -> None:
        self._ticks = ticks
        self._clock = clock
        self._pressures = pressures
        self._at = clock()
        self._before = ticks()
        self._utilisation = 0.0

    def sample(self) -> HostLoad:
        """The machine as of now; the processor's share is the same again within 0.2 s."""
        now = self._clock()
        if now - self._at >= _INTERVAL_SECONDS:
            after = self._ticks()
            busy, stolen = shares(self._before, after)
            self._at, self._before, self._utilisation = now, after, clamp(busy + stolen)
        present = memory()
        return HostLoad(
            processor_utilisation=self._utilisation,
            memory_bytes=present.total,
            memory_available_bytes=present.available,
            processor_pressure=pressure("cpu", self._pressures),
            memory_pressure=pressure("memory", self._pressures),
            io_pressure=pressure("io", self._pressures),
        )


def _bytes_in(file: Path) -> int | None:
    """The number in a file; None where there is no file, or `max` in it."""
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
