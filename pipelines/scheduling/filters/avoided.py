"""A task that a device failed is tried on another one."""

from __future__ import annotations

from llmos.pipelines.scheduling.decision import Why
from llmos.pipelines.scheduling.snapshot import DeviceView, Rules, Waiting


def avoided(device: DeviceView, waiting: Waiting, rules: Rules) -> Why | None:
    """Needs another device than the one that failed the task; the name is taken away where there is no other."""
    return Why("avoided", 1, 0) if device.device == waiting.group.avoid else None
