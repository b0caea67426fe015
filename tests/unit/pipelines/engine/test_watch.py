"""What a worker tells of its machine and its device."""

from __future__ import annotations

from llmos.pipelines.engine.device import open_device
from llmos.pipelines.engine.watch import HostWatch


def test_host_and_device_are_told_together() -> None:
    """Shares between 0 and 1, and the memory of both; the device's lies within the machine's."""
    watch = HostWatch(open_device("cpu:0/2"))
    for _ in range(2):
        host, load = watch.sample()
        for share in (host.processor_utilisation, host.processor_pressure, host.memory_pressure, host.io_pressure):
            assert 0.0 <= share <= 1.0
        for share in (load.utilisation, load.own_utilisation, load.clock_fraction):
            assert 0.0 <= share <= 1.0
        assert 0 < load.memory_bytes <= host.memory_bytes
        assert 0 < host.memory_available_bytes <= host.memory_bytes
