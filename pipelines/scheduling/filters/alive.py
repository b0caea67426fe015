"""A device takes tasks while its worker lives and does not drain."""

from __future__ import annotations

from llmos.pipelines.scheduling.decision import Why
from llmos.pipelines.scheduling.snapshot import DeviceView, Rules, Waiting


def alive(device: DeviceView, waiting: Waiting, rules: Rules) -> Why | None:
    """Needs a worker that lives and takes work."""
    return None if device.alive and not device.draining else Why("alive", 1, 0)
