"""What a worker tells of its machine and its device with each heartbeat."""

from __future__ import annotations

from typing import Protocol

from llmos.infra.telemetry.host import HostSampler
from llmos.schemas.telemetry import DeviceLoad, HostLoad


class Loaded(Protocol):
    """What can say how loaded it is; every `Device` can."""

    def load(self) -> DeviceLoad:
        """As of now; never waits."""


class HostWatch:
    """Watches the machine and one device. A look takes less than a millisecond and never waits; one thread's own."""

    def __init__(self, device: Loaded) -> None:
        self._host = HostSampler()
        self._device = device

    def sample(self) -> tuple[HostLoad, DeviceLoad]:
        """Both as of now; shares are those of the time since the last look, and the same again within 0.2 s."""
        return self._host.sample(), self._device.load()
